"""A proof holds for the key, the URL and the question that it was made for, and for no other."""

from __future__ import annotations

import pytest

from relays.errors import InvalidProof
from relays.event import Event, Signer
from relays.proof import LIFETIME_S, base_of, encode, verify
from tests.relays.golden import SECRET

NOW = 1_700_000_000
SIGNER = Signer.parse(SECRET)
URL = "https://node.example"
NONCE = "0123456789abcdef" * 2
PROOF = encode(SIGNER, url=URL, nonce=NONCE, now=NOW)
ASKED = {"pubkey": SIGNER.pubkey, "url": URL, "nonce": NONCE}


def test_a_proof_holds_for_what_was_asked() -> None:
    verify(PROOF, **ASKED, now=NOW)
    verify(PROOF, **(ASKED | {"url": f"{URL}/v1/"}), now=NOW + LIFETIME_S)
    verify(PROOF, **ASKED, now=NOW - 800)  # the node's clock is ahead


def with_tags(*tags: list[str], kind: int = 27236, at: int = NOW) -> Event:
    return SIGNER.sign(kind=kind, content="", created_at=at, tags=tags)


U, N, E = ["u", URL], ["nonce", NONCE], ["expiration", str(NOW + 60)]


@pytest.mark.parametrize(
    ("event", "asked", "reason"),
    [
        (PROOF, {"pubkey": Signer.generate().pubkey}, "another key"),
        (PROOF, {"url": "https://copy.example"}, "another URL"),
        (PROOF, {"url": "http://node.example"}, "another URL"),
        (PROOF, {"url": "https://node.example:8443"}, "another URL"),
        (PROOF, {"url": "https://node.example/elsewhere"}, "another URL"),
        (PROOF, {"nonce": "f" * 32}, "another question"),
        (with_tags(U, N, E, kind=27235), {}, "kind"),
        (with_tags(U, ["u", "https://copy.example"], N, E), {"url": "https://copy.example"}, "another URL"),
        (with_tags(["u", "https://copy.example"], U, N, E), {}, "another URL"),
        (with_tags(U, N, ["nonce", "f" * 32], E), {}, "another question"),
        (with_tags(N, E), {}, "another URL"),
        (with_tags(U, E), {}, "another question"),
        (with_tags(U, N), {}, "expire"),
        (with_tags(U, N, ["expiration", "never"]), {}, "date"),
        (with_tags(U, N, ["expiration", str(NOW + 61)]), {}, "expire"),
        (with_tags(U, N, ["expiration", str(NOW)]), {}, "expire"),
    ],
)
def test_it_holds_for_nothing_else(event: Event, asked: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidProof, match=reason):
        verify(event, **(ASKED | asked), now=NOW)


@pytest.mark.parametrize("now", [NOW + LIFETIME_S + 900, NOW - 901])
def test_it_does_not_hold_at_another_time(now: int) -> None:
    with pytest.raises(InvalidProof, match="expired"):
        verify(PROOF, **ASKED, now=now)


@pytest.mark.parametrize(
    "same",
    [URL, "https://NODE.example/", "HTTPS://node.example:443", "https://node.example/v1", "https://node.example/v1/"],
)
def test_a_url_has_one_form(same: str) -> None:
    assert base_of(same) == URL


@pytest.mark.parametrize(("url", "base"), [("http://[::1]:80/a/", "http://[::1]/a"), ("http://x:81/v1", "http://x:81")])
def test_a_url_keeps_what_tells_it_apart(url: str, base: str) -> None:
    assert base_of(url) == base


@pytest.mark.parametrize(
    "url",
    [
        "",
        "node.example",
        "ftp://node.example",
        "https://",
        "https://a@node.example",
        "https://n.example/?a=b",
        "https://n.example/#a",
        "https://n.example:99999",
        "https://[",
        "https://n.example/\n",
        "https://n/" + "x" * 3000,
    ],
)
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidProof):
        encode(SIGNER, url=url, nonce=NONCE, now=NOW)


@pytest.mark.parametrize("nonce", ["", "f" * 31, "f" * 65, "F" * 32, "g" * 32, "f" * 32 + "\n"])
def test_what_is_no_nonce_is_refused(nonce: str) -> None:
    with pytest.raises(InvalidProof, match="nonce"):
        encode(SIGNER, url=URL, nonce=nonce, now=NOW)
