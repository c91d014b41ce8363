"""Which node serves: hard filters first, then the lowest score, drawn by chance among the best. Pure, and able to say why.

A score is the expected cost times factors for trust, failures, waits and load (`routing.scoring`). The draw keeps many
clients from falling upon one node; with a seed it is the same each time. OpenRouter's `sort` and `order` leave nothing to
chance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import msgspec

from relays.announcement import ModelOffer
from relays.endpoints import CHAT, Endpoint
from relays.money import Msat
from router_client.complexity import Task, Tier
from router_client.discovery.directory import Provider
from router_client.routing.candidates import Candidate, Circumstances, Purse
from router_client.routing.market import Market
from router_client.routing.reasons import Cause, cause_of
from router_client.routing.scoring import PROFILES, Factors
from router_client.routing.screen import Screen
from router_client.routing.wishes import AUTO, Wishes

MAX_LABEL: Final = 60
WIDEST: Final = 1.15
"""Who scores up to so many times the best takes part in the draw,"""
MOST_DRAWN: Final = 8
"""so many at the most,"""
EAGER: Final = 6.0
"""and with a chance that falls with this power of the score."""
EXPLORED: Final = 3.0
"""Now and then one is tried that scores up to so many times the best and was not measured yet."""
MOST_CANDIDATES: Final = 12
FIRST_LOOK: Final = 64
TIERS: Final[tuple[Tier, ...]] = ("cheap", "mid", "premium")


class Considered(msgspec.Struct, frozen=True):
    """One candidate as its choice saw it: `score` is the expected cost, in the power of its profile, times `factors`."""

    node: str
    """Its npub."""
    name: str
    model: str
    expected_msat: Msat
    hold_msat: Msat
    score: float
    factors: Factors | None


class Explanation(msgspec.Struct, frozen=True):
    """Why a node was chosen: what the task was taken to be, the candidates, best first, and why each other was left out."""

    task: Task
    candidates: tuple[Considered, ...]
    explored: bool
    """The first was taken to get to know it."""
    rejected: dict[str, str]


class Choice:
    """Candidates, best first, and whether the first was taken to get to know it."""

    def __init__(
        self, candidates: Sequence[Candidate], explored: bool = False, reasons: Callable[[], dict[str, str]] = dict
    ) -> None:
        self.candidates = tuple(candidates)
        self.explored = explored
        self._reasons = reasons

    @cached_property
    def rejected(self) -> Mapping[str, str]:
        """Why each other offer was left out. Looked for when it is asked for: there may be thousands."""
        return {label: str(reason) for label, reason in self._found.items()}

    def explained(self, task: Task) -> Explanation:
        """Factor by factor."""
        considered = (
            Considered(
                node=each.provider.npub,
                name=each.provider.announcement.name,
                model=each.offer.id,
                expected_msat=each.expected_msat,
                hold_msat=each.hold_msat,
                score=each.score,
                factors=each.factors,
            )
            for each in self.candidates
        )
        return Explanation(task, tuple(considered), self.explored, dict(self.rejected))

    @property
    def cause(self) -> Cause:
        """What keeps nodes from serving, where none does."""
        return cause_of(self._found.values())

    @cached_property
    def _found(self) -> Mapping[str, str]:
        return self._reasons()


def choose(
    body: Mapping[str, Any],
    task: Task,
    providers: Sequence[Provider] | Market,
    purses: Sequence[Purse],
    *,
    endpoint: Endpoint = CHAT,
    wishes: Wishes | None = None,
    given: Circumstances | None = None,
    max_cost_msat: int | None = None,
    ignore: Collection[str] = (),
) -> Choice:
    """Rank the nodes for a request. `ignore` holds public keys that are not to be used. Raises BadRequest."""
    if wishes is None:
        wishes = Wishes(models=(str(body.get("model") or AUTO),))
    market = providers if isinstance(providers, Market) else Market(providers)
    given = given or Circumstances()
    screen = Screen(body, task, market, purses, wishes, given, max_cost_msat, ignore, endpoint)
    choosing = _Choosing(task, market, wishes, given, screen)
    candidates, explored = choosing.best()
    return Choice(candidates, explored, choosing.reasons)


class _Choosing:
    """One choice."""

    def __init__(self, task: Task, market: Market, wishes: Wishes, given: Circumstances, screen: Screen) -> None:
        self._task = task
        self._market = market
        self._wishes = wishes
        self._given = given
        self._screen = screen
        self._order = [place for places in market.named(wishes.order) for place in places]

    def best(self) -> tuple[list[Candidate], bool]:
        """The candidates, best first, and whether the first is there to be explored."""
        chosen: list[Candidate] = []
        explored = False
        for model in self._wishes.models:
            found = self._of_model(model)
            if model_first := not chosen:
                found, explored = self._drawn(found)
            chosen += found if model_first else sorted(found, key=_by_score)
        chosen = self._in_order(chosen)
        if not self._wishes.allow_fallbacks:
            chosen = chosen[:1]
        return chosen[:MOST_CANDIDATES], explored and not self._order

    def _of_model(self, name: str) -> list[Candidate]:
        """Those that will do, of one wanted model or of the models of the task's tier."""
        written = self._task.completion_tokens
        exponent = (
            PROFILES[self._wishes.profile].cost if self._wishes.sort is None else float(self._wishes.sort == "price")
        )
        weights = self._screen.weights()
        scores: list[float] = []
        offers: list[tuple[int, ModelOffer]] = []
        for model in self._wanted(name):
            if (stall := self._market.stalls.get(model)) is None:
                continue
            read = self._task.prompt_tokens
            scores += stall.scores(read, written, weights, exponent, self._task.read_at_once)
            offers += zip(stall.sellers, stall.offers, strict=True)
        return list(self._accepted(scores, offers))

    def _accepted(self, scores: Sequence[float], offers: Sequence[tuple[int, ModelOffer]]) -> Iterator[Candidate]:
        """The first that will do, cheapest first. Most choices need to look closely at a few only."""
        accepted = 0
        for row in _ascending(scores):
            if scores[row] == float("inf") or accepted >= MOST_CANDIDATES:
                return
            place, offer = offers[row]
            outcome = self._screen.candidate(place, offer)
            if isinstance(outcome, Candidate):
                accepted += 1
                yield outcome

    def _drawn(self, found: list[Candidate]) -> tuple[list[Candidate], bool]:
        """In the order in which they are asked: by score, but for the first, which is drawn."""
        found = sorted(found, key=_by_score)
        rng = self._given.rng
        if rng is None or self._wishes.sort is not None or len(found) < 2:
            return found, False
        best = found[0].score
        if self._given.explore and rng.random() < self._given.explore:
            unknown = [
                each
                for each in found[1:]
                if each.score <= EXPLORED * best
                and self._given.healths.of(each.provider.announcement.pubkey).wait_s is None
            ]
            if unknown:
                return _first(found, rng.choice(unknown)), True
        near = [each for each in found[:MOST_DRAWN] if each.score <= WIDEST * best]
        shares = [(best / each.score) ** EAGER if each.score else 1.0 for each in near]
        return _first(found, rng.choices(near, shares)[0]), False

    def _in_order(self, found: list[Candidate]) -> list[Candidate]:
        """Those that the request names first, in its order; then the others."""
        if not self._order:
            return found
        ranks = {
            self._market.providers[place].announcement.pubkey: rank
            for rank, place in reversed([*enumerate(self._order)])
        }
        return sorted(found, key=lambda each: ranks.get(each.provider.announcement.pubkey, len(ranks)))

    def _tier(self) -> Tier:
        """Of the task, and not below the one that was asked for."""
        if self._wishes.profile == "best":
            return "premium"
        wanted = self._wishes.tier
        return max(self._task.tier, wanted, key=TIERS.index) if wanted is not None else self._task.tier

    def _wanted(self, name: str) -> list[str]:
        return self._market.models_of(self._tier()) if name == AUTO else [name]

    def reasons(self) -> dict[str, str]:
        """Why each offer that is not among the candidates was left out."""
        rejected: dict[str, str] = {}
        wanted = {model for name in self._wishes.models for model in self._wanted(name)}
        for place, provider in enumerate(self._market.providers):
            label = provider.announcement.name[:MAX_LABEL] or provider.announcement.pubkey[:16]
            if (reason := self._screen.unusable(place, provider)) is not None:
                rejected[label] = reason
                continue
            for offer in provider.offers:
                outcome = self._screen.candidate(place, offer) if offer.id in wanted else "not the model that is wanted"
                if isinstance(outcome, str):
                    rejected[f"{label}: {offer.id}"] = outcome
        return rejected


def _ascending(scores: Sequence[float]) -> Iterator[int]:
    """The rows by score, and where that is the same in their order; looked through no further than is asked for."""
    limit = sorted(scores)[min(FIRST_LOOK, len(scores)) - 1] if scores else 0.0
    yield from sorted([row for row, score in enumerate(scores) if score <= limit], key=scores.__getitem__)
    yield from sorted((row for row, score in enumerate(scores) if score > limit), key=scores.__getitem__)


def _by_score(candidate: Candidate) -> tuple[float, int, str]:
    return candidate.score, candidate.hold_msat, candidate.provider.announcement.pubkey


def _first(found: list[Candidate], chosen: Candidate) -> list[Candidate]:
    return [chosen, *(each for each in found if each is not chosen)]
