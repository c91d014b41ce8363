"""What the buyer keeps on disk: SQLite files with one writing thread, and files that people edit."""
