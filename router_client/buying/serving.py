"""The best node serves: choose, pay, stream, settle, verify; fail over before the first byte, and wait for who is full."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final

import httpx
import msgspec

from relays.money import Msat, ceil_div
from router_client.buying.answer import Answer, Plan
from router_client.buying.cascade import confidence
from router_client.buying.forms import sent
from router_client.buying.hedging import Race, Runner
from router_client.buying.purchase import Bought, Buyer
from router_client.buying.quoting import most_quoted_msat, quoted
from router_client.buying.reading import Head, Nobody, Reader, ReaderFailed
from router_client.buying.tries import Tries, why_none
from router_client.complexity import Tier
from router_client.discovery.directory import Directory, Provider
from router_client.discovery.opinions import Opinions
from router_client.ecash.token import MSAT_PER_UNIT
from router_client.errors import (
    BudgetExceeded,
    ClientError,
    NodeBrokeOff,
    NodeBusy,
    NodeError,
    NodeOutrun,
    NodeRaised,
    NodeRefused,
    NodeTooDear,
    NodeUnavailable,
    NodeUnreached,
    NoProvider,
    WalletError,
)
from router_client.paying.change import most_paid_msat
from router_client.paying.payments import Payments
from router_client.preferences import Preferences
from router_client.routing.candidates import Candidate, Circumstances, Purse
from router_client.routing.feedback import LADDER
from router_client.routing.health import Healths
from router_client.routing.market import Market
from router_client.routing.screen import ceiling_of
from router_client.routing.wishes import Wishes
from router_client.selection import Choice, choose
from router_client.spending.account import Outcome
from router_client.spending.allowance import Allowance
from router_client.spending.rate import Rate

PATIENCE_S: Final = 10.0
"""So long full nodes are waited for, where there is no other."""
LEAVING_S: Final = 10.0
MAX_SESSIONS: Final = 1000


class Serving:
    """Requests to the nodes of a directory, with what is learned of them on the way."""

    def __init__(
        self,
        directory: Directory,
        payments: Payments,
        http: httpx.AsyncClient,
        allowance: Allowance,
        opinions: Opinions | None,
        rng: random.Random,
        rate: Rate,
        preferences: Preferences,
    ) -> None:
        self._directory = directory
        self._payments = payments
        self._http = http
        self._buyer = Buyer(payments, http)
        self.allowance = allowance
        self._opinions = opinions
        self._market = Market(auto_prices=preferences.auto_prices)
        self._nodes: tuple[Provider, ...] = ()
        """Of which the market is made."""
        self._leaving: set[asyncio.Task[Answer]] = set()
        """Nodes that were left, until they have given their change."""
        self._sessions: OrderedDict[str, str] = OrderedDict()
        self._rate = rate
        self._given = Circumstances(
            healths=Healths(),
            rng=rng,
            sessions=self._sessions,
            explore=preferences.explore,
            auto_prices=preferences.auto_prices,
        )

    async def chosen(self, plan: Plan, ignore: Collection[str] = (), *, budgeted: bool = True) -> Choice:
        """Who would serve, best first. Pays nothing. Raises BadRequest."""
        self._given.msat_per_usd = self._rate.msat_per_usd
        providers = await self._directory.providers(soon=True)
        if providers is not self._nodes:
            self._nodes, self._market = providers, Market(providers, self._market)
        most_msat = plan.max_cost_msat
        if budgeted:
            most_msat = self.allowance.most_msat(plan.wishes.session, most_msat)
        return choose(
            plan.request,
            plan.task,
            self._market,
            self._purses(),
            endpoint=plan.endpoint,
            wishes=plan.wishes,
            given=self._given,
            max_cost_msat=most_msat,
            ignore=ignore,
        )

    async def close(self) -> None:
        """Wait a while for the change of nodes that were left; `recover` fetches what is not here by then."""
        if self._leaving:
            _, late = await asyncio.wait(self._leaving, timeout=LEAVING_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def models_of(self, tier: Tier) -> list[str]:
        """The models of a tier as of the last choice, cheapest first."""
        return self._market.models_of(tier)

    def limit_msat(self, wishes: Wishes, max_cost_msat: int | None) -> int | None:
        """The most that one request may cost, by its caller and by its own wishes. Raises BadRequest."""
        self._given.msat_per_usd = self._rate.msat_per_usd
        usd = wishes.max_cost_usd
        limits = (max_cost_msat, wishes.max_cost_msat, None if usd is None else self._given.in_msat(usd))
        return min((limit for limit in limits if limit is not None), default=None)

    async def served(self, plan: Plan, reader: Reader | None) -> Answer:
        """The answer of the best node that serves. Raises as `RouterClient.chat`."""
        tries = Tries() if plan.wishes.allow_fallbacks else Tries(1, 1)
        try:
            answer = await self._tried(plan, reader or Nobody(), tries)
        except ClientError as error:
            own_msat = 0 if error is tries.final else error.out_msat  # which was noted
            error.out_msat = own_msat + tries.lost_msat
            raise
        await self._blame(tries.doubted)  # what is served by one is no fault of the request
        if tries.lost_msat:
            answer = answer.after(tries.lost_msat)
            await self.allowance.save(answer.entry, answer.saved_msat)
        return answer

    async def _tried(self, plan: Plan, reader: Reader, tries: Tries) -> Answer:
        """The same, with what became of each try noted; `out_msat` of what it raises is the last one's alone."""
        until = time.monotonic() + PATIENCE_S
        left = plan
        while True:
            choice = await self.chosen(left, tries.failed)
            candidate = next(iter(choice.candidates), None)
            if candidate is None or tries.are_over or candidate.pause_s > until - time.monotonic():
                break
            if candidate.pause_s:
                await asyncio.sleep(candidate.pause_s)
                continue
            try:
                answer = await self._hedged(left, candidate, choice.explored, reader, tries)
                explanation = choice.explained(left.task) if plan.explain else None
                return msgspec.structs.replace(answer, explanation=explanation)
            except (NodeUnavailable, NodeRefused, WalletError, BudgetExceeded) as error:  # a budget used up meanwhile
                tries.note(candidate, error)
            except NodeBrokeOff as error:
                if reader.hears or plan.wishes.hedge:  # of a pair, it may be the second's
                    raise
                tries.note(candidate, error)
            left = self._less(plan, tries.lost_msat)
        if tries.final is not None:
            raise tries.final
        await self._check_budget(left)
        reasons = list(tries.reasons)
        why = why_none(choice.rejected, reasons, self._directory.failures)
        raise NoProvider(why, tries.cause if reasons else choice.cause)

    def most_msat(self, plan: Plan) -> int | None:
        """What the request may cost, by its caller and by the budget of one request; None: without a limit. Raises
        StorageError and PriceUnknown."""
        limits = [each for each in (plan.max_cost_msat, self.allowance.request_msat) if each is not None]
        return min(limits, default=None)

    def _less(self, plan: Plan, spent_msat: int) -> Plan:
        """The same, with what is left when so much of that is gone."""
        most_msat = self.most_msat(plan)
        if most_msat is None:
            return plan
        return msgspec.structs.replace(plan, max_cost_msat=max(0, most_msat - spent_msat))

    async def _hedged(self, plan: Plan, first: Candidate, explored: bool, reader: Reader, tries: Tries) -> Answer:
        """The answer of a node, or, if that is wished, of the next best where the first is late with its first word. Raises
        as `_answered`, and notes of both who failed, but for whose error it raises."""
        if not plan.wishes.hedge:
            return await self._answered(plan, first, reader, explored=explored)
        race, raised, node = Race(reader, self._leaving), None, first.provider.announcement.pubkey
        lead = Runner(race, first, most_paid_msat(most_quoted_msat(first.hold_msat)))
        race.enter(lead, self._answered(plan, first, lead, explored=explored))
        try:
            if not tries.is_last and await race.is_late(self._given.healths.late_s(node)):
                rest = self._less(plan, lead.held_msat)
                other = next(iter((await self.chosen(rest, {*tries.failed, node})).candidates), None)
                if other is not None and not other.pause_s and not race.is_decided:
                    second = Runner(race, other)
                    race.enter(second, self._answered(rest, other, second))
            return await race.answer()
        except ClientError as error:
            raised = error
            tries.lost_msat += await race.left_msat(error, LEAVING_S)
            raise
        finally:
            for candidate, failure in race.failures():
                if failure is not raised:
                    tries.note(candidate, failure)
            race.end()

    async def _answered(
        self,
        plan: Plan,
        candidate: Candidate,
        reader: Reader,
        *,
        explored: bool = False,
    ) -> Answer:
        """The answer of one node. What becomes of the request is noted of it, whatever that is."""
        node, session = candidate.provider.announcement.pubkey, plan.wishes.session
        name, agreed, bought = await self._bought(plan, candidate, reader)
        cheated = bought.problem is not None and not candidate.provider.is_plain
        served = not cheated and not bought.withheld
        if served:
            self._remember(session, node)
        else:
            self._directory.forget(node)
            self._sessions.pop(session, None)
        answer = self._answer(plan, agreed, bought, explored)
        if isinstance(reader, Runner) and reader.is_outrun:  # two that end at once: nobody reads this one
            answer = msgspec.structs.replace(answer, saved_msat=Msat(0))
        if answer.tier != LADDER[-1] and plan.endpoint.writes:
            answer = msgspec.structs.replace(answer, confidence=confidence(plan.asked, answer))
        counted_msat = answer.cost_msat + bought.out_msat
        outcome = Outcome(counted_msat, answer.saved_msat, answer.verified, answer.confidence, answer.request_id)
        left_msat = await self.allowance.settle(name, session, outcome)
        await self._note(candidate, served=served, cheated=cheated, latency_ms=round(bought.whole_s * 1000))
        return msgspec.structs.replace(answer, budget_left_msat=left_msat, entry=name)

    async def _bought(self, plan: Plan, candidate: Candidate, reader: Reader) -> tuple[str, Candidate, Bought]:
        """The entry in the account, the candidate at its quote, and what was bought of it."""
        node, healths = candidate.provider.announcement.pubkey, self._given.healths
        request = sent(plan.endpoint, plan.request, candidate.offer.id)
        healths.began(node)
        end: Callable[[], object] = partial(healths.left, node)
        try:
            name, agreed, bought = await self._paid(plan, candidate, request, reader)
            wait_s = bought.wait_s if plan.endpoint.writes else None
            end = partial(healths.served, node, wait_s, bought.usage.completion_tokens, bought.whole_s)
            if bought.withheld:
                end = partial(healths.failed, node)
        except NodeError as error:
            end = self._fault(candidate, error, reader)
            if isinstance(error, NodeOutrun | NodeTooDear):
                raise
            if error.cheated or isinstance(error, NodeUnreached):
                self._directory.forget(node)
            if error.cheated or (
                isinstance(error, NodeUnavailable) and error.out_msat and not isinstance(error, NodeBusy)
            ):
                await self._note(candidate, cheated=error.cheated)
            raise
        finally:
            end()
        return name, agreed, bought

    def _fault(self, candidate: Candidate, error: NodeError, reader: Reader) -> Callable[[], object]:
        """What the error says of the node's health; where it is no fault, that the request has left."""
        node, healths = candidate.provider.announcement.pubkey, self._given.healths
        is_outrun = isinstance(reader, Runner) and reader.is_outrun  # else its reader has left
        if isinstance(error, NodeOutrun) and is_outrun:
            if error.out_msat >= candidate.hold_msat > 0:  # before its first word it cannot have earned that
                return partial(healths.failed, node)
            return partial(healths.outrun, node, error.waited_s)
        if isinstance(error, NodeBusy) and not error.out_msat:
            return partial(healths.busy, node, error.retry_after_s)
        # Too dear is the caller's own limit, unless the price was raised; a refusal is about the request.
        is_fault = isinstance(error, NodeRaised) or not isinstance(error, NodeRefused | NodeTooDear | NodeOutrun)
        if is_fault or (error.out_msat and isinstance(error, NodeRefused)):
            return partial(healths.failed, node)
        return partial(healths.left, node)

    async def _paid(
        self,
        plan: Plan,
        candidate: Candidate,
        request: dict[str, Any],
        reader: Reader,
    ) -> tuple[str, Candidate, Bought]:
        """Agree on a price, take it out of the budget, and buy."""
        session, model = plan.wishes.session, candidate.offer.id
        most_msat = self.allowance.most_msat(session, plan.max_cost_msat)
        began = time.monotonic()
        ceiling = ceiling_of(plan.wishes, self._given, most_msat)
        agreed = await quoted(self._http, candidate, request, ceiling, plan.endpoint)
        tier = self._market.tier_of(model)
        coin_msat = MSAT_PER_UNIT[agreed.purse.unit]
        least_msat = max(1, ceil_div(agreed.hold_msat, coin_msat)) * coin_msat  # who holds nothing is sent a coin
        name, most_msat = await self.allowance.reserve(
            session, model, tier, agreed.provider.npub, least_msat, plan.max_cost_msat
        )
        if isinstance(reader, Runner):
            reader.held_msat = most_msat
        try:
            if reader.left is not None and reader.left.is_set():
                raise NodeOutrun("it was left before it was paid", time.monotonic() - began)
            bought = await self._buyer.buy(
                request, agreed, reader, self._head(agreed), most_msat, began, name, plan.endpoint
            )
            return name, agreed, bought
        except (NodeError, WalletError) as error:
            if isinstance(error, NodeError):
                error.is_paid = True
            await self._unserved(name, session, error.out_msat)
            raise
        except ReaderFailed as error:
            await self._unserved(name, session, error.out_msat)
            raise error.error from None

    def _head(self, candidate: Candidate) -> Head:
        return Head(
            model=candidate.offer.id,
            tier=self._market.tier_of(candidate.offer.id),
            node=candidate.provider.npub,
            node_name=candidate.provider.announcement.name,
            hold_msat=candidate.hold_msat,
        )

    async def _unserved(self, name: str, session: str, out_msat: int) -> None:
        """What did not come back is spent, until it does."""
        if out_msat:
            await self.allowance.settle(name, session, Outcome(out_msat))
        else:
            await self.allowance.release(name)

    async def _check_budget(self, plan: Plan) -> None:
        """Raises BudgetExceeded where it is only the budget that keeps nodes from serving."""
        choice = await self.chosen(plan, budgeted=False)
        if choice.candidates:
            self.allowance.check(plan.wishes.session, min(candidate.hold_msat for candidate in choice.candidates))

    def _remember(self, session: str, node: str) -> None:
        self._sessions[session] = node
        self._sessions.move_to_end(session)
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def _answer(self, plan: Plan, candidate: Candidate, bought: Bought, explored: bool) -> Answer:
        strongest_msat = self._market.strongest_msat(bought.usage) if plan.endpoint.writes else 0
        return Answer(
            text=bought.text,
            choices=bought.choices,
            body=bought.body,
            finish_reason=bought.finish_reason,
            request_id=bought.request_id,
            node=candidate.provider.npub,
            node_name=candidate.provider.announcement.name,
            model=candidate.offer.id,
            tier=self._market.tier_of(candidate.offer.id),
            usage=bought.usage,
            cost_msat=bought.cost_msat,
            saved_msat=Msat(max(0, strongest_msat - bought.cost_msat)),
            explored=explored,
            wait_ms=round(bought.wait_s * 1000),
            verified=bought.problem is None,
            problem=bought.problem,
            receipt=bought.receipt,
            receipt_event=bought.receipt_event,
            settled=bought.settled,
        )

    async def _note(
        self, candidate: Candidate, *, served: bool = False, cheated: bool = False, latency_ms: int = 0
    ) -> None:
        """Remember what the node did with the user's money."""
        if self._opinions is not None:
            node = candidate.provider.announcement.pubkey
            deeds = self._opinions.deeds(node).after(served=served, cheated=cheated, latency_ms=latency_ms)
            await self._opinions.note(node, deeds)

    async def _blame(self, nodes: Sequence[Candidate]) -> None:
        for candidate in nodes:
            await self._note(candidate)

    def _purses(self) -> list[Purse]:
        return [Purse(mint, unit, amount) for (mint, unit), amount in self._payments.wallet.balances().items()]
