"""Schnorr signatures (BIP-340) of 32 byte hashes, by libsecp256k1 through coincurve's bindings.

The key pair is made once: what coincurve and pynostr do for every signature (derive the key again, and verify what was
just signed) takes five times as long as the signature.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, Final

from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

_CONTEXT: Final = GLOBAL_CONTEXT.ctx
HASH_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAX_KEYS_KEPT: Final = 4096
"""Authors whose keys are kept as points: who signs much is read once."""


class SigningKey:
    """A private key of 32 bytes. Raises ValueError unless it is one."""

    def __init__(self, secret: bytes) -> None:
        self._pair = ffi.new("secp256k1_keypair *")
        if len(secret) != HASH_BYTES or not lib.secp256k1_keypair_create(_CONTEXT, self._pair, secret):
            raise ValueError("not a private key")
        public = ffi.new("secp256k1_xonly_pubkey *")
        raw = ffi.new("unsigned char[32]")
        lib.secp256k1_keypair_xonly_pub(_CONTEXT, public, ffi.NULL, self._pair)
        lib.secp256k1_xonly_pubkey_serialize(_CONTEXT, raw, public)
        self.public = bytes(ffi.buffer(raw))
        """The x coordinate of the public key, 32 bytes."""
        probe = bytes(HASH_BYTES)
        if not verified(self.public, self.sign(probe), probe):
            raise ValueError("this machine's libsecp256k1 does not sign")

    def sign(self, digest: bytes) -> bytes:
        """The signature of a hash, 64 bytes; another one every time."""
        if len(digest) != HASH_BYTES:
            raise ValueError("a hash has 32 bytes")
        signature = ffi.new("unsigned char[64]")
        noise = os.urandom(HASH_BYTES)
        if not lib.secp256k1_schnorrsig_sign32(_CONTEXT, signature, digest, self._pair, noise):
            raise ValueError("the hash cannot be signed")
        return bytes(ffi.buffer(signature))


def verified(public: bytes, signature: bytes, digest: bytes) -> bool:
    """Whether the signature of a hash is that of the key; False too for what is none of the three."""
    if len(public) != HASH_BYTES or len(signature) != SIGNATURE_BYTES or len(digest) != HASH_BYTES:
        return False
    key = _point(public)
    return key is not None and bool(lib.secp256k1_schnorrsig_verify(_CONTEXT, signature, digest, HASH_BYTES, key))


@lru_cache(MAX_KEYS_KEPT)
def _point(public: bytes) -> Any:
    """The key as libsecp256k1 has it; None for bytes that are no key."""
    key = ffi.new("secp256k1_xonly_pubkey *")
    return key if lib.secp256k1_xonly_pubkey_parse(_CONTEXT, key, public) else None
