"""Ecash: the token codec, the mint client, and a wallet whose every step is journaled. The only importer of cashu."""
