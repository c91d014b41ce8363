"""L402: an invoice for who comes without money, and the account that it paid for to whoever has its preimage.

A challenge is an invoice like any other that is asked for, so what is paid is credited whether or not its payer comes back.
Its token is signed under a key made from the node's own secret, so none has to be kept. The token's random part names the
invoice in the books, and so the key of its account; neither token nor preimage is stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from typing import Final

from node.errors import NodeFault, Refusal
from node.invoices import Invoices, Offered, challenge_id, key_for
from node.ledger.ledger import Ledger
from node.ledger.model import Key
from node.tasks import Tasks
from relays import l402, payment
from relays.errors import InvalidL402
from relays.event import Signer
from relays.l402 import Claim
from relays.money import to_sat_ceil
from router_client.errors import ClientError

log = logging.getLogger(__name__)

WAIT_S: Final = 3.0
"""A 402 does not wait longer for its invoice."""
AT_ONCE: Final = 8
"""Invoices that the mint is asked for."""
ANEW: Final = "ask without a credential for a new one"


class L402:
    """Asks for Lightning payments, and knows who has paid."""

    def __init__(self, signer: Signer, ledger: Ledger, invoices: Invoices, tasks: Tasks, *, is_offered: bool) -> None:
        """Whether or not it `is_offered`, what was paid before is honoured."""
        self._secret = signer.secret_for("l402")
        self._key_secret = signer.secret_for("invoices")
        self._ledger = ledger
        self._invoices = invoices
        self._tasks = tasks
        self._is_offered = is_offered
        self._asking = 0

    async def challenges(self, hold_msat: int) -> tuple[str, ...]:
        """Lines of `WWW-Authenticate` that ask for so much in whole sats; none where no invoice is to be had soon."""
        if not self._is_offered or self._asking >= AT_ONCE:
            return ()
        token_id = secrets.token_bytes(l402.ID_BYTES)
        # An invoice that comes too late, or to nobody, is journaled all the same and runs out like any other.
        self._asking += 1
        asking = self._tasks.start(self._invoice(max(1, to_sat_ceil(hold_msat)), token_id), "an invoice for L402")
        asking.add_done_callback(self._asked)
        try:
            async with asyncio.timeout(WAIT_S):
                offered = await asyncio.shield(asking)
        except TimeoutError:
            return ()
        if offered is None:
            return ()
        identifier = l402.identifier_of(bytes.fromhex(offered.payment_hash), token_id)
        return l402.challenges(l402.encode_token(identifier, self._root_key(identifier)), offered.bolt11)

    async def key(self, claim: Claim) -> Key:
        """The key of the account that was paid for. Raises Refusal: 401 forged, unpaid or replaced; 503 where the mint
        cannot tell."""
        if not claim.is_signed_by(self._root_key(claim.identifier)):
            raise _refused(f"this L402 token is not of this node; {ANEW}")
        if not claim.is_paid:
            raise _refused("this is not the preimage of the token's invoice: send the one that its payment gave")
        id_ = challenge_id(claim.token_id)
        name = key_for(self._key_secret, id_).hash
        key = await self._ledger.key_of(name)
        if key is None:
            # It goes on when its caller leaves, as a token's redemption does.
            claiming = self._tasks.start(self._invoices.claim(id_), "claim of an L402 invoice")
            if not await asyncio.shield(claiming):
                raise _refused(
                    "the mint does not know that this token's invoice was paid: send the same again in a moment, "
                    "or pay the invoice"
                )
            key = await self._ledger.key_of(name)
        if key is None:
            raise _refused(f"a key took the place of this L402 token: use that, or {ANEW}")
        return key

    async def _invoice(self, amount_sats: int, token_id: bytes) -> Offered | None:
        try:
            return await self._invoices.challenge(amount_sats, challenge_id(token_id))
        except (NodeFault, ClientError) as error:
            level = logging.DEBUG if isinstance(error, Refusal) and error.status < 500 else logging.WARNING
            log.log(level, "a 402 has no invoice: %s", error)
            return None

    def _asked(self, _: object) -> None:
        self._asking -= 1

    def _root_key(self, identifier: bytes) -> bytes:
        return hmac.digest(self._secret, identifier, hashlib.sha256)


def claim_in(authorization: str | None) -> Claim | None:
    """The claim of an `Authorization` header; None for another scheme. Raises Refusal 401."""
    try:
        return l402.read_claim(authorization or "")
    except InvalidL402 as error:
        raise _refused(
            f"{error}: send 'Authorization: L402 TOKEN:PREIMAGE' with the token of a 402 of this node and the preimage "
            "of its payment, in hex"
        ) from error


def _refused(message: str) -> Refusal:
    return Refusal(401, payment.UNKNOWN_CREDENTIAL, message)
