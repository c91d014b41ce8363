"""kill -9 in the middle of locked sends, acceptances, change and redemptions: the two wallets' sums agree to the msat."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
from pathlib import Path

import httpx
import msgspec
import pytest

from router_client.ecash import store
from router_client.ecash.mint import MintClient
from router_client.ecash.token import Proof
from router_client.ecash.wallet import Wallet
from tests.client.purses import funded

KILLS = 6
WORK = """
import asyncio, itertools, sys, httpx
from contextlib import suppress
from pathlib import Path
from router_client.ecash.wallet import Wallet
from router_client.errors import WalletError
async def main():
    folder, url, run = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    async with httpx.AsyncClient(timeout=60) as http:
        buyer, seller = await Wallet.open(folder / "a.db", http), await Wallet.open(folder / "b.db", http, stock=5)
        await buyer.recover()
        await seller.recover()
        print("ready", flush=True)
        for i in itertools.count():
            name = f"{run}.{i}"
            sent = await buyer.send(900 + i, url, "msat", name, lock=seller.lock_key, most_coins=3)
            await seller.accept_locked(sent.token, name)
            with suppress(WalletError):
                await seller.send(100, url, "msat", f"change {name}", fees="inside")
            if i % 3 == 2:
                await seller.redeem_locked()
asyncio.run(main())
"""


async def killed_at_work(folder: Path, mint: str, run: int, after_s: float) -> None:
    words = [sys.executable, "-c", WORK, str(folder), mint, str(run)]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
    await asyncio.sleep(after_s)
    process.kill()
    await process.wait()


def sum_of(path: Path, query: str) -> int:
    with sqlite3.connect(path) as conn:
        return int(conn.execute(query).fetchone()[0] or 0)


def send_fees(path: Path) -> int:
    with sqlite3.connect(path) as conn:
        rows = conn.execute("SELECT journal FROM operations WHERE kind = 'send' AND state = 'done'").fetchall()
    return sum(msgspec.json.decode(journal, type=store.Journal).fee for (journal,) in rows)


async def really_unspent(wallet: Wallet, mint: str, http: httpx.AsyncClient) -> bool:
    coins: list[Proof] = wallet._db.read(lambda conn: store.unspent(conn, mint, "msat"))
    client = MintClient(mint, http)
    return not any([await client.spent(coins[at : at + 100]) for at in range(0, len(coins), 100)])


@pytest.mark.timeout(180)
async def test_kill_nine_loses_and_makes_nothing(folder: Path, http: httpx.AsyncClient, mint_url: str) -> None:
    chance = random.Random(7)
    (await funded(folder / "a.db", http, mint_url, 500_000)).close()
    for run in range(KILLS):
        await killed_at_work(folder, mint_url, run, 0.05 + chance.random() * 0.8)
    buyer, seller = await Wallet.open(folder / "a.db", http), await Wallet.open(folder / "b.db", http)
    await buyer.recover()
    await seller.recover()
    while await seller.redeem_locked():
        pass
    sent = "SELECT SUM(amount) FROM coins WHERE state = 'sent'"
    assert buyer.balance_msat() + sum_of(folder / "a.db", sent) + send_fees(folder / "a.db") == 500_000
    redeemed = seller.redemptions()
    spent = sum_of(folder / "b.db", sent) + send_fees(folder / "b.db") + sum(one.fee_msat for one in redeemed)
    accepted = sum_of(folder / "b.db", "SELECT SUM(amount) FROM locked")
    assert accepted > 0
    assert accepted == seller.balance_msat() + spent
    assert seller.locked_msat() == sum(one.lost_msat for one in redeemed) == 0
    assert await really_unspent(buyer, mint_url, http)
    assert await really_unspent(seller, mint_url, http)
    buyer.close()
    seller.close()
