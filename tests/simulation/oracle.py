"""What every balance must be, kept beside the node by the few rules that its callers were promised.

Nothing here asks the ledger's code. What is in doubt (an answer was lost) stays in doubt until `settle` can know it: the
mint says whether a token was taken, and the node's own sums must then be one of those that are possible.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from node.metering.tokens import count
from relays.money import ceil_div
from router_client.ecash.token import Token, decode
from tests.simulation.alone import Blocks
from tests.simulation.mint import MSAT_PER_UNIT, Mint
from tests.simulation.upstream import Script
from tests.simulation.world import COMPLETION_MSAT, PROMPT_MSAT

TEMPLATE_TOKENS, BYTES_PER_TOKEN = 64, 4
FEE_PPK = 100


class Broken(AssertionError):
    """The node broke a promise."""


def check(holds: object, what: str) -> None:
    """Raise Broken unless it holds."""
    if not holds:
        raise Broken(what)


class Balance(msgspec.Struct, eq=False):
    """One balance at the node as its owner knows it, in msat."""

    name: str
    bearer: str
    unit: str = "msat"
    paid_in: int = 0
    granted: int = 0
    spent: int = 0
    refunded: int = 0
    may_be_held: bool = False
    """Whether a request failed in a way that leaves its hold until it expires."""
    active: int = 0
    """Exchanges about it that are under way."""
    begun: int = 0
    """Exchanges about it so far: whether another one began meanwhile."""
    doubtful_spending: list[frozenset[int]] = []
    """What each request whose end was not seen may have cost."""
    doubtful_tokens: list[str] = []
    """Tokens that were sent and of which no answer told what became."""
    unseen_invoices: int = 0
    """Paid, and not seen credited."""
    refund_lost: bool = False
    """Whether an answer to a refund was lost: there may be a token that its owner does not have yet."""
    refunds: Blocks = msgspec.field(default_factory=Blocks)
    """In which its refund is asked for."""
    refund_tokens: list[str] = []
    untold_fees: int = 0
    """Refunds of which only the token is known, not what the mint took for making it."""
    child: str = ""
    child_limit: int = 0
    child_spending: list[frozenset[int]] = []

    @property
    def total(self) -> int:
        """What is the owner's, as far as it is known."""
        return self.paid_in + self.granted - self.spent - self.refunded

    @property
    def refundable(self) -> int:
        """Granted credit is not paid out; it is spent first."""
        return min(self.total, self.paid_in - self.refunded)

    @property
    def certain(self) -> bool:
        """Whether nothing is in doubt or under way."""
        doubts = self.doubtful_spending or self.doubtful_tokens or self.refund_lost or self.untold_fees
        return not (doubts or self.unseen_invoices or self.may_be_held or self.active)

    def charge(self, costs: frozenset[int]) -> None:
        """A request of the balance is over, and cost one of these."""
        if len(costs) == 1:
            self.spent += min(costs)
        else:
            self.doubtful_spending.append(costs)

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """A block in which something is under way about it."""
        self.active += 1
        self.begun += 1
        try:
            yield
        finally:
            self.active -= 1


def token_fee(token: Token) -> int:
    """What the mint takes for swapping a token, in its unit."""
    return ceil_div(len(token.proofs) * FEE_PPK, 1000)


def worth_msat(text: str) -> int:
    """What a token brings to whoever swaps it."""
    token = decode(text)
    return (token.amount - token_fee(token)) * MSAT_PER_UNIT[token.unit]


def is_taken(mint: Mint, text: str) -> bool:
    """Whether the token's coins are spent: all of them or none."""
    spent = {mint.is_spent(proof.secret) for proof in decode(text).proofs}
    check(len(spent) == 1, "half of a token is spent")
    return spent.pop()


def hold_msat(messages: list[Mapping[str, str]], max_tokens: int) -> int:
    """The most a request can cost: a token a byte read, with room for a template, and all tokens that it asks for."""
    read = len(msgspec.json.encode({"messages": messages})) + TEMPLATE_TOKENS
    return read * PROMPT_MSAT + max_tokens * COMPLETION_MSAT


def reported_msat(script: Script, hold: int) -> int:
    """The price of the usage that the model's server reports; never above the hold."""
    return min(hold, script.prompt_tokens * PROMPT_MSAT + script.pieces * COMPLETION_MSAT)


def counted_msat(messages: list[Mapping[str, str]], pieces: int, hold: int) -> int:
    """The price of what was written, where nobody reports usage: a piece is a token, and a message four beside its own."""
    read = count("\n".join(message["content"] for message in messages)) + 4 * len(messages)
    written = pieces
    return min(hold, read * PROMPT_MSAT + written * COMPLETION_MSAT)


def possible_sums(options: Iterable[frozenset[int]]) -> frozenset[int]:
    """All that a choice of one from each can sum up to."""
    sums = frozenset({0})
    for each in options:
        sums = frozenset(a + b for a, b in itertools.product(sums, each))
    return sums
