"""What may still be spent: the account of what was, against the budget."""

from __future__ import annotations

from collections.abc import Callable

from relays.money import Msat
from router_client.errors import PriceUnknown
from router_client.paying.change import most_paid_msat, new_payment
from router_client.spending.account import Entry, Outcome, Spending
from router_client.spending.budget import Budget, BudgetFile, Window
from router_client.spending.rate import Rate

UNLIMITED = Budget()


class Allowance:
    """Without an account nothing is noted and nothing limited."""

    def __init__(
        self, spending: Spending | None = None, budget: Budget | BudgetFile = UNLIMITED, rate: Rate | None = None
    ) -> None:
        self.spending = spending
        self.budget = budget
        self._rate = rate

    @property
    def in_usd(self) -> bool:
        """Whether a limit is. Raises StorageError."""
        return self.spending is not None and self._told().in_usd

    @property
    def request_msat(self) -> int | None:
        """The limit of one request. Raises StorageError and PriceUnknown."""
        return self._limits().request_msat

    def left(self, session: str) -> dict[Window, Msat]:
        """Of each limit. Raises StorageError and PriceUnknown."""
        return self._limits().left(self.spending.spent(session)) if self.spending is not None else {}

    def _told(self) -> Budget:
        return self.budget.now() if isinstance(self.budget, BudgetFile) else self.budget

    def _limits(self) -> Budget:
        return self._told().at(None if self._rate is None else self._rate.msat_per_usd)

    def most_msat(self, session: str, wanted_msat: int | None) -> int | None:
        """The most that one request can cost: what was wanted, or less; None without a limit."""
        limits = [*self.left(session).values(), *(() if wanted_msat is None else (wanted_msat,))]
        return min(limits, default=None)

    def check(self, session: str, hold_msat: int) -> None:
        """Raises BudgetExceeded."""
        if self.spending is not None:
            self._limits().check(self.spending.spent(session), hold_msat)

    async def reserve(
        self, session: str, model: str, tier: str, node: str, hold_msat: int, limit_msat: int | None = None
    ) -> tuple[str, int]:
        """Take a hold out of what is left, and what its token may be worth beyond it where there is that much, within the
        request's own limit. Returns the entry's name, which its payment is to have, and what was taken. Raises
        BudgetExceeded."""
        name, most_msat = new_payment(), most_paid_msat(hold_msat)
        if limit_msat is not None:
            most_msat = max(hold_msat, min(most_msat, limit_msat))
        if self.spending is None:
            return name, most_msat
        entry = Entry(name, session, model, node, tier, hold_msat, most_msat)
        return name, await self.spending.reserve(entry, self._limits())

    async def end(self, name: str, kept_msat: int) -> None:
        """Money that was out is back but for so much."""
        if self.spending is not None:
            await self.spending.end(name, kept_msat)

    async def end_unpaid(self, older_than_s: float, is_paid: Callable[[str], bool]) -> None:
        """What was reserved at least that long ago and was cut off before its payment was begun is free again."""
        for name in self.spending.reserved(older_than_s) if self.spending is not None else ():
            if not is_paid(name):
                await self.release(name)

    async def release(self, name: str) -> None:
        """Nothing was served."""
        if self.spending is not None:
            await self.spending.release(name)

    async def settle(self, name: str, session: str, outcome: Outcome) -> Msat | None:
        """It cost that much. Returns what is left of the tightest limit."""
        if self.spending is None:
            return None
        await self.spending.settle(name, outcome)
        try:
            return min(self.left(session).values(), default=None)
        except PriceUnknown:  # it has become too old since: the answer is there and paid all the same
            return None

    async def save(self, name: str, saved_msat: int) -> None:
        """That request saved no more than that: others were paid for the same."""
        if self.spending is not None and name:
            await self.spending.save(name, saved_msat)

    async def grade(self, request_id: str, quality: float) -> bool:
        """How good that request's answer was, from 0 to 1, in the place of what was thought of it; False when there is no
        account, or no such request in it."""
        return self.spending is not None and await self.spending.grade(request_id, quality)
