"""Plain nodes: those that announce themselves by RIP-02 alone and tell their prices at `GET /v1/models`, in sats.

Their form is Routstr's (RIP-05): `sats_pricing` in sats per token, and `max_cost`, what one request has to bring with it.
Ours is whole msat per million tokens, rounded up: what is expected to be charged is never more than what is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

import msgspec

from relays.announcement import ModelOffer
from relays.bounds import ModelLimits
from relays.money import MAX_MSAT, MSAT_PER_SAT
from relays.pricing import TOKENS_PER_PRICE, ModelPrice

MAX_MODELS: Final = 2000
MAX_CONTEXT: Final = 100_000_000


class Listed(msgspec.Struct, frozen=True):
    """A model of a plain node."""

    offer: ModelOffer
    least_msat: int
    """A request that brings less is refused; what it does not cost comes back as change."""


def listed(entries: Iterable[object]) -> tuple[Listed, ...]:
    """What of a list of models can be bought; entries without a price are left out: a missing price is not zero."""
    found: dict[str, Listed] = {}
    for entry in entries:
        if len(found) < MAX_MODELS and isinstance(entry, dict) and (model := _listed(entry)) is not None:
            found[model.offer.id] = model
    return tuple(found.values())


def _listed(entry: Mapping[str, Any]) -> Listed | None:
    prices, id_, context = entry.get("sats_pricing"), entry.get("id"), entry.get("context_length")
    if not isinstance(prices, dict) or entry.get("enabled") is False:
        return None
    if not (isinstance(id_, str) and 0 < len(id_) <= 200 and type(context) is int and 0 < context <= MAX_CONTEXT):
        return None
    top = entry.get("top_provider")
    longest = top.get("max_completion_tokens") if isinstance(top, dict) else None
    if type(longest) is not int or not 0 < longest <= context:
        longest = context
    read, written = (_msat(prices.get(name), TOKENS_PER_PRICE) for name in ("prompt", "completion"))
    request, most = _msat(prices.get("request") or 0), _msat(prices.get("max_cost") or 0)
    if read is None or written is None or request is None or most is None:
        return None
    return Listed(ModelOffer(id_, ModelLimits(context, longest), ModelPrice(read, written, request)), most)


def _msat(sats: object, times: int = 1) -> int | None:
    """Sats as JSON has them, in whole msat rounded up; None for what is no price."""
    if isinstance(sats, bool) or not isinstance(sats, int | float | str):
        return None
    try:
        exact = Decimal(str(sats)[:40]) * MSAT_PER_SAT * times
        if not exact.is_finite() or not 0 <= exact <= MAX_MSAT:
            return None
        return int(exact.to_integral_value(rounding=ROUND_CEILING))
    except ArithmeticError:  # whatever a number of theirs is too large or too odd for
        return None
