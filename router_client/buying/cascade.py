"""Cheap first: ask a cheap model, judge its answer, and ask a better one when it is doubted. Decisions are pure.

What the better model alone would have cost is not known before it has answered, so that one request that goes up costs the
cheap answer more. What can be kept is kept twice: on average, since the cheap model is asked only where it costs less than
its chance to be right saves; and at the most, since the better one may take what is left of its own hold and no more, if
need be with fewer tokens to write (docs/decisions/014-what-a-cascade-may-cost.md).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from relays.announcement import ModelOffer
from relays.bounds import completion_bound, most_usage
from relays.endpoints import CHAT, Endpoint
from relays.errors import InvalidJson
from relays.jsontext import from_json
from relays.money import Msat
from relays.pricing import Usage, cost, dearest
from relays.prompt import read_prompt
from router_client.complexity import Tier, asked_text
from router_client.difficulty.agreement import agree, revised
from router_client.errors import BudgetExceeded, ClientError, NodeError, NodeOutrun, NodeRefused, NoProvider
from router_client.judge import judge

THRESHOLD: Final = 0.5
"""An answer that is less likely right is asked for again, where the request names no threshold."""
CHEAP_ENOUGH: Final = 0.5
"""A cheap answer must be expected to cost less than so much of the better one, however good its chance; and may take no more
of what there is, so that the better one can still be asked."""
TOKENIZERS_DIFFER: Final = 2
"""No model makes so many times the tokens of a prompt that another makes."""
CUT_OFF: Final = "length"
CALLS: Final = ("tool_calls", "function_call")


class Answered(Protocol):
    """What a cascade looks at in an answer."""

    @property
    def text(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def cost_msat(self) -> Msat: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def confidence(self) -> float | None: ...


A = TypeVar("A", bound=Answered)


class Step(msgspec.Struct, frozen=True):
    """An answer of a cascade that does not stand."""

    model: str
    node: str
    cost_msat: Msat
    confidence: float
    verified: bool


class Most(msgspec.Struct, frozen=True):
    """The most that may be held for an answer: at the node that was reckoned with, and at any other, whose prices may leave
    less of its hold out of reach."""

    there_msat: int
    elsewhere_msat: int

    def within(self, limit_msat: int) -> Most:
        """The same, and no more than that anywhere."""
        return Most(min(self.there_msat, limit_msat), min(self.elsewhere_msat, limit_msat))


class Costs(msgspec.Struct, frozen=True):
    """What a tier's best node is expected to take, and the most it can."""

    node: str
    """Its public key."""
    expected_msat: int
    hold_msat: int
    offer: ModelOffer
    written: int
    """At most so many tokens; what is read is bounded by bytes, and is known better once another model has read it."""
    is_text: bool = True
    """What else than text becomes in tokens differs from model to model."""
    read: int = 0
    """So many tokens are read by our own count: a cheap node's word alone could lift the bound."""

    def left(self, spent_msat: int, read_tokens: int | None) -> Most:
        """What may be held after so much was spent, so that both come to no more than the hold alone could. `read_tokens`
        are what a cheaper model made of the prompt, where that tells anything."""
        elsewhere_msat = self.hold_msat - spent_msat
        if read_tokens is None or not self.is_text:
            return Most(elsewhere_msat, elsewhere_msat)
        most = dearest(Usage(TOKENIZERS_DIFFER * max(read_tokens, self.read), self.written), self.offer.price)
        unreachable_msat = max(0, self.hold_msat - cost(most, self.offer.price))
        return Most(self.hold_msat - max(0, spent_msat - unreachable_msat), elsewhere_msat)


def confidence(body: Mapping[str, Any], answer: Answered) -> float | None:
    """How likely the answer is right, from 0 to 1: nothing for what was cut off, unless the caller set the limit, or is not
    of the form that was asked. None for what has no text to be judged by: it calls a tool."""
    if not answer.text and answer.finish_reason in CALLS:
        return None
    limited = body.get("max_tokens") or body.get("max_completion_tokens")
    if answer.finish_reason == CUT_OFF and not limited:
        return 0.0
    form = body.get("response_format")
    if isinstance(form, Mapping) and str(form.get("type", "")).startswith("json"):
        try:
            from_json(answer.text, dict[str, Any])
        except InvalidJson:
            return 0.0
    return judge(asked_text(body), answer.text)


def pays(cheap: Costs | None, better: Costs | None, chance: float, asks: int = 1) -> bool:
    """Whether the cheap one is worth so many tries: not where they cost more than they save in as many cases as it is right,
    and not where it is hardly cheaper, or nobody sells it."""
    most = min(chance, CHEAP_ENOUGH)
    return cheap is not None and better is not None and asks * cheap.expected_msat < most * better.expected_msat


def shortened(
    body: dict[str, Any], offer: ModelOffer, most_msat: int, endpoint: Endpoint = CHAT
) -> dict[str, Any] | None:
    """The request, if need be with so few tokens to write that it costs at most that; None where even one is too much."""
    fields = [name for name in endpoint.output_fields if body.get(name)] or [endpoint.output_fields[-1]]
    prompt, most = read_prompt(body, endpoint), completion_bound(body, offer.limits, endpoint)

    def is_too_much(tokens: int) -> bool:
        bound = body | dict.fromkeys(fields, tokens)
        return cost(most_usage(bound, offer.limits, offer.price, endpoint, prompt=prompt), offer.price) > most_msat

    if not is_too_much(most):
        return body
    tokens = bisect_left(range(1, most + 1), 1, key=is_too_much)  # the first that is
    return body | dict.fromkeys(fields, tokens) if tokens else None


class Turn(msgspec.Struct, Generic[A], frozen=True):
    """One answer of a cascade."""

    tier: Tier
    answer: A
    sure: float
    is_second: bool = False
    """Another model's of the same tier, to see whether it agrees."""


class Askers(Protocol[A]):
    """Who asks, within the most that may be held (None: no limit of the cascade's)."""

    async def first(self, tier: Tier, most: Most | None) -> A: ...
    async def second(self, tier: Tier, first: A, most: Most | None) -> A:
        """Another model of the tier, where there is one."""


def is_turned_by_another(sure: float, threshold: float) -> bool:
    """Whether it matters what another model says: it could make the answer trusted, or doubted."""
    return revised(sure, agreed=False) < threshold <= revised(sure, agreed=True)


async def ascend(
    tiers: tuple[Tier, ...],
    costs: Mapping[Tier, Costs | None],
    chances: Mapping[Tier, float],
    threshold: float,
    ask: Askers[A],
    prompt: str | None = None,
    limit_msat: int | None = None,
) -> list[Turn[A]]:
    """Ask tier after tier until an answer is trusted; all answers with the confidence in each, the one that stands last.

    The last tier's answer needs no trust: there is nobody else to ask. One that cannot be judged stands. With `prompt`, a
    second model of a cheap tier is asked, too, where its word can turn the decision. `limit_msat` is what all may cost
    together, with what nodes kept that did not serve.
    """
    top, asks = costs[tiers[-1]], 1 if prompt is None else 2
    tiers = tuple(tier for tier in tiers[:-1] if pays(costs[tier], top, chances.get(tier, 0.0), asks)) + tiers[-1:]
    ascent = _Ascent(tiers, None if len(tiers) == 1 else top, ask, limit_msat)
    for tier in tiers:
        try:
            answer = await ask.first(tier, ascent.most(tier))
        except ClientError as error:
            ascent.lost_msat += error.out_msat
            if ascent.asked:
                break  # the answer that was paid stands
            if tier != tiers[-1] and _is_of_this_tier(error):
                continue
            raise
        sure = 1.0 if answer.confidence is None else answer.confidence
        ascent.asked.append(Turn(tier, answer, sure))
        if prompt is not None and tier != tiers[-1] and is_turned_by_another(sure, threshold):
            await ascent.ask_another(prompt)
        if ascent.asked[-1].sure >= threshold:
            break
    return ascent.asked


def _is_of_this_tier(error: ClientError) -> bool:
    """Whether a better model may serve all the same: none could, or one broke off, of which nobody has heard."""
    is_no_answer = isinstance(error, NoProvider | BudgetExceeded | NodeError)
    return is_no_answer and not isinstance(error, NodeRefused | NodeOutrun)


class _Ascent(Generic[A]):
    """What was asked so far, and what is left for more."""

    def __init__(self, tiers: tuple[Tier, ...], top: Costs | None, ask: Askers[A], limit_msat: int | None) -> None:
        self._tiers = tiers
        self._top = top
        self._ask = ask
        self._limit_msat = limit_msat
        self.asked: list[Turn[A]] = []
        self.lost_msat = 0

    def most(self, tier: Tier) -> Most | None:
        """What may be held for the next answer."""
        if self._top is None:
            return None
        read_tokens = next((turn.answer.usage.prompt_tokens for turn in reversed(self.asked)), None)
        spent_msat = self.lost_msat + sum(turn.answer.cost_msat for turn in self.asked)
        left = self._top.left(spent_msat, read_tokens or None)
        if self._limit_msat is not None:
            left = left.within(self._limit_msat - spent_msat)
        part_msat = int(CHEAP_ENOUGH * left.elsewhere_msat)
        return left if tier == self._tiers[-1] else Most(part_msat, part_msat)

    async def ask_another(self, prompt: str) -> None:
        """Another model of the last one's tier, where there is one; the last is as sure as both are."""
        last = self.asked[-1]
        try:
            other = await self._ask.second(last.tier, last.answer, self.most(last.tier))
        except ClientError as error:
            self.lost_msat += error.out_msat
            return
        sure = revised(last.sure, agreed=agree(prompt, last.answer.text, other.text))
        second = Turn(last.tier, other, other.confidence or 0.0, is_second=True)
        self.asked[-1:] = [second, msgspec.structs.replace(last, sure=sure)]
