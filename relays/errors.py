"""Errors of the common language.

RelaysError
├── MoneyError           an amount that is no amount: negative, fractional, too large
├── InvalidJson          bytes that are no JSON, or not of the form expected
├── InvalidEvent         not a Nostr event, or its id or signature is wrong
│   ├── InvalidAnnouncement
│   ├── InvalidCapacity
│   ├── InvalidProof
│   ├── InvalidReceipt
│   └── InvalidReview
├── InvalidL402          no L402 credential that can be read
├── InvalidKey           not a Nostr key (nsec, npub or 64 hex digits)
├── NoTor                only Tor leads there, and there is none
└── RelayUnavailable     no relay took or answered the request in time
    └── RelayMisbehaves  it floods or lies: its connection is not kept
"""


class RelaysError(Exception):
    """Base of everything `relays` raises on purpose."""


class MoneyError(RelaysError, ValueError):
    """An amount that cannot be money: negative, fractional or beyond all bitcoin."""


class InvalidJson(RelaysError, ValueError):
    """Bytes that are no JSON, or JSON that is not of the form expected."""


class InvalidEvent(RelaysError, ValueError):
    """Not a well-formed Nostr event, or its id or signature does not match (NIP-01)."""


class InvalidAnnouncement(InvalidEvent):
    """A valid event that does not announce a provider (RIP-02)."""


class InvalidCapacity(InvalidEvent):
    """A valid event that does not tell a provider's capacity, or no longer."""


class InvalidProof(InvalidEvent):
    """An answer that does not prove the key behind a URL."""


class InvalidReceipt(InvalidEvent):
    """A receipt that cannot be read, or that its signer or sums contradict."""


class InvalidReview(InvalidEvent):
    """A valid event that says nothing of a node, or nothing that is known."""


class InvalidL402(RelaysError, ValueError):
    """Not a credential of a token and a preimage, or none of our form."""


class InvalidKey(RelaysError, ValueError):
    """Not a Nostr key in any form we read (NIP-19 or 64 hex digits)."""


class NoTor(RelaysError):
    """Tor alone leads there, or may be used, and none is known: no connection was tried."""


class RelayUnavailable(RelaysError):
    """No relay took or answered the request before its deadline."""


class RelayMisbehaves(RelayUnavailable):
    """A relay sends without end, or what is forged or was not asked for."""
