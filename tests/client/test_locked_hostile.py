"""What a hostile payer may send as a locked token: all of it is refused, and a good one counts once."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_client.ecash.locks import key_of, lock_secret
from router_client.ecash.token import Token, decode, encode
from router_client.ecash.wallet import Wallet
from router_client.errors import (
    MintUnavailable,
    TokenRefused,
    TokenSpent,
    TokenUnreadable,
    WalletError,
    WrongUnit,
)
from tests.client.purses import changed, funded, offline, seller, signed_for

TAGS = [["sigflag", "SIG_INPUTS"]]


def secret(key: str, nonce: str = "ab" * 16, **changes: object) -> str:
    body = {"nonce": nonce, "data": key, "tags": TAGS} | changes
    return json.dumps(["P2PK", body], separators=(",", ":"))


HOSTILE_SECRETS = {
    "plain": lambda key: "ab" * 32,
    "not JSON": lambda key: secret(key)[:-1],
    "another kind": lambda key: secret(key).replace("P2PK", "HTLC"),
    "an extra element": lambda key: secret(key)[:-1] + ',"more"]',
    "an extra key": lambda key: secret(key, locktime=1),
    "a key twice": lambda key: secret(key).replace('{"nonce"', '{"data":"02' + "11" * 32 + '","nonce"'),
    "a nonce that is a number": lambda key: secret(key).replace('"' + "ab" * 16 + '"', "7"),
    "a nonce that is no hex": lambda key: secret(key, nonce="zz" * 16),
    "no nonce": lambda key: json.dumps(["P2PK", {"data": key, "tags": TAGS}], separators=(",", ":")),
    "white space before": lambda key: " " + secret(key),
    "white space inside": lambda key: secret(key).replace(",", " ,", 1),
    "a line break after": lambda key: secret(key) + "\n",
    "escapes": lambda key: secret(key).replace("P2PK", "\\u00502PK"),
    "no tags": lambda key: json.dumps(["P2PK", {"nonce": "ab" * 16, "data": key}], separators=(",", ":")),
    "empty tags": lambda key: secret(key, tags=[]),
    "locktime": lambda key: secret(key, tags=[*TAGS, ["locktime", "1"]]),
    "n_sigs": lambda key: secret(key, tags=[*TAGS, ["n_sigs", "2"]]),
    "pubkeys": lambda key: secret(key, tags=[*TAGS, ["pubkeys", "02" + "11" * 32]]),
    "refund": lambda key: secret(key, tags=[*TAGS, ["locktime", "1"], ["refund", "02" + "11" * 32]]),
    "SIG_ALL": lambda key: secret(key, tags=[["sigflag", "SIG_ALL"]]),
    "sigflag twice": lambda key: secret(key, tags=[*TAGS, *TAGS]),
    "another key": lambda key: secret("02" + key[2:][::-1]),
    "the key in capitals": lambda key: secret(key.upper().replace("0X", "0x")),
    "the key without its sign": lambda key: secret(key[2:]),
}


@given(st.text(max_size=80), st.text("0123456789abcdef", min_size=32, max_size=64))
def test_noise_is_no_lock_and_our_own_form_is_one(noise: str, nonce: str) -> None:
    key = "02" + "ab" * 32
    written = lock_secret(key, nonce)
    assert key_of(written) == key
    for text in (
        noise,
        written + noise,
        noise + written,
        written.replace("nonce", noise),
        written.replace("data", noise),
    ):
        if text != written:
            with pytest.raises(TokenRefused):
                key_of(text)


async def refused(bob: Wallet, token: Token | str, kind: type[WalletError] = TokenRefused) -> None:
    with pytest.raises(kind) as caught:
        await bob.accept_locked(token, "hostile")
    assert type(caught.value) is kind
    assert bob.outcome("hostile") is None
    assert bob.locked_msat() == 0


@pytest.mark.parametrize("name", HOSTILE_SECRETS)
async def test_a_hostile_secret_is_refused_though_the_mint_signed_it(
    name: str, folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    bob = await seller(folder, http, mint_url)
    await refused(bob, await signed_for([HOSTILE_SECRETS[name](bob.lock_key)], folder / "p", http, mint_url))


async def test_a_good_secret_made_by_hand_is_taken(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    """In the two ways in which JSON writers write it: other wallets lock to us too."""
    bob = await seller(folder, http, mint_url)
    spaced = json.dumps(["P2PK", {"data": bob.lock_key, "nonce": "cd" * 16, "tags": TAGS}])
    token = await signed_for([secret(bob.lock_key), spaced], folder / "p", http, mint_url)
    assert (await bob.accept_locked(encode(token, with_dleq=True), "take")).amount_msat == 127
    (done,) = await bob.redeem_locked()
    assert done.amount_msat == 127


@pytest.fixture
async def locked(folder: Path, http: httpx.AsyncClient, mint_url: str) -> tuple[Wallet, Token]:
    """A seller and a good token of three coins for it."""
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    token = decode((await alice.send(1300, mint_url, "msat", "pay", lock=bob.lock_key, most_coins=3)).token)
    assert len(token.proofs) == 3
    alice.close()
    return bob, token


async def test_a_repeated_coin_is_refused(locked: tuple[Wallet, Token]) -> None:
    bob, token = locked
    twice = msgspec.structs.replace(token, proofs=(*token.proofs, token.proofs[0]))
    await refused(bob, twice)
    await refused(bob, encode(twice, with_dleq=True), TokenUnreadable)


async def test_one_coin_without_its_proof_is_refused(locked: tuple[Wallet, Token]) -> None:
    bob, token = locked
    await refused(bob, changed(token, -1, dleq=None))
    await refused(bob, encode(token))
    dleq = token.proofs[-1].dleq
    assert dleq is not None
    await refused(bob, changed(token, -1, dleq=msgspec.structs.replace(dleq, r=None)))


@pytest.mark.parametrize("part", ["e", "s", "r"])
@pytest.mark.parametrize("value", ["00" * 32, "ff" * 32, "11" * 32, "zz", ""])
async def test_a_false_proof_is_refused(part: str, value: str, locked: tuple[Wallet, Token]) -> None:
    bob, token = locked
    dleq = token.proofs[-1].dleq
    assert dleq is not None
    await refused(bob, changed(token, -1, dleq=msgspec.structs.replace(dleq, **{part: value})))


async def test_another_amount_than_was_signed_is_refused(locked: tuple[Wallet, Token]) -> None:
    bob, token = locked
    await refused(bob, changed(token, -1, amount=token.proofs[-1].amount * 2))
    await refused(bob, changed(token, -1, amount=3))


async def test_another_signature_or_secret_is_refused(locked: tuple[Wallet, Token]) -> None:
    bob, token = locked
    await refused(bob, changed(token, 0, C=token.proofs[1].C))
    await refused(bob, changed(token, 0, secret=secret(bob.lock_key)))
    await refused(bob, changed(token, 0, C="02" + "ff" * 32))


async def test_a_coin_with_a_witness_is_refused(locked: tuple[Wallet, Token]) -> None:
    bob, token = locked
    await refused(bob, changed(token, 0, witness='{"signatures":[]}'))


async def test_an_unknown_keyset_is_refused(locked: tuple[Wallet, Token]) -> None:
    bob, token = locked
    await refused(bob, changed(token, 0, id="00ffffffffffffff"))


async def test_another_unit_is_refused(locked: tuple[Wallet, Token]) -> None:
    bob, token = locked
    await refused(bob, msgspec.structs.replace(token, unit="sat"), WrongUnit)
    await refused(bob, msgspec.structs.replace(token, unit="usd"), WrongUnit)


async def test_an_inactive_keyset_is_refused(locked: tuple[Wallet, Token], folder: Path) -> None:
    bob, token = locked
    bob.close()
    with sqlite3.connect(folder / "seller.db") as conn:
        conn.execute("UPDATE keysets SET active = 0")
    async with offline() as nowhere:
        bob = await Wallet.open(folder / "seller.db", nowhere)
        await refused(bob, token)
        bob.close()


async def test_unlocked_coins_among_the_locked_are_refused(
    locked: tuple[Wallet, Token], folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    bob, token = locked
    plain = await signed_for(["ab" * 32], folder / "p", http, mint_url)
    assert not bob.is_locked_here(plain)
    await refused(bob, msgspec.structs.replace(token, proofs=token.proofs + plain.proofs))


async def test_too_many_coins_are_refused(locked: tuple[Wallet, Token]) -> None:
    bob, token = locked
    many = tuple(msgspec.structs.replace(token.proofs[0], secret=secret(bob.lock_key, f"{i:032x}")) for i in range(65))
    await refused(bob, msgspec.structs.replace(token, proofs=many))


async def test_a_mint_that_was_never_seen_and_is_away_begins_nothing(
    locked: tuple[Wallet, Token], folder: Path
) -> None:
    bob, token = locked
    async with offline() as nowhere:
        stranger = await Wallet.open(folder / "new.db", nowhere)
        with pytest.raises(MintUnavailable):
            await stranger.accept_locked(token, "x")
        assert stranger.outcome("x") is None
        stranger.close()
    bob.close()


async def test_an_operation_accepts_one_token_and_no_other(
    locked: tuple[Wallet, Token], folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    bob, token = locked
    await bob.accept_locked(token, "one")
    other = await signed_for([secret(bob.lock_key)], folder / "p", http, mint_url)
    with pytest.raises(TokenRefused, match="another token"):
        await bob.accept_locked(other, "one")
    part = msgspec.structs.replace(token, proofs=token.proofs[:-1])
    with pytest.raises(TokenRefused, match="another token"):
        await bob.accept_locked(part, "one")
    with pytest.raises(TokenSpent):
        await bob.accept_locked(part, "two")


async def test_of_many_acceptances_at_once_one_wins(locked: tuple[Wallet, Token]) -> None:
    bob, token = locked
    same = await asyncio.gather(*(bob.accept_locked(token, "same") for _ in range(5)))
    assert len(set(same)) == 1
    others = await asyncio.gather(*(bob.accept_locked(token, f"o{i}") for i in range(5)), return_exceptions=True)
    assert all(isinstance(other, TokenSpent) for other in others)
    assert bob.locked_msat() == same[0].amount_msat


async def test_two_wallets_on_one_file_accept_a_coin_once(
    locked: tuple[Wallet, Token], folder: Path, http: httpx.AsyncClient
) -> None:
    bob, token = locked
    second = await Wallet.open(folder / "seller.db", http)
    both = await asyncio.gather(
        bob.accept_locked(token, "mine"), second.accept_locked(token, "yours"), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in both) == ["Received", "TokenSpent"]
    assert bob.locked_msat() == second.locked_msat() > 0


ACCEPT = """
import asyncio, sys, httpx
from pathlib import Path
from router_client.ecash.wallet import Wallet
from router_client.errors import TokenSpent
async def main():
    async with httpx.AsyncClient() as http:
        wallet = await Wallet.open(Path(sys.argv[1]), http)
        try:
            await wallet.accept_locked(sys.argv[2], sys.argv[3])
            print("accepted")
        except TokenSpent:
            print("spent")
        wallet.close()
asyncio.run(main())
"""


async def test_of_several_processes_one_accepts(locked: tuple[Wallet, Token], folder: Path) -> None:
    bob, token = locked
    bob.close()
    text = encode(token, with_dleq=True)
    words = [sys.executable, "-c", ACCEPT, str(folder / "seller.db"), text]
    running = [await asyncio.create_subprocess_exec(*words, f"p{i}", stdout=subprocess.PIPE) for i in range(3)]
    said = sorted([(await process.communicate())[0].strip() for process in running])
    assert said == [b"accepted", b"spent", b"spent"]
