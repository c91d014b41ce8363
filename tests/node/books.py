"""Books to test with, on both databases: a ledger, a door to its tables, and callers with money."""

from __future__ import annotations

import itertools
import sqlite3
from typing import Any

from node.ledger.ledger import Ledger
from node.ledger.model import (
    Account,
    Deposit,
    Key,
    Limits,
    Payout,
    Refund,
)
from relays.money import MAX_MSAT
from tests.conftest import connected

MINT = "https://mint.example"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Books:
    """A ledger, and a door to its tables behind its back."""

    def __init__(self, ledger: Ledger, url: str) -> None:
        self.ledger = ledger
        self.url = url

    async def forge_the_final(self, statement: str) -> None:
        """Change even what has ended, as who may change the tables themselves can."""
        on = "" if self.url.startswith("sqlite:///") else " ON holds"
        await self.forge("DROP TRIGGER holds_final" + on)
        await self.forge(statement)

    async def forge(self, statement: str) -> None:
        """Change the tables by hand."""
        if self.url.startswith("sqlite:///"):
            with sqlite3.connect(self.url.removeprefix("sqlite:///")) as conn:
                conn.execute(statement)
            conn.close()
        else:
            async with connected(self.url) as pg:
                await pg.execute(statement)


numbers = itertools.count()


async def key(ledger: Ledger, grant_msat: int = 0) -> Key:
    name = f"hash {next(numbers)}"
    await ledger.create_key(name, "sk-…x", "", grant_msat)
    made = await ledger.key_of(name)
    assert made is not None
    return made


async def child(ledger: Ledger, parent: Key, **limits: Any) -> Key:
    name = f"hash {next(numbers)}"
    await ledger.create_child(parent, name, "sk-…c", "", Limits(**limits))
    made = await ledger.key_of(name)
    assert made is not None
    return made


async def state(ledger: Ledger, key: Key) -> Account:
    return await ledger.account(key.account)


def deposit(name: str, account: int | None = None, amount: int = 1000) -> Deposit:
    return Deposit(
        id=name,
        purpose="open" if account is None else "topup",
        account=account,
        state="open",
        mint=MINT,
        unit="msat",
        amount_msat=amount,
        fee_msat=0,
        reason="",
    )


async def paid_in(ledger: Ledger, amount_msat: int) -> Key:
    name = f"deposit {next(numbers)}"
    await ledger.begin_deposit(deposit(name, amount=amount_msat))
    await ledger.credit_deposit(name, amount_msat, 0)
    made = await ledger.key_of(name)
    assert made is not None
    return made


def wish(account: Key, name: str, unit: str = "msat") -> Refund:
    return Refund(
        id=name, account=account.account, state="open", mint=MINT, unit=unit, amount_msat=MAX_MSAT, fee_msat=0, token=""
    )


async def begun(ledger: Ledger, account: Key, name: str, unit: str = "msat") -> Refund:
    refund = await ledger.begin_refund(wish(account, name, unit))
    assert isinstance(refund, Refund)
    return refund


def payout(amount_msat: int, name: str = "p1") -> Payout:
    return Payout(
        id=name,
        state="open",
        mint=MINT,
        unit="msat",
        amount_msat=amount_msat,
        fee_msat=0,
        recipient="op@example.com",
        instance="",
        created_at=0,
    )
