"""BIP-340 signatures: its own vectors, and nothing that is not one of the key's."""

from __future__ import annotations

import pytest
from pynostr.key import PrivateKey, PublicKey

from relays.schnorr import SigningKey, verified

SECRET = bytes.fromhex("B7E151628AED2A6ABF7158809CF4F3C762E7160F38B4DA56A784D9045190CFEF")
PUBLIC = bytes.fromhex("DFF1D77F2A671C5F36183726DB2341BE58FEAE1DA2DECED843240F7B502BA659")
DIGEST = bytes.fromhex("243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89")
SIGNATURE = bytes.fromhex(
    "6896BD60EEAE296DB48A229FF71DFE071BDE413E6D43F917DC8DCF8C78DE33418906D11AC976ABCCB20B091292BFF4EA"
    "897EFCB639EA871CFA95F6DE339E4B0A"
)
"""Vector 1 of BIP-340."""


def test_the_vector_of_the_standard_is_genuine() -> None:
    assert SigningKey(SECRET).public == PUBLIC
    assert verified(PUBLIC, SIGNATURE, DIGEST)


def test_what_we_sign_is_genuine_to_us_and_to_another_library() -> None:
    first, second = SigningKey(SECRET).sign(DIGEST), SigningKey(SECRET).sign(DIGEST)
    assert first != second, "each has noise of its own"
    for signature in (first, second):
        assert verified(PUBLIC, signature, DIGEST)
        assert PublicKey(PUBLIC).verify(signature, DIGEST)
    theirs = PrivateKey(SECRET).sign(DIGEST)
    assert verified(PUBLIC, bytes(theirs), DIGEST)


@pytest.mark.parametrize("place", [0, 31, 32, 63])
def test_a_signature_with_another_bit_is_not(place: int) -> None:
    forged = bytearray(SIGNATURE)
    forged[place] ^= 1
    assert not verified(PUBLIC, bytes(forged), DIGEST)


@pytest.mark.parametrize(
    ("public", "signature", "digest"),
    [
        (PUBLIC, SIGNATURE, bytes(32)),
        (SigningKey(b"\1" * 32).public, SIGNATURE, DIGEST),
        (b"\xff" * 32, SIGNATURE, DIGEST),
        (PUBLIC[:31], SIGNATURE, DIGEST),
        (PUBLIC, SIGNATURE + b"\0", DIGEST),
        (PUBLIC, SIGNATURE, DIGEST[:-1]),
        (b"", b"", b""),
    ],
)
def test_what_does_not_belong_together_is_not_genuine(public: bytes, signature: bytes, digest: bytes) -> None:
    assert not verified(public, signature, digest)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"\1" * 31, b""])
def test_what_is_no_key_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="not a private key"):
        SigningKey(secret)


def test_only_hashes_are_signed() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey(SECRET).sign(b"short")
