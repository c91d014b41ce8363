"""Keys in the books, on both databases: limits, children, rotation, revoked and stored hashed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from node.ledger.ledger import Ledger
from node.ledger.model import (
    Held,
    Insufficient,
    KeyClosed,
    LimitReached,
)
from relays.money import Msat
from tests.node.books import Clock, child, deposit, key, state
from tests.node.drafts import draft


async def test_a_revoked_key_holds_nothing(ledger: Ledger) -> None:
    account = await key(ledger, 1000)
    assert await ledger.revoke_key(account.id)
    assert await ledger.hold(account, "r", 1, 60) == KeyClosed("revoked")
    assert not await ledger.revoke_key(99999)


async def test_a_key_made_with_a_token_takes_its_place_when_it_is_first_used(ledger: Ledger) -> None:
    """The token may be known to whoever paid with it; and the answer that holds the key may be lost."""
    await ledger.begin_deposit(deposit("t"))
    account = await ledger.credit_deposit("t", 990, 10, "hash of sk", "sk-…x")
    token = await ledger.key_of("t")
    assert token is not None, "the answer may have been lost: the token is still good"
    made = await ledger.key_of("hash of sk")
    assert made is not None
    assert (made.id, made.account) == (token.id, account)
    assert await ledger.key_of("t") is None


async def test_a_new_key_that_is_first_used_twice_at_once_is_one_key(ledger: Ledger) -> None:
    await ledger.begin_deposit(deposit("t"))
    await ledger.credit_deposit("t", 990, 10, "hash of sk", "sk-…x")
    found = await asyncio.gather(*(ledger.key_of("hash of sk") for _ in range(8)))
    assert all(key == found[0] is not None for key in found)


async def test_a_key_whose_token_a_sweep_has_credited_first_is_good(ledger: Ledger) -> None:
    """A token of a foreign mint is on its way for minutes, by a sweep too; who asks meanwhile has been told of a key."""
    await ledger.begin_deposit(deposit("t"))
    account = await ledger.credit_deposit("t", 990, 10)
    assert await ledger.credit_deposit("t", 990, 10, "hash of sk", "sk-…x") == account
    await ledger.credit_deposit("t", 990, 10, "another hash", "sk-…y")
    assert await ledger.key_of("another hash") is None, "the first counts"
    named = await ledger.key_of("hash of sk")
    assert named is not None
    assert (named.account, named.hint) == (account, "sk-…x")
    assert await ledger.key_of("t") is None
    await ledger.credit_deposit("t", 990, 10, "hash of sk", "sk-…x")
    assert (await ledger.account(account)).available_msat == 990
    await ledger.audit()


async def test_rotation_keeps_the_old_key_until_the_new_one_is_used(ledger: Ledger) -> None:
    await ledger.create_key("old", "sk-…o", "", 100)
    old = await ledger.key_of("old")
    assert old is not None
    assert await ledger.rotate_key(old.id, "lost on its way", "sk-…l")
    assert await ledger.rotate_key(old.id, "new", "sk-…n")
    assert (await ledger.key_of("old")) is not None
    assert await ledger.key_of("lost on its way") is None, "a second rotation takes the place of the first"
    new = await ledger.key_of("new")
    assert new is not None
    assert (new.id, new.account, new.hint) == (old.id, old.account, "sk-…n")
    assert await ledger.key_of("old") is None
    await ledger.revoke_key(new.id)
    assert not await ledger.rotate_key(new.id, "newer", "sk-…m")


async def test_a_child_spends_from_its_parent_within_its_limit(ledger: Ledger) -> None:
    parent = await key(ledger, 10_000)
    kid = await child(ledger, parent, spend_limit_msat=1000)
    assert (kid.account, kid.parent) == (parent.account, parent.id)
    assert isinstance(await ledger.hold(kid, "a", 600, 60), Held)
    assert await ledger.hold(kid, "b", 500, 60) == LimitReached("spend", Msat(400))
    await ledger.post(draft("a", 600, 250))
    assert isinstance(await ledger.hold(kid, "c", 750, 60), Held)
    await ledger.void("c")
    assert await ledger.hold(kid, "d", 751, 60) == LimitReached("spend", Msat(750))
    seen = (await ledger.children(parent.id))[0]
    assert (seen.spent_msat, seen.held_msat) == (250, 0)
    assert (await state(ledger, parent)).available_msat == 9750
    await ledger.audit()


async def test_a_child_cannot_spend_more_than_its_parent_has(ledger: Ledger) -> None:
    parent = await key(ledger, 100)
    kid = await child(ledger, parent, spend_limit_msat=1000)
    assert await ledger.hold(kid, "a", 101, 60) == Insufficient(Msat(100))


async def test_a_daily_budget_begins_anew_at_midnight(ledger: Ledger, clock: Clock) -> None:
    clock.now = 20_000 * 86_400 - 10
    parent = await key(ledger, 10_000)
    kid = await child(ledger, parent, daily_limit_msat=1000)
    assert isinstance(await ledger.hold(kid, "late", 900, 60), Held)
    assert await ledger.hold(kid, "more", 200, 60) == LimitReached("daily", Msat(100))
    clock.now += 20
    assert isinstance(await ledger.hold(kid, "early", 950, 60), Held)
    await ledger.post(draft("late", 900, 100))
    assert await ledger.hold(kid, "again", 51, 60) == LimitReached("daily", Msat(50)), "yesterday's rest is not today's"
    await ledger.post(draft("early", 950, 450))
    assert isinstance(await ledger.hold(kid, "last", 550, 60), Held)
    await ledger.audit()


async def test_a_key_past_its_end_and_a_child_of_a_closed_key_hold_nothing(ledger: Ledger, clock: Clock) -> None:
    parent = await key(ledger, 10_000)
    kid = await child(ledger, parent, expires_at=int(clock.now) + 10)
    other = await child(ledger, parent)
    assert isinstance(await ledger.hold(kid, "a", 1, 60), Held)
    clock.now += 10
    assert await ledger.hold(kid, "b", 1, 60) == KeyClosed("expired")
    assert not await ledger.revoke_key(other.id, parent=kid.id), "only whoever made it"
    await ledger.revoke_key(parent.id)
    assert await ledger.hold(other, "c", 1, 60) == KeyClosed("revoked")


async def test_a_child_under_load_never_passes_its_limit(ledger: Ledger) -> None:
    parent = await key(ledger, 100_000)
    kid = await child(ledger, parent, spend_limit_msat=1000, daily_limit_msat=900)
    outcomes = await asyncio.gather(*(ledger.hold(kid, f"r{i}", 100, 60) for i in range(64)))
    assert sum(isinstance(outcome, Held) for outcome in outcomes) == 9
    await ledger.audit()


# refunds -------------------------------------------------------------------------------------------------------------


async def test_keys_are_stored_hashed(folder: Path) -> None:
    from node.deposits import new_key

    made = new_key()
    ledger = await Ledger.open(f"sqlite:///{folder / 'ledger.db'}")
    await ledger.create_key(made.hash, made.hint, "alice", 5)
    assert await ledger.key_of(made.hash) is not None
    await ledger.close()
    for file in folder.glob("ledger.db*"):
        assert made.text.encode() not in file.read_bytes()
