"""Backups: a node's books, wallets and keys in one file, and back."""
