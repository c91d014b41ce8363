"""How many requests a second that bring their own money (`X-Cashu`) a node serves: swapped at the mint, or locked to the
node and accepted without it.

    uv run python bench/ecash.py [--json] [--online 100] [--locked 300] [--concurrency 32] [--coins 2] [--change-stock 640]

Real parts: a node process, a nutshell mint process, an upstream that answers at once. Tokens are made beforehand, several
coins each; every request is answered with its change, which is decoded here. At the end the node is stopped, its books are
audited, and its wallet must hold what they say. On two cores the mint, the node, the upstream and this program share them.

Change of locked tokens comes from small coins that the node holds: it makes them of a prepaid balance that is left with it
first. As long as there are any, no request waits for the mint; half used, more are made beside; when they are used up,
change is swapped, several requests' in one swap, and the figure falls to what the mint can sign: change of 8 sat takes a
dozen coins of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from rich.console import Console
from rich.table import Table
from upstream import MODEL

from node.ledger.ledger import Ledger
from node.localnet.mint import start_mint, wait_mint
from node.localnet.process import Child, free_port
from node.redemptions import Redemptions
from relays.payment import CASHU_HEADER, COST_HEADER
from router_client.disk.storage import connect
from router_client.ecash.crypto import BlindSecret, Dleq, blind, unblind
from router_client.ecash.locks import lock_secret
from router_client.ecash.mint import BlindedMessage, Keyset, MintClient
from router_client.ecash.token import Proof, Token, decode, encode
from router_client.ecash.wallet import Wallet

COIN_MSAT = 4096
BODY = {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": "Say hello."}]}
OUTPUTS_AT_ONCE = 200
DEPOSITS, DEPOSIT_MSAT = 32, 2**20
FILL_S = 10.0
"""Longer than the node's pause between two looks at its stock."""
CURVE_BYTES = 32


async def coins(client: MintClient, keyset: Keyset, count: int, lock: str | None, amount: int) -> list[Proof]:
    """Coins straight from an invoice, locked or not: faster than a swap for each token."""
    made: list[Proof] = []
    assert keyset.keys is not None
    while len(made) < count:
        size = min(OUTPUTS_AT_ONCE, count - len(made))
        quote = await client.mint_quote(size * amount, keyset.unit)
        while (await client.mint_quote_state(quote.quote)).state != "PAID":
            await asyncio.sleep(0.05)
        pairs = [
            BlindSecret(
                secrets.token_hex(32) if lock is None else lock_secret(lock, secrets.token_hex(16)),
                secrets.token_hex(CURVE_BYTES),
            )
            for _ in range(size)
        ]
        outputs = [BlindedMessage(amount, keyset.id, blind(pair)) for pair in pairs]
        for pair, output, signature in zip(pairs, outputs, await client.mint(quote.quote, outputs), strict=True):
            assert signature.dleq is not None
            point = unblind(pair.r, output.B_, signature.C_, keyset.keys[amount], signature.dleq)
            dleq = Dleq(signature.dleq.e, signature.dleq.s, pair.r)
            made.append(Proof(keyset.id, amount, pair.secret, point, dleq))
    return made


async def tokens(mint_url: str, count: int, each: int, lock: str | None, amount: int = COIN_MSAT) -> list[str]:
    """Tokens of `each` coins."""
    async with httpx.AsyncClient(timeout=60) as http:
        client = MintClient(mint_url, http)
        listed = next(keyset for keyset in await client.keysets() if keyset.unit == "msat" and keyset.active)
        proofs = await coins(client, await client.with_keys(listed), count * each, lock, amount)
    groups = [proofs[at : at + each] for at in range(0, len(proofs), each)]
    return [encode(Token(mint_url, "msat", tuple(group)), with_dleq=lock is not None) for group in groups]


async def fill_stock(url: str, mint_url: str, wallet: Path, lock: str) -> None:
    """Leave prepaid balances with the node, let it earn something, and wait until it has made its small coins."""
    async with httpx.AsyncClient(timeout=60) as http:
        for token in await tokens(mint_url, DEPOSITS, 1, lock, DEPOSIT_MSAT):
            key = {"Authorization": f"Bearer {token}"}
            (await http.post(f"{url}/v1/chat/completions", json=BODY, headers=key)).raise_for_status()
    before, now = -1, small_coins(wallet)
    while now != before:
        await asyncio.sleep(FILL_S)
        before, now = now, small_coins(wallet)


def small_coins(wallet: Path) -> int:
    """How many coins the node has that change is made of here."""
    conn = connect(wallet, read_only=True)
    query = "SELECT COUNT(*) FROM coins WHERE state = 'unspent' AND amount <= ?"
    (count,) = conn.execute(query, (COIN_MSAT,)).fetchone()
    conn.close()
    return int(count)


async def pay(url: str, purse: Sequence[str], concurrency: int) -> dict[str, float | int]:
    """One request a token, `concurrency` at a time; each must be served and give change."""
    waits: list[float] = []
    costs: list[int] = []
    late = 0
    queue = iter(purse)

    async def caller(http: aiohttp.ClientSession) -> None:
        nonlocal late
        for token in queue:
            begun = time.perf_counter()
            async with http.post(f"{url}/v1/chat/completions", json=BODY, headers={"X-Cashu": token}) as reply:
                body = await reply.read()
                if reply.status != 200:
                    raise SystemExit(f"a request was not served: {reply.status} {body[:300]!r}")
                waits.append(time.perf_counter() - begun)
                costs.append(int(reply.headers[COST_HEADER]))
                change = reply.headers.get(CASHU_HEADER)
            if change is None:
                late += 1
            else:
                assert decode(change).amount_msat > 0

    wall = time.perf_counter()
    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(caller(http) for _ in range(concurrency)))
    wall = time.perf_counter() - wall
    centiles = statistics.quantiles(waits, n=100)
    return {
        "requests": len(waits),
        "requests_per_second": round(len(waits) / wall, 1),
        "p50_ms": round(centiles[49] * 1000, 1),
        "p99_ms": round(centiles[98] * 1000, 1),
        "change_later": late,
    }


async def prove(folder: Path) -> int:
    """Audit the stopped node: its wallet must hold what came in, to the msat. Returns that, in msat."""
    async with httpx.AsyncClient(timeout=60) as http:
        ledger = await Ledger.open(f"sqlite:///{folder / 'ledger.db'}")
        wallet = await Wallet.open(folder / "wallet.db", http)
        await wallet.recover()  # what was on its way when the node stopped
        async with Redemptions(ledger, wallet).booked():  # swaps that the node did not come to book, as its start does
            totals = await ledger.audit()
        holdings = wallet.holdings()
        leaving_msat = sum(refund.amount_msat for refund in await ledger.open_refunds())
        lacks_msat = totals.ecash_in_msat - holdings.all_msat
        assert 0 <= lacks_msat <= leaving_msat, (
            f"the wallet lacks {lacks_msat} msat, {leaving_msat} msat are on their way out"
        )
        wallet.close()
        await ledger.close()
        return totals.ecash_in_msat


def run(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Start the parts, make tokens, pay with them, stop the parts, prove the sums."""
    results: list[dict[str, Any]] = []
    with ExitStack() as parts:
        mint, mint_url = start_mint(folder / "mint", port=free_port(), input_fee_ppk=options.fee_ppk)
        parts.callback(mint.stop)
        port = free_port()
        upstream = Child("upstream", "upstream", [str(port)], {"PYTHONPATH": str(Path(__file__).parent)}, folder / "up")
        parts.callback(upstream.stop)
        wait_mint(mint, mint_url)
        upstream.wait_port(port, 20)
        node_port = free_port()
        settings = {
            "PORT": str(node_port),
            "DATA_DIR": str(folder / "data"),
            "CASHU_MINTS": mint_url,
            "UPSTREAM_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "CHANGE_STOCK": str(options.change_stock),
            "FIXED_PER_1K_INPUT_TOKENS": "2",
            "FIXED_PER_1K_OUTPUT_TOKENS": "8",
        }
        node = Child("node", "node.cli", ["serve"], settings, folder / "node")
        parts.callback(node.stop)
        url = f"http://127.0.0.1:{node_port}"
        node.wait_http(f"{url}/health", 60)
        lock = httpx.get(f"{url}/v1/info").json()["lock"]
        asyncio.run(fill_stock(url, mint_url, folder / "data" / "wallet.db", lock))
        for way, count, key in (
            ("locked, stock full", options.locked, lock),
            ("locked, stock half used", options.locked, lock),
            ("locked, stock used up", options.locked, lock),
            ("swapped", options.online, None),
        ):
            purse = asyncio.run(tokens(mint_url, count, options.coins, key))
            measured = asyncio.run(pay(url, purse, options.concurrency))
            results.append({"way": way, "concurrency": options.concurrency, "coins": options.coins, **measured})
        node.stop()
        asyncio.run(prove(folder / "data"))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--online", type=int, default=100, help="requests with plain tokens")
    parser.add_argument("--locked", type=int, default=300, help="requests with locked tokens, three times")
    parser.add_argument("--change-stock", type=int, default=640, help="small coins of each amount that the node keeps")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--coins", type=int, default=2, help="coins of each token")
    parser.add_argument("--fee-ppk", type=int, default=100, help="the mint's fee for a thousand coins")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(options, Path(folder))
    if options.json:
        print(json.dumps({"ecash": results}))
        return
    table = Table(*(name.replace("_", " ") for name in results[0]))
    for result in results:
        table.add_row(*(str(value) for value in result.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
