"""The curve arithmetic against the specifications' own vectors, and against the libraries that do it more slowly."""

from __future__ import annotations

import secrets

import pytest
from bip32 import BIP32
from cashu.core.crypto.b_dhke import alice_verify_dleq, step1_alice, step2_bob, step3_alice
from cashu.core.crypto.secp import PrivateKey, PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from mnemonic import Mnemonic
from msgspec import structs

from router_client.ecash.crypto import ORDER, BlindSecret, Dleq, SecretChain, blind, is_signed, unblind
from router_client.errors import MintMisbehaved

GENERATOR = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
SCALARS = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big").hex())
SECRET = "daf4dd00a2b68a0858a80450f52c8a7d2ccf87d375e43e216e0c571f089f63e9"
SIGNATURE = "024369d2d22a80ecf78f3937da9d5f30c1b9f74f0c32684d583cca0fa6a61cdcfc"
DLEQ = Dleq(
    "b31e58ac6527f34975ffab13e70a48b6d2b0d35abc4b03f0151f09ee1a9763d4",
    "8fbae004c59e754d71df67e392b6ae4e29293113ddc2ec86592a0431d16306d8",
    "a6d13fcd7a18442e6076f5e1e7c887ad5de40a019824bdfa9fe740d302e8d861",
)


def test_the_proof_of_a_coin_as_in_nut_12() -> None:
    assert is_signed(SECRET, SIGNATURE, GENERATOR, DLEQ)


@pytest.mark.parametrize("field", ["e", "s", "r"])
@pytest.mark.parametrize("number", [1, ORDER, ORDER + 1, 0, 2**256, 2**256 - 1])
def test_another_number_proves_nothing(field: str, number: int) -> None:
    assert not is_signed(SECRET, SIGNATURE, GENERATOR, structs.replace(DLEQ, **{field: f"{number:066x}"}))


@pytest.mark.parametrize("text", ["", "0x01", "zz", "-1", "é", "1_0"])
@pytest.mark.parametrize("field", ["e", "s", "r"])
def test_what_is_no_number_proves_nothing(field: str, text: str) -> None:
    assert not is_signed(SECRET, SIGNATURE, GENERATOR, structs.replace(DLEQ, **{field: text}))


def test_a_proof_does_not_fit_another_secret_signature_or_key() -> None:
    other = PrivateKey().public_key.format().hex()
    assert not is_signed(SECRET[::-1], SIGNATURE, GENERATOR, DLEQ)
    assert not is_signed(SECRET, other, GENERATOR, DLEQ)
    assert not is_signed(SECRET, SIGNATURE, other, DLEQ)
    assert not is_signed(SECRET, SIGNATURE, GENERATOR, Dleq(DLEQ.e, DLEQ.s))


def test_points_that_cancel_out_are_no_signature() -> None:
    """r·A = -C makes the point at infinity: no exception may come out of that."""
    key = PrivateKey()
    opposite = (ORDER - int.from_bytes(key.secret, "big")).to_bytes(32, "big")
    signature = PublicKey.from_secret(opposite).format().hex()
    assert not is_signed(SECRET, signature, key.public_key.format().hex(), Dleq(DLEQ.e, DLEQ.s, "01"))


@settings(max_examples=40)
@given(mint_key=SCALARS, r=SCALARS, secret=st.text(max_size=80))
def test_what_a_mint_signs_is_unblinded_as_by_cashu(mint_key: str, r: str, secret: str) -> None:
    mint, pair = PrivateKey(bytes.fromhex(mint_key)), BlindSecret(secret, r)
    key = mint.public_key.format().hex()
    message, factor = step1_alice(secret, PrivateKey(bytes.fromhex(r)))
    blinded = blind(pair)
    assert blinded == message.format().hex()
    signed, e, s = step2_bob(message, mint)
    assert alice_verify_dleq(message, signed, e, s, mint.public_key)
    dleq = Dleq(e.to_hex(), s.to_hex(), r)
    coin = unblind(r, blinded, signed.format().hex(), key, dleq)
    assert coin == step3_alice(signed, factor, mint.public_key).format().hex()
    assert is_signed(secret, coin, key, dleq)
    assert not is_signed(secret + "x", coin, key, dleq)


def test_another_mints_signature_is_not_taken() -> None:
    r, secret = secrets.token_hex(32), secrets.token_hex(32)
    mint, liar = PrivateKey(), PrivateKey()
    blinded = blind(BlindSecret(secret, r))
    signed, e, s = step2_bob(PublicKey(bytes.fromhex(blinded)), liar)
    dleq = Dleq(e.to_hex(), s.to_hex())
    with pytest.raises(MintMisbehaved, match="published key"):
        unblind(r, blinded, signed.format().hex(), mint.public_key.format().hex(), dleq)
    with pytest.raises(MintMisbehaved, match="malformed"):
        unblind(r, blinded, "02" + "00" * 32, mint.public_key.format().hex(), dleq)


def test_secrets_as_in_nut_13() -> None:
    seed = Mnemonic.to_seed("half depart obvious quality work element tank gorilla view sugar picture humble")
    pairs = [SecretChain(seed).at("009a1f293253e41e", counter) for counter in (0, 1)]
    assert [pair.secret for pair in pairs] == [
        "485875df74771877439ac06339e284c3acfcd9be7abf3bc20b516faeadfe77ae",
        "8f2b39e8e594a4056eb1e6dbb4b0c38ef13b1b2c751f64f810ec04ee35b77270",
    ]
    assert pairs[0].r == "ad00d431add9c673e843d4c2bf9a778a5f402b985b8da2d5550bf39cda41d679"


@settings(max_examples=40)
@given(seed=st.binary(min_size=16, max_size=64), counter=st.integers(0, 2**31 - 1), keyset=st.integers(0, 2**56 - 1))
def test_secrets_are_those_of_the_path_in_bip_32(seed: bytes, counter: int, keyset: int) -> None:
    number = keyset % (2**31 - 1)
    path = f"m/129372'/0'/{number}'/{counter}'"
    wallet = BIP32.from_seed(seed)
    expected = [wallet.get_privkey_from_path(f"{path}/{i}").hex() for i in (0, 1)]
    pair = SecretChain(seed).at(f"00{keyset:014x}", counter)
    assert [pair.secret, pair.r] == expected
