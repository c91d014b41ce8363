"""The blind signatures of Cashu (NUT-00, NUT-12) and deterministic secrets (NUT-13), by libsecp256k1 and cashu's hashes.

Points travel as hex strings; nothing outside this module sees a curve object.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache
from typing import Final

import msgspec
from bip32 import BIP32
from cashu.core.crypto.b_dhke import hash_e, hash_to_curve
from cashu.core.crypto.keys import derive_keyset_id, derive_keyset_id_v2
from coincurve import PublicKey

from router_client.errors import MintMisbehaved

ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of secp256k1's group."""
SCALAR_BYTES: Final = 32
HARDENED: Final = 2**31
MAX_SECRETS_KEPT: Final = 4096
"""A coin's name is asked for several times while it is taken in or handed out."""
MAX_KEYS_KEPT: Final = 4096


class Dleq(msgspec.Struct, frozen=True, omit_defaults=True):
    """A mint's proof that it signed with the key it published (NUT-12). `r` is added by the token's sender."""

    e: str
    s: str
    r: str | None = None


class BlindSecret(msgspec.Struct, frozen=True):
    """A secret and the blinding factor it is hidden with (hex)."""

    secret: str
    r: str


@lru_cache(MAX_SECRETS_KEPT)
def y_of(secret: str) -> str:
    """The point that names a secret to the mint, compressed hex."""
    return str(hash_to_curve(secret.encode()).format().hex())


def blind(blind_secret: BlindSecret) -> str:
    """B_, the blinded message to be signed: Y + r·G."""
    hidden = PublicKey.from_secret(bytes.fromhex(blind_secret.r))
    return str(_sum(hash_to_curve(blind_secret.secret.encode()), hidden).format().hex())


def unblind(r: str, blinded: str, blinded_signature: str, mint_key: str, dleq: Dleq | None) -> str:
    """C, the mint's signature on the secret behind `blinded`: C_ - r·A.

    Raises MintMisbehaved for a malformed point or a DLEQ that does not fit.
    """
    try:
        signature, key = _point(blinded_signature), _key(mint_key)
        if dleq is not None and not _proves(dleq, _point(blinded), signature, key):
            raise MintMisbehaved("a signature was not made with the mint's published key")
        return str(_sum(signature, key.multiply(_negative(_scalar(r)))).format().hex())
    except ValueError as error:
        raise MintMisbehaved("a signature is malformed") from error


def is_signed(secret: str, signature: str, mint_key: str, dleq: Dleq) -> bool:
    """Whether C is the mint's signature on the secret, by the sender's DLEQ proof alone (NUT-12, as Carol does).

    Only under the present hash to the curve: under an older one a secret has a second name.
    """
    if dleq.r is None:
        return False
    try:
        r, key = _scalar(dleq.r), _key(mint_key)
        blinded = _sum(_point(y_of(secret)), PublicKey.from_secret(r))
        return _proves(dleq, blinded, _sum(_point(signature), key.multiply(r)), key)
    except ValueError:
        return False


def _proves(dleq: Dleq, blinded: PublicKey, signature: PublicKey, key: PublicKey) -> bool:
    """NUT-12: e is the hash of s·G - e·A, s·B_ - e·C_, A and C_. Raises ValueError for what are no scalars.

    Scalars stay bytes: cashu's private keys work out two public keys each, which takes as long as all of this.
    """
    e, s = _scalar(dleq.e), _scalar(dleq.s)
    minus_e = _negative(e)
    r1 = _sum(PublicKey.from_secret(s), key.multiply(minus_e))
    r2 = _sum(blinded.multiply(s), signature.multiply(minus_e))
    return bool(hash_e(r1, r2, key, signature) == e)


def _point(text: str) -> PublicKey:
    return PublicKey(bytes.fromhex(text))


@lru_cache(MAX_KEYS_KEPT)
def _key(text: str) -> PublicKey:
    """A mint's key as a point: there are few, and each is asked for with every coin."""
    return _point(text)


def _sum(one: PublicKey, other: PublicKey) -> PublicKey:
    """Raises ValueError when they cancel each other out."""
    total: PublicKey = PublicKey.combine_keys([one, other])
    return total


def _scalar(text: str) -> bytes:
    """A number between 0 and the order of the curve, 32 bytes. Raises ValueError for any other."""
    number = int.from_bytes(bytes.fromhex(text), "big")
    if not 0 < number < ORDER:
        raise ValueError("not a scalar")
    return number.to_bytes(SCALAR_BYTES, "big")


def _negative(scalar: bytes) -> bytes:
    return (ORDER - int.from_bytes(scalar, "big")).to_bytes(SCALAR_BYTES, "big")


def keyset_id_matches(keyset_id: str, keys: dict[int, str], unit: str, input_fee_ppk: int, expiry: int | None) -> bool:
    """Whether the id is derived from the keys (NUT-02, versions 00 and 01)."""
    try:
        points = {amount: PublicKey(bytes.fromhex(key)) for amount, key in keys.items()}
    except ValueError:
        return False
    if keyset_id.startswith("00"):
        return bool(derive_keyset_id(points) == keyset_id)
    return bool(derive_keyset_id_v2(points, unit, expiry, input_fee_ppk) == keyset_id)


class _ExtendedKey(msgspec.Struct, frozen=True):
    """A private key of BIP-32 and its chain code."""

    key: bytes
    chain: bytes


class SecretChain:
    """Secrets and blinding factors of one seed, by keyset and counter (NUT-13)."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._bip32 = BIP32.from_seed(seed)
        self._parents: dict[str, _ExtendedKey] = {}

    def at(self, keyset_id: str, counter: int) -> BlindSecret:
        """The pair at a counter; the same seed gives the same pair for ever."""
        if keyset_id.startswith("00"):
            node = _hardened_child(self._parent(keyset_id), counter)
            secret, r = _first_children(node)
        else:
            message = b"Cashu_KDF_HMAC_SHA256" + bytes.fromhex(keyset_id) + counter.to_bytes(8, "big")
            secret, r = (hmac.digest(self._seed, message + bytes([i]), hashlib.sha256) for i in (0, 1))
        return BlindSecret(secret.hex(), r.hex())

    def _parent(self, keyset_id: str) -> _ExtendedKey:
        """The keyset's own node: three of the five steps to a secret are the same for all of its counters."""
        if keyset_id not in self._parents:
            number = int.from_bytes(bytes.fromhex(keyset_id), "big") % (2**31 - 1)
            chain, key = self._bip32.get_extended_privkey_from_path(f"m/129372'/0'/{number}'")
            self._parents[keyset_id] = _ExtendedKey(key, chain)
        return self._parents[keyset_id]


def _hardened_child(node: _ExtendedKey, index: int) -> _ExtendedKey:
    """BIP-32's CKDpriv from 2^31 on."""
    return _child(node, b"\0" + node.key + (HARDENED + index).to_bytes(4, "big"))


def _first_children(node: _ExtendedKey) -> tuple[bytes, bytes]:
    """The keys of the children 0 and 1, which are not hardened."""
    public = PublicKey.from_secret(node.key).format()
    return _child(node, public + bytes(4)).key, _child(node, public + (1).to_bytes(4, "big")).key


def _child(node: _ExtendedKey, message: bytes) -> _ExtendedKey:
    digest = hmac.digest(node.chain, message, hashlib.sha512)
    tweak, key = int.from_bytes(digest[:SCALAR_BYTES], "big"), int.from_bytes(node.key, "big")
    child = (tweak + key) % ORDER
    assert tweak < ORDER and child  # one in 2^127, as BIP-32 says
    return _ExtendedKey(child.to_bytes(SCALAR_BYTES, "big"), digest[SCALAR_BYTES:])
