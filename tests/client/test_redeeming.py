"""Redemption of locked tokens against a mint that is lost, and against a cheat."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import pytest

from router_client.ecash.outcomes import Sent
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from tests.client.faults import LosesNth, Where
from tests.client.purses import funded, retried, seller


async def steal(token: str, folder: Path, http: httpx.AsyncClient) -> None:
    """The same key in another wallet stands for a key holder who cheats: it redeems a token that was accepted here."""
    (folder / "thief.db").write_bytes((folder / "seller.db").read_bytes())
    thief = await Wallet.open(folder / "thief.db", http)
    await thief.receive(token, "steal")
    thief.close()


async def accepted(sent: Sequence[Sent], folder: Path, http: httpx.AsyncClient) -> Wallet:
    """The seller's wallet, opened again, with these tokens."""
    bob = await Wallet.open(folder / "seller.db", http)
    for i, one in enumerate(sent):
        await bob.accept_locked(one.token, f"t{i}")
    return bob


def go_far_on(folder: Path) -> None:
    """The thief used the counters that this copy would use: with a seed of its own it could not have signed."""
    with closing(sqlite3.connect(folder / "seller.db")) as conn, conn:
        conn.execute(
            "INSERT INTO counters SELECT id, 1000 FROM keysets WHERE true ON CONFLICT DO UPDATE SET next = 1000"
        )


async def test_only_the_guilty_coins_are_lost(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    sent = [await alice.send(1000, mint_url, "msat", f"p{i}", lock=bob.lock_key) for i in range(3)]
    bob.close()
    await steal(sent[1].token, folder, http)
    bob = await Wallet.open(folder / "seller.db", http)
    go_far_on(folder)
    got = [await bob.accept_locked(one.token, f"t{i}") for i, one in enumerate(sent)]
    (lost,) = await bob.redeem_locked()
    assert (lost.amount_msat, lost.fee_msat, lost.lost_msat) == (0, 0, sent[1].amount_msat)
    (done,) = await bob.redeem_locked()
    assert done.lost_msat == 0
    assert done.amount_msat + done.fee_msat == sent[0].amount_msat + sent[2].amount_msat
    assert lost.credited_msat + done.credited_msat == sum(one.amount_msat for one in got)
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
    await steal(sent.token, folder, http)
    bob = await Wallet.open(folder / "seller.db", http)
    go_far_on(folder)
    await bob.accept_locked(sent.token, "t")
    (done,) = await bob.redeem_locked()
    assert (done.amount_msat, done.fee_msat, done.lost_msat) == (0, 0, sent.amount_msat)
    assert (bob.balance_msat(), bob.locked_msat()) == (0, 0)
    assert await bob.recover() == []


async def test_what_was_lost_is_told_though_the_mint_refuses_what_came_with_it(
    folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    """A loss that nobody is told of is in no book: the node would hold less than it owes, for ever."""
    bob = await seller(folder, http, mint_url)
    alice = await funded(folder / "a.db", http, mint_url, 9000)
    sent = [await alice.send(1000, mint_url, "msat", f"p{i}", lock=bob.lock_key) for i in range(2)]
    bob.close()
    await steal(sent[0].token, folder, http)
    swaps = itertools.count(1)

    async def refuse(request: httpx.Request) -> None:
        if request.url.path == "/v1/swap" and next(swaps) == 2:
            request.url = request.url.copy_with(path="/v1/refused")

    async with httpx.AsyncClient(event_hooks={"request": [refuse]}) as picky:
        bob = await accepted(sent, folder, picky)
        locked_msat = bob.locked_msat()
        for _ in range(4):
            await bob.redeem_locked()
        assert sum(each.lost_msat for each in bob.redemptions()) == sent[0].amount_msat
        assert locked_msat == sum(each.credited_msat for each in bob.redemptions())
        assert bob.balance_msat() == sum(each.amount_msat for each in bob.redemptions()) > 0
        bob.close()


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
        bob = await accepted(sent, folder, picky)
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
