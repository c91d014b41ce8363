"""Why an offer will not do, and so whether it is of any use to ask again. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Cause = Literal["now", "request", "length", "money"]
"""What keeps nodes from serving: how things are at the moment, what was asked for, and that is its length alone, or what is
in the wallet. Only the first changes by itself."""


class Reason(str):
    """In words for people; of an offer that is wanted, and whose node is there."""

    cause: Cause = "now"


class OfRequest(Reason):
    """It asks for what this offer never has, or allows less than it costs."""

    cause = "request"


class OfLength(Reason):
    """Its prompt is longer than this model's context."""

    cause = "length"


class OfMoney(Reason):
    """The wallet cannot pay it."""

    cause = "money"


def cause_of(reasons: Iterable[str]) -> Cause:
    """Of them all: money where that would do, the request where nothing else is in the way of a node that is there."""
    causes = {reason.cause for reason in reasons if isinstance(reason, Reason)}
    if not causes or "now" in causes:
        return "now"
    return "money" if "money" in causes else "length" if causes == {"length"} else "request"
