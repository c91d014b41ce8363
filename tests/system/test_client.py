"""The router client against real nodes: it finds, pays, streams, settles to the msat, verifies, and fails over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.localnet.process import free_port
from node.quote import Quote, told
from relays import kinds
from relays.event import Event, npub
from relays.pool import RelayPool
from relays.quote import QuoteAnswer
from router_client.client import RouterClient
from router_client.discovery.directory import Directory
from router_client.ecash.mint import BlindedMessage, MintClient
from router_client.ecash.outcomes import Received
from router_client.ecash.token import Proof, decode
from router_client.ecash.wallet import Wallet
from router_client.errors import ClientError, NodeRefused, NoProvider
from router_client.paying.payments import Payments
from tests.client.faults import LosesNth, Where
from tests.client.purses import until_claimed
from tests.conftest import DEAD_RELAY
from tests.node.harness import HELLO, Running, running_node
from tests.system.children import satroute as command
from tests.system.forked import satroute
from tests.system.test_unread import UNREAD, unread


def settings(name: str, mint_url: str, model_url: str, relay: str, **more: Any) -> dict[str, Any]:
    chosen = {"name": name, "cashu_mints": mint_url, "upstream_base_url": model_url, "relays": relay}
    return chosen | {"http_url": "http://127.0.0.1:1"} | more


async def announced(running: Running) -> Running:
    """Publish the node under the URL it really serves at."""
    object.__setattr__(running.node.settings, "http_url", running.url)
    await running.node.announcer.publish()
    return running


@pytest.fixture
async def buyer(folder: Path, relay: str, mint_url: str) -> AsyncIterator[RouterClient]:
    async with RouterClient.open([relay, DEAD_RELAY], folder / "buyer") as client:
        await client.wallet.invoice(500_000, mint_url, "msat", "fund")
        await until_claimed(client.wallet, "fund")
        yield client


async def test_buys_streams_settles_and_verifies(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        node = await announced(running)
        before = buyer.wallet.balance_msat()
        pieces: list[str] = []
        answer = await buyer.chat(HELLO, on_text=pieces.append)
        assert answer.verified, answer.problem
        assert "".join(pieces) == answer.text != ""
        assert (answer.node, answer.node_name) == (node.node.signer.npub, "solo")
        assert answer.receipt is not None
        assert answer.settled
        assert buyer.payments.open_count() == 0
        (provider,) = await buyer.directory.providers(fresh=True)
        assert provider.trust.reasons == ("1 of 1 calls served",)
        totals = await node.node.ledger.audit()
        assert totals.earned_msat == answer.cost_msat
        assert totals.keys_msat == totals.held_msat == 0
        fees = before - buyer.wallet.balance_msat() - answer.cost_msat
        assert 0 <= fees <= 12, "beyond the cost only the mint's fees are gone"
        sent = buyer.wallet._db.read(
            lambda conn: conn.execute("SELECT id FROM operations WHERE kind = 'send'").fetchall()
        )
        assert [paid.startswith("pay_") for (paid,) in sent] == [True]
        payment = buyer.wallet.outcome(sent[0][0])
        assert payment is not None
        token = decode(payment.result)
        assert node.node.wallet.is_locked_here(token), "by default the payment is locked to the node"
        assert len(token.proofs) <= 3


async def test_the_readers_own_error_is_the_readers_and_its_money_comes_back(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        await announced(running)

        def broken(_: str) -> None:
            raise BrokenPipeError("the reader went away")

        with pytest.raises(BrokenPipeError):
            await buyer.chat(HELLO, on_text=broken)
        for _ in range(20):
            await buyer.recover()
            if buyer.payments.open_count() == 0:
                break
            await asyncio.sleep(0.2)
        assert buyer.payments.open_count() == 0
        assert buyer.wallet.balance_msat() > 499_000


async def test_the_dearer_node_serves_when_the_cheaper_one_is_down(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    async with running_node(folder / "dear", **settings("dear", mint_url, model_url, relay)) as dear:
        await announced(dear)
        cheap_price = {"fixed_per_1k_input_tokens": "0.1", "fixed_per_1k_output_tokens": "0.1"}
        async with running_node(
            folder / "cheap", **settings("cheap", mint_url, "http://127.0.0.1:9/v1", relay, **cheap_price)
        ) as cheap:
            cheap.node.catalogue.update({"upstream": [{"id": HELLO["model"], "context_length": 2048}]})
            await announced(cheap)
            before = buyer.wallet.balance_msat()
            answer = await buyer.chat(HELLO)
            assert (answer.node_name, answer.verified) == ("dear", True)
            assert buyer.payments.open_count() == 0, "the money of the failed try is back"
            assert before - buyer.wallet.balance_msat() - answer.cost_msat <= 30
            assert (await cheap.node.ledger.audit()).earned_msat == 0


async def test_a_node_that_says_that_it_stops_loses_to_a_dearer_one(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    dear = settings("dear", mint_url, model_url, relay, fixed_per_1k_output_tokens="80")
    async with (
        running_node(folder / "cheap", **settings("cheap", mint_url, model_url, relay)) as one,
        running_node(folder / "dear", **dear) as other,
    ):
        cheap, _ = await announced(one), await announced(other)
        _, choice = await buyer.choice(HELLO)
        assert [each.provider.announcement.name for each in choice.candidates] == ["cheap", "dear"]
        await cheap.node.announcer.drain()
        await buyer.directory.providers(fresh=True)
        assert (await buyer.chat(HELLO)).node_name == "dear"


async def test_a_node_that_is_gone_is_not_chosen_and_an_unknown_model_is_explained(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    with pytest.raises(NoProvider, match="no node was found"):
        await buyer.chat(HELLO)
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        await announced(running)
        await buyer.directory.providers(fresh=True)
        with pytest.raises(NoProvider, match="not the model"):
            await buyer.chat({**HELLO, "model": "gpt-9"})
        with pytest.raises(NodeRefused, match="role"):
            await buyer.chat({**HELLO, "messages": [{"content": "x"}]})
        assert buyer.wallet.balance_msat() >= 500_000 - 30
        with pytest.raises(NoProvider, match="could cost"):
            await buyer.chat(HELLO, max_cost_msat=1)
    await buyer.directory.providers(fresh=True)
    with pytest.raises(NoProvider):
        await buyer.chat(HELLO)


class Killed(BaseException):
    """The end of a process, as far as its own code can tell."""


def die_at(step: str, buyer: RouterClient, patch: pytest.MonkeyPatch) -> None:
    """Let the buyer die at a step of its next request."""

    async def dies(*_: Any, **__: Any) -> None:
        raise Killed

    swap = MintClient.swap

    async def swaps_and_dies(client: MintClient, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> None:
        await swap(client, inputs, outputs)
        raise Killed

    receive = buyer.wallet.receive

    def mint_dies(how: Callable[..., Awaitable[None]]) -> None:
        async def received(*words: Any) -> Received:
            patch.setattr(MintClient, "swap", how)  # at the change's swap, not the payment's
            return await receive(*words)

        patch.setattr(buyer.wallet, "receive", received)

    match step:
        case "token made":
            patch.setattr(buyer._serving._buyer, "_run", dies)
        case "change read":
            patch.setattr(buyer.payments, "settle", dies)
        case "swap to be sent":
            mint_dies(dies)
        case "swap answered":
            mint_dies(swaps_and_dies)
        case "change received":
            patch.setattr(buyer.payments, "_close", dies)


async def nothing_is_lost(
    folder: Path, http: httpx.AsyncClient, node: Running, before_msat: int, fees_msat: int = 40
) -> None:
    """The buyer's next life gets back all that the node did not earn."""
    wallet = await Wallet.open(folder / "buyer" / "wallet.db", http)
    payments = await Payments.open(folder / "buyer" / "payments.db", wallet, http)
    for _ in range(50):
        await payments.recover()
        if payments.open_count() == 0:
            break
        await asyncio.sleep(0.2)
    assert payments.open_count() == 0
    await node.node.redemptions.run()
    totals = await node.node.ledger.audit()
    assert totals.held_msat == 0
    assert 0 <= before_msat - wallet.balance_msat() - totals.earned_msat <= fees_msat
    payments.close()
    wallet.close()


@pytest.mark.parametrize(
    "step", ["token made", "mid-stream", "change read", "swap to be sent", "swap answered", "change received"]
)
async def test_a_buyer_that_dies_at_any_step_loses_nothing(
    folder: Path,
    mint_url: str,
    model_url: str,
    relay: str,
    buyer: RouterClient,
    http: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        node = await announced(running)
        assert (await buyer.chat(HELLO)).verified
        before_msat = buyer.wallet.balance_msat() + (await node.node.ledger.audit()).earned_msat

        def at_first_text(_: str) -> None:
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            die_at(step, buyer, patch)
            await buyer.chat(HELLO, on_text=at_first_text if step == "mid-stream" else None)
        assert buyer.payments.open_count() == 1
        await nothing_is_lost(folder, http, node, before_msat)


@pytest.mark.parametrize("where", ["request", "reply"])
async def test_whichever_exchange_of_a_paid_request_is_lost_nothing_is(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient, http: httpx.AsyncClient, where: Where
) -> None:
    """The first exchange with anybody, then the second, and so on until a request needs no more of them."""
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        node = await announced(running)
        before_msat = buyer.wallet.balance_msat()
        for n in range(1, 40):
            lossy = LosesNth(n, where)
            async with httpx.AsyncClient(transport=lossy, timeout=60) as lossy_http, RelayPool([relay]) as pool:
                wallet = await Wallet.open(folder / "buyer" / "wallet.db", lossy_http)
                payments = await Payments.open(folder / "buyer" / "payments.db", wallet, lossy_http)
                client = RouterClient(Directory(pool, lossy_http), wallet, payments, lossy_http)
                with suppress(ClientError):
                    answer = await client.chat(HELLO)
                    assert answer.verified or not answer.settled
                payments.close()
                wallet.close()
            await nothing_is_lost(folder, http, node, before_msat, fees_msat=40 * n)
            if not lossy.struck:
                break
        assert 4 < n < 39, "every exchange was lost once"


async def test_a_node_that_is_down_for_a_while_is_told_of_by_the_wallets_commands(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    """A locked payment that only its node can give back: shown as out, and recovered when the node is back."""
    data = ["--data", str(folder / "buyer")]

    async def run(*words: str) -> str:
        done = await asyncio.to_thread(satroute, "wallet", *words, *data, env=os.environ)
        assert done.returncode == 0, done.stderr
        return " ".join((done.stdout + done.stderr).split())

    port = free_port()
    async with running_node(folder, port=port, **settings("solo", mint_url, model_url, relay)) as node:
        lock = node.node.wallet.lock_key
        paid = await buyer.payments.pay(node.url, mint_url, "msat", 50_000, lock=lock)
        before_msat = buyer.wallet.balance_msat()
    assert paid.locked
    shown = await run("balance")
    assert "out, not lost: 5" in shown
    assert node.url in shown
    rows = json.loads(await run("balance", "--json"))["out"]
    assert [(row["node"], row["locked"]) for row in rows] == [(node.url, True)]
    assert "out, not lost" in await run("recover")
    async with running_node(folder, port=port, **settings("solo", mint_url, model_url, relay)) as node:
        await buyer.payments._db.run(lambda conn: conn.execute("UPDATE payments SET node_url = ?", (node.url,)).close())
        assert "not lost" not in await run("recover")
    assert buyer.wallet.balance_msat() >= before_msat + 50_000 - 20


async def test_a_review_is_published_when_asked_for_alone_and_counts_for_who_follows(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    async def run(*words: str, data: str = "buyer") -> str:
        place = ["--data", str(folder / data)]
        done = await asyncio.to_thread(satroute, *words, *place, env=os.environ)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    async def reviews() -> tuple[Event, ...]:
        async with RelayPool([relay]) as pool:
            return (await pool.query({"kinds": [kinds.REVIEW]})).events

    ask = ("ask", "Say hello.", "--max-tokens", "8", "--relay", relay)
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        node = (await announced(running)).node.signer
        await run(*ask)
        assert await reviews() == ()
        assert "reviewed as verified" in await run(*ask, "--review")
        (review,) = await reviews()
        assert (review.value("node"), json.loads(review.content)["served"]) == (node.pubkey, 2)
        assert review.pubkey != node.pubkey
        await run("follow", npub(review.pubkey), data="another")
        (seen,) = json.loads(await run("nodes", "--json", "--relay", relay, data="another"))["nodes"]
        assert seen["trust"]["reasons"] == ["recommended by 1 whom you follow"]
        assert seen["trust"]["score"] > 0.5


async def test_money_left_at_a_node_by_a_crash_is_fetched(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient, http: httpx.AsyncClient
) -> None:
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        node = await announced(running)
        before = buyer.wallet.balance_msat()
        redeemed = (await buyer.payments.pay(node.url, mint_url, "msat", 50_000)).token
        await http.get(f"{node.url}/v1/balance", headers={"Authorization": f"Bearer {redeemed}"})
        await buyer.payments.pay(node.url, mint_url, "msat", 20_000)
        await buyer.payments.pay("http://127.0.0.1:9", mint_url, "msat", 10_000)
        assert buyer.payments.open_count() == 3
        await buyer.recover()
        assert buyer.payments.open_count() == 0
        assert before - buyer.wallet.balance_msat() <= 80, "a refund of all that a node has is one of many small coins"


async def test_a_node_that_overcharges_is_found_out(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for more than it quoted a moment before."""
    async with running_node(folder, **settings("cheat", mint_url, model_url, relay)) as running:
        node = await announced(running)
        await buyer.directory.providers(fresh=True)

        def quoted_and_raised(quote: Quote, holds_s: int) -> QuoteAnswer:
            catalogue = node.node.catalogue
            object.__setattr__(node.node.settings, "fixed_per_1k_output_tokens", Decimal(9))
            catalogue.update({"upstream": [{"id": HELLO["model"], "context_length": 2048, "max_output_tokens": 8}]})
            catalogue._before.clear()  # an honest node keeps to its quote for a minute
            return told(quote, holds_s)

        monkeypatch.setattr("node.api.prices.told", quoted_and_raised)
        answer = await buyer.chat({**HELLO, "max_tokens": 100})
        assert not answer.verified
        assert answer.problem is not None
        assert "higher price" in answer.problem


async def test_a_buyer_without_money_or_with_a_wrong_name_is_told_what_to_do(
    folder: Path, mint_url: str, model_url: str, relay: str
) -> None:
    """The first thing that a newcomer sees away from the local network."""
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        await announced(running)
        words = ("--relay", relay, "--data", str(folder / "empty"))
        poor = await asyncio.to_thread(satroute, "ask", "hi", *words, env=os.environ)
        assert poor.returncode == 1
        assert poor.stderr == (
            "error: the wallet is empty: fill it with `satroute wallet fund --sats 1000 --mint URL`; "
            f"ecash is taken of {mint_url} (1 of 1 nodes)\n"
        )
        wrong = await asyncio.to_thread(satroute, "ask", "hi", "--model", "nope:floor", *words, env=os.environ)
        assert wrong.returncode == 1
        assert wrong.stderr == "error: no node on these relays sells nope: satroute nodes lists what is sold\n"


async def test_an_answer_whose_reader_leaves_is_paid_as_far_as_it_came(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    """`satroute ask … | head -c 1` ended in a traceback, and did not say where the money was."""
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        await announced(running)
        before_msat = buyer.wallet.balance_msat()
        data = ("--data", str(folder / "buyer"))
        words = ("ask", "Write a long story about a whale.", "--max-tokens", "1000", "--relay", relay, *data)
        done = await asyncio.to_thread(unread, *words)
        assert done.returncode == UNREAD
        assert done.stderr == "" or done.stderr.startswith("out, not lost: ")
        back = await asyncio.to_thread(satroute, "wallet", "recover", "--relay", relay, *data, env=os.environ)
        assert back.returncode == 0, back.stderr
        assert buyer.payments.open_count() == 0
        earned_msat = (await running.node.ledger.audit()).earned_msat
        spent_msat = before_msat - buyer.wallet.balance_msat()
        assert 0 < earned_msat <= spent_msat < earned_msat + 100, "what is not the node's are the mint's fees"


async def test_who_interrupts_an_answer_is_told_where_the_money_is(
    folder: Path, mint_url: str, model_url: str, relay: str, buyer: RouterClient
) -> None:
    """Ctrl-C in its midst: it was silent, and the wallet had less."""
    async with running_node(folder, **settings("solo", mint_url, model_url, relay)) as running:
        await announced(running)
        data = ("--data", str(folder / "buyer"))
        words = ("ask", "Write a long story about a whale.", "--max-tokens", "1000", "--relay", relay, *data)
        asking = await asyncio.create_subprocess_exec(*command(), *words, stdout=PIPE, stderr=PIPE)
        assert asking.stdout is not None
        assert await asking.stdout.read(1)
        asking.send_signal(signal.SIGINT)
        said, told = await asyncio.wait_for(asking.communicate(), 30)
        assert asking.returncode == 130
        assert said.endswith(b"\n"), "what is told does not go on in the answer's line"
        assert "out, not lost: " in told.decode()
        assert "satroute wallet recover" in told.decode()
        assert "Traceback" not in told.decode()
