"""Which coins to spend and make: pure arithmetic over amounts in one unit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import msgspec

from relays.money import ceil_div
from router_client.ecash.token import Proof
from router_client.errors import InsufficientFunds

MOST_COINS = 128
"""No sensible swap gives up more coins than this."""
MOST_INPUTS = 250
"""Mints bound a request: nutshell takes a thousand coins, others fewer."""
MOST_HANDED_OUT = 40
"""A token of more coins than this is longer than an HTTP header may be."""
MOST_SPARED = 10
"""Coins beyond the fewest that an amount can be made of, when that spares a swap: each costs its receiver a fee too."""
PPK = 1000
"""Input fees are given per thousand coins (NUT-02)."""

Fees = Literal["on_top", "inside"]
"""`on_top`: the receiver can redeem the full amount. `inside`: the wallet spends the amount and no more."""


class Spend(msgspec.Struct, frozen=True):
    """A plan: coins to give up; when they do not fit exactly, a swap into `send` and `keep` for `fee`."""

    inputs: tuple[Proof, ...]
    send: tuple[int, ...]
    keep: tuple[int, ...]
    fee: int

    @property
    def needs_swap(self) -> bool:
        return bool(self.send)


def split(amount: int) -> tuple[int, ...]:
    """The amount as powers of two, ascending."""
    return tuple(1 << bit for bit in range(amount.bit_length()) if amount >> bit & 1)


def round_up(amount: int, most_coins: int) -> int:
    """The smallest amount from this one on that is made of at most so many powers of two."""
    if most_coins < 1:
        raise ValueError("an amount is made of one coin at least")
    while amount.bit_count() > most_coins:
        amount += amount & -amount  # the lowest coin, doubled, carries into the next
    return amount


def swap_fee(keyset_fees_ppk: Sequence[int]) -> int:
    """What a mint takes for swapping coins of keysets with these fees, rounded up over all (NUT-02)."""
    return ceil_div(sum(keyset_fees_ppk), PPK)


def worth_their_fee(coins: Sequence[Proof], fee_ppk: Mapping[str, int]) -> list[Proof]:
    """Those that bring more than what their mint takes for them: with any other a payment is no nearer."""
    return [coin for coin in coins if coin.amount * PPK > fee_ppk.get(coin.id, 0)]


def plan_spend(
    coins: Sequence[Proof],
    amount: int,
    fees: Fees,
    fee_ppk: dict[str, int],
    new_fee_ppk: int,
    listed: Collection[str] | None = None,
) -> Spend:
    """How to hand out `amount`. `fee_ppk` has each coin's keyset; `new_fee_ppk` is the fee of newly made coins. If keysets
    are named as `listed`, coins of others are not handed out as they are: their mint may not take them.

    Raises InsufficientFunds. Coins fit exactly when that is possible, so that no swap is needed; many small ones are swapped
    all the same where that pays its fee.
    """
    if amount <= 0:
        raise InsufficientFunds("an amount to spend is positive")
    ordered = sorted(coins, key=lambda coin: coin.amount, reverse=True)
    known = ordered if listed is None else [coin for coin in ordered if coin.id in listed]
    exact = _exact(known, amount, fees, fee_ppk)
    if exact is not None and are_few(len(exact), amount):
        return Spend(tuple(exact), (), (), 0)
    face = face_for(amount, new_fee_ppk) if fees == "on_top" else amount
    try:
        return _swapped(ordered, amount, face, fees, fee_ppk)
    except InsufficientFunds:
        if exact is None:
            raise
        return Spend(tuple(exact), (), (), 0)


def are_few(count: int, amount: int) -> bool:
    """Whether so many coins may be handed out for the amount, rather than swapped for fewer."""
    return count <= min(amount.bit_count() + MOST_SPARED, MOST_HANDED_OUT)


def plan_locked(
    coins: Sequence[Proof],
    amount: int,
    fees: Fees,
    fee_ppk: dict[str, int],
    new_fee_ppk: int,
    most_coins: int | None = None,
) -> Spend:
    """How to hand out `amount` in coins that must be newly made, whatever fits.

    With `most_coins` the token is worth more where that takes fewer coins, as far as the wallet can pay for it; not with
    fees inside, when no more than the amount is to be spent. Raises InsufficientFunds.
    """
    if amount <= 0:
        raise InsufficientFunds("an amount to spend is positive")
    if fees == "inside":
        ordered = sorted(coins, key=lambda coin: coin.amount, reverse=True)
        return _swapped(ordered, amount, amount, fees, fee_ppk)
    if most_coins is not None:
        with suppress(InsufficientFunds):
            return _remade(coins, face_for(amount, new_fee_ppk, most_coins), fee_ppk)
    return _remade(coins, face_for(amount, new_fee_ppk), fee_ppk)


def _remade(coins: Sequence[Proof], face: int, fee_ppk: Mapping[str, int]) -> Spend:
    """Coins close to the face value, made anew: who always swapped the largest would end up with nothing but small ones."""
    close = plan_melt(coins, face, fee_ppk)
    keep = sum(coin.amount for coin in close.inputs) - close.fee - face
    return Spend(close.inputs, split(face), split(keep), close.fee)


def _swapped(ordered: Sequence[Proof], amount: int, face: int, fees: Fees, fee_ppk: dict[str, int]) -> Spend:
    """The largest coins that suffice, swapped into the face value and change."""
    inputs: list[Proof] = []
    for coin in ordered:
        inputs.append(coin)
        fee = swap_fee([fee_ppk[chosen.id] for chosen in inputs])
        total = sum(chosen.amount for chosen in inputs)
        sent = face if fees == "on_top" else amount - fee
        if sent > 0 and total >= sent + fee:
            return Spend(tuple(inputs), split(sent), split(total - fee - sent), fee)
    held = sum(coin.amount for coin in ordered)
    raise InsufficientFunds(f"the wallet holds {held}, {amount} and the mint's fee are needed")


def plan_melt(coins: Sequence[Proof], needed: int, fee_ppk: Mapping[str, int]) -> Spend:
    """Coins worth at least `needed` and their own input fee, with little to spare: a stuck payment holds all of them.

    Largest first as long as they fit, then the smallest that covers the rest. Raises InsufficientFunds.
    """
    chosen: list[Proof] = []
    spare: list[Proof] = []
    for coin in sorted(worth_their_fee(coins, fee_ppk), key=lambda coin: coin.amount, reverse=True):
        fits = coin.amount <= _missing([*chosen, coin], needed, fee_ppk) + coin.amount
        (chosen if fits else spare).append(coin)
    while (missing := _missing(chosen, needed, fee_ppk)) > 0:
        if not spare:
            held = sum(coin.amount for coin in coins)
            raise InsufficientFunds(f"the wallet holds {held}, {needed} and the mint's fee are needed")
        enough = [coin for coin in spare if coin.amount >= missing + 1] or spare[:1]
        chosen.append(enough[-1])
        spare.remove(enough[-1])
    return Spend(tuple(chosen), (), (), swap_fee([fee_ppk[coin.id] for coin in chosen]))


def _missing(chosen: Sequence[Proof], needed: int, fee_ppk: Mapping[str, int]) -> int:
    """What coins lack of an amount and their own fee."""
    return needed + swap_fee([fee_ppk[coin.id] for coin in chosen]) - sum(coin.amount for coin in chosen)


def face_for(amount: int, fee_ppk: int, most_coins: int = MOST_COINS) -> int:
    """A face value, in at most so many coins of one keyset, of which `amount` is left after the receiver's swap."""
    face = round_up(amount, most_coins)
    while face < (needed := amount + swap_fee([fee_ppk] * len(split(face)))):
        face = round_up(needed, most_coins)
    return face


def _exact(ordered: Sequence[Proof], amount: int, fees: Fees, fee_ppk: dict[str, int]) -> list[Proof] | None:
    """Coins worth exactly the amount (plus, on top, their receiver's fee). Largest first finds every exact fit among
    powers of two; the fee depends on the choice, so it is tried until both agree."""
    target = amount
    for _ in range(16):
        chosen, left = [], target
        for coin in ordered:
            if coin.amount <= left:
                chosen.append(coin)
                left -= coin.amount
        if left:
            return None
        wanted = amount + (swap_fee([fee_ppk[coin.id] for coin in chosen]) if fees == "on_top" else 0)
        if wanted == target:
            return chosen
        target = wanted
    return None
