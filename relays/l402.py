"""L402: a request paid by a Lightning invoice, with a token and the payment's preimage as its credential.

A 402 has `WWW-Authenticate: L402 version="0", token="…", macaroon="…", invoice="…"`, and is answered by
`Authorization: L402 TOKEN:PREIMAGE`; LSAT is the scheme's older name. The token is a macaroon in the second binary format of
libmacaroons, without location and caveats, as base64:

    02 | 02 42 identifier (66) | 00 | 00 | 06 20 signature (32)

Its identifier is Aperture's: version 0 in two bytes, the invoice's payment hash, and 32 bytes that nobody can guess.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

from relays.errors import InvalidL402

SCHEMES: Final = ("l402", "lsat")
ID_BYTES: Final = 32
MAX_PREIMAGE_BYTES: Final = 64
"""Lightning's have 32; nutshell's simulated payments have 64."""

_VERSION: Final = b"\0\0"
_HASH_BYTES: Final = 32
_IDENTIFIER_BYTES: Final = len(_VERSION) + _HASH_BYTES + ID_BYTES
_BEFORE: Final = bytes((2, 2, _IDENTIFIER_BYTES))
_BETWEEN: Final = bytes((0, 0, 6, 32))
_ENDS: Final = len(_BEFORE) + _IDENTIFIER_BYTES
_TOKEN_BYTES: Final = _ENDS + len(_BETWEEN) + 32
_MAX_CHARS: Final = 512
"""Of a credential: one that is longer is none."""


class Claim(msgspec.Struct, frozen=True):
    """What a caller says that it has paid; nothing of it is checked yet."""

    identifier: bytes
    signature: bytes
    preimage: bytes

    @property
    def payment_hash(self) -> bytes:
        return self.identifier[len(_VERSION) : -ID_BYTES]

    @property
    def token_id(self) -> bytes:
        return self.identifier[-ID_BYTES:]

    @property
    def is_paid(self) -> bool:
        """Whether the preimage is that of the payment."""
        return hmac.compare_digest(hashlib.sha256(self.preimage).digest(), self.payment_hash)

    def is_signed_by(self, root_key: bytes) -> bool:
        return hmac.compare_digest(_signature(self.identifier, root_key), self.signature)

    @property
    def text(self) -> str:
        """The credential in one spelling, whatever the caller's was."""
        return f"{self.identifier.hex()}:{self.preimage.hex()}"


def identifier_of(payment_hash: bytes, token_id: bytes) -> bytes:
    """What a token is called: 32 bytes each."""
    return _VERSION + payment_hash + token_id


def encode_token(identifier: bytes, root_key: bytes) -> str:
    """The signed token, as base64."""
    return base64.b64encode(_BEFORE + identifier + _BETWEEN + _signature(identifier, root_key)).decode()


def challenges(token: str, invoice: str) -> tuple[str, ...]:
    """The lines of `WWW-Authenticate`. LSAT is first, as at Aperture: its older clients look at the first line alone."""
    asked = f'macaroon="{token}", invoice="{invoice}"'
    return f"LSAT {asked}", f'L402 version="0", token="{token}", {asked}'


def is_l402(authorization: str) -> bool:
    """Whether an `Authorization` header is of this scheme."""
    return authorization.strip().partition(" ")[0].lower() in SCHEMES


def read_claim(authorization: str) -> Claim | None:
    """The claim of an `Authorization` header, None for one of another scheme. Raises InvalidL402."""
    if not is_l402(authorization):
        return None
    credential = authorization.strip().partition(" ")[2]
    token, colon, preimage = credential.strip().partition(":")
    if not colon or len(credential) > _MAX_CHARS:
        raise InvalidL402("expected a token, a colon and a preimage")
    raw, secret = _decoded(token), _preimage(preimage)
    if len(raw) != _TOKEN_BYTES or not raw.startswith(_BEFORE + _VERSION) or raw[_ENDS:-32] != _BETWEEN:
        raise InvalidL402("the token is no macaroon of the form that is made here")
    return Claim(raw[len(_BEFORE) : _ENDS], raw[-32:], secret)


def _decoded(token: str) -> bytes:
    """From base64 of either alphabet, padded or not."""
    plain = token.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidL402("the token is not base64") from error


def _preimage(text: str) -> bytes:
    try:
        preimage = bytes.fromhex(text.strip())
    except ValueError as error:
        raise InvalidL402("the preimage is not of hex digits") from error
    if not 0 < len(preimage) <= MAX_PREIMAGE_BYTES:
        raise InvalidL402("a preimage has 32 bytes, 64 hex digits")
    return preimage


def _signature(identifier: bytes, root_key: bytes) -> bytes:
    """A macaroon's, without caveats."""
    return hmac.digest(hmac.digest(b"macaroons-key-generator", root_key, "sha256"), identifier, "sha256")
