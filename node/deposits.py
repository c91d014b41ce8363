"""Money in: a Cashu token becomes a balance, once.

Boundaries, each committed before the next begins:

    1. ledger   the deposit's intent, under the hash of the token string
    2. wallet   the swap's journal; the swap at the mint; the coins
    3. ledger   one credit of what arrived, after the mint's fee

A crash or a lost reply between any two is finished by asking again with the same token, or by `recover`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Final

import msgspec

from node.errors import NodeFault, Refusal
from node.ledger.ledger import Ledger
from node.ledger.model import Deposit, DepositPurpose
from node.tasks import Tasks
from relays import payment
from relays.money import Msat
from router_client.ecash import token as token_codec
from router_client.ecash.outcomes import Received
from router_client.ecash.token import Token, token_hash
from router_client.ecash.wallet import Wallet
from router_client.errors import (
    ClientError,
    ForeignMint,
    MintMisbehaved,
    MintUnavailable,
    TokenRefused,
    TokenSpent,
    TokenUnreadable,
    WalletError,
    WrongUnit,
)

log = logging.getLogger(__name__)

KEY_BYTES: Final = 32
RECOVER_AFTER_S: Final = 60
"""A deposit under way is left alone for this long before a sweep goes on with it."""


class NewKey(msgspec.Struct, frozen=True):
    """A key that is shown once and stored as its hash."""

    text: str
    hash: str
    hint: str


class Credited(msgspec.Struct, frozen=True):
    """What a token brought."""

    account: int
    amount_msat: Msat
    fee_msat: Msat


def new_key() -> NewKey:
    """A fresh random `sk-…`."""
    text = f"sk-{secrets.token_urlsafe(KEY_BYTES)}"
    return NewKey(text, token_hash(text), f"sk-…{text[-4:]}")


class Deposits:
    """Redeems tokens of the accepted mints."""

    def __init__(self, ledger: Ledger, wallet: Wallet, tasks: Tasks, mints: tuple[str, ...]) -> None:
        self._ledger = ledger
        self._wallet = wallet
        self._tasks = tasks
        self._mints = mints
        self._under_way: dict[str, tuple[DepositPurpose, asyncio.Task[Credited]]] = {}

    async def open_account(self, text: str, key: NewKey | None = None) -> Credited:
        """Redeem a token into a new account, named by the token string and, if given, by a key.

        Raises Refusal: 400 unreadable, foreign, wrong unit or refused; 409 spent or redeemed before; 503 mint away.
        """
        return await self._redeem(text, "open", None, key)

    async def top_up(self, text: str, account: int) -> Credited:
        """Redeem a token onto an account. Raises Refusal as `open_account` does."""
        return await self._redeem(text, "topup", account, None)

    async def recover(self, older_than_s: float = RECOVER_AFTER_S) -> int:
        """Finish deposits that a crash or a silent mint left open; returns how many are credited now."""
        await self._wallet.recover(older_than_s)
        credited = 0
        for deposit in await self._ledger.open_deposits():
            outcome = self._wallet.outcome(_operation(deposit.id))
            if deposit.id in self._under_way or outcome is None:
                continue
            try:
                if outcome.state == "done":
                    received = await self._wallet.resume(outcome)
                    await self._ledger.credit_deposit(deposit.id, received.amount_msat, received.fee_msat)
                    credited += 1
                elif outcome.state == "failed":
                    await self._ledger.fail_deposit(deposit.id, outcome.result)
            except (NodeFault, ClientError) as error:  # one deposit's trouble is not the others'
                log.error("deposit %s waits: %s", deposit.id[:12], error)
        return credited

    async def _redeem(self, text: str, purpose: DepositPurpose, account: int | None, key: NewKey | None) -> Credited:
        """One redemption per token at a time; it goes on when its caller leaves."""
        token = self._decode(text)
        name = token_hash(text)
        if name in self._under_way:
            other_purpose, other = self._under_way[name]
            if purpose == other_purpose == "open" and key is None:
                return await asyncio.shield(other)
            raise Refusal(409, payment.TOKEN_SPENT, "this token is being redeemed by another request right now")
        task = self._tasks.start(self._run(token, name, purpose, account, key), "deposit")
        self._under_way[name] = (purpose, task)
        task.add_done_callback(lambda _: self._under_way.pop(name, None))
        return await asyncio.shield(task)

    async def _run(
        self, token: Token, name: str, purpose: DepositPurpose, account: int | None, key: NewKey | None
    ) -> Credited:
        intent = Deposit(
            id=name,
            purpose=purpose,
            account=account,
            state="open",
            mint=token.mint,
            unit=token.unit,
            amount_msat=token.amount_msat,
            fee_msat=0,
            reason="",
            instance=self._ledger.instance,
        )
        earlier = await self._ledger.deposit(name)
        if earlier is not None and earlier.state == "open" and self._wallet.outcome(_operation(name)) is None:
            await self._ledger.fail_deposit(name, "the mint was never asked")
        deposit = await self._ledger.begin_deposit(intent)
        if deposit.state == "credited":
            raise _redeemed_before(deposit)
        if (deposit.purpose, deposit.account) != (purpose, account):
            raise Refusal(409, payment.TOKEN_SPENT, "this token is on its way to another balance")
        try:
            received = await self._wallet.receive(token, _operation(name))
        except WalletError as error:
            if not isinstance(error, MintUnavailable):
                await self._ledger.fail_deposit(name, str(error))
            raise refusal_for(error) from error
        return await self._credit(name, received, key)

    async def _credit(self, name: str, received: Received, key: NewKey | None) -> Credited:
        account = await self._ledger.credit_deposit(
            name,
            received.amount_msat,
            received.fee_msat,
            key_hash=None if key is None else key.hash,
            hint="token" if key is None else key.hint,
        )
        return Credited(account, received.amount_msat, received.fee_msat)

    def _decode(self, text: str) -> Token:
        """Read the token and check what can be checked without the mint. Raises Refusal."""
        try:
            token = token_codec.decode(text)
            if token.mint not in self._mints:
                raise ForeignMint(f"this node takes ecash of {', '.join(self._mints)}, not of {token.mint[:200]}")
        except WalletError as error:
            raise refusal_for(error) from error
        return token


def refusal_for(error: WalletError) -> Refusal:
    """What the caller is told of a token that did not become money."""
    match error:
        case TokenUnreadable():
            return Refusal(400, payment.UNREADABLE_TOKEN, f"{error}; nothing was redeemed")
        case ForeignMint():
            return Refusal(400, payment.FOREIGN_MINT, f"{error}; nothing was redeemed")
        case WrongUnit():
            return Refusal(400, payment.WRONG_UNIT, f"{error}; nothing was redeemed")
        case TokenSpent():
            return Refusal(409, payment.TOKEN_SPENT, "this token was spent before", headers={"x-should-retry": "false"})
        case TokenRefused():
            return Refusal(400, payment.REFUSED_TOKEN, f"{error}; nothing was redeemed")
        case MintUnavailable() | MintMisbehaved():
            log.warning("deposit waits: %s", error)
            return Refusal(
                503,
                payment.MINT_UNAVAILABLE,
                "the mint of this token does not answer: send the same token again later; it is credited once",
                headers={"retry-after": "10"},
            )
        case _:
            raise error


def _redeemed_before(deposit: Deposit) -> Refusal:
    hint = "it names its balance: use it as the bearer" if deposit.purpose == "open" else "it topped up a balance"
    return Refusal(
        409, payment.TOKEN_SPENT, f"this token was redeemed here before; {hint}", headers={"x-should-retry": "false"}
    )


def _operation(deposit_id: str) -> str:
    return f"deposit:{deposit_id}"
