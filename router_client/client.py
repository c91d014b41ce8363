"""The router client: judge the task, choose a node, pay, stream, settle, verify; fail over before the first byte.

async with RouterClient.open(relays, folder) as client:
    answer = await client.chat({"messages": [{"role": "user", "content": "What is 2+2?"}]})
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from relays import receipt as receipts
from relays.bounds import largest_usage
from relays.errors import InvalidEvent, MoneyError
from relays.event import Event
from relays.money import Msat
from relays.payment import CASHU_HEADER, REQUEST_ID_HEADER
from relays.pool import RelayPool
from relays.pricing import Usage, cost
from relays.receipt import Receipt
from router_client.change import Paid, Settled, short_change
from router_client.complexity import Task, Tier, assess
from router_client.discovery import Directory
from router_client.ecash.wallet import Wallet
from router_client.errors import (
    ChangeRejected,
    NodeError,
    NodeRefused,
    NodeUnavailable,
    NodeUnreached,
    NoProvider,
    WalletError,
)
from router_client.fetch import check_plain, first_bytes, plain
from router_client.nodeapi import error_of, said, with_money
from router_client.opinions import Opinions
from router_client.payments import Payments
from router_client.people import People
from router_client.quoting import Asked, ask_all, quoted
from router_client.reviewer import Reviewer
from router_client.selection import Candidate, Choice, Purse, choose
from router_client.shelf import Shelf
from router_client.stream import AnswerStream, OnText, ReaderFailed

log = logging.getLogger(__name__)

MAX_ID_CHARS: Final = 200
MAX_TRIES: Final = 4
"""A request is paid for at this many nodes at most."""
MAX_REASONS: Final = 30
SILENCE_S: Final = 300.0
STREAM_DEADLINE_S: Final = 3600.0
NOT_ABOUT_THE_REQUEST: Final = (401, 402, 403, 404, 405, 409)
"""Answers of a node that say nothing against the request itself."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, what it cost, and whether the node's receipt for it holds."""

    text: str
    request_id: str
    node: str
    """The node's npub."""
    node_name: str
    model: str
    tier: Tier
    usage: Usage
    cost_msat: Msat
    saved_msat: Msat
    """Against the dearest node that could have served, at its announced price for the same usage."""
    verified: bool
    problem: str | None
    """Why it is not verified."""
    receipt: Receipt | None
    receipt_event: Event | None
    settled: bool
    """False when the change is still at the node; `RouterClient.recover` fetches it."""


class RouterClient:
    """Buys chat completions from announced nodes with the ecash in its wallet."""

    def __init__(
        self,
        directory: Directory,
        wallet: Wallet,
        payments: Payments,
        http: httpx.AsyncClient,
        opinions: Opinions | None = None,
        reviewer: Reviewer | None = None,
    ) -> None:
        self.directory = directory
        self.wallet = wallet
        self.payments = payments
        self._http = http
        self._opinions = opinions
        self._reviewer = reviewer

    @classmethod
    @asynccontextmanager
    async def open(cls, relays: Iterable[str], folder: Path) -> AsyncIterator[RouterClient]:
        """A client on these relays with its wallet in `folder`."""
        async with httpx.AsyncClient() as http, RelayPool(relays) as pool:
            wallet = await Wallet.open(folder / "wallet.db", http)
            payments = await Payments.open(folder / "payments.db", wallet, http)
            shelf = await Shelf.open(folder / "directory.db")
            opinions = Opinions(pool, People(folder / "people.json"), shelf)
            try:
                directory = Directory(pool, http, shelf=shelf, opinions=opinions)
                reviewer = Reviewer(pool, folder / "reviewer.nsec")
                yield cls(directory, wallet, payments, http, opinions, reviewer)
            finally:
                shelf.close()
                payments.close()
                wallet.close()

    async def choice(self, body: dict[str, Any], *, max_cost_msat: int | None = None) -> tuple[Task, Choice]:
        """How the task is judged and which nodes would serve it, best first. Pays nothing."""
        task = assess(body)
        providers = await self.directory.providers()
        return task, choose(body, task, providers, self._purses(), max_cost_msat=max_cost_msat)

    async def chat(
        self, body: dict[str, Any], *, on_text: OnText | None = None, max_cost_msat: int | None = None
    ) -> Answer:
        """Send a chat completion request to the best node, streaming; `on_text` gets the text as it comes.

        A node that fails before its first byte is paid nothing, and the next best is tried. Raises NoProvider when none
        is left, NodeRefused when the request itself is refused, NodeError when a stream breaks off.
        """
        task, choice = await self.choice(body, max_cost_msat=max_cost_msat)
        reasons = dict(choice.rejected)
        refusal: NodeRefused | None = None
        for candidate in choice.candidates[:MAX_TRIES]:
            label = candidate.provider.announcement.name or candidate.provider.npub[:16]
            try:
                request, began = _request(body, candidate), time.monotonic()
                agreed = await quoted(self._http, candidate, request, max_cost_msat)
                answer = await self._buy(request, task, agreed, choice.candidates, on_text)
                latency_ms = round((time.monotonic() - began) * 1000)
                served = answer.verified or candidate.provider.is_plain
                await self._note(candidate, served=served, cheated=not served, latency_ms=latency_ms)
                return answer
            except NodeUnavailable as error:
                await self._note(candidate)
                self.directory.forget(candidate.provider.announcement.pubkey)
                reasons[label] = str(error)
            except NodeRefused as error:
                # One node's word against a request is not enough: the cheapest could stop everything with it.
                if error.status not in NOT_ABOUT_THE_REQUEST:
                    refusal = refusal or error
                reasons[label] = str(error)
            except WalletError as error:
                reasons[label] = str(error)
        if refusal is not None:
            raise refusal
        raise NoProvider(_why(reasons, self.directory.failures))

    async def _note(
        self, candidate: Candidate, *, served: bool = False, cheated: bool = False, latency_ms: int = 0
    ) -> None:
        """Remember what the node did with the user's money."""
        if self._opinions is not None:
            node = candidate.provider.announcement.pubkey
            deeds = self._opinions.deeds(node).after(served=served, cheated=cheated, latency_ms=latency_ms)
            await self._opinions.note(node, deeds)

    async def review(self, node: str) -> Event | None:
        """Publish what the node of that key did for this user, if there is anything to say."""
        if self._opinions is None or self._reviewer is None:
            return None
        return await self._reviewer.publish(node, self._opinions.deeds(node))

    async def quotes(self, body: dict[str, Any]) -> list[Asked]:
        """What a request costs at each node that announces its model, cheapest first. Pays nothing."""
        return await ask_all(self._http, await self.directory.providers(), body)

    async def recover(self, older_than_s: float = 0) -> Msat:
        """Fetch what earlier runs left at nodes and mints for at least that long; returns what came back."""
        return await self.payments.recover(older_than_s)

    def _purses(self) -> list[Purse]:
        return [Purse(mint, unit, amount) for (mint, unit), amount in self.wallet.balances().items()]

    async def _buy(
        self,
        request: dict[str, Any],
        task: Task,
        candidate: Candidate,
        all_candidates: tuple[Candidate, ...],
        on_text: OnText | None,
    ) -> Answer:
        lock = candidate.provider.announcement.lock
        purse = candidate.purse
        paid = await self.payments.pay(candidate.url, purse.mint, purse.unit, candidate.hold_msat, lock=lock)
        stream = AnswerStream(on_text)
        try:
            await self._run(candidate.url, request, paid.token, stream)
        except NodeUnreached:
            await self._keep(paid)
            raise
        except NodeError as error:
            back = await self._take_back(paid, stream)
            kept = None if back is None or stream.texts else short_change(paid, back, 0)
            if kept is not None:
                raise NodeUnavailable(f"{error}; {kept}") from error
            raise
        except ReaderFailed as error:
            await self._take_back(paid, stream)
            raise error.error from None
        receipt, problem = _verify(stream, candidate, largest_usage(request, candidate.offer.limits))
        settled, fraud = await self._settle(paid, stream)
        problem = problem or fraud
        usage = receipt.usage if receipt is not None else stream.usage or Usage(0, 0)
        change_msat = settled.change_msat if settled is not None else 0
        cost_msat = receipt.cost_msat if receipt is not None else paid.credit_msat - change_msat
        if settled is not None and receipt is not None:
            problem = problem or short_change(paid, settled, receipt.cost_msat)
        dearest_msat = max((_priced(usage, other) for other in all_candidates), default=0)
        return Answer(
            text="".join(stream.texts),
            request_id=stream.request_id,
            node=candidate.provider.npub,
            node_name=candidate.provider.announcement.name,
            model=candidate.offer.id,
            tier=task.tier,
            usage=usage,
            cost_msat=Msat(cost_msat),
            saved_msat=Msat(max(0, dearest_msat - cost_msat)),
            verified=problem is None,
            problem=problem,
            receipt=receipt,
            receipt_event=stream.receipt,
            settled=settled is not None,
        )

    async def _run(self, url: str, request: dict[str, Any], token: str, stream: AnswerStream) -> None:
        """Send the request and read its stream. Raises NodeUnavailable, NodeRefused, or NodeError for a broken stream."""
        try:
            async with (
                asyncio.timeout(STREAM_DEADLINE_S),
                self._http.stream(
                    "POST",
                    f"{url}/v1/chat/completions",
                    content=msgspec.json.encode(request),
                    headers=plain(with_money(token)),
                    timeout=SILENCE_S,
                ) as reply,
            ):
                check_plain(reply)
                stream.request_id = reply.headers.get(REQUEST_ID_HEADER, "")[:MAX_ID_CHARS]
                stream.give_change(reply.headers.get(CASHU_HEADER, ""))
                if not reply.is_success:
                    raise error_of(reply.status_code, await first_bytes(reply))
                async for chunk in reply.aiter_raw():
                    stream.feed(chunk)
        except (NodeError, ReaderFailed):
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NodeUnreached(f"{url} does not answer") from error
        except Exception as error:  # a stranger's URL breaks httpx, idna and anyio in many ways, groups included
            if stream.texts:
                raise NodeError(f"{url} broke off after {len(stream.texts)} pieces of its answer") from error
            raise NodeUnavailable(f"{url} did not answer") from error
        if stream.error is not None:
            raise (NodeError if stream.texts else NodeUnavailable)(f"{url}: {said(stream.error)}")
        if not stream.texts and stream.receipt is None:
            raise NodeUnavailable(f"{url} answered nothing")

    async def _settle(self, paid: Paid, stream: AnswerStream) -> tuple[Settled | None, str | None]:
        """Take in the change; none when that must wait for `recover`, and why if the node is to blame. The answer stays."""
        try:
            return await self.payments.settle(paid, stream.changes, stream.request_id), None
        except ChangeRejected as error:
            return None, str(error)
        except (NodeError, WalletError) as error:
            log.warning("the change of %s is still out: %s", paid.id, error)
            return None, None

    async def _take_back(self, paid: Paid, stream: AnswerStream) -> Settled | None:
        try:
            return await self.payments.take_back(paid, stream.changes)
        except (NodeError, WalletError) as error:
            log.warning("the money of %s is still out: %s", paid.id, error)
            return None

    async def _keep(self, paid: Paid) -> None:
        try:
            await self.payments.keep(paid)
        except (NodeError, WalletError) as error:
            log.warning("the money of %s is still out: %s", paid.id, error)


def _request(body: dict[str, Any], candidate: Candidate) -> dict[str, Any]:
    return {**body, "model": candidate.offer.id, "stream": True, "stream_options": {"include_usage": True}}


def _priced(usage: Usage, candidate: Candidate) -> int:
    """What the usage would have cost there; 0 for a price at which it cannot be sold."""
    try:
        return cost(usage, candidate.offer.price)
    except MoneyError:
        return 0


def _verify(stream: AnswerStream, candidate: Candidate, most: Usage) -> tuple[Receipt | None, str | None]:
    """The receipt, and what is wrong with it. The usage must also be the one that the stream itself told."""
    if stream.receipt is None:
        plain_node = candidate.provider.is_plain
        return None, "plain nodes give no receipts" if plain_node else "the node gave no receipt"
    try:
        receipt = receipts.verify(
            stream.receipt,
            pubkey=candidate.provider.announcement.pubkey,
            request_id=stream.request_id,
            model=candidate.offer.id,
            price=candidate.offer.price,
            hold_msat=candidate.hold_msat,
            most=most,
        )
    except InvalidEvent as error:
        return None, str(error)
    if not stream.done:
        return receipt, "the stream ended without [DONE]: the answer may lack its end"
    if receipt.metered == "upstream" and stream.usage is not None and receipt.usage != stream.usage:
        return receipt, f"the receipt says {receipt.usage}, the stream said {stream.usage}"
    return receipt, None


def _why(reasons: dict[str, str], relay_failures: dict[str, str]) -> str:
    """One line for people."""
    if reasons:
        told = [f"{name}: {reason}" for name, reason in list(reasons.items())[-MAX_REASONS:]]
        more = [f"{len(reasons) - len(told)} others do not fit either"] if len(reasons) > len(told) else []
        return "no node can serve this: " + "; ".join(told + more)
    if relay_failures:
        return "no node was found: " + "; ".join(relay_failures.values())
    return "no node is announced on these relays"
