"""Money in: a Cashu token becomes a balance, once.

Boundaries, each committed before the next begins:

    1. ledger   the deposit's intent, under the hash of the token string
    2. wallet   the journal and the coins: a token locked to the node's key is checked and accepted without its mint; any
                other is swapped there; one of a foreign mint is brought to the primary mint over Lightning, if the operator
                allows it
    3. ledger   one credit of what arrived, after the mint's fee

A crash or a lost reply between any two is finished by asking again with the same token, or by `recover`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import msgspec

from node.errors import NodeFault, Refusal
from node.ledger.ledger import Ledger
from node.ledger.model import Deposit, DepositPurpose
from node.tasks import Tasks
from relays import payment
from relays.money import Msat
from relays.routes import DIRECT, Routes
from router_client.ecash import token as token_codec
from router_client.ecash.outcomes import Received
from router_client.ecash.token import Token, token_hash
from router_client.ecash.wallet import Wallet
from router_client.errors import (
    AddressUnavailable,
    ClientError,
    FeeTooHigh,
    ForeignMint,
    InsufficientFunds,
    MintMisbehaved,
    MintUnavailable,
    PaymentFailed,
    TokenRefused,
    TokenSpent,
    TokenUnreadable,
    WalletError,
    WrongUnit,
)
from router_client.paying.lnurl import check_reachable

log = logging.getLogger(__name__)

KEY_BYTES: Final = 32
TOKEN_HASH_CHARS: Final = 64
"""Deposits of other names are Lightning's: see `invoices`."""
RECOVER_AFTER_S: Final = 60
"""A deposit under way is left alone for this long before a sweep goes on with it."""
RECOVER_AT_ONCE: Final = 16
"""A foreign mint may keep each of its tokens waiting."""
MOST_REST_S: Final = 3600.0
"""A foreign mint's token that does not come home is left alone twice as long each time, but no longer."""


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


class Taken(msgspec.Struct, frozen=True):
    """What of a token came into the wallet, where, and what it cost."""

    mint: str
    unit: str
    amount_msat: int
    fee_msat: int


class MintRule(msgspec.Struct, frozen=True):
    """Whose ecash is taken: of these mints, the first being the primary one, to which others' may be brought."""

    mints: tuple[str, ...]
    swap_foreign: bool = False
    primary_unit: str = "sat"
    allow_local: bool = False
    """Whether foreign mints may be on this machine: for play networks."""
    routes: Routes = DIRECT
    """Those by which mints are reached."""


def new_key(text: str = "") -> NewKey:
    """A fresh random `sk-…`, or one of a given text."""
    text = text or f"sk-{secrets.token_urlsafe(KEY_BYTES)}"
    return NewKey(text, token_hash(text), f"sk-…{text[-4:]}")


class Deposits:
    """Takes tokens in."""

    def __init__(
        self,
        ledger: Ledger,
        wallet: Wallet,
        tasks: Tasks,
        rule: MintRule,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._wallet = wallet
        self._tasks = tasks
        self._rule = rule
        self._clock = clock
        self._under_way: dict[str, tuple[DepositPurpose, asyncio.Task[Credited]]] = {}
        self._rests: dict[str, tuple[float, float]] = {}
        """Of foreign mints' tokens: how long each is left alone, and until when."""

    async def open_account(self, text: str, key: NewKey | None = None, token: Token | None = None) -> Credited:
        """Take a token into a new account, named by the token string until `key`, if given, is first used; `token` is what
        `read` made of it, for whoever has that.

        Raises Refusal: 400 unreadable, foreign, wrong unit or refused; 409 spent or redeemed before; 503 mint away.
        """
        return await self._redeem(text, token or self.read(text), "open", None, key)

    async def top_up(self, text: str, account: int) -> Credited:
        """Take a token onto an account. Raises Refusal as `open_account` does."""
        return await self._redeem(text, self.read(text), "topup", account, None)

    def read(self, text: str) -> Token:
        """Read a token and check what can be checked without the mint. Raises Refusal."""
        try:
            token = token_codec.decode(text)
            if token.mint not in self._rule.mints and not _is_plain(token.mint):
                raise ForeignMint("the token's mint has a URL that is not a plain one")
            if token.mint not in self._rule.mints and not self._rule.swap_foreign:
                taken = ", ".join(self._rule.mints)
                raise ForeignMint(f"this node takes ecash of {taken}, not of {token.mint[:200]}")
        except WalletError as error:
            raise refusal_for(error) from error
        return token

    async def recover(self, older_than_s: float = RECOVER_AFTER_S) -> int:
        """Finish deposits that a crash or a silent mint left open; returns how many are credited now."""
        await self._wallet.recover(older_than_s)
        room = asyncio.Semaphore(RECOVER_AT_ONCE)
        waiting = [deposit for deposit in await self._ledger.open_deposits() if len(deposit.id) == TOKEN_HASH_CHARS]
        self._rests = {deposit.id: self._rests[deposit.id] for deposit in waiting if deposit.id in self._rests}
        credited = 0
        work = (self._recovered(deposit, room) for deposit in waiting)
        for each in await asyncio.gather(*work, return_exceptions=True):  # all are at their end
            if isinstance(each, BaseException):
                raise each
            credited += each
        return credited

    async def _recovered(self, deposit: Deposit, room: asyncio.Semaphore) -> bool:
        """Whether one is credited now; its trouble is not the others', nor is its waiting."""
        async with room:
            if deposit.id in self._under_way:
                return False
            try:
                return await self._resume(deposit)
            except (NodeFault, ClientError) as error:
                log.error("deposit %s waits: %s", deposit.id[:12], error)
                return False

    async def _resume(self, deposit: Deposit) -> bool:
        """Go on with a deposit from the wallet's journal. Its token is not stored, but its coins are."""
        outcome = self._wallet.outcome(_accepting(deposit.id)) or self._wallet.outcome(_swapping(deposit.id))
        exchanging = self._wallet.outcome(f"{_exchanging(deposit.id)}:in")
        if outcome is not None and outcome.state == "done":
            received = await self._wallet.resume(outcome)
            await self._book(deposit.id, _taken(received), None)
            return True
        if exchanging is not None and exchanging.state != "failed":
            return await self._bring_home(
                Token(exchanging.mint, exchanging.unit, exchanging.journal.inputs), deposit.id
            )
        failed = outcome or exchanging
        if failed is not None and failed.state == "failed":
            await self._ledger.fail_deposit(deposit.id, failed.result)
        return False

    async def _bring_home(self, token: Token, name: str) -> bool:
        """Go on with a foreign mint's token, which Lightning may never carry: ever more seldom. Whoever sends it again does
        not wait for that."""
        rest_s, until = self._rests.get(name, (RECOVER_AFTER_S / 2, self._clock()))
        if self._clock() < until:
            return False
        try:
            taken = await self._exchange(token, name)
        except WalletError:
            rest_s = min(2 * rest_s, MOST_REST_S)
            self._rests[name] = rest_s, self._clock() + rest_s
            raise
        await self._book(name, taken, None)
        return True

    async def _redeem(
        self, text: str, token: Token, purpose: DepositPurpose, account: int | None, key: NewKey | None
    ) -> Credited:
        """One redemption per token at a time; it goes on when its caller leaves."""
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
        deposit = await self._ledger.begin_deposit(intent)
        if deposit != intent and self._was_never_asked(deposit):  # an earlier intent stands there
            await self._ledger.fail_deposit(name, "the mint was never asked")
            deposit = await self._ledger.begin_deposit(intent)
        if deposit.state == "credited":
            raise _redeemed_before(deposit)
        if not self._ledger.is_mine(deposit.instance):
            raise Refusal(
                503,
                payment.MINT_UNAVAILABLE,
                "another process of this node takes this token in: send it again later; it is credited once",
                headers={"retry-after": "5"},
            )
        if (deposit.purpose, deposit.account) != (purpose, account):
            raise Refusal(409, payment.TOKEN_SPENT, "this token is on its way to another balance")
        try:
            taken = await self._take(token, name)
        except WalletError as error:
            if not self._may_go_on(name):
                await self._ledger.fail_deposit(name, str(error))
            raise refusal_for(error) from error
        return await self._book(name, taken, key)

    def _was_never_asked(self, deposit: Deposit) -> bool:
        """An intent of ours whose mint was never asked: it may be written anew, for another purpose."""
        asked = any(self._wallet.outcome(step) is not None for step in _steps(deposit.id))
        return deposit.state == "open" and self._ledger.is_mine(deposit.instance) and not asked

    def _may_go_on(self, name: str) -> bool:
        """Whether the wallet has taken the token's coins, or may yet: then the deposit is open, whatever the error was."""
        outcomes = [self._wallet.outcome(step) for step in _steps(name)]
        return any(outcome is not None and outcome.state != "failed" for outcome in outcomes)

    async def _take(self, token: Token, name: str) -> Taken:
        """The coins in the wallet. Raises WalletError; after MintUnavailable and PaymentFailed it can go on."""
        if token.mint not in self._rule.mints:
            return await self._exchange(token, name)
        if self._wallet.is_locked_here(token) and self._wallet.outcome(_swapping(name)) is None:
            try:
                accepted = await self._wallet.accept_locked(token, _accepting(name))
                return _taken(accepted)
            except TokenRefused as error:
                log.info("a locked token is swapped at its mint: %s", error)
        received = await self._wallet.receive(token, _swapping(name))
        return _taken(received)

    async def _exchange(self, token: Token, name: str) -> Taken:
        """To the primary mint. What stays abroad is the word of a mint that nobody here trusts: it is not in the books."""
        await check_reachable(token.mint, self._rule.allow_local, self._rule.routes)
        done = await self._wallet.exchange(token, self._rule.mints[0], self._rule.primary_unit, _exchanging(name))
        return Taken(done.mint, done.unit, done.amount_msat, done.fee_msat + done.left_msat)

    async def _book(self, name: str, taken: Taken, key: NewKey | None) -> Credited:
        account = await self._ledger.credit_deposit(
            name,
            taken.amount_msat,
            taken.fee_msat,
            source=(taken.mint, taken.unit),
            key_hash=None if key is None else key.hash,
            hint="token" if key is None else key.hint,
        )
        return Credited(account, Msat(taken.amount_msat), Msat(taken.fee_msat))


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
        case AddressUnavailable():
            return Refusal(
                400, payment.FOREIGN_MINT, "the token's mint cannot be reached from here; nothing was redeemed"
            )
        case PaymentFailed():
            log.warning("deposit waits: %s", error)
            return Refusal(
                503,
                payment.MINT_UNAVAILABLE,
                "no way over Lightning to this node's mint was found: send the same token again later; it is credited once",
                headers={"retry-after": "60"},
            )
        case MintUnavailable() | MintMisbehaved() | InsufficientFunds() | FeeTooHigh():
            log.warning("deposit waits: %s", error)
            return Refusal(
                503,
                payment.MINT_UNAVAILABLE,
                "the mint of this token does not answer: send the same token again later; it is credited once",
                headers={"retry-after": "10"},
            )
        case _:
            raise error


def _taken(received: Received) -> Taken:
    return Taken(received.mint, received.unit, received.amount_msat, received.fee_msat)


def _is_plain(url: str) -> bool:
    """Whether a stranger's URL is scheme, host and path alone, so that what is put after it stays a path."""
    parts = urlsplit(url)
    return not (parts.query or parts.fragment or parts.username or "?" in url or "#" in url)


def _redeemed_before(deposit: Deposit) -> Refusal:
    hint = "it names its balance: use it as the bearer" if deposit.purpose == "open" else "it topped up a balance"
    return Refusal(
        409, payment.TOKEN_SPENT, f"this token was redeemed here before; {hint}", headers={"x-should-retry": "false"}
    )


# Steps in the wallet's journal, by what is done with the token.


def _steps(deposit_id: str) -> tuple[str, ...]:
    return _accepting(deposit_id), _swapping(deposit_id), f"{_exchanging(deposit_id)}:in"


def _accepting(deposit_id: str) -> str:
    return f"accept:{deposit_id}"


def _swapping(deposit_id: str) -> str:
    return f"deposit:{deposit_id}"


def _exchanging(deposit_id: str) -> str:
    return f"exchange:{deposit_id}"
