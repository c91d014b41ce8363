"""Kinds and tag names on the wire. Sources: NIP-01, NIP-02, NIP-09, NIP-40, NIP-42, NIP-65, NIP-87, RIP-02, Pura's capacity
attestations."""

PROFILE = 0
CONTACTS = 3
DELETION = 5
RELAY_LIST = 10002
RELAY_AUTH = 22242
RECOMMENDATION = 38000
PROVIDER_ANNOUNCEMENT = 38421
CAPACITY = 31900
PROOF = 27236
"""Ours: proves the key behind a URL, handed to who asks and never published."""
REVIEW = 38425
"""Of a node, in use by Routstr's SDK."""
RECEIPT = 8421
"""Ours: a receipt is a signed event that is handed to the caller and never published."""

TAG_IDENTIFIER = "d"
TAG_ADDRESS = "a"
TAG_RELAY = "r"
TAG_URL = "u"
TAG_MINT = "mint"
TAG_VERSION = "version"
TAG_MODEL = "m"
"""Ours: one per model, single-letter so that a relay can filter by it."""
TAG_EXPIRATION = "expiration"
