"""The simulation sees what it is there to see: each of these bugs, planted, is found by the same few seeds."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from node.errors import LedgerError
from relays.receipt import Receipt
from tests.simulation.oracle import Broken
from tests.simulation.simulation import simulate

SEEDS, STEPS = 6, 250


def returns(value: object) -> Any:
    """What does nothing and says so."""

    async def nothing(*_: object, **__: object) -> object:
        return value

    return nothing


def charged_the_hold(**fields: Any) -> Receipt:
    """As peers do after a timeout."""
    return Receipt(**{**fields, "cost_msat": fields["hold_msat"]})


BUGS = {
    "a void frees nothing": ("node.ledger.page.Page._release", lambda *_: True),
    "holds of a crash stay": ("node.ledger.ledger.Ledger.expire_orphans", returns(0)),
    "a lost reply is not restored": ("router_client.ecash.operations.Operations._restored", returns({})),
    "a deposit is not gone on with": ("node.deposits.Deposits._resume", returns(0)),
    "a refund whose answer was lost is not told of again": ("node.refunds.Refunds._still_out", returns([])),
    "what redemptions save is booked nowhere": ("node.redemptions.Redemptions._book", returns(None)),
    "every request costs its hold": ("node.completions.Receipt", charged_the_hold),
    "a refund ends while its hold stays": ("node.ledger.holds.pay_out", lambda *_: iter(())),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, folder: Path) -> None:
    target, bug = BUGS[name]
    with mock.patch(target, bug), pytest.raises(Broken) as found:
        for number in itertools.count():
            if number == SEEDS:
                pytest.fail("nobody saw it")
            simulate(folder / str(number), f"planted {number}", STEPS)
    assert isinstance(found.value.__cause__, Broken | LedgerError), "it is seen for what it does to money"
