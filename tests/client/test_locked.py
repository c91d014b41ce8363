"""Tokens locked to a seller's key: taken without the mint, once, redeemed behind; whatever is wrong with one is refused."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_client.ecash.coins import swap_fee
from router_client.ecash.locks import key_of, lock_secret
from router_client.ecash.token import Token, decode, encode
from router_client.ecash.wallet import Wallet
from router_client.errors import (
    InsufficientFunds,
    MintUnavailable,
    TokenRefused,
    TokenSpent,
    TokenUnreadable,
    WalletError,
    WrongUnit,
)
from tests.client.faults import LosesNth, Where
from tests.client.purses import changed, funded, retried, signed_for
from tests.conftest import MINT_FEE_PPK

TAGS = [["sigflag", "SIG_INPUTS"]]


def _unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route", request=request)


def offline() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(_unreachable))


async def seller(folder: Path, http: httpx.AsyncClient, mint_url: str, stock: int = 0) -> Wallet:
    """A wallet that has seen the mint once."""
    wallet = await Wallet.open(folder / "seller.db", http, stock=stock)
    assert await wallet.pin(mint_url)
    return wallet


async def test_a_locked_token_is_money_without_a_call_to_the_mint(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    first = await seller(folder, http, mint_url)
    key = first.lock_key
    first.close()
    alice = await funded(folder / "a.db", http, mint_url, 10_000)
    sent = await alice.send(1234, mint_url, "msat", "pay", lock=key)
    token = decode(sent.token)
    async with offline() as nowhere:
        bob = await Wallet.open(folder / "seller.db", nowhere)
        assert bob.lock_key == key
        assert bob.is_locked_here(token)
        got = await bob.accept_locked(sent.token, "take")
        assert got.fee_msat == swap_fee([MINT_FEE_PPK] * len(token.proofs))
        assert got.amount_msat + got.fee_msat == sent.amount_msat >= 1234
        assert bob.balance_msat() == 0
        assert bob.locked_msat() == got.amount_msat
        assert await bob.accept_locked(sent.token, "take") == got
        with pytest.raises(TokenSpent):
            await bob.accept_locked(sent.token, "again")
        assert bob.locked_msat() == got.amount_msat
        assert await bob.redeem_locked() == []
        bob.close()
    assert alice.balance_msat() + sent.amount_msat + sent.fee_msat == 10_000


async def test_locked_tokens_are_redeemed_together_for_less_than_each_alone(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    bob = await seller(folder, http, mint_url, stock=3)
    alice = await funded(folder / "a.db", http, mint_url, 50_000)
    sent = [await alice.send(1000, mint_url, "msat", f"p{i}", lock=bob.lock_key, most_coins=3) for i in range(6)]
    assert all(len(decode(one.token).proofs) <= 3 for one in sent)
    got = [await bob.accept_locked(one.token, f"t{i}") for i, one in enumerate(sent)]
    credited = sum(one.amount_msat for one in got)
    assert bob.locked_msat() == credited
    (done,) = await bob.redeem_locked()
    assert done.credited_msat == credited
    assert done.lost_msat == 0
    assert done.amount_msat + done.fee_msat == sum(one.amount_msat for one in sent)
    assert done.saved_msat == sum(one.fee_msat for one in got) - done.fee_msat > 0
    assert (bob.holdings().spendable_msat, bob.holdings().locked_msat) == (done.amount_msat, 0)
    assert bob.redemptions() == [done]
    assert await bob.redeem_locked() == []
    with pytest.raises(TokenSpent):
        await bob.accept_locked(sent[0].token, "later")
    await bob.send(done.amount_msat // 2, mint_url, "msat", "spendable", fees="inside")


async def test_change_comes_out_of_the_stock_without_the_mint(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    bob = await seller(folder, http, mint_url, stock=4)
    alice = await funded(folder / "a.db", http, mint_url, 50_000)
    sent = await alice.send(40_000, mint_url, "msat", "p", lock=bob.lock_key)
    await bob.accept_locked(sent.token, "t")
    await bob.redeem_locked()
    bob.close()
    async with offline() as nowhere:
        bob = await Wallet.open(folder / "seller.db", nowhere, stock=4)
        for index, amount in enumerate((1, 77, 500, 1023)):
            change = await bob.send(amount, mint_url, "msat", f"c{index}", fees="inside")
            assert (change.amount_msat, change.fee_msat) == (amount, 0)


async def test_batches_are_bounded(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    sent = await alice.send(4095, mint_url, "msat", "p", lock=bob.lock_key, fees="inside")
    await bob.accept_locked(sent.token, "t")
    batches = []
    while done := await bob.redeem_locked(most=5):
        batches += done
    assert len(batches) == -(-len(decode(sent.token).proofs) // 5)
    assert sum(one.amount_msat + one.fee_msat for one in batches) == sent.amount_msat
    assert sum(one.credited_msat + one.saved_msat for one in batches) == bob.balance_msat()


async def test_a_locked_token_can_come_through_the_mint_too_but_not_both_ways(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """The way for a keyset that is no longer active: the ordinary receive signs for what is locked to the wallet."""
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    one, two = [(await alice.send(900, mint_url, "msat", n, lock=bob.lock_key)).token for n in ("one", "two")]
    got = await bob.receive(one, "online")
    assert bob.balance_msat() == got.amount_msat
    with pytest.raises(TokenSpent):
        await bob.accept_locked(one, "offline")
    await bob.accept_locked(two, "offline")
    with pytest.raises(TokenSpent):
        await bob.receive(two, "online-2")
    assert await bob.receive(one, "online") == got


async def test_nobody_else_can_take_a_locked_token_nor_its_sender_back(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    sent = await alice.send(900, mint_url, "msat", "pay", lock=bob.lock_key)
    with pytest.raises(TokenRefused, match="only the receiver"):
        await alice.reclaim("pay")
    carol = await Wallet.open(folder / "c.db", http)
    with pytest.raises(TokenRefused):
        await carol.receive(sent.token, "steal")
    with pytest.raises(TokenRefused, match="another key"):
        await carol.accept_locked(sent.token, "steal-2")
    assert (await alice.send(900, mint_url, "msat", "own", lock=alice.lock_key)).amount_msat
    assert (await alice.reclaim("own")).amount_msat >= 900
    with pytest.raises(TokenRefused, match="no public key"):
        await alice.send(900, mint_url, "msat", "bad", lock="02" + "ff" * 32)


async def test_fewer_coins_only_as_far_as_the_money_goes(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 2048)
    sent = await alice.send(2043, mint_url, "msat", "tight", lock=alice.lock_key, most_coins=1)
    assert sent.amount_msat <= 2047
    with pytest.raises(InsufficientFunds):
        await alice.send(2043, mint_url, "msat", "none", lock=alice.lock_key, most_coins=1)


# what a hostile payer may send -------------------------------------------------------------------------------------------


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


# redemption against a mint that is lost, and against a cheat ---------------------------------------------------------


async def test_only_the_guilty_coins_are_lost(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    """The same key in another wallet stands for a key holder who cheats: it redeems a token that was accepted here."""
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    sent = [await alice.send(1000, mint_url, "msat", f"p{i}", lock=bob.lock_key) for i in range(3)]
    bob.close()
    (folder / "thief.db").write_bytes((folder / "seller.db").read_bytes())
    thief = await Wallet.open(folder / "thief.db", http)
    await thief.receive(sent[1].token, "steal")
    bob = await Wallet.open(folder / "seller.db", http)
    # The thief used the counters that this copy would use: with a seed of its own it could not have signed.
    with sqlite3.connect(folder / "seller.db") as conn:
        conn.execute(
            "INSERT INTO counters SELECT id, 1000 FROM keysets WHERE true ON CONFLICT DO UPDATE SET next = 1000"
        )
    got = [await bob.accept_locked(one.token, f"t{i}") for i, one in enumerate(sent)]
    (done,) = await bob.redeem_locked()
    assert done.lost_msat == sent[1].amount_msat
    assert done.amount_msat + done.fee_msat == sent[0].amount_msat + sent[2].amount_msat
    assert done.credited_msat == sum(one.amount_msat for one in got)
    assert (bob.balance_msat(), bob.locked_msat()) == (done.amount_msat, 0)
    assert await bob.redeem_locked() == []
    await bob.send(1500, mint_url, "msat", "real")


async def test_a_batch_of_nothing_but_stolen_coins_is_a_loss_and_over(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    sent = await alice.send(1000, mint_url, "msat", "p", lock=bob.lock_key)
    bob.close()
    (folder / "thief.db").write_bytes((folder / "seller.db").read_bytes())
    thief = await Wallet.open(folder / "thief.db", http)
    await thief.receive(sent.token, "steal")
    bob = await Wallet.open(folder / "seller.db", http)
    with sqlite3.connect(folder / "seller.db") as conn:
        conn.execute(
            "INSERT INTO counters SELECT id, 1000 FROM keysets WHERE true ON CONFLICT DO UPDATE SET next = 1000"
        )
    await bob.accept_locked(sent.token, "t")
    (done,) = await bob.redeem_locked()
    assert (done.amount_msat, done.fee_msat, done.lost_msat) == (0, 0, sent.amount_msat)
    assert (bob.balance_msat(), bob.locked_msat()) == (0, 0)
    assert await bob.recover() == []


async def test_one_coin_that_the_mint_refuses_keeps_no_other_one(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """Whatever its reason: batches with it grow smaller until it stands alone, behind all that come later."""
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 50_000)
    sent = [await alice.send(1023, mint_url, "msat", f"p{i}", lock=bob.lock_key, fees="inside") for i in range(2)]
    bad = decode(sent[0].token).proofs[3]
    bob.close()

    async def refuse(request: httpx.Request) -> None:
        if request.url.path == "/v1/swap" and bad.C in request.content.decode():
            request.url = request.url.copy_with(path="/v1/refused")

    async with httpx.AsyncClient(event_hooks={"request": [refuse]}) as picky:
        bob = await Wallet.open(folder / "seller.db", picky)
        for i, one in enumerate(sent):
            await bob.accept_locked(one.token, f"t{i}")
        locked_msat = bob.locked_msat()
        done = []
        for _ in range(20):
            done += await bob.redeem_locked(most=100)
        assert sum(one.lost_msat for one in done) == 0
        assert bob.locked_msat() == locked_msat - sum(one.credited_msat for one in done) == bad.amount
        assert bob.balance_msat() == sum(one.amount_msat for one in done)
        bob.close()
    bob = await Wallet.open(folder / "seller.db", http)
    assert len(await bob.redeem_locked()) == 1
    assert bob.locked_msat() == 0


@pytest.mark.parametrize("where", ["request", "reply"])
async def test_no_lost_exchange_loses_or_makes_locked_money(
    where: Where, folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """Lose exchange 1, 2, 3 … of locked sends, acceptances and the redemption, with a crash each time, until none is."""
    for n in itertools.count(1):
        place = folder / str(n)
        (await funded(place / "a.db", http, mint_url, 5000)).close()
        bob = await Wallet.open(place / "b.db", http)
        key = bob.lock_key
        bob.close()
        transport = LosesNth(n, where)
        async with httpx.AsyncClient(transport=transport) as faulty:
            credited = 0
            paid = 0
            for name in ("one", "two"):
                pay = partial(Wallet.send, amount=1111, mint_url=mint_url, unit="msat", operation_id=name, lock=key)
                sent = await retried(place / "a.db", faulty, pay)
                take = partial(Wallet.accept_locked, token=sent.token, operation_id=name)
                got = await retried(place / "b.db", faulty, take)
                assert got.amount_msat + got.fee_msat == sent.amount_msat
                credited += got.amount_msat
                paid += sent.amount_msat + sent.fee_msat
            for _ in range(3):
                bob = await Wallet.open(place / "b.db", faulty)
                await bob.redeem_locked()
                await bob.recover()
                bob.close()
        alice, bob = await Wallet.open(place / "a.db", http), await Wallet.open(place / "b.db", http)
        assert alice.balance_msat() + paid == 5000
        (done,) = bob.redemptions()
        assert done.credited_msat == credited
        assert bob.balance_msat() == done.amount_msat == credited + done.saved_msat
        assert bob.locked_msat() == 0
        await bob.send(done.amount_msat // 2, mint_url, "msat", "spendable")
        alice.close()
        bob.close()
        if not transport.struck:
            assert n > 8
            return
