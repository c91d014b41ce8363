"""Tokens of others are read in both versions, ours are read by others, and a hostile one is one clear error."""

import base64
import json
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_client.ecash.token import MAX_PROOFS, Proof, Token, decode, encode, to_msat, token_hash
from router_client.errors import ClientError, TokenUnreadable, WrongUnit

# NUT-00's own test vectors.
NUT00_V3 = (
    "cashuAeyJ0b2tlbiI6W3sibWludCI6Imh0dHBzOi8vODMzMy5zcGFjZTozMzM4IiwicHJvb2ZzIjpbeyJhbW91bnQiOjIsImlkIjoiMDA5YTFmMjkz"
    "MjUzZTQxZSIsInNlY3JldCI6IjQwNzkxNWJjMjEyYmU2MWE3N2UzZTZkMmFlYjRjNzI3OTgwYmRhNTFjZDA2YTZhZmMyOWUyODYxNzY4YTc4Mzci"
    "LCJDIjoiMDJiYzkwOTc5OTdkODFhZmIyY2M3MzQ2YjVlNDM0NWE5MzQ2YmQyYTUwNmViNzk1ODU5OGE3MmYwY2Y4NTE2M2VhIn0seyJhbW91bnQi"
    "OjgsImlkIjoiMDA5YTFmMjkzMjUzZTQxZSIsInNlY3JldCI6ImZlMTUxMDkzMTRlNjFkNzc1NmIwZjhlZTBmMjNhNjI0YWNhYTNmNGUwNDJmNjE0"
    "MzNjNzI4YzcwNTdiOTMxYmUiLCJDIjoiMDI5ZThlNTA1MGI4OTBhN2Q2YzA5NjhkYjE2YmMxZDVkNWZhMDQwZWExZGUyODRmNmVjNjlkNjEyOTlm"
    "NjcxMDU5In1dfV0sInVuaXQiOiJzYXQiLCJtZW1vIjoiVGhhbmsgeW91LiJ9"
)
NUT00_V4 = (
    "cashuBpGF0gaJhaUgArSaMTR9YJmFwgaNhYQFhc3hAOWE2ZGJiODQ3YmQyMzJiYTc2ZGIwZGYxOTcyMTZiMjlkM2I4Y2MxNDU1M2NkMjc4MjdmYzFj"
    "Yzk0MmZlZGI0ZWFjWCEDhhhUP_trhpXfStS6vN6So0qWvc2X3O4NfM-Y1HISZ5JhZGlUaGFuayB5b3VhbXVodHRwOi8vbG9jYWxob3N0OjMzMzhh"
    "dWNzYXQ="
)


def test_the_specifications_vectors() -> None:
    third = decode(NUT00_V3)
    assert (third.mint, third.unit, third.amount, third.amount_msat) == ("https://8333.space:3338", "sat", 10, 10_000)
    fourth = decode(NUT00_V4)
    assert (fourth.mint, fourth.unit, fourth.amount) == ("http://localhost:3338", "sat", 1)


@pytest.mark.parametrize("text", [NUT00_V3, NUT00_V4])
def test_what_is_read_can_be_written(text: str) -> None:
    token = decode(text)
    assert decode(encode(token)) == token


def v4(**changes: Any) -> str:
    coin = {"a": 1, "s": "secret", "c": bytes.fromhex("02" + "11" * 32)}
    body = {
        "m": "https://mint.example",
        "u": "sat",
        "t": [{"i": bytes.fromhex("00ad268c4d1f5826"), "p": [coin]}],
    } | changes
    return "cashuB" + base64.urlsafe_b64encode(cbor2.dumps(body)).decode().rstrip("=")


def coins(*coins: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"i": b"\x00", "p": list(coins)}]


C = bytes.fromhex("02" + "11" * 32)


COIN = {"amount": 1, "id": "00", "secret": "s", "C": C.hex()}


def v3(body: object) -> str:
    return "cashuA" + base64.urlsafe_b64encode(json.dumps(body).encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cashu",
        "cashuA",
        "cashuB",
        "cashuC" + NUT00_V4[6:],
        "cashuBnonsense",
        NUT00_V4[:-20],
        NUT00_V3[:100],
        "cashuB" + "A" * 200_000,
        v4(t=[]),
        v4(t=[{"i": b"\x00", "p": []}]),
        v4(t=coins({"a": 0, "s": "x", "c": C})),
        v4(t=coins({"a": -1, "s": "x", "c": C})),
        v4(t=coins({"a": 1, "s": "x", "c": C}, {"a": 1, "s": "x", "c": C})),
        v4(t=coins(*({"a": 1, "s": str(i), "c": C} for i in range(MAX_PROOFS + 1)))),
        v4(m=None),
        v4(m=["https://a"]),
        v4(m={"https://a": 1}),
        v4(u=None),
        v4(u=10**5000),
        v4(t=coins({"a": 10**5000, "s": "x", "c": C})),
        v4(t=coins({"a": True, "s": "", "c": C})),
        v3({"token": [{"mint": "https://\ud800", "proofs": [COIN]}]}),
        v3({"token": [{"mint": "https://a", "proofs": [COIN | {"secret": "\ud800"}]}]}),
        v3({"token": [{"mint": "https://a", "proofs": [COIN | {"witness": "\ud800"}]}]}),
        v3({"token": [{"mint": "https://a", "proofs": [COIN]}], "unit": "\ud800"}),
        v3({"token": [{"mint": ["https://a"], "proofs": [COIN]}]}),
        v4(t="no"),
        v4(t=[7]),
        v3([]),
        v3({"token": []}),
        v3({"token": [{"mint": "https://a", "proofs": [{"amount": 1}]}]}),
        v3({"token": [{"mint": None, "proofs": []}]}),
        v3({"token": [{"mint": "https://a", "proofs": [{"amount": "x", "id": "00", "secret": "s", "C": "02"}]}]}),
        v3({"token": [{"mint": "https://a", "proofs": [{"amount": 1, "id": "00", "secret": "s", "C": "zz"}]}]}),
    ],
)
def test_a_hostile_token_is_one_clear_error_that_does_not_repeat_it(text: str) -> None:
    with pytest.raises(TokenUnreadable) as caught:
        decode(text)
    assert len(text) < 8 or text not in str(caught.value)


@pytest.mark.parametrize("part", ["\ud800", "", "zz", "0x01"])
def test_a_coin_whose_proof_is_none_is_a_coin_without(part: str) -> None:
    def token(**changes: str) -> Token:
        dleq = {"e": "11" * 32, "s": "22" * 32, "r": "33" * 32} | changes
        return decode(v3({"token": [{"mint": "https://a", "proofs": [COIN | {"dleq": dleq}]}], "unit": "sat"}))

    assert token().proofs[0].dleq is not None
    assert token(s=part).proofs[0].dleq is None


def test_coins_of_two_mints_are_two_tokens() -> None:
    proof = {"amount": 1, "id": "00", "secret": "s", "C": "02"}
    two = {"token": [{"mint": "https://a", "proofs": [proof]}, {"mint": "https://b", "proofs": [proof]}]}
    with pytest.raises(TokenUnreadable, match="several mints"):
        decode(v3(two))


@pytest.mark.parametrize("unit", ["usd", "eur", "", "SAT"])
def test_other_units_are_refused(unit: str) -> None:
    with pytest.raises(WrongUnit):
        to_msat(1, unit)
    if unit:
        with pytest.raises(WrongUnit):
            decode(v4(u=unit))


def test_an_amount_beyond_all_bitcoin_is_refused() -> None:
    for amount in (2**62, 2**63, 10**19, 10**30):
        with pytest.raises(TokenUnreadable):
            decode(v4(t=coins({"a": amount, "s": "x", "c": C})))


@given(st.binary(max_size=200), st.sampled_from(["cashuA", "cashuB"]))
def test_noise_is_unreadable_and_nothing_worse(noise: bytes, prefix: str) -> None:
    with pytest.raises((TokenUnreadable, WrongUnit)):
        decode(prefix + base64.urlsafe_b64encode(noise).decode())


proofs = st.lists(
    st.builds(
        Proof,
        st.sampled_from(["00ad268c4d1f5826", "01" + "ab" * 32]),
        st.integers(0, 20).map(lambda power: 1 << power),
        st.text("0123456789abcdef", min_size=64, max_size=64),
        st.just("02" + "11" * 32),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda proof: proof.secret,
)


@given(proofs, st.sampled_from(["sat", "msat"]))
def test_round_trip(coins_: list[Proof], unit: str) -> None:
    token = Token("https://mint.example", unit, tuple(coins_))
    again = decode(encode(token))
    assert sorted(again.proofs, key=repr) == sorted(token.proofs, key=repr)
    assert (again.mint, again.unit) == (token.mint, token.unit)


def test_tokens_are_named_by_their_hash() -> None:
    assert token_hash(NUT00_V4) != token_hash(NUT00_V3)
    assert issubclass(TokenUnreadable, ClientError)
