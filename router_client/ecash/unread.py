"""Tokens for people to read: until somebody has, they can be taken back, and the wallet tells of them."""

from __future__ import annotations

import logging

from relays.money import Msat
from router_client.ecash import store
from router_client.ecash.operations import Operations
from router_client.ecash.outcomes import Received, Unread
from router_client.ecash.receiving import Receiving
from router_client.ecash.sending import Sending
from router_client.ecash.store import Operation
from router_client.ecash.token import decode
from router_client.errors import MintUnavailable, TokenSpent, WalletError

log = logging.getLogger(__name__)


class Reading:
    """Those of one wallet."""

    def __init__(self, operations: Operations, sending: Sending, receiving: Receiving) -> None:
        self._operations = operations
        self._sending = sending
        self._receiving = receiving

    def unread(self) -> list[Unread]:
        """See `Wallet.unread`."""
        return [_unread(operation) for operation in self._untold() if operation.state != "failed"]

    async def have_read(self, operation_id: str) -> None:
        """See `Wallet.have_read`."""
        await self._operations.db.run(lambda conn: store.told(conn, operation_id))

    async def take_back(self, operation_id: str) -> Received:
        """See `Wallet.reclaim`."""
        token = decode(self._sending.handed_out(operation_id))
        try:
            back = await self._receiving.receive(token, f"reclaim:{operation_id}")
        except TokenSpent:  # somebody has it after all
            await self.have_read(operation_id)
            raise
        await self.have_read(operation_id)
        return back

    async def take_back_all(self) -> Msat:
        """See `Wallet.take_back_unread`."""
        total, silent = 0, set()
        for operation in self._untold():
            if operation.state == "failed":
                await self.have_read(operation.id)  # its coins are free again
            elif operation.state == "done" and operation.mint not in silent:
                try:
                    total += (await self.take_back(operation.id)).amount_msat
                except WalletError as error:
                    log.warning("the token of %s is not back: %s", operation.id, error)
                    silent |= {operation.mint} if isinstance(error, MintUnavailable) else set()
        return Msat(total)

    def _untold(self) -> list[Operation]:
        return self._operations.db.read(lambda conn: store.untold_operations(conn, ("send",)))


def _unread(sent: Operation) -> Unread:
    held = sum(coin.amount for coin in sent.journal.inputs)  # all of it waits for the mint
    amount = held if sent.state == "open" else sent.journal.amount
    return Unread(sent.id, sent.mint, sent.unit, amount, sent.created_at)
