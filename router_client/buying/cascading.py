"""Cascades at real nodes: `cascade` decides, this asks, adds up what it cost, and says what was doubted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from relays.bounds import largest_usage
from relays.money import Msat
from router_client.buying.answer import Answer, Plan
from router_client.buying.cascade import CUT_OFF, THRESHOLD, Costs, Most, Step, ascend, shortened
from router_client.buying.reading import Nobody
from router_client.buying.serving import Serving
from router_client.complexity import Tier, asked_text
from router_client.difficulty.needs import FEATURES
from router_client.errors import BudgetExceeded, ClientError, NoProvider
from router_client.routing.asked import as_chat
from router_client.routing.feedback import LADDER
from router_client.routing.wishes import Cascade

TIERS: Final[Mapping[int, tuple[Tier, ...]]] = {1: ("cheap", "premium"), 2: LADDER}
"""What a cascade of that depth asks in turn."""
MOST_OTHERS: Final = 8

Judged = Callable[[Plan, Tier, float], Awaitable[None]]
"""Told of an answer, with the confidence in it."""


class Cascades:
    """Asks in tiers."""

    def __init__(self, serving: Serving, judged: Judged) -> None:
        self._serving = serving
        self._judged = judged

    async def answered(self, plan: Plan, wish: Cascade, left: asyncio.Event | None = None) -> Answer:
        """The first answer that is trusted, with what those before it cost. Once `left` is set nobody waits for it: no more
        is bought then, and where nothing was, NodeOutrun is raised."""
        least = LADDER.index(plan.wishes.tier or LADDER[0])
        tiers = tuple(tier for tier in TIERS[wish.max_depth] if LADDER.index(tier) >= least)
        costs = {tier: await self._costs(plan.at(tier, None)) for tier in tiers}
        threshold = THRESHOLD if wish.threshold is None else wish.threshold
        prompt = asked_text(plan.asked) if wish.consistency else None
        askers, limit_msat = _Askers(self._serving, plan, costs, left), self._serving.most_msat(plan)
        try:
            turns = await ascend(tiers, costs, plan.picked.chances, threshold, askers, prompt, limit_msat)
        except ClientError as error:
            error.out_msat = askers.lost_msat  # of all tiers, not of the last alone
            raise
        *others, last = turns
        for turn in turns:
            if not turn.is_second and turn.answer.confidence is not None:
                await self._judged(plan, turn.tier, turn.sure)
            if not turn.is_second and turn.answer.confidence not in (None, turn.sure):
                await self._serving.allowance.grade(turn.answer.request_id, turn.sure)
        answer, before_msat = last.answer, sum(turn.answer.cost_msat for turn in others)
        steps = (
            Step(turn.answer.model, turn.answer.node, turn.answer.cost_msat, turn.sure, turn.answer.verified)
            for turn in others
        )
        whole = msgspec.structs.replace(
            answer,
            steps=tuple(steps),
            confidence=answer.confidence and last.sure,
            cost_msat=Msat(answer.cost_msat + before_msat),
            saved_msat=Msat(max(0, answer.saved_msat - before_msat)),
            verified=answer.verified and all(turn.answer.verified for turn in others),
        )
        whole = whole.after(askers.lost_msat)
        for turn in others:  # what does not stand has saved nothing, whatever its model's price
            await self._serving.allowance.save(turn.answer.entry, 0)
        await self._serving.allowance.save(whole.entry, whole.saved_msat)
        return whole

    async def _costs(self, plan: Plan) -> Costs | None:
        best = next(iter((await self._serving.chosen(plan)).candidates), None)
        if best is None:
            return None
        written = largest_usage(plan.request, best.offer.limits, plan.endpoint).completion_tokens
        is_text = plan.task.needs <= set(FEATURES)
        node = best.provider.announcement.pubkey
        read = plan.task.prompt_tokens
        return Costs(node, best.expected_msat, best.hold_msat, best.offer, written, is_text, read)


class _Askers:
    """The models of a cascade, asked with requests that are as short as what is left wants."""

    def __init__(
        self, serving: Serving, plan: Plan, costs: Mapping[Tier, Costs | None], left: asyncio.Event | None
    ) -> None:
        self._serving = serving
        self._reader = Nobody()
        self._reader.left = left
        self._plan = _wishing(plan, hedge=False)  # what a slower node charges would not be in the sum
        self._costs = costs
        self.lost_msat = 0
        """What was kept for those that did not answer."""

    async def first(self, tier: Tier, most: Most | None) -> Answer:
        return await self._within(tier, self._plan, most)

    async def second(self, tier: Tier, first: Answer, most: Most | None) -> Answer:
        """The dearest other model of the tier: what a weaker one says, says less."""
        others = tuple(model for model in reversed(self._serving.models_of(tier)) if model != first.model)
        models = others[:MOST_OTHERS] or (first.model,)
        return await self._within(tier, _wishing(self._plan, models=models, picked=True), most)

    async def _within(self, tier: Tier, plan: Plan, most: Most | None) -> Answer:
        try:
            return await self._answer(tier, plan, most)
        except ClientError as error:
            self.lost_msat += error.out_msat
            raise

    async def _answer(self, tier: Tier, plan: Plan, most: Most | None) -> Answer:
        costly = self._costs[tier]
        if most is None or costly is None:
            return await self._serving.served(plan.at(tier, None), self._reader)
        elsewhere_msat = most.elsewhere_msat
        if most.there_msat > elsewhere_msat:
            try:
                return await self._asked(tier, _wishing(plan, only=(costly.node,)), costly, most.there_msat)
            except (NoProvider, BudgetExceeded) as error:
                self.lost_msat += error.out_msat
                elsewhere_msat -= error.out_msat
        return await self._asked(tier, plan, costly, elsewhere_msat)

    async def _asked(self, tier: Tier, plan: Plan, costly: Costs, most_msat: int) -> Answer:
        if (request := shortened(plan.request, costly.offer, most_msat, plan.endpoint)) is None:
            raise NoProvider(f"{most_msat} msat are left for another model, which is too little")
        part = msgspec.structs.replace(plan.at(tier, most_msat), request=request, asked=as_chat(plan.endpoint, request))
        answer = await self._serving.served(part, self._reader)
        is_cut = request is not plan.request and answer.finish_reason == CUT_OFF
        if not is_cut:
            return answer
        await self._serving.allowance.grade(answer.request_id, 0.0)
        return msgspec.structs.replace(answer, confidence=0.0)


def _wishing(plan: Plan, **wishes: Any) -> Plan:
    return msgspec.structs.replace(plan, wishes=msgspec.structs.replace(plan.wishes, **wishes))
