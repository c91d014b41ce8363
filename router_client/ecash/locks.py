"""Coins locked to a key: the well-known secret (NUT-10), its one form that we write and take (NUT-11), and its signature.

A lock here is `["P2PK",{"nonce":…,"data":<key>,"tags":[["sigflag","SIG_INPUTS"]]}]` and nothing else. Every other tag gives
somebody else a way to spend (locktime, refund, pubkeys) or us none (SIG_ALL, n_sigs), which a seller who does not ask the
mint must not take. The text must be what a JSON writer makes of it, since the mint hashes the text, not its meaning.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

import msgspec
from bip32 import BIP32
from cashu.core.crypto.secp import PrivateKey, PublicKey

from relays.errors import InvalidJson
from relays.jsontext import from_json
from router_client.ecash import late
from router_client.ecash.token import Proof
from router_client.errors import TokenRefused

KEY_PATH = "m/129372'/10'/0'/0'/0'"
"""Beside NUT-13's secrets, which are below m/129372'/0'."""
TAGS = [["sigflag", "SIG_INPUTS"]]
NONCE_CHARS = 32
MAX_LOCKS_KEPT = 4096
"""A coin is asked for its lock several times while it is taken in."""
_NONCE = re.compile(r"[0-9a-f]{16,128}")
_KEY = re.compile(r"0[23][0-9a-f]{64}")


class LockKey:
    """The key of a wallet, derived from its seed: coins locked to `public` (compressed, hex) are its own."""

    def __init__(self, seed: bytes) -> None:
        self._private = PrivateKey(BIP32.from_seed(seed).get_privkey_from_path(KEY_PATH))
        self.public = str(self._private.public_key.format().hex())

    def owns(self, secret: str) -> bool:
        """Whether a secret is locked to this key, in the one form we take."""
        try:
            return key_of(secret) == self.public
        except TokenRefused:
            return False

    def signed(self, proof: Proof) -> Proof:
        """The coin with its witness (NUT-11), if it is locked to this key; the same signature every time."""
        if proof.witness is not None or not self.owns(proof.secret):
            return proof
        signature = late.p2pk().schnorr_sign(proof.secret.encode(), self._private).hex()
        return msgspec.structs.replace(proof, witness=json.dumps({"signatures": [signature]}))


def check_key(key: str) -> str:
    """A public key to lock to. Raises TokenRefused unless it is a point of the curve in compressed lower-case hex."""
    try:
        if _KEY.fullmatch(key):
            return str(PublicKey(bytes.fromhex(key)).format().hex())
    except ValueError:
        pass
    raise TokenRefused("what the token is to be locked to is no public key")


def lock_secret(key: str, nonce: str) -> str:
    """The secret of a coin that only the owner of `key` can spend."""
    return json.dumps(["P2PK", {"nonce": nonce[:NONCE_CHARS], "data": key, "tags": TAGS}], separators=(",", ":"))


@lru_cache(MAX_LOCKS_KEPT)
def key_of(secret: str) -> str:
    """The key that a secret is locked to. Raises TokenRefused for any other form than ours."""
    try:
        parsed = from_json(secret)
    except InvalidJson as error:
        raise TokenRefused("a coin of the token is not locked") from error
    match parsed:
        case ["P2PK", {"nonce": str() as nonce, "data": str() as data, "tags": tags, **others}]:
            if others or not _NONCE.fullmatch(nonce) or not _KEY.fullmatch(data):
                raise TokenRefused("the lock of a coin is malformed")
            if tags != TAGS:
                raise TokenRefused("the lock of a coin has other tags than sigflag SIG_INPUTS")
        case _:
            raise TokenRefused("the lock of a coin is malformed")
    # Compact as most write it, or spaced as Python does; anything else (a key twice, other spaces) reads in several ways.
    if secret not in (json.dumps(parsed, separators=(",", ":")), json.dumps(parsed)):
        raise TokenRefused("the lock of a coin is not written as JSON writers write it")
    return data
