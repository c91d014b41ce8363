"""The router client: judge the task, choose a node, pay, stream, settle, verify; fail over before the first byte.

async with RouterClient.open(relays, folder) as client:
    answer = await client.chat({"messages": [{"role": "user", "content": "What is 2+2?"}]})
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from relays.endpoints import CHAT, EMBEDDINGS, RESPONSES, Endpoint
from relays.event import Event, Signer, npub
from relays.money import Msat
from relays.pool import RelayPool
from relays.routes import DIRECT, Purpose, Routes
from router_client.buying.answer import Answer, Plan
from router_client.buying.cascading import Cascades
from router_client.buying.forms import BOUGHT
from router_client.buying.quoting import Asked, ask_all
from router_client.buying.reading import OnText, Reader, TextReader
from router_client.buying.serving import Serving
from router_client.buying.tries import why_none
from router_client.complexity import Task, Tier, asked_text, assess, only_read
from router_client.discovery.directory import Directory
from router_client.discovery.opinions import Opinions
from router_client.discovery.people import People
from router_client.discovery.reviewer import Reviewer
from router_client.discovery.shelf import Shelf
from router_client.ecash.wallet import Wallet
from router_client.errors import BadRequest, NoProvider
from router_client.net.outside import client_for
from router_client.paying.payments import PAYING_S, Payments
from router_client.preferences import USUAL, Preferences
from router_client.routing.asked import as_chat, stateless
from router_client.routing.feedback import DOUBT_WEIGHT, Belief, Feedback, Picked, kind_of
from router_client.routing.wishes import AUTO, read_wishes, session_of
from router_client.selection import Choice
from router_client.spending.account import HOUR_S, Report, Spending
from router_client.spending.allowance import Allowance
from router_client.spending.budget import BudgetFile
from router_client.spending.rate import Rate

BELIEFS: Final = "beliefs"
HOPELESS: Final = 0.1
BUDGET_FILE, SHELF_FILE, SPENDING_FILE, WALLET_FILE = "budget.json", "directory.db", "spending.db", "wallet.db"


class RouterClient:
    """Buys chat completions, responses and embeddings from announced nodes with the ecash in its wallet."""

    def __init__(
        self,
        directory: Directory,
        wallet: Wallet,
        payments: Payments,
        http: httpx.AsyncClient,
        opinions: Opinions | None = None,
        reviewer: Reviewer | None = None,
        *,
        preferences: Preferences = USUAL,
        rate: Rate | None = None,
        allowance: Allowance | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        """Without a `rate` limits in USD are refused, unless the preferences have a price of bitcoin."""
        self.directory = directory
        self.wallet = wallet
        self.payments = payments
        self._http = http
        self._opinions = opinions
        self._reviewer = reviewer
        self._shelf = shelf
        self._profile, self._onion = preferences.profile, preferences.onion
        self._rate = rate or Rate(preferences)
        rng = random.Random(preferences.seed)
        beliefs = shelf.facts(BELIEFS, Belief) if shelf else None
        self.feedback = Feedback(beliefs, rng, learning=preferences.learning, explore=preferences.explore)
        self._serving = Serving(
            directory, payments, http, allowance or Allowance(), opinions, rng, self._rate, preferences
        )
        self._cascades = Cascades(self._serving, self._judged)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        relays: Iterable[str],
        folder: Path,
        routes: Routes = DIRECT,
        preferences: Preferences = USUAL,
        *,
        purse: Path | None = None,
    ) -> AsyncIterator[RouterClient]:
        """A client on these relays with its wallet in `folder`, or in a `purse` elsewhere. Nodes, mints, relays and the
        price of bitcoin are reached by `routes`; relays that want a key (NIP-42) see one of this run. Raises StorageError
        and BadSetting."""
        purse = purse or folder
        routes = msgspec.structs.replace(routes, onions_only=routes.onions_only or preferences.onion)
        async with (
            client_for(Purpose.NODES, routes) as http,
            client_for(Purpose.MINTS, routes) as mints,
            client_for(Purpose.PRICES, routes) as prices,
            RelayPool(relays, Signer.generate(), routes) as pool,
        ):
            wallet = await Wallet.open(purse / WALLET_FILE, mints)
            payments = await Payments.open(purse / "payments.db", wallet, http)
            shelf = await Shelf.open(folder / SHELF_FILE)
            spending = await Spending.open(purse / SPENDING_FILE)
            opinions = Opinions(pool, People(folder / "people.json"), shelf)
            try:
                directory = Directory(pool, http, routes=routes, shelf=shelf, opinions=opinions)
                reviewer = Reviewer(pool, folder / "reviewer.nsec")
                rate = Rate(preferences, prices, shelf)
                client = cls(
                    *(directory, wallet, payments, http, opinions, reviewer),
                    preferences=preferences,
                    rate=rate,
                    allowance=Allowance(spending, BudgetFile(folder / BUDGET_FILE), rate),
                    shelf=shelf,
                )
                try:
                    yield client
                finally:
                    await client.close()
            finally:
                spending.close()
                shelf.close()
                payments.close()
                wallet.close()

    async def close(self) -> None:
        """Wait for what nodes still owe that were left for quicker ones."""
        await self._serving.close()

    @property
    def msat_per_usd(self) -> float | None:
        """By the price of bitcoin, if that is known."""
        return self._rate.msat_per_usd

    @property
    def asks_prices(self) -> bool:
        """Whether anybody is asked for the price of bitcoin."""
        return self._rate.asks

    async def look_up_usd(self) -> None:
        """Ask what a bitcoin costs, unless that is known, where a budget in USD needs it or sources are named: else that is
        nobody's business. Limits in USD do so themselves. Raises StorageError."""
        if self._rate.is_kept or self._serving.allowance.in_usd:
            await self._rate.look()

    def report(self, hours: float = 24.0) -> Report:
        """What was spent in the last hours on which model, tier and node."""
        spending = self._serving.allowance.spending
        return Report(hours, () if spending is None else tuple(spending.lines(hours * HOUR_S)))

    async def choice(self, body: dict[str, Any], *, max_cost_msat: int | None = None) -> tuple[Task, Choice]:
        """How the task is judged and which nodes would serve it, best first. Pays nothing. Raises BadRequest."""
        plan = await self._planned(body, max_cost_msat)
        return plan.task, await self._serving.chosen(plan)

    async def _planned(self, body: dict[str, Any], max_cost_msat: int | None, endpoint: Endpoint = CHAT) -> Plan:
        wishes, request = read_wishes(body, self._profile, onion=self._onion)
        if wishes.auto and not endpoint.writes:
            raise BadRequest("name the model: vectors of one model mean nothing to another, so 'auto' takes none here")
        if endpoint is RESPONSES:
            request = stateless(request)
        wishes = msgspec.structs.replace(wishes, session=session_of(wishes, request))
        if wishes.in_usd or self._serving.allowance.in_usd:
            await self._rate.look()
        asked = as_chat(endpoint, request)
        if endpoint.writes:
            task = assess(asked)
            picked = self.feedback.pick(task, kind_of(asked, asked_text(asked)), wishes.profile)
            task = msgspec.structs.replace(task, tier=picked.tier)
        else:
            task = only_read(request, endpoint)
            picked = Picked(task.tier, "text", task.chances)
        limit_msat = self._serving.limit_msat(wishes, max_cost_msat)
        return Plan(wishes, request, task, picked, limit_msat, asked, endpoint)

    async def chat(
        self,
        body: dict[str, Any],
        *,
        on_text: OnText | None = None,
        reader: Reader | None = None,
        max_cost_msat: int | None = None,
        explain: bool = False,
    ) -> Answer:
        """Send a chat completion request to the best node, streaming; `on_text` gets the text as it comes, a `reader` in its
        stead all of it. Of a cascade, `on_text` gets the whole text at the end, and a reader nothing, but it may leave. With
        `explain` the answer says why its node was chosen.

        A node that fails before its first byte is paid nothing, and the next best is tried; where all are full, they are
        waited for a while. Raises BadRequest for wishes that cannot be kept, BudgetExceeded, NoProvider when none is left,
        NodeRefused when the request itself is refused, NodeError when a stream breaks off that was heard, or that nobody
        else gives anew.
        """
        return await self.ask(CHAT, body, on_text=on_text, reader=reader, max_cost_msat=max_cost_msat, explain=explain)

    async def responses(
        self,
        body: dict[str, Any],
        *,
        on_text: OnText | None = None,
        reader: Reader | None = None,
        max_cost_msat: int | None = None,
        explain: bool = False,
    ) -> Answer:
        """The same with a request of OpenAI's Responses: the answer's `body` is the `response`. Nothing is
        kept between requests. Raises as `chat`."""
        return await self.ask(
            RESPONSES, body, on_text=on_text, reader=reader, max_cost_msat=max_cost_msat, explain=explain
        )

    async def embeddings(
        self, body: dict[str, Any], *, max_cost_msat: int | None = None, explain: bool = False
    ) -> Answer:
        """Vectors for the texts of a request, as OpenAI's API has it: the answer's `body` is what the node gave, its `data`
        as it was written. The model must be named. Otherwise as `chat`."""
        return await self.ask(EMBEDDINGS, body, max_cost_msat=max_cost_msat, explain=explain)

    async def ask(
        self,
        endpoint: Endpoint,
        body: dict[str, Any],
        *,
        on_text: OnText | None = None,
        reader: Reader | None = None,
        max_cost_msat: int | None = None,
        explain: bool = False,
    ) -> Answer:
        """The same at one of the endpoints that are bought here. Raises BadRequest for another."""
        if endpoint not in BOUGHT:
            raise BadRequest(f"/v1{endpoint.path} is not bought here: ask a node itself")
        plan = msgspec.structs.replace(await self._planned(body, max_cost_msat, endpoint), explain=explain)
        if plan.wishes.cascade is not None and plan.wishes.models == (AUTO,):
            answer = await self._cascades.answered(
                plan, plan.wishes.cascade, reader.left if reader is not None else None
            )
            if on_text is not None:
                on_text(answer.text)
        else:
            answer = await self._serving.served(plan, reader or (TextReader(on_text) if on_text else None))
        await self._learn(plan, answer)
        return answer

    async def _judged(self, plan: Plan, tier: Tier, sure: float) -> None:
        """What we think of an answer is an outcome, doubt and trust alike."""
        await self._believe(self.feedback.learn(plan.at(tier, None).picked, plan.task, sure, DOUBT_WEIGHT))

    async def _learn(self, plan: Plan, answer: Answer) -> None:
        """A refusal or an answer that was cut off is an outcome; the user's own word may follow."""
        if plan.wishes.models != (AUTO,):
            return
        picked = plan.at(answer.tier, None).picked
        if plan.wishes.cascade is None and answer.confidence is not None:
            if answer.confidence <= HOPELESS:
                await self._believe(self.feedback.hopeless(picked, plan.task))
            else:
                await self._believe(self.feedback.whole(picked, plan.task))
        self.feedback.await_word(answer.request_id, picked, plan.task)

    async def tell(self, request_id: str, good: float) -> bool:
        """The user's word on an answer, from 0 (useless) to 1 (good): the router learns from it once, and the report tells
        it. False when the request is not known, or not any more."""
        if not 0 <= good <= 1:
            raise BadRequest("how good an answer was is a number from 0 to 1")
        is_graded = await self._serving.allowance.grade(request_id, good)
        return await self._believe(self.feedback.hear(request_id, good)) or is_graded

    async def _believe(self, name: str | None) -> bool:
        """Keep a belief that has changed."""
        if name is not None and self._shelf is not None:
            await self._shelf.state(BELIEFS, {name: self.feedback.beliefs[name]})
        return name is not None

    async def review(self, node: str) -> Event | None:
        """Publish what the node of that key did for this user, if there is anything to say."""
        if self._opinions is None or self._reviewer is None:
            return None
        return await self._reviewer.publish(node, self._opinions.deeds(node))

    async def recommend(self, node: str, words: str = "") -> Event:
        """Publish a recommendation of the node of that key. Raises NoProvider when no relay has it announced, NotTaken."""
        providers = await self.directory.providers()
        if not providers:
            raise NoProvider(why_none({}, (), self.directory.failures))
        theirs = [p.announcement for p in providers if p.announcement.pubkey == node]
        if self._reviewer is None or not theirs:
            raise NoProvider(f"{npub(node)} is not announced on these relays")
        return await self._reviewer.recommend(max(theirs, key=lambda each: each.created_at), words)

    async def take_back(self, node: str) -> tuple[Event, ...]:
        """Delete what this user has published of the node of that key; what that was. Raises NotTaken."""
        return () if self._reviewer is None else await self._reviewer.take_back(node)

    async def quotes(self, body: dict[str, Any]) -> list[Asked]:
        """What a request costs at each node that announces its model, cheapest first. Pays nothing."""
        return await ask_all(self._http, await self.directory.providers(soon=True), body)

    async def recover(self, older_than_s: float = 0) -> Msat:
        """Fetch what earlier runs left at nodes and mints for at least that long; returns what came back, which counts
        against no budget any more."""
        back_msat = await self.payments.recover(older_than_s, self._serving.allowance.end)
        await self._serving.allowance.end_unpaid(PAYING_S, self.payments.knows)
        return back_msat
