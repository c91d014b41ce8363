"""The wallet against a real mint: money in, out and back, once each, also when any exchange with the mint is lost."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from functools import partial
from pathlib import Path

import httpx
import pytest

from router_client.ecash import sending
from router_client.ecash.coins import swap_fee
from router_client.ecash.token import decode, encode
from router_client.ecash.wallet import Wallet
from router_client.errors import (
    InsufficientFunds,
    MintUnavailable,
    TokenRefused,
    TokenSpent,
    WrongUnit,
)
from tests.client.faults import LosesNth, Retiring, Where
from tests.client.purses import funded, retried, until_claimed
from tests.conftest import DEAD_MINT, MINT_FEE_PPK


async def test_what_is_sent_arrives_less_the_fee_that_is_named(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 10_000)
    bob = await Wallet.open(folder / "b.db", http)
    sent = await alice.send(1234, mint_url, "msat", "to-bob")
    got = await bob.receive(sent.token, "from-alice")
    assert got.amount_msat >= 1234
    assert got.amount_msat + got.fee_msat == sent.amount_msat
    assert got.fee_msat == swap_fee([MINT_FEE_PPK] * len(decode(sent.token).proofs))
    assert alice.balance_msat() + sent.amount_msat + sent.fee_msat == 10_000
    assert bob.balance_msat() == got.amount_msat


async def test_sats_are_a_thousand_msat(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    wallet = await funded(folder / "a.db", http, mint_url, 21, "sat")
    assert wallet.balance_msat() == 21_000
    assert wallet.balances() == {(mint_url, "sat"): 21}


async def test_an_operation_is_done_once_however_often_it_is_asked_for(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 5000)
    bob = await Wallet.open(folder / "b.db", http)
    tokens = await asyncio.gather(*(alice.send(700, mint_url, "msat", "one") for _ in range(5)))
    assert len({sent.token for sent in tokens}) == 1
    received = await asyncio.gather(*(bob.receive(tokens[0].token, "one") for _ in range(5)))
    assert len(set(received)) == 1
    assert bob.balance_msat() == received[0].amount_msat
    assert alice.balance_msat() == 5000 - tokens[0].amount_msat - tokens[0].fee_msat
    assert await until_claimed(alice, "fund") == await until_claimed(alice, "fund")


async def test_a_spent_token_is_refused_and_changes_nothing(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 2000)
    bob = await Wallet.open(folder / "b.db", http)
    sent = await alice.send(500, mint_url, "msat", "x")
    await bob.receive(sent.token, "first")
    before = bob.balance_msat()
    for _ in range(2):
        with pytest.raises(TokenSpent):
            await bob.receive(sent.token, "second")
    with pytest.raises(TokenSpent):
        await alice.reclaim("x")
    assert bob.balance_msat() == before


async def test_an_unredeemed_token_is_taken_back(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 2000)
    sent = await alice.send(500, mint_url, "msat", "x")
    back = await alice.reclaim("x")
    assert back.amount_msat + back.fee_msat == sent.amount_msat
    assert alice.balance_msat() == 2000 - sent.fee_msat - back.fee_msat


async def test_a_token_that_nobody_has_read_is_taken_back_after_a_crash(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """Not one that somebody had read, or has used though nobody said so."""
    alice = await funded(folder / "a.db", http, mint_url, 5000)
    bob = await Wallet.open(folder / "b.db", http)
    sent = {
        name: await alice.send(500, mint_url, "msat", name, unread=name != "plain") for name in ("x", "y", "z", "plain")
    }
    await alice.have_read("x")
    await bob.receive(sent["y"].token, "from-alice")
    alice.close()
    alice = await Wallet.open(folder / "a.db", http)
    assert [(each.operation, each.amount) for each in alice.unread()] == [
        ("y", sent["y"].amount_msat),
        ("z", sent["z"].amount_msat),
    ]
    before_msat, back_msat = alice.balance_msat(), await alice.take_back_unread()
    assert 0 < back_msat <= sent["z"].amount_msat
    assert alice.balance_msat() == before_msat + back_msat
    assert alice.unread() == []
    assert alice.redemptions() == [], "they are no news for a seller's books"
    assert await alice.take_back_unread() == 0
    await bob.receive(sent["x"].token, "x")
    await bob.receive(sent["plain"].token, "plain")


async def test_concurrent_sends_hand_no_coin_out_twice(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 4000)
    sent = await asyncio.gather(
        *(alice.send(300, mint_url, "msat", f"s{i}") for i in range(20)), return_exceptions=True
    )
    tokens = [outcome for outcome in sent if not isinstance(outcome, BaseException)]
    assert all(isinstance(outcome, InsufficientFunds) for outcome in sent if isinstance(outcome, BaseException))
    assert tokens
    secrets = [proof.secret for one in tokens for proof in decode(one.token).proofs]
    assert len(set(secrets)) == len(secrets)
    assert alice.balance_msat() + sum(one.amount_msat + one.fee_msat for one in tokens) == 4000


async def test_a_paid_invoice_survives_a_refused_claim(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    """A keyset rotated beside the claim: the outputs are planned anew, the payment is not lost."""
    refused = 0

    async def refuse_once(request: httpx.Request) -> None:
        nonlocal refused
        if request.url.path == "/v1/mint/bolt11" and not refused:
            refused += 1
            request.url = request.url.copy_with(path="/v1/mint/bolt11-rotated")

    async with httpx.AsyncClient(event_hooks={"request": [refuse_once]}) as rotating:
        alice = await Wallet.open(folder / "a.db", rotating)
        await alice.invoice(500, mint_url, "msat", "fund")
        with pytest.raises(MintUnavailable, match="claim it again"):
            await until_claimed(alice, "fund")
        assert (await until_claimed(alice, "fund")).amount_msat == 500
        assert (refused, alice.balance_msat()) == (1, 500)
        alice.close()


async def test_two_sends_at_once_find_enough_when_there_is_enough(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """While the one large coin is away for change, the next send waits instead of finding too little."""
    alice = await funded(folder / "a.db", http, mint_url, 8192)
    sent = await asyncio.gather(*(alice.send(1001, mint_url, "msat", f"s{i}", fees="inside") for i in range(6)))
    assert sum(one.amount_msat + one.fee_msat for one in sent) == 6006
    assert alice.balance_msat() == 8192 - 6006


async def test_coins_that_fit_do_not_wait_for_a_mint_that_makes_change_for_another(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    swapping, go_on = asyncio.Event(), asyncio.Event()

    async def stall(request: httpx.Request) -> None:
        if request.url.path == "/v1/swap":
            swapping.set()
            await go_on.wait()

    (await funded(folder / "a.db", http, mint_url, 8192 + 64)).close()
    async with httpx.AsyncClient(event_hooks={"request": [stall]}) as slow:
        alice = await Wallet.open(folder / "a.db", slow)
        change = asyncio.create_task(alice.send(1001, mint_url, "msat", "change", fees="inside"))
        await asyncio.wait_for(swapping.wait(), 10)
        fits = await asyncio.wait_for(alice.send(64, mint_url, "msat", "fits", fees="inside"), 10)
        assert (fits.amount_msat, fits.fee_msat) == (64, 0)
        go_on.set()
        sent = await change
        assert alice.balance_msat() + sent.amount_msat + sent.fee_msat == 8192
        alice.close()


async def test_a_purse_of_many_small_coins_is_spent_to_the_last(
    folder: Path, http: httpx.AsyncClient, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only some coins of each amount are looked at, unless they do not suffice."""
    bob = await funded(folder / "b.db", http, mint_url, 200_000)
    alice = await Wallet.open(folder / "a.db", http, stock=12)
    await alice.accept_locked((await bob.send(150_000, mint_url, "msat", "x", lock=alice.lock_key)).token, "many")
    await alice.redeem_locked()
    bob.close()
    monkeypatch.setattr(sending, "MOST_EACH", 1)
    monkeypatch.setattr(sending, "MOST_EACH_TO_FIT", (1,))
    all_msat = alice.balance_msat()
    sent = await alice.send(all_msat, mint_url, "msat", "all", fees="inside")
    assert (sent.amount_msat + sent.fee_msat, alice.balance_msat()) == (all_msat, 0)
    operation = alice.outcome("all")
    assert operation is not None
    assert len(operation.journal.inputs) > 20


async def test_an_operation_takes_in_one_token_and_no_other(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 4000)
    bob = await Wallet.open(folder / "b.db", http)
    one, two = [(await alice.send(500, mint_url, "msat", name)).token for name in ("one", "two")]
    await bob.receive(one, "in")
    with pytest.raises(TokenRefused, match="another token"):
        await bob.receive(two, "in")
    await bob.receive(two, "in-2")


async def test_one_keyset_at_two_urls_is_two_mints_with_one_counter(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """A mint with two addresses signs each secret once; and who lists another's keyset cannot make that one unusable."""
    other = mint_url.replace("127.0.0.1", "localhost")
    alice = await funded(folder / "a.db", http, other, 1000)
    await alice.invoice(500, mint_url, "msat", "second")
    await until_claimed(alice, "second")
    assert alice.balances() == {(other, "msat"): 1000, (mint_url, "msat"): 500}
    await alice.move_mint(other, mint_url)
    assert alice.balances() == {(mint_url, "msat"): 1500}
    await alice.send(1400, mint_url, "msat", "both")


async def test_the_node_side_spends_the_amount_and_no_more(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    wallet = await funded(folder / "a.db", http, mint_url, 4096)
    sent = await wallet.send(1000, mint_url, "msat", "refund", fees="inside")
    assert sent.amount_msat + sent.fee_msat == 1000
    assert wallet.balance_msat() == 3096


async def test_what_cannot_be_sent_is_refused_before_anything_moves(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    wallet = await funded(folder / "a.db", http, mint_url, 1000)
    with pytest.raises(InsufficientFunds):
        await wallet.send(1001, mint_url, "msat", "too-much")
    with pytest.raises(WrongUnit):
        await wallet.send(1, mint_url, "usd", "wrong-unit")
    assert wallet.balance_msat() == 1000


async def test_a_dead_mint_leaves_the_operation_open_and_the_money_where_it_is(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 1000)
    sent = await alice.send(100, mint_url, "msat", "x")
    token = decode(sent.token)
    elsewhere = encode(type(token)(DEAD_MINT, token.unit, token.proofs))
    with pytest.raises(MintUnavailable):
        await alice.receive(elsewhere, "dead")
    with pytest.raises(MintUnavailable):
        await alice.invoice(10, DEAD_MINT, "sat", "dead-invoice")


async def test_a_send_that_is_done_is_answered_again_whatever_became_of_its_mint(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    now = 1_800_000_000.0
    (await funded(folder / "a.db", http, mint_url, 1000)).close()
    mint = Retiring()
    async with httpx.AsyncClient(transport=mint) as changing:
        alice = await Wallet.open(folder / "a.db", changing, clock=lambda: now)
        first = await alice.send(100, mint_url, "msat", "refund", fees="inside")
        mint.retired, now = True, now + 3600
        with pytest.raises(WrongUnit):
            await alice.invoice(100, mint_url, "msat", "new coins")
        assert await alice.send(100, mint_url, "msat", "refund", fees="inside") == first
        alice.close()


async def test_a_known_mint_that_is_away_takes_no_part_in_handing_out_coins_that_fit(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 1024)
    alice.close()
    async with httpx.AsyncClient(transport=httpx.MockTransport(_unreachable)) as offline:
        alice = await Wallet.open(folder / "a.db", offline)
        sent = await alice.send(1024, mint_url, "msat", "whole", fees="inside")
        assert (sent.amount_msat, sent.fee_msat) == (1024, 0)
        with pytest.raises(MintUnavailable):
            await alice.receive(sent.token, "back")
        alice.close()
    alice = await Wallet.open(folder / "a.db", http)
    assert [done.id for done in await alice.recover()] == ["back"]
    assert alice.balance_msat() == 1023
    alice.close()


def _unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route", request=request)


async def test_a_token_worth_less_than_its_fee_is_refused(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 1024)
    odd = decode((await alice.send(1, mint_url, "msat", "x")).token)
    assert odd.amount > 1, "on top of 1 msat comes the fee of taking it in"
    one = decode((await alice.send(1, mint_url, "msat", "y", fees="inside")).token)
    assert one.amount == 1
    with pytest.raises(TokenRefused, match="fee"):
        await alice.receive(one, "dust")


async def test_a_foreign_keyset_is_refused(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 1000)
    token = decode((await alice.send(100, mint_url, "msat", "x")).token)
    moved = tuple(type(p)("00ffffffffffffff", p.amount, p.secret, p.C) for p in token.proofs)
    with pytest.raises(TokenRefused, match="keyset"):
        await alice.receive(type(token)(token.mint, token.unit, moved), "foreign")
    with pytest.raises(WrongUnit):
        await alice.receive(type(token)(token.mint, "sat", token.proofs), "lying-unit")


async def test_a_mint_that_moved_keeps_its_coins(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    other_name = mint_url.replace("127.0.0.1", "localhost")
    alice = await funded(folder / "a.db", http, mint_url, 1000)
    await alice.move_mint(mint_url, other_name)
    assert alice.balances() == {(other_name, "msat"): 1000}
    await alice.send(100, other_name, "msat", "x")


@pytest.mark.parametrize("where", ["request", "reply"])
async def test_no_lost_exchange_loses_or_makes_money(
    where: Where, folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """Lose exchange 1, 2, 3 … of a send and a receive, with a crash each time, until one run passes untouched."""
    for n in itertools.count(1):
        place = folder / str(n)
        (await funded(place / "a.db", http, mint_url, 3000)).close()
        transport = LosesNth(n, where)
        async with httpx.AsyncClient(transport=transport) as faulty:
            sent = await retried(place / "a.db", faulty, lambda w: w.send(1111, mint_url, "msat", "pay"))
            got = await retried(place / "b.db", faulty, partial(Wallet.receive, token=sent.token, operation_id="get"))
        alice, bob = await Wallet.open(place / "a.db", http), await Wallet.open(place / "b.db", http)
        assert alice.balance_msat() + sent.amount_msat + sent.fee_msat == 3000
        assert bob.balance_msat() == got.amount_msat == sent.amount_msat - got.fee_msat
        await bob.send(got.amount_msat // 2, mint_url, "msat", "spendable")
        alice.close()
        bob.close()
        if not transport.struck:
            assert n > 6
            return


@pytest.mark.parametrize("where", ["request", "reply"])
async def test_recover_finishes_what_a_crash_left(
    where: Where, folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    alice = await funded(folder / "a.db", http, mint_url, 3000)
    token = (await alice.send(1000, mint_url, "msat", "pay")).token
    (await Wallet.open(folder / "b.db", http)).close()
    warm = await Wallet.open(folder / "b.db", http)
    await warm.fees(token)
    warm.close()
    async with httpx.AsyncClient(transport=LosesNth(2, where)) as faulty:
        bob = await Wallet.open(folder / "b.db", faulty)
        with pytest.raises(MintUnavailable):
            await bob.receive(token, "get")
        bob.close()
    bob = await Wallet.open(folder / "b.db", http)
    outcome = bob.outcome("get")
    assert outcome is not None
    assert outcome.state == "open"
    assert [done.state for done in await bob.recover()] == ["done"]
    assert bob.balance_msat() >= 1000
    assert await bob.recover() == []


async def test_the_same_seed_in_two_files_is_no_way_to_print_money(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """A restored copy reuses counters: the mint refuses outputs it signed before, and the wallet says so."""
    alice = await funded(folder / "a.db", http, mint_url, 2000)
    alice.close()
    (folder / "copy.db").write_bytes((folder / "a.db").read_bytes())
    alice, copy = await Wallet.open(folder / "a.db", http), await Wallet.open(folder / "copy.db", http)
    await alice.send(700, mint_url, "msat", "one")
    with pytest.raises((TokenSpent, TokenRefused)):
        await copy.send(900, mint_url, "msat", "two")
    assert alice.balance_msat() <= 2000


async def test_a_wallet_of_version_one_keeps_its_money(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    """A file as the first release wrote it: coins, operations, counters and seed are all there, and it can be used."""
    with sqlite3.connect(folder / "old.db") as conn:
        conn.executescript((Path(__file__).parent / "golden" / "wallet_v1.sql").read_text())
        before = [conn.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in OLD_TABLES]
        assert conn.execute("PRAGMA user_version").fetchone() == (1,)
    for _ in range(2):
        wallet = await Wallet.open(folder / "old.db", http)
        assert wallet.balances() == {("https://mint.example", "msat"): 1996}
        wallet.close()
    with sqlite3.connect(folder / "old.db") as conn:
        assert [conn.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in OLD_TABLES] == before
    wallet = await Wallet.open(folder / "old.db", http)
    paid, invoice = wallet.outcome("paid"), wallet.outcome("open-invoice")
    assert paid is not None
    assert invoice is not None
    assert (paid.state, paid.journal.sent > 0, invoice.state) == ("done", True, "open")
    await wallet.invoice(100, mint_url, "msat", "new")
    await until_claimed(wallet, "new")
    assert wallet.balance_msat() == 2096


OLD_TABLES = ("seed", "keysets", "counters", "operations", "coins")
