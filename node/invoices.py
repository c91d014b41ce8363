"""Money in over Lightning: an invoice of the primary mint whose payment becomes a balance, whether or not anybody asks.

Boundaries, each committed before the next begins:

    1. wallet   the mint's quote, journaled under the invoice's id
    2. ledger   the deposit's intent under the same id
    3. wallet   the coins, once the invoice is paid
    4. ledger   one credit

The key that an invoice pays for is made from the node's own secret and the invoice's name in the books, so that it can be
told again until it is first used, and is stored nowhere. The id that the caller is told is stored as its hash.

Anyone may ask for invoices, and each that waits costs questions to the mint: so many wait and no more. Then the oldest gives
way, at a pace that a mint can bear: nobody asks after it any more but its owner, who has it credited by that, however late.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections import Counter
from typing import Final, Literal

import msgspec

from node.deposits import NewKey, new_key
from node.errors import NodeFault, Refusal, not_found
from node.ledger.ledger import Ledger
from node.ledger.model import Deposit
from relays import payment
from relays.money import MAX_MSAT, MSAT_PER_SAT
from router_client.ecash.invoices import read_invoice
from router_client.ecash.token import MSAT_PER_UNIT
from router_client.ecash.wallet import Wallet
from router_client.errors import ClientError, MintSilent, MintUnavailable, TokenRefused, TokenSpent, WalletError

log = logging.getLogger(__name__)

PREFIX: Final = "inv_"
CHALLENGE: Final = f"{PREFIX}l402_"
MOST_OPEN: Final = 500
MOST_CHALLENGES: Final = 100
MOST_OF_ACCOUNT: Final = 20
"""Of top-ups, which do not give way: their owners may not ask after them."""
GIVE_WAY_S: Final = 5
"""Invoices give way no faster: the mint is asked for as many new ones."""
ASK_AGAIN_S: Final = 1.0
"""The status of an invoice is no younger."""
GAVE_WAY: Final = "others were asked for since"
MOST_LOOKS: Final = 20
"""Invoices that the mint is asked after at a time; more take turns."""

Crowd = Literal["open", "topup", "challenge"]
"""Who waits for the same places: none of them takes another's."""


class Offered(msgspec.Struct, frozen=True):
    """An invoice to be paid."""

    id: str
    bolt11: str
    payment_hash: str
    expires_at: int


class Status(msgspec.Struct, frozen=True):
    """Where an invoice stands. `api_key` is told until it is first used."""

    status: Literal["pending", "paid", "expired"]
    amount_msat: int
    api_key: str | None = None


class Invoices:
    """Sells balances for Lightning payments, through the primary mint."""

    def __init__(self, ledger: Ledger, wallet: Wallet, mint: str, unit: str, secret: bytes) -> None:
        self._ledger = ledger
        self._wallet = wallet
        self._mint = mint
        self._unit = unit
        self._secret = secret
        self._making: Counter[Crowd] = Counter()
        self._next_gives_way_at: dict[Crowd, float] = {}
        """By the loop's clock."""
        self._looks = 0
        self._asked_at: dict[str, float] = {}

    async def offer(self, amount_sats: int, account: int | None) -> Offered:
        """An invoice for a new account, or to top one up. Raises Refusal 400, 429, or 503 when the mint is away."""
        told = f"{PREFIX}{secrets.token_hex(16)}"
        return await self._offer(amount_sats, account, told, _kept_as(told))

    async def challenge(self, amount_sats: int, id_: str) -> Offered:
        """One for a new account that nobody has asked for, of that name (`challenge_id`) in the books. Raises the same."""
        return await self._offer(amount_sats, None, "", id_)

    async def _offer(self, amount_sats: int, account: int | None, told: str, id_: str) -> Offered:
        if not 0 < amount_sats <= MAX_MSAT // MSAT_PER_SAT:
            raise Refusal(400, payment.INVALID_REQUEST, "'amount_sats' is a whole number of sats from 1")
        crowd = _crowd_of(id_, account)
        self._making[crowd] += 1
        try:
            await self._find_room(crowd, account)
            return await self._made(amount_sats * MSAT_PER_SAT, account, told, id_)
        finally:
            self._making[crowd] -= 1

    async def _find_room(self, crowd: Crowd, account: int | None) -> None:
        """Raises Refusal 429, or 503 when the mint is away."""
        open_ = [deposit for deposit in await self._ledger.open_deposits() if _is_invoice(deposit)]
        waiting = [deposit for deposit in open_ if _crowd_of(deposit.id, deposit.account) == crowd]
        if account is not None and len([each for each in waiting if each.account == account]) >= MOST_OF_ACCOUNT:
            raise _too_many()
        if len(waiting) + self._making[crowd] <= (MOST_CHALLENGES if crowd == "challenge" else MOST_OPEN):
            return
        now = asyncio.get_running_loop().time()
        oldest = next((deposit for deposit in waiting if not self._is_claimed(deposit)), None)
        if crowd == "topup" or oldest is None or now < self._next_gives_way_at.get(crowd, 0):
            raise _too_many()
        self._next_gives_way_at[crowd] = now + GIVE_WAY_S
        await self._give_way(oldest)

    def _is_claimed(self, deposit: Deposit) -> bool:
        operation = self._wallet.outcome(deposit.id)
        return operation is not None and bool(operation.journal.amounts)

    async def _give_way(self, deposit: Deposit) -> None:
        """Look at it a last time, and give it up as one whose time is over. Raises Refusal 503 when the mint is away."""
        is_paid = False
        try:
            is_paid = await self._look(deposit)
        except MintUnavailable as error:
            raise _mint_away() from error
        except WalletError as error:
            log.warning("invoice %s gives way, though: %s", deposit.id, error)
        if not is_paid and await self._wallet.give_up(deposit.id, GAVE_WAY):
            await self._ledger.fail_deposit(deposit.id, GAVE_WAY)

    async def _made(self, amount_msat: int, account: int | None, told: str, id_: str) -> Offered:
        try:
            invoice = await self._wallet.invoice(amount_msat // MSAT_PER_UNIT[self._unit], self._mint, self._unit, id_)
        except MintUnavailable as error:
            raise _mint_away() from error
        except WalletError as error:
            raise Refusal(400, payment.INVALID_REQUEST, f"the mint makes no such invoice: {error}") from error
        await self._ledger.begin_deposit(
            Deposit(
                id=id_,
                purpose="open" if account is None else "topup",
                account=account,
                state="open",
                mint=self._mint,
                unit=self._unit,
                amount_msat=amount_msat,
                fee_msat=0,
                reason="",
                instance=self._ledger.instance,
            )
        )
        read = read_invoice(invoice.bolt11)
        return Offered(told, invoice.bolt11, read.payment_hash, read.expires_at)

    async def status(self, told: str) -> Status:
        """Where it stands, as of a moment ago. Raises Refusal 404, or 503 when the mint is away."""
        id_ = _kept_as(told)
        deposit = await self._ledger.deposit(id_) if told.startswith(PREFIX) else None
        if deposit is None:
            raise not_found("there is no invoice of that id")
        # Another process's invoice is in its wallet: its own watch credits it. One that was given up may be paid since.
        if deposit.state != "credited" and self._ledger.is_mine(deposit.instance) and self._is_due(id_):
            deposit = await self._as_of_now(deposit)
        if deposit.state == "credited":
            return Status("paid", deposit.amount_msat, await self._untold(deposit))
        return Status("pending" if self._may_be_paid(deposit) else "expired", deposit.amount_msat)

    def _is_due(self, id_: str) -> bool:
        """Whether the mint is to be asked for whoever wants to know, which anyone may as often as they like."""
        now = asyncio.get_running_loop().time()
        if len(self._asked_at) >= MOST_OPEN:
            self._asked_at = {name: at for name, at in self._asked_at.items() if at > now - ASK_AGAIN_S}
        is_due = self._asked_at.get(id_, -ASK_AGAIN_S) <= now - ASK_AGAIN_S
        if is_due:
            self._asked_at[id_] = now
        return is_due

    def _may_be_paid(self, deposit: Deposit) -> bool:
        """Whether its payer need not hurry: it waits, or gave way before its end."""
        operation = self._wallet.outcome(deposit.id)
        if deposit.state == "open" or deposit.reason != GAVE_WAY or operation is None:
            return deposit.state == "open"
        return read_invoice(operation.journal.invoice).expires_at > time.time()

    async def claim(self, id_: str) -> bool:
        """Credit the invoice of that name in the books, if it is paid and was not credited before; whether it is credited.

        Raises Refusal 503 when nobody here can tell.
        """
        deposit = await self._ledger.deposit(id_)
        if deposit is not None and deposit.state != "credited":
            if not self._ledger.is_mine(deposit.instance):
                raise _mint_away()
            deposit = await self._as_of_now(deposit)
        return deposit is not None and deposit.state == "credited"

    async def watch(self) -> int:
        """Credit every invoice that was paid; returns how many were. The job behind: nobody has to ask.

        Of challenges the mint is asked by the wallet's own sweep, once a minute: few are paid, and who pays comes with it.
        """
        credited = 0
        silent: set[str] = set()
        for deposit in self._turns([each for each in await self._ledger.open_deposits() if _is_invoice(each)]):
            if deposit.mint not in silent:
                try:
                    credited += await self._look(deposit)
                except MintSilent as error:
                    log.warning("invoices of %s wait: %s", deposit.mint, error)
                    silent.add(deposit.mint)
                except MintUnavailable as error:
                    log.warning("invoice %s waits: %s", deposit.id, error)
                except (NodeFault, ClientError) as error:  # one invoice's trouble is not the others'
                    log.error("invoice %s waits: %s", deposit.id, error)
        return credited

    def _turns(self, waiting: list[Deposit]) -> list[Deposit]:
        """Those that are looked at this time: strangers must not have the mint asked a hundred times a second."""
        due = [deposit for deposit in waiting if not self._can_wait(deposit)]
        at = self._looks % len(due) if len(due) > MOST_LOOKS else 0
        self._looks = at + MOST_LOOKS
        return [*due[at:], *due[:at]][:MOST_LOOKS]

    def _can_wait(self, deposit: Deposit) -> bool:
        operation = self._wallet.outcome(deposit.id)
        return deposit.id.startswith(CHALLENGE) and operation is not None and operation.state == "open"

    async def _as_of_now(self, deposit: Deposit) -> Deposit:
        """The same after its mint was asked. Raises Refusal 503 when that cannot tell."""
        try:
            await self._look(deposit)
        except WalletError as error:
            log.warning("invoice %s waits: %s", deposit.id, error)
            raise _mint_away() from error
        return await self._ledger.deposit(deposit.id) or deposit

    async def _look(self, deposit: Deposit) -> bool:
        """Claim and credit one if it is paid, in its time or after; give it up when it ran out unpaid."""
        operation = self._wallet.outcome(deposit.id)
        is_over = operation is None or operation.state == "failed"
        try:
            received = None if operation is None else await self._wallet.claim(deposit.id)
        except (TokenRefused, TokenSpent):
            if not is_over:
                raise
            received = None  # the mint has said so before
        if received is None:
            if is_over:
                await self._ledger.fail_deposit(deposit.id, "expired" if operation is None else operation.result)
            return False
        key = key_for(self._secret, deposit.id)
        await self._ledger.credit_deposit(deposit.id, received.amount_msat, received.fee_msat, key.hash, key.hint)
        return True

    async def _untold(self, deposit: Deposit) -> str | None:
        """The key that the invoice paid for, as long as it was never used."""
        if deposit.purpose == "open" and await self._ledger.key_of(deposit.id) is not None:
            return key_for(self._secret, deposit.id).text
        return None


def key_for(secret: bytes, id_: str) -> NewKey:
    """The key that the invoice of that name in the books pays for."""
    digest = hmac.digest(secret, f"satroute invoice key {id_}".encode(), hashlib.sha256)
    return new_key(f"sk-{digest.hex()}")


def challenge_id(token_id: bytes) -> str:
    """What the invoice of an L402 token is called in the books: a name that nobody can ask for the status of."""
    return CHALLENGE + hashlib.sha256(token_id).hexdigest()[:32]


def _crowd_of(id_: str, account: int | None) -> Crowd:
    if id_.startswith(CHALLENGE):
        return "challenge"
    return "open" if account is None else "topup"


def _is_invoice(deposit: Deposit) -> bool:
    return deposit.id.startswith(PREFIX)


def _kept_as(told: str) -> str:
    """What an invoice is called in the books: who reads those cannot ask for its key."""
    return PREFIX + hashlib.sha256(told.encode()).hexdigest()[:32]


def _too_many() -> Refusal:
    return Refusal(
        429,
        payment.RATE_LIMITED,
        "too many invoices of this node wait to be paid: try again later",
        headers={"retry-after": str(GIVE_WAY_S)},
    )


def _mint_away() -> Refusal:
    return Refusal(
        503,
        payment.MINT_UNAVAILABLE,
        "the mint does not answer: ask again later; what is paid is credited all the same",
        headers={"retry-after": "10"},
    )
