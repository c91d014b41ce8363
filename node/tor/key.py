"""The key of an onion service (version 3), and the address that follows from it: it is known before any tor runs.

Formats: rend-spec-v3 [ONIONADDRESS]; control-spec ADD_ONION, whose ED25519-V3 key is the expanded form of RFC 8032.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from node.errors import BadSettings
from node.tor.settings import TorSettings

FILE: Final = "onion_key"
NAME: Final = re.compile(r"[a-z2-7]{56}\.onion")
_VERSION: Final = b"\x03"


class OnionKey(msgspec.Struct, frozen=True):
    """32 secret bytes. Never shown."""

    seed: bytes

    def __repr__(self) -> str:
        return f"OnionKey({self.name})"

    @property
    def name(self) -> str:
        """`….onion`, in 62 characters."""
        public = Ed25519PrivateKey.from_private_bytes(self.seed).public_key()
        raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        check = hashlib.sha3_256(b".onion checksum" + raw + _VERSION).digest()[:2]
        return base64.b32encode(raw + check + _VERSION).decode().lower() + ".onion"

    @property
    def secret(self) -> str:
        """As a control port takes it."""
        expanded = bytearray(hashlib.sha512(self.seed).digest())
        expanded[0] &= 248
        expanded[31] = expanded[31] & 63 | 64
        return "ED25519-V3:" + base64.b64encode(expanded).decode()


def onion_key(settings: TorSettings) -> OnionKey:
    """The one kept in the data folder for its owner alone, made when there is none; or one for this run. Raises
    BadSettings."""
    if settings.tor_onion == "ephemeral":
        return OnionKey(secrets.token_bytes(32))
    try:
        seed = bytes.fromhex(settings.kept(FILE, lambda: secrets.token_hex(32)))
        if len(seed) != 32:
            raise ValueError("too short, or too long")
    except ValueError as error:
        raise BadSettings(
            [f"DATA_DIR: {settings.data_dir / FILE} does not hold a key: restore it, or remove it"]
        ) from error
    return OnionKey(seed)
