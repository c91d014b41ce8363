"""The last step of an operation: coins stored and the journal closed, in the one transaction it runs in."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import msgspec

from router_client.ecash import lockedcoins, store
from router_client.ecash.store import Operation
from router_client.ecash.token import Proof, Token, encode
from router_client.errors import WalletError


def complete(conn: sqlite3.Connection, operation: Operation, proofs: Sequence[Proof], result: str = "") -> Operation:
    """Store what the mint signed and close the operation, once."""
    current = store.operation(conn, operation.id)
    assert current is not None
    if current.state != "open":
        return current
    sent = operation.journal.sent
    if operation.kind == "send":
        store.move_coins(conn, [coin.secret for coin in operation.journal.inputs], "reserved", "spent", operation.id)
        store.add_coins(conn, operation, proofs[:sent], "sent")
        store.add_coins(conn, operation, proofs[sent:], "unspent")
        return _close_sent(conn, operation, proofs[:sent])
    if operation.kind == "receive":
        lockedcoins.received(conn, operation.id)
    if operation.kind == "redeem":
        lockedcoins.move(conn, operation.journal.inputs, "redeeming", "redeemed", operation.id)
    if operation.kind in ("melt", "swap"):
        store.move_coins(conn, [coin.secret for coin in operation.journal.inputs], "reserved", "spent", operation.id)
    if operation.kind == "melt":
        store.set_journal(conn, operation.id, operation.journal)  # now it has the fee that was paid
    store.add_coins(conn, operation, proofs, "unspent")
    store.close_operation(conn, operation.id, "done", result)
    store.tell_of(conn, operation)
    return msgspec.structs.replace(operation, state="done", result=result)


def close_failed(conn: sqlite3.Connection, operation: Operation, refusal: WalletError, spent: AbstractSet[str]) -> None:
    """The mint said no: the operation remembers why, and its coins (`spent`: the Ys of those that are gone) are free."""
    if not store.close_operation(conn, operation.id, "failed", f"{type(refusal).__name__}: {refusal}"):
        return
    if operation.kind == "receive":
        lockedcoins.released(conn, operation.id)
    if operation.kind == "redeem":
        lockedcoins.refused(conn, operation.journal.inputs)
    if operation.kind in ("send", "melt", "swap"):
        for coin in operation.journal.inputs:
            after: store.CoinState = "spent" if coin.y() in spent else "unspent"
            store.move_coins(conn, [coin.secret], "reserved", after, operation.id)


def hand_out(
    conn: sqlite3.Connection, operation: Operation, coins: Sequence[Proof], before: store.CoinState
) -> Operation:
    """Coins that fit exactly leave as they are, without the mint."""
    store.move_coins(conn, [coin.secret for coin in coins], before, "sent", operation.id)
    return _close_sent(conn, operation, coins)


def _close_sent(conn: sqlite3.Connection, operation: Operation, coins: Sequence[Proof]) -> Operation:
    token = encode(Token(operation.mint, operation.unit, tuple(coins)), with_dleq=bool(operation.journal.lock))
    store.close_operation(conn, operation.id, "done", token)
    return msgspec.structs.replace(operation, state="done", result=token)
