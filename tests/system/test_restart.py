"""kill -9 at any moment: after the restart the books add up, the wallet holds what they say, and every token is good."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from router_client.ecash.token import token_hash
from router_client.ecash.wallet import Wallet
from tests.node.harness import HELLO, bearer, funded_wallet, token_of
from tests.system.forked import Served
from tests.system.stopped import holds_what_came_in, opened

LONG = {**HELLO, "stream": True, "max_tokens": 300, "messages": [{"role": "user", "content": "Tell a story."}]}
KILLS = 50
"""Each in the midst of deposits, streams, top-ups and refunds that run at once."""


@pytest.fixture
def served(folder: Path, mint_url: str, model_url: str) -> Iterator[Served]:
    node = Served(
        folder / "node",
        CASHU_MINTS=mint_url,
        UPSTREAM_BASE_URL=model_url,
        FIXED_PER_1K_INPUT_TOKENS="2",
        FIXED_PER_1K_OUTPUT_TOKENS="8",
    )
    yield node
    node.stop()


async def ask(http: httpx.AsyncClient, method: str, url: str, key: str, **options: object) -> httpx.Response | None:
    """The answer, or None when the node died on the way."""
    with contextlib.suppress(httpx.HTTPError):
        return await http.request(method, url, headers=bearer(key), **options)  # type: ignore[arg-type]
    return None


async def sums_agree(served: Served, http: httpx.AsyncClient) -> tuple[int, int]:
    """Audit the stopped node's books against its wallet; returns what came in and what is still open."""
    data = served.folder / "data"
    async with opened(data, http) as (ledger, wallet):
        totals = await ledger.audit()
        open_now = len(await ledger.open_deposits()) + len(await ledger.open_refunds())
        if not open_now:
            holds_what_came_in(wallet, totals.ecash_in_msat)
        return totals.ecash_in_msat, open_now


async def locked_token(served: Served, wallet: Wallet, mint_url: str, http: httpx.AsyncClient, amount: int) -> str:
    """A token that the node accepts without asking the mint."""
    lock = (await http.get(f"{served.url}/v1/info")).json()["lock"]
    name = f"locked {asyncio.get_running_loop().time()}"
    return (await wallet.send(amount, mint_url, "msat", name, lock=lock, most_coins=3)).token


async def nothing_held(served: Served, http: httpx.AsyncClient, token: str) -> None:
    """What the crash left on hold is free; a refund that it interrupted is finished first."""
    for _ in range(100):
        answer = await ask(http, "GET", f"{served.url}/v1/balance", token)
        if answer is not None and answer.json().get("reserved") == 0:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"a hold is left, or the token is no good: {answer and answer.text}")


async def refunded(served: Served, http: httpx.AsyncClient, token: str) -> httpx.Response:
    """The rest of the token; while the node swaps the coins that it would be made of, it says to ask again later."""
    for _ in range(60):
        back = await ask(http, "POST", f"{served.url}/v1/balance/refund", token)
        if back is not None and back.status_code == 200:
            return back
        assert back is not None
        assert back.status_code == 503, back.text
        await asyncio.sleep(0.5)
    raise AssertionError(f"{back and back.text}\n{served.log.read_text()[-2000:]}")


@pytest.mark.timeout(400)
async def test_kill_nine_in_deposits_streams_and_refunds(
    served: Served, folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    wallet = await funded_wallet(folder / "caller.db", http, mint_url, sats=10_000)
    total_msat = 10_000_000
    tokens: list[str] = []
    topped: list[str] = []
    for _ in range(KILLS):
        fresh = [await token_of(wallet, mint_url, 50_000) for _ in range(2)]
        fresh.append(await locked_token(served, wallet, mint_url, http, 40_000))
        older = chance.choice(tokens or fresh)
        tokens += fresh
        topped.append(await token_of(wallet, mint_url, 10_000))
        async with httpx.AsyncClient(timeout=20) as caller:
            work = [
                *(ask(caller, "GET", f"{served.url}/v1/balance", token) for token in fresh),
                ask(caller, "POST", f"{served.url}/v1/chat/completions", older, json=LONG),
                ask(caller, "POST", f"{served.url}/v1/balance/refund", older),
                ask(caller, "POST", f"{served.url}/v1/balance/topup", older, json={"cashu_token": topped[-1]}),
            ]
            running = asyncio.gather(*work)
            await asyncio.sleep(chance.uniform(0, 0.25))
            served.kill()
            await running
        await sums_agree(served, http)
        served.start()
        for token in {*fresh, older}:
            await nothing_held(served, http, token)
        again = await ask(http, "POST", f"{served.url}/v1/balance/topup", older, json={"cashu_token": topped[-1]})
        assert again is not None
        assert again.status_code in (200, 409), "the token of a top-up is credited once"

    refunds: set[str] = set()
    for token in tokens:
        back = await refunded(served, http, token)
        refunds |= {back.json()["token"], *(other["token"] for other in back.json().get("earlier", []))}
    served.stop()
    left_msat, open_now = await sums_agree(served, http)
    assert open_now == 0
    for refund in refunds:
        await wallet.receive(refund, f"back:{token_hash(refund)}")
    lost_msat = total_msat - wallet.balance_msat() - left_msat
    swaps = len(tokens) + len(topped) + len(refunds) * 2 + KILLS * 10
    assert 0 <= lost_msat <= swaps * 10, "what is gone is the mint's fee, a few msat a swap"
    log = served.log.read_text()
    assert "cashu" not in log, "no token reaches the log"
    wallet.close()


async def test_a_signal_closes_the_node_in_order(served: Served, http: httpx.AsyncClient) -> None:
    """A process that the signal itself ended would have left its books and its announcement as they were."""
    assert (await http.get(f"{served.url}/health")).is_success
    served.tell_to_leave()
    assert await asyncio.to_thread(served.exit_code, 20) == 0


async def test_a_restart_keeps_balances_keys_and_the_name(
    served: Served, folder: Path, http: httpx.AsyncClient, mint_url: str
) -> None:
    wallet = await funded_wallet(folder / "caller.db", http, mint_url)
    token = await token_of(wallet, mint_url, 50_000)
    made = await http.post(f"{served.url}/v1/balance/create", json={"initial_balance_token": token})
    key = made.json()["api_key"]
    npub = (await http.get(f"{served.url}/v1/info")).json()["npub"]
    served.stop()
    served.start()
    assert (await http.get(f"{served.url}/v1/info")).json()["npub"] == npub
    balance = await http.get(f"{served.url}/v1/balance", headers=bearer(key))
    assert balance.json()["balance"] == made.json()["balance"]
    wallet.close()
