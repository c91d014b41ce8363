"""The blind signatures of Cashu (NUT-00, NUT-12) and deterministic secrets (NUT-13), over cashu.core.

Points travel as hex strings; nothing outside this module sees a curve object.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec
from bip32 import BIP32
from cashu.core.crypto.b_dhke import alice_verify_dleq, hash_to_curve, step1_alice, step3_alice
from cashu.core.crypto.keys import derive_keyset_id, derive_keyset_id_v2
from cashu.core.crypto.secp import PrivateKey, PublicKey

from router_client.errors import MintMisbehaved


class Dleq(msgspec.Struct, frozen=True, omit_defaults=True):
    """A mint's proof that it signed with the key it published (NUT-12). `r` is added by the token's sender."""

    e: str
    s: str
    r: str | None = None


class BlindSecret(msgspec.Struct, frozen=True):
    """A secret and the blinding factor it is hidden with (hex)."""

    secret: str
    r: str


def y_of(secret: str) -> str:
    """The point that names a secret to the mint, compressed hex."""
    return str(hash_to_curve(secret.encode()).format().hex())


def blind(blind_secret: BlindSecret) -> str:
    """B_, the blinded message to be signed."""
    blinded, _ = step1_alice(blind_secret.secret, PrivateKey(bytes.fromhex(blind_secret.r)))
    return str(blinded.format().hex())


def unblind(blind_secret: BlindSecret, blinded_signature: str, mint_key: str, dleq: Dleq | None) -> str:
    """C, the mint's signature on the secret. Raises MintMisbehaved for a malformed point or a DLEQ that does not fit."""
    try:
        signature, key = PublicKey(bytes.fromhex(blinded_signature)), PublicKey(bytes.fromhex(mint_key))
        r = PrivateKey(bytes.fromhex(blind_secret.r))
        if dleq is not None:
            blinded, _ = step1_alice(blind_secret.secret, r)
            e, s = PrivateKey(bytes.fromhex(dleq.e)), PrivateKey(bytes.fromhex(dleq.s))
            if not alice_verify_dleq(blinded, signature, e, s, key):
                raise MintMisbehaved("a signature was not made with the mint's published key")
        return str(step3_alice(signature, r, key).format().hex())
    except ValueError as error:
        raise MintMisbehaved("a signature is malformed") from error


def is_signed(secret: str, signature: str, mint_key: str, dleq: Dleq) -> bool:
    """Whether C is the mint's signature on the secret, by the sender's DLEQ proof alone (NUT-12, as Carol does)."""
    if dleq.r is None:
        return False
    try:
        point, key = PublicKey(bytes.fromhex(signature)), PublicKey(bytes.fromhex(mint_key))
        r, e, s = (PrivateKey(bytes.fromhex(number)) for number in (dleq.r, dleq.e, dleq.s))
        # cashu's carol_verify_dleq also tries an older hash to the curve, under which a secret has a second name.
        return bool(alice_verify_dleq(hash_to_curve(secret.encode()) + r.public_key, point + key * r, e, s, key))
    except ValueError:
        return False


def keyset_id_matches(keyset_id: str, keys: dict[int, str], unit: str, input_fee_ppk: int, expiry: int | None) -> bool:
    """Whether the id is derived from the keys (NUT-02, versions 00 and 01)."""
    try:
        points = {amount: PublicKey(bytes.fromhex(key)) for amount, key in keys.items()}
    except ValueError:
        return False
    if keyset_id.startswith("00"):
        return bool(derive_keyset_id(points) == keyset_id)
    return bool(derive_keyset_id_v2(points, unit, expiry, input_fee_ppk) == keyset_id)


class SecretChain:
    """Secrets and blinding factors of one seed, by keyset and counter (NUT-13)."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._bip32 = BIP32.from_seed(seed)

    def at(self, keyset_id: str, counter: int) -> BlindSecret:
        """The pair at a counter; the same seed gives the same pair for ever."""
        if keyset_id.startswith("00"):
            number = int.from_bytes(bytes.fromhex(keyset_id), "big") % (2**31 - 1)
            path = f"m/129372'/0'/{number}'/{counter}'"
            secret, r = (self._bip32.get_privkey_from_path(f"{path}/{i}") for i in (0, 1))
        else:
            message = b"Cashu_KDF_HMAC_SHA256" + bytes.fromhex(keyset_id) + counter.to_bytes(8, "big")
            secret, r = (hmac.digest(self._seed, message + bytes([i]), hashlib.sha256) for i in (0, 1))
        return BlindSecret(secret.hex(), r.hex())
