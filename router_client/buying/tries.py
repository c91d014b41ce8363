"""What became of a request at the nodes that it was tried at, before one served it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from router_client.errors import (
    BudgetExceeded,
    ClientError,
    InsufficientFunds,
    NodeBrokeOff,
    NodeBusy,
    NodeError,
    NodeRefused,
    NodeTooDear,
    NodeUnavailable,
)
from router_client.routing.candidates import Candidate
from router_client.routing.reasons import Cause

MAX_TRIES: Final = 4
"""A request is paid for at this many nodes at most."""
MOST_UNPAID: Final = 16
"""So many more may refuse it, ask too much, or fail before anything is paid: else a few that do would stop everything."""
MAX_REASONS: Final = 30
NOT_ABOUT_THE_REQUEST: Final = (401, 402, 403, 404, 405, 409)
"""Answers of a node that say nothing against the request itself."""


class Tries:
    """Of one request."""

    def __init__(self, most: int = MAX_TRIES, most_unpaid: int = MOST_UNPAID) -> None:
        self._most = most
        self._most_unpaid = most_unpaid
        self._full: list[str] = []
        self._unpaid = 0
        self.failed: dict[str, str] = {}
        """What each node said that is not to be asked again, by its public key."""
        self.refusal: NodeRefused | None = None
        """One node's word against the request is not enough: the cheapest could stop everything with it."""
        self.over: BudgetExceeded | None = None
        """Where it is the budget alone that all failed by."""
        self._short = False
        """Whether it is the wallet alone that all failed by: its mint's fees were more than it had left."""
        self._broken: NodeBrokeOff | None = None
        self.doubted: list[Candidate] = []
        """Those that failed and gave the money back: that can be the request's fault as well."""
        self.lost_msat = 0
        """What they kept."""

    @property
    def are_over(self) -> bool:
        return self._unpaid >= self._most_unpaid or self._paid >= self._most

    @property
    def final(self) -> ClientError | None:
        """What the caller is to hear where nobody serves, if that is more than that nobody does."""
        return self.refusal or self.over or self._broken

    @property
    def cause(self) -> Cause:
        """What kept them all from serving."""
        return "money" if self._short else "now"

    @property
    def is_last(self) -> bool:
        """Whether no more than one may be paid now."""
        return self._paid + 1 >= self._most

    @property
    def _paid(self) -> int:
        return len(self.failed) - self._unpaid + len(self._full)

    @property
    def reasons(self) -> Iterator[str]:
        yield from self._full
        yield from self.failed.values()

    def note(self, candidate: Candidate, error: ClientError) -> None:
        """It did not serve. Who is full, and kept nothing, may be asked again."""
        said = f"{candidate.label}: {error}"
        self._unpaid += isinstance(error, NodeError) and not error.is_paid and not isinstance(error, NodeBusy)
        self.lost_msat += error.out_msat
        is_first = not self.failed and not self._full
        self.over = error if isinstance(error, BudgetExceeded) and (is_first or self.over) else None
        self._short = isinstance(error, InsufficientFunds) and (is_first or self._short)
        if isinstance(error, NodeBrokeOff):
            self._broken = error
        if isinstance(error, NodeBusy) and not error.out_msat:
            self._full.append(said)
            return
        if isinstance(error, NodeRefused) and error.status not in NOT_ABOUT_THE_REQUEST:
            self.refusal = self.refusal or error
        if isinstance(error, NodeUnavailable) and not isinstance(error, NodeBusy | NodeTooDear):
            self.doubted += [] if error.cheated or error.out_msat else [candidate]
        self.failed[candidate.provider.announcement.pubkey] = said


def why_none(rejected: Mapping[str, str], failed: Sequence[str], relay_failures: Mapping[str, str]) -> str:
    """Why no node serves, in one line for people."""
    reasons = [*(f"{name}: {reason}" for name, reason in rejected.items()), *dict.fromkeys(failed)]
    if reasons:
        told = reasons[-MAX_REASONS:]
        more = [f"{len(reasons) - len(told)} others do not fit either"] if len(reasons) > len(told) else []
        return "no node can serve this: " + "; ".join(told + more)
    if relay_failures:
        return "no node was found: " + "; ".join(relay_failures.values())
    return "no node is announced on these relays"
