"""The common language of buyers and sellers: money, prices, Nostr events and the pool that carries them.

Nothing here knows of a node or a client; both import from here, never the reverse.
"""
