"""Kinds and tag names on the wire. Sources: NIP-01, NIP-09, NIP-40, NIP-42, RIP-02."""

DELETION = 5
RELAY_AUTH = 22242
PROVIDER_ANNOUNCEMENT = 38421
RECEIPT = 8421
"""Ours: a receipt is a signed event that is handed to the caller and never published."""

TAG_IDENTIFIER = "d"
TAG_ADDRESS = "a"
TAG_URL = "u"
TAG_MINT = "mint"
TAG_VERSION = "version"
TAG_MODEL = "m"
"""Ours: one per model, single-letter so that a relay can filter by it."""
TAG_EXPIRATION = "expiration"
