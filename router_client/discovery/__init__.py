"""Which nodes there are, whether they answer under their key, and how far they are trusted."""
