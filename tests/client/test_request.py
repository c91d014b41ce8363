"""Payment requests in both forms: the specifications' vectors, ours read back, and noise that is one clear error."""

from __future__ import annotations

import base64

import cbor2
import pytest
from cashu.core.nuts import nut26
from hypothesis import given
from hypothesis import strategies as st

from router_client.ecash.request import (
    Lock,
    PaymentRequest,
    Transport,
    decode,
    encode_a,
    encode_b,
    locked_to,
)
from router_client.errors import RequestUnreadable, WalletError

KEY = "02c3b5bb27e361457c92d93d78dd73d3d53732110b2cfe8b50fbc0abc615e9c331"
MINT = "https://mint.example.com"
LOCKED = PaymentRequest(
    id="c9e45d2a", amount=500, unit="sat", mints=(MINT,), lock=Lock("P2PK", KEY, (("timeout", "3600"),))
)

# The test vectors of NUT-18 (tests/18-tests.md).
NUT18 = {
    "creqAo2FpaDdmNGEyYjM5YXVjc2F0YW2BeBhodHRwczovL21pbnQuZXhhbXBsZS5jb20=": PaymentRequest(
        id="7f4a2b39", unit="sat", mints=(MINT,)
    ),
    "creqAqGF0gaNhdGRwb3N0YWF4G2h0dHBzOi8vYXBpLmV4YW1wbGUuY29tL3BheWFn92FpaDQ4NDBmNTFlYWEZA+hhdWNzYXRhbYF4GGh0dHBzOi8v"
    "bWludC5leGFtcGxlLmNvbWFkcFByb2R1Y3QgcHVyY2hhc2Vhc/VlbnV0MTCjYWtkUDJQS2FkeEIwM2JhZjBjM2FjMjIwMzY2YzJjMzk3YmY5MzA1"
    "NzljNDE2MzQzNTU4NGY1NzNiMTA5MTA5ODdjNTQ0YzU5ZTYxZjFhdIGCZ3B1cnBvc2Vnb2ZmbGluZQ==": PaymentRequest(
        id="4840f51e",
        amount=1000,
        unit="sat",
        single_use=True,
        mints=(MINT,),
        description="Product purchase",
        transports=(Transport("post", "https://api.example.com/pay"),),
        lock=Lock(
            "P2PK",
            "03baf0c3ac220366c2c397bf930579c4163435584f573b10910987c544c59e61f1",
            (("purpose", "offline"),),
        ),
    ),
    "creqApWFpaGM5ZTQ1ZDJhYWEZAfRhdWNzYXRhbYF4GGh0dHBzOi8vbWludC5leGFtcGxlLmNvbWVudXQxMKNha2RQMlBLYWR4QjAyYzNiNWJiMjdl"
    "MzYxNDU3YzkyZDkzZDc4ZGQ3M2QzZDUzNzMyMTEwYjJjZmU4YjUwZmJjMGFiYzYxNWU5YzMzMWF0gYJndGltZW91dGQzNjAw": LOCKED,
    # Fields that we do not know (mp, fr, sm) are passed over.
    "creqAp2FpdXByZWZlcnJlZF9mZWVfbWV0aG9kc2FhGGRhdWNzYXRhbYF4GGh0dHBzOi8vbWludC5leGFtcGxlLmNvbWJtcPViZnICYnNtgqFibW5m"
    "Ym9sdDExomJtbmZib2x0MTJibWYF": PaymentRequest(id="preferred_fee_methods", amount=100, unit="sat", mints=(MINT,)),
}

# The test vectors of NUT-26 (26.md, tests/26-test.md).
NUT26 = {
    "CREQB1QYQQWER9D4HNZV3NQGQQSQQQQQQQQQQRAQPSQQGQQSQQZQG9QQVXSAR5WPEN5TE0D45KUAPWV4UXZMTSD3JJUCM0D5RQQRJRDANXVET9YPCXZ"
    "7TDV4H8GXHR3TQ": PaymentRequest(
        id="demo123", amount=1000, unit="sat", single_use=True, mints=(MINT,), description="Coffee payment"
    ),
    "CREQB1QYQQSDMXX3SNYC3N8YPSQQGQQ5QPS6R5W3C8XW309AKKJMN59EJHSCTDWPKX2TNRDAKSYP0LHG": PaymentRequest(
        id="7f4a2b39", unit="sat", mints=(MINT,)
    ),
    "CREQB1QYQQSCEEV56R2EPJVYPQQZQQQQQQQQQQQ86QXQQPQQZSQXRGW368QUE69UHK66TWWSHX27RPD4CXCEFWVDHK6ZQQTYQSQQGQQGQYYVPJVVEKY"
    "DTZVGERWEFNXCCNGDFHVVUNYEPEXDJRWWRYVSMNXEPNVS6NXDENXGCNZVRZXF3KVEFCVG6NQENZVVCXZCNRXCCN2EFEVVENXVGRQQXSWARFD4JK7AT5Q"
    "SENVVPS2N5FAS": LOCKED,
    "CREQB1QYQQJER9WD347AR9WD6QYQQGQQQQQQQQQQQXGQCQQYQQ2QQCDP68GURN8GHJ7MTFDE6ZUETCV9KHQMR99E3K7MGXQQV9GETNWSS8QCTED4JKU"
    "APQV3JHXCMJD9C8G6T0DCFLJJRX": PaymentRequest(
        id="desc_test", amount=100, unit="sat", mints=(MINT,), description="Test payment description"
    ),
    "CREQB1QYQPQUMFDENKCE2LW4EK2HMXV9K8XEGZQQYQQQQQQQQQQQRYQVQQZQQYQQQSQPGQRP58GARSWVAZ7TMDD9H8GTN90PSK6URVV5HXXMMDQ40L9"
    "0": PaymentRequest(id="single_use_false", amount=100, unit="sat", single_use=False, mints=(MINT,)),
    "CREQB1QYQQJATWD9697MTNV96QYQQGQQQQQQQQQQP7SQCQQ3KHXCT5Q5QPS6R5W3C8XW309AKKJMN59EJHSCTDWPKX2TNRDAKSY"
    "YMU95": PaymentRequest(id="unit_msat", amount=1000, unit="msat", mints=(MINT,)),
}


@pytest.mark.parametrize("text", NUT18)
def test_vectors_of_nut18_are_read(text: str) -> None:
    assert decode(text) == NUT18[text]
    assert decode(encode_a(NUT18[text])) == NUT18[text]


@pytest.mark.parametrize("text", NUT26)
def test_vectors_of_nut26_are_read_and_written_to_the_letter(text: str) -> None:
    assert decode(text) == decode(text.lower()) == NUT26[text]
    assert encode_b(NUT26[text]) == text


def test_a_request_for_a_locked_token_names_the_key_and_no_other_way() -> None:
    lock = locked_to(KEY)
    assert lock == Lock("P2PK", KEY, (("sigflag", "SIG_INPUTS"),))
    asked = PaymentRequest(amount=21_000, unit="msat", mints=(MINT,), lock=lock)
    assert decode(encode_a(asked)) == decode(encode_b(asked)) == asked


texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40)
tags = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
requests = st.builds(
    PaymentRequest,
    id=st.none() | texts,
    amount=st.none() | st.integers(0, 21 * 10**17),
    unit=st.none() | st.sampled_from(["sat", "msat", "usd"]),
    single_use=st.none() | st.booleans(),
    mints=st.lists(texts, max_size=3).map(tuple),
    description=st.none() | texts,
    transports=st.lists(st.builds(Transport, st.just("post"), texts, tags), max_size=2).map(tuple),
    lock=st.none() | st.builds(Lock, st.sampled_from(["P2PK", "HTLC"]), texts, tags),
)


@given(requests)
def test_round_trip(request_: PaymentRequest) -> None:
    assert decode(encode_a(request_)) == request_
    assert decode(encode_b(request_)) == request_


def creq_b(raw: bytes) -> str:
    five = nut26.convertbits(raw, 8, 5)
    assert five is not None
    return str(nut26.bech32m_encode("creqb", five))


@given(st.binary(max_size=120))
def test_noise_is_unreadable_and_nothing_worse(noise: bytes) -> None:
    for text in ("creqA" + base64.urlsafe_b64encode(noise).decode(), creq_b(noise)):
        try:
            decode(text)
        except RequestUnreadable:
            continue


@pytest.mark.parametrize(
    "text",
    [
        "",
        "creq",
        "creqA",
        "creqB1",
        "creqC1qqqq",
        "lnbc1",
        "creqA!!!",
        "creqA" + "A" * 10_000,
        "creqA" + base64.urlsafe_b64encode(cbor2.dumps({"a": -1})).decode(),
        "creqA" + base64.urlsafe_b64encode(cbor2.dumps({"a": 2**64})).decode(),
        "creqA" + base64.urlsafe_b64encode(cbor2.dumps({"m": "https://a"})).decode(),
        "creqA" + base64.urlsafe_b64encode(cbor2.dumps({"t": [7]})).decode(),
        "creqA" + base64.urlsafe_b64encode(cbor2.dumps({"u": "x" * 40})).decode(),
        "creqA" + base64.urlsafe_b64encode(cbor2.dumps([1])).decode(),
        next(iter(NUT26))[:-1] + "9",
        creq_b(b"\x02\x00\x01\x05"),
        creq_b(b"\x01"),
        creq_b(b"\x08\x00\x00"),
    ],
)
def test_what_is_no_request_is_one_clear_error(text: str) -> None:
    with pytest.raises(RequestUnreadable):
        decode(text)


def test_what_no_reader_takes_is_not_written() -> None:
    assert issubclass(RequestUnreadable, WalletError)
    for bad in (PaymentRequest(amount=-1), PaymentRequest(id="x" * 2000), PaymentRequest(lock=Lock("ODD", "x"))):
        with pytest.raises(RequestUnreadable):
            encode_b(bad)
