"""Callers: people with wallets of their own, who pay in, ask, take back, lose answers and ask again.

Each does one thing with one balance, checks the answer against what it was promised, and notes what it cannot know.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping
from typing import Any

from node.deposits import new_key
from node.ledger.model import Limits
from relays.money import MSAT_PER_SAT
from router_client.ecash.token import Token, decode, token_hash
from tests.simulation.mint import MSAT_PER_UNIT
from tests.simulation.oracle import (
    Balance,
    check,
    counted_msat,
    hold_msat,
    is_taken,
    reported_msat,
    worth_msat,
)
from tests.simulation.purse import Purse
from tests.simulation.upstream import MODEL, PIECE, Script
from tests.simulation.world import Answer, World

FREE: frozenset[int] = frozenset({0})
_CHANGE = re.compile(rb": x-cashu (cashu\S+)")


class Caller:
    """One caller and its balances."""

    def __init__(self, world: World, purse: Purse, chance: random.Random) -> None:
        self.world = world
        self.purse = purse
        self.balances: list[Balance] = []
        self.invoices: dict[str, tuple[int, Balance | None]] = {}
        """Invoices that were paid and not seen credited: over how much, and for which balance, or for a new one."""
        self._chance = chance
        self._count = 0

    # money in --------------------------------------------------------------------------------------------------------

    async def open(self, *, with_key: bool) -> str:
        """Make a balance from a token: by using it as the bearer, or by asking for a key."""
        text = await self.purse.token(*self._amount())
        return await self.open_with(text, with_key=with_key)

    async def open_with(self, text: str, *, with_key: bool, contested: bool = False) -> str:
        """The same with a token that may be going elsewhere, too."""
        self._count += 1
        balance = Balance(f"{self.purse.name}{self._count}", text, decode(text).unit, doubtful_tokens=[text])
        if not contested:
            self.balances.append(balance)
        if with_key:
            body = {"initial_balance_token": text}
            answer = await self.world.request("POST", "/v1/balance/create", json=body)
        else:
            answer = await self.world.request("GET", "/v1/balance/info", bearer=text)
        if answer.status == 200:
            self._taken(balance, text)
            check(answer.json["balance"] == balance.paid_in, f"{balance.name} does not begin with its token's worth")
            if with_key:
                balance.bearer = answer.json["api_key"]
            if contested:
                self.balances.append(balance)
        self._check_refused_token(answer, fresh=not contested)
        return f"open {balance.name} {answer.status}"

    async def top_up(self, balance: Balance, text: str | None = None) -> str:
        """Add a token to a balance; or send one again whose fate is not known."""
        fresh = text is None
        if text is None:
            text = await self.purse.token(*self._amount())
            balance.doubtful_tokens.append(text)
        return await self.pay_in(balance, text, fresh=fresh)

    async def pay_in(self, balance: Balance, text: str, *, fresh: bool) -> str:
        """The request of a top-up."""
        body = {"cashu_token": text}
        with balance.exchange():
            answer = await self.world.request("POST", "/v1/balance/topup", bearer=balance.bearer, json=body)
            if answer.status == 200:
                self._taken(balance, text)
                check(answer.json["msats"] == worth_msat(text), "a top-up was credited with another sum than its worth")
                token = decode(text)
                fee_msat = token.amount * MSAT_PER_UNIT[token.unit] - worth_msat(text)
                check(answer.json["fee_msats"] == fee_msat, "a top-up's fee is told wrongly")
        self._check_refused_token(answer, fresh=fresh)
        return f"topup {balance.name} {answer.status} {answer.code}"

    async def pay_invoice(self, balance: Balance | None) -> str:
        """Pay in over Lightning, for a balance or for a new one."""
        amount_sats = self._chance.choice([1, 2, 4, 8, 16])
        bearer, purpose = (None, "create") if balance is None else (balance.bearer, "topup")
        body = {"amount_sats": amount_sats, "purpose": purpose}
        answer = await self.world.request("POST", "/v1/balance/lightning/invoice", bearer=bearer, json=body)
        check(answer.status != 500, "the node failed inside")
        if answer.status == 200:
            self.world.mint.pay(answer.json["bolt11"])
            self.invoices[answer.json["invoice_id"]] = amount_sats * MSAT_PER_SAT, balance
            if balance is not None:
                balance.begun += 1
                balance.unseen_invoices += 1
            await self.look_at(answer.json["invoice_id"])
        return f"invoice {purpose} {answer.status}"

    async def look_at(self, invoice: str) -> None:
        """Whether a paid invoice is credited: to the balance it is for, or to a new key."""
        answer = await self.world.request("GET", f"/v1/balance/lightning/invoice/{invoice}/status")
        check(answer.status in (200, 503), f"a paid invoice is {answer.status}")
        if answer.status == 200 and answer.json["status"] == "paid" and invoice in self.invoices:
            amount_msat, balance = self.invoices.pop(invoice)
            check(answer.json["msats"] == amount_msat, "an invoice was credited with another sum than was paid")
            if balance is None:
                self._count += 1
                balance = Balance(f"{self.purse.name}{self._count}!", answer.json["api_key"], unseen_invoices=1)
                self.balances.append(balance)
            balance.paid_in += amount_msat
            balance.unseen_invoices -= 1

    def _taken(self, balance: Balance, text: str) -> None:
        check(text in self.purse.unsure, f"{balance.name}: a token was credited twice")
        self.purse.unsure.remove(text)
        if text in balance.doubtful_tokens:
            balance.doubtful_tokens.remove(text)
        balance.paid_in += worth_msat(text)
        taken = text in self.purse.locked or is_taken(self.world.mint, text)
        check(taken, "a token was credited that the mint does not know as spent")

    def _check_refused_token(self, answer: Answer, *, fresh: bool) -> None:
        check(answer.status != 500, "the node failed inside")
        check(answer.status != 409 or not fresh, "a fresh token was called spent")

    def _amount(self) -> tuple[int, str]:
        # Of few coins: each costs a millisecond to make and to take in.
        unit, bits = self._chance.choice([("sat", 0), ("msat", 10), ("msat", 10), ("msat", 12)])
        if self._chance.random() < 0.1:
            return self._chance.randint(1, 9), "msat"
        return self._chance.choice([1, 2, 3, 4, 5, 6, 8, 9, 12]) << bits, unit

    # requests --------------------------------------------------------------------------------------------------------

    async def chat(
        self,
        balance: Balance,
        script: Script,
        *,
        stream: bool,
        leaves: int = 0,
        child: bool = False,
        cash: bool = False,
    ) -> str:
        """Ask once; a caller who `leaves` does so after that many pieces. With `cash`, the bearer is sent as X-Cashu."""
        name, body, hold = self._question(script, stream=stream)
        answer = Answer()
        machine, struck = self.world.machine, len(self.world.machine.struck)
        with balance.exchange():
            try:
                await self.world.request(
                    "POST",
                    "/v1/chat/completions",
                    bearer=None if cash else balance.child if child else balance.bearer,
                    headers={"x-cashu": balance.bearer} if cash else {},
                    json=body,
                    leaves=lambda body: 0 < leaves <= body.count(PIECE.encode()),
                    answer=answer,
                )
            finally:
                costs = _costs(script, answer, body["messages"], hold, stream=stream, left=bool(leaves))
                if answer.status == 200 and answer.whole and not stream:
                    cost = int(answer.headers["x-satroute-cost-msat"])
                    check(cost in costs, f"{name} cost {cost}, not one of {sorted(costs)}")
                    costs = frozenset({cost})
                elif machine.dead or len(machine.struck) > struck:
                    costs |= FREE
                    balance.may_be_held = True
                balance.charge(costs)
                if child:
                    balance.child_spending.append(costs)
                if cash:
                    self._change(balance, answer)
        check(answer.status != 500, "the node failed inside")
        return f"chat {name} {script.act} {answer.status} {answer.code}"

    async def pay_and_ask(self, script: Script, *, stream: bool, locked: bool, leaves: int = 0) -> str:
        """Ask with a token in the request, perhaps locked to the node; the change comes with the answer."""
        lock = self.world.node.wallet.lock_key if locked else None
        text = await self.purse.token(*self._amount(), lock=lock)
        self._count += 1
        balance = Balance(f"{self.purse.name}{self._count}$", text, decode(text).unit, doubtful_tokens=[text])
        self.balances.append(balance)
        with self.world.taking_coins.block():  # the change
            return "cash " + await self.chat(balance, script, stream=stream, leaves=leaves, cash=True)

    async def ask_twice(self, balance: Balance, script: Script, *, together: bool) -> str:
        """One question sent twice under one name: it is served once and paid once."""
        name, body, hold = self._question(script, stream=False)
        machine, struck = self.world.machine, len(self.world.machine.struck)
        answers: list[Answer] = []

        async def once() -> None:
            answer = Answer()
            headers = {"idempotency-key": name}
            path, bearer = "/v1/chat/completions", balance.bearer
            await self.world.request("POST", path, bearer=bearer, headers=headers, json=body, answer=answer)
            answers.append(answer)

        with balance.exchange():
            try:
                if together:
                    await asyncio.gather(once(), once())
                else:
                    await once()
                    await once()
            finally:
                served = [answer for answer in answers if answer.status == 200]
                cost = (
                    reported_msat(script, hold)
                    if script.reports
                    else _counted(script, body["messages"], script.pieces, hold)
                )
                faulty = machine.dead or len(machine.struck) > struck
                balance.may_be_held |= faulty
                costs = frozenset({cost}) if script.act == "serve" and script.reached else FREE
                balance.charge(costs | FREE if faulty and not served else costs)
        check(all(answer.body == served[0].body for answer in served), "one question has two answers")
        check(all(answer.status != 500 for answer in answers), "the node failed inside")
        return f"twice {name} {script.act} {sorted(answer.status for answer in answers)}"

    def _question(self, script: Script, *, stream: bool) -> tuple[str, dict[str, Any], int]:
        """Its name, by which the model's server knows what to do; the request; and what it can cost at most."""
        self._count += 1
        name = f"{self.purse.name} {self._count}"
        self.world.upstream.scripts[name] = script
        messages: list[Mapping[str, str]] = [{"role": "user", "content": name}]
        max_tokens = script.asked_for = self._chance.choice([1, 8, 40])
        body = {"model": MODEL, "max_tokens": max_tokens, "messages": messages, "stream": stream}
        return name, body, hold_msat(messages, max_tokens)

    def _change(self, balance: Balance, answer: Answer) -> None:
        """Take the change that came with an answer, in its head or in its stream."""
        balance.refund_lost = True
        comment = _CHANGE.search(answer.body)
        text = comment[1].decode() if comment else answer.headers.get("x-cashu", "")
        if answer.status == 200 and balance.bearer in self.purse.unsure:
            self._taken(balance, balance.bearer)
        if text.startswith("cashu"):
            msats = _face_msat(decode(text))
            if self._is_new(balance, text, msats):
                balance.refunded += msats
                balance.untold_fees += 1

    # money out -------------------------------------------------------------------------------------------------------

    async def refund(self, balance: Balance) -> str:
        """Ask for what is left; the answer may be one that was given before."""
        due = balance.refundable
        certain = balance.certain and due <= self.world.most_of_one_unit_msat()
        balance.refund_lost = True
        with balance.exchange(), balance.refunds.block() as only_one, self.world.taking_coins.block() as alone:
            before = balance.begun
            answer = await self.world.request("POST", "/v1/balance/refund", bearer=balance.bearer)
            # Coins of one unit that others take meanwhile leave a part for the next refund.
            certain = certain and alone()
            check(answer.status != 500, "the node failed inside")
            # The answer to another one beside it may be lost still.
            balance.refund_lost = answer.status >= 500 or not only_one()
            if answer.status == 200:
                self._refunded(balance, answer.json, due if certain and before == balance.begun else None)
        return f"refund {balance.name} {answer.status} {answer.code}"

    def _refunded(self, balance: Balance, told: Mapping[str, Any], expected: int | None) -> None:
        for earlier in told.get("earlier", ()):
            if self._is_new(balance, earlier["token"], earlier["msats"]):
                balance.refunded += earlier["msats"]
                balance.untold_fees += 1
                expected = None
        if not self._is_new(balance, told["token"], told["msats"]):
            return
        paid = told["msats"] + told["fee_msats"]
        balance.refunded += paid
        if expected is not None:
            due = expected - expected % MSAT_PER_UNIT[decode(told["token"]).unit]
            check(paid == due, f"refunded {paid} of {expected} msat")

    def _is_new(self, balance: Balance, text: str, msats: int) -> bool:
        """Take a refund's token, unless it was given before."""
        if text in balance.refund_tokens:
            return False
        check(_face_msat(decode(text)) == msats, "a refund's token has another face value than the answer says")
        check(not is_taken(self.world.mint, text), "a refund's token was spent before it was given")
        balance.refund_tokens.append(text)
        self.purse.refunds.append(text)
        return True

    # keys ------------------------------------------------------------------------------------------------------------

    async def make_child(self, balance: Balance) -> str:
        """A key that spends from the balance within a limit."""
        ledger = self.world.node.ledger
        parent = await self.world.attempt(ledger.key_of(token_hash(balance.bearer)))
        if parent is None:
            return "child of nobody"
        made, limit = new_key(), self._chance.randint(100, 2000)
        making = ledger.create_child(parent, made.hash, made.hint, "", Limits(spend_limit_msat=limit))
        await self.world.attempt(making)
        balance.child, balance.child_limit, balance.child_spending = made.text, limit, []
        return f"child of {balance.name}"

    async def rotate(self, balance: Balance) -> str:
        """Another key for the balance; the old one is good until the new one is used."""
        ledger = self.world.node.ledger
        key = await self.world.attempt(ledger.key_of(token_hash(balance.bearer)))
        if key is None:
            return "rotate nobody"
        made = new_key()
        if await self.world.attempt(ledger.rotate_key(key.id, made.hash, made.hint)):
            balance.bearer = made.text
        return f"rotate {balance.name}"


def _counted(script: Script, messages: list[Mapping[str, str]], pieces: int, hold: int) -> int:
    """The price of so many pieces that nobody reports: no more are counted than were asked for."""
    return counted_msat(messages, min(pieces, script.asked_for), hold)


def _costs(
    script: Script,
    answer: Answer,
    messages: list[Mapping[str, str]],
    hold: int,
    *,
    stream: bool,
    left: bool,
) -> frozenset[int]:
    """What a request that nothing disturbed on the node's side may have cost."""
    if answer.status not in (0, 200) or not script.reached:
        return FREE
    if not stream:
        if script.act != "serve":
            return FREE
        served = reported_msat(script, hold) if script.reports else _counted(script, messages, script.pieces, hold)
        return frozenset({served}) if answer.whole else frozenset({served, 0})
    whole = reported_msat(script, hold) if script.reports else _counted(script, messages, script.pieces, hold)
    if answer.whole and not left:
        if script.act == "serve":
            return frozenset({whole})
        return frozenset({_counted(script, messages, script.written, hold)}) if script.written else FREE
    heard = answer.body.count(PIECE.encode())
    costs = {_counted(script, messages, pieces, hold) for pieces in range(max(1, heard), script.written + 1)}
    if script.written == script.pieces and script.act == "serve":
        costs.add(whole)
    return frozenset(costs) if heard else frozenset(costs | {0})


def _face_msat(token: Token) -> int:
    return token.amount * MSAT_PER_UNIT[token.unit]
