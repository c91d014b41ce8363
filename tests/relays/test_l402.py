"""L402's token and credential, against what pymacaroons makes of the same key and identifier."""

from __future__ import annotations

import base64
import hashlib

import pytest

from relays.errors import InvalidL402
from relays.l402 import challenges, encode_token, identifier_of, is_l402, read_claim

ROOT_KEY, PREIMAGE, TOKEN_ID = bytes(range(32)), b"p" * 32, b"\x07" * 32
IDENTIFIER = identifier_of(hashlib.sha256(PREIMAGE).digest(), TOKEN_ID)
BY_PYMACAROONS = bytes.fromhex(
    "02010002420000a7cbbfdfe39c7df7502aa43b785e40940817b89fbff7834b364d2e343c80c25c"
    "07070707070707070707070707070707070707070707070707070707070707070000"
    "062064bbd7b66a25686f8b6fae75f2b04b73e5db45e0bab03ed2574f9625b2e54557"
)
"""With an empty location, which it writes and Go's does not."""
WITH_CAVEAT = bytes.fromhex(
    "02010002420000a7cbbfdfe39c7df7502aa43b785e40940817b89fbff7834b364d2e343c80c25c"
    "0707070707070707070707070707070707070707070707070707070707070707000203613d620000"
    "06206177bf973d4b97d9c2c24748fa24a250b63901a07f413a20014d2486c2c9e5d3"
)
"""The same, which its bearer has made good for "a=b" alone."""
WITHOUT_LOCATION = BY_PYMACAROONS[:1] + BY_PYMACAROONS[3:]
TOKEN = encode_token(IDENTIFIER, ROOT_KEY)


def test_a_token_is_the_macaroon_that_others_make() -> None:
    assert base64.b64decode(TOKEN) == WITHOUT_LOCATION


@pytest.mark.parametrize("scheme", ["L402", "LSAT", "l402"])
@pytest.mark.parametrize(
    "token",
    [TOKEN, TOKEN.rstrip("="), base64.urlsafe_b64encode(WITHOUT_LOCATION).decode()],
)
@pytest.mark.parametrize("preimage", [PREIMAGE.hex(), PREIMAGE.hex().upper()])
def test_a_credential_is_the_same_in_any_spelling(scheme: str, token: str, preimage: str) -> None:
    claim = read_claim(f"{scheme} {token}:{preimage}")
    assert claim is not None
    assert (claim.payment_hash, claim.token_id) == (hashlib.sha256(PREIMAGE).digest(), TOKEN_ID)
    assert claim.is_paid
    assert claim.is_signed_by(ROOT_KEY)
    assert claim.text == f"{IDENTIFIER.hex()}:{PREIMAGE.hex()}"


def test_another_preimage_or_key_does_not_hold() -> None:
    claim = read_claim(f"L402 {TOKEN}:{bytes(32).hex()}")
    assert claim is not None
    assert not claim.is_paid
    assert not claim.is_signed_by(bytes(32))


def test_what_pays_in_other_ways_is_of_another_scheme() -> None:
    for authorization in ("", "Bearer sk-1", "Bearer L402", "L4022 a:b"):
        assert read_claim(authorization) is None
        assert not is_l402(authorization)


@pytest.mark.parametrize(
    "credential",
    [
        "",
        TOKEN,
        f":{PREIMAGE.hex()}",
        f"{TOKEN}:",
        f"{TOKEN}:{PREIMAGE.hex()}0",
        f"{TOKEN}:no hex",
        f"{TOKEN}:{'00' * 65}",
        f"{TOKEN}é:{PREIMAGE.hex()}",
        f"{TOKEN},{TOKEN}:{PREIMAGE.hex()}",
        f"{base64.b64encode(WITH_CAVEAT).decode()}:{PREIMAGE.hex()}",
        f"{base64.b64encode(WITHOUT_LOCATION[:-1]).decode()}:{PREIMAGE.hex()}",
        f"{base64.b64encode(WITHOUT_LOCATION + b'0').decode()}:{PREIMAGE.hex()}",
        f"{base64.b64encode(b'1' + WITHOUT_LOCATION[1:]).decode()}:{PREIMAGE.hex()}",
        f"{'A' * 100_000}:{PREIMAGE.hex()}",
    ],
)
def test_what_is_no_credential_is_said_to_be_none(credential: str) -> None:
    with pytest.raises(InvalidL402):
        read_claim(f"L402 {credential}")


def test_older_clients_find_the_line_that_they_know_first() -> None:
    assert challenges("dG9r", "lnbc1") == (
        'LSAT macaroon="dG9r", invoice="lnbc1"',
        'L402 version="0", token="dG9r", macaroon="dG9r", invoice="lnbc1"',
    )
