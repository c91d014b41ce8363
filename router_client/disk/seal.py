"""Answers at rest, sealed under their caller's own credential and name for the request. Neither of these is kept: who takes
the file has no answers."""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES: Final = 12


def secret_of(credential: str, name: str) -> bytes:
    """The key for one request's answer."""
    return HKDF(SHA256(), 32, salt=None, info=b"satroute answer").derive(f"{credential}\n{name}".encode())


def seal(secret: bytes, about: str, plain: bytes) -> bytes:
    """Sealed together with what it is about, which `unseal` must name."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(secret).encrypt(nonce, plain, about.encode())


def unseal(secret: bytes, about: str, sealed: bytes) -> bytes | None:
    """None for what was sealed under another secret, or about something else."""
    try:
        return AESGCM(secret).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about.encode())
    except InvalidTag:
        return None
