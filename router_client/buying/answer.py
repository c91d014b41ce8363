"""What a caller gets for a request, and the request before anything is paid."""

from __future__ import annotations

from typing import Any

import msgspec

from relays.endpoints import CHAT, Endpoint
from relays.event import Event
from relays.money import Msat
from relays.pricing import Usage
from relays.receipt import Receipt
from router_client.buying.cascade import Step
from router_client.complexity import Task, Tier
from router_client.routing.feedback import Picked
from router_client.routing.wishes import Wishes
from router_client.selection import Explanation


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, what it cost, and whether the node's receipt for it holds."""

    text: str
    choices: tuple[dict[str, Any], ...] = ()
    """Of OpenAI's chat completion: `index`, `message` with its `tool_calls`, `finish_reason`, `logprobs`."""
    body: dict[str, Any] | None = None
    """The answer in its endpoint's own form as its node gave it, top level parsed, where that has no choices."""
    request_id: str
    node: str
    """The node's npub."""
    node_name: str
    model: str
    tier: Tier
    usage: Usage
    cost_msat: Msat
    """With all that the request cost on the way to this answer."""
    lost_msat: Msat = Msat(0)
    """Of it, what nodes kept that did not serve."""
    saved_msat: Msat
    """Against the strongest model that is sold, at the price of its cheapest node for the same usage."""
    explored: bool
    """The node was taken to get to know it."""
    wait_ms: int
    """From the request to the first word."""
    finish_reason: str = ""
    confidence: float | None = None
    """How likely it is right, by its text; None for a premium model's, whom there is nobody to judge."""
    steps: tuple[Step, ...] = ()
    """The other answers of a cascade; their cost is in `cost_msat`."""
    budget_left_msat: Msat | None = None
    """Of the tightest limit; None where nothing is limited."""
    verified: bool
    problem: str | None
    """Why it is not verified."""
    receipt: Receipt | None
    receipt_event: Event | None
    settled: bool
    """False when the change is still at the node; `RouterClient.recover` fetches it."""
    explanation: Explanation | None = None
    """Why its node was chosen, where the request wanted to know."""
    entry: str = ""
    """Its row's name in the account of what was spent."""

    def after(self, lost_msat: int) -> Answer:
        """The same, where nodes that did not serve kept so much."""
        if not lost_msat:
            return self
        return msgspec.structs.replace(
            self,
            cost_msat=Msat(self.cost_msat + lost_msat),
            lost_msat=Msat(self.lost_msat + lost_msat),
            saved_msat=Msat(max(0, self.saved_msat - lost_msat)),
        )


class Plan(msgspec.Struct, frozen=True):
    """One request, before anything is paid."""

    wishes: Wishes
    request: dict[str, Any]
    task: Task
    picked: Picked
    max_cost_msat: int | None
    asked: dict[str, Any]
    """The request in the words of chat, by which it is judged."""
    endpoint: Endpoint = CHAT
    explain: bool = False

    def at(self, tier: Tier, max_cost_msat: int | None) -> Plan:
        """The same for a model of that tier."""
        limits = [limit for limit in (self.max_cost_msat, max_cost_msat) if limit is not None]
        return msgspec.structs.replace(
            self,
            wishes=msgspec.structs.replace(self.wishes, tier=None),
            task=msgspec.structs.replace(self.task, tier=tier),
            picked=msgspec.structs.replace(self.picked, tier=tier),
            max_cost_msat=min(limits, default=None),
        )
