"""When everything is quiet: what was in doubt is found out, and every msat is exactly where it must be."""

from __future__ import annotations

import asyncio

from relays.money import MSAT_PER_SAT
from router_client.ecash.token import decode, token_hash
from tests.simulation.callers import Caller
from tests.simulation.oracle import Balance, check, is_taken, possible_sums, worth_msat
from tests.simulation.world import MINT_URL, World

QUIET_S = 900.0
"""Longer than any request and its hold."""
NO_MONEY = {"refresh models", "announce", "announce where missing"}
MOST_REFUNDS = 8


async def settle(world: World, callers: list[Caller]) -> None:
    """Heal the world, let the node's jobs finish what is open, and check all sums."""
    world.machine.plan({})
    world.machine.mint_is_away = False
    await asyncio.sleep(QUIET_S)
    for _ in range(2):
        for name in world.jobs:
            if name not in NO_MONEY:
                await world.run_job(name)
    for caller in callers:
        for invoice in list(caller.invoices):
            await caller.look_at(invoice)
        check(not caller.invoices, "an invoice was paid, and nobody was credited")
        for text in list(caller.purse.unsure):
            await _find(world, callers, caller, text)
    for caller in callers:
        caller.balances = [balance for balance in caller.balances if balance.paid_in or balance.granted]
        for balance in caller.balances:
            await settle_balance(world, caller, balance)
    await check_sums(world, callers)


async def _find(world: World, callers: list[Caller], owner: Caller, text: str) -> None:
    """Who was credited with a token whose fate is not known; nobody, if the mint calls it unspent: then it is taken back."""
    candidates = [each for caller in callers for each in caller.balances if text in each.doubtful_tokens]
    for candidate in candidates:
        candidate.doubtful_tokens = [other for other in candidate.doubtful_tokens if other != text]
    if text in owner.purse.locked:
        # Nobody but the node can spend it: sent again, it must be taken, or was before.
        await world.request("GET", "/v1/balance/info", bearer=text)
    elif not is_taken(world.mint, text):
        await owner.purse.take_back(text)
        return
    deposit = await world.node.ledger.deposit(token_hash(text))
    check(deposit is not None and deposit.state == "credited", "a token is spent, and nobody was credited")
    assert deposit is not None
    owner.purse.unsure.remove(text)
    for candidate in candidates:
        key = await world.node.ledger.key_of(token_hash(candidate.bearer))
        if key is not None and key.account == deposit.account:
            candidate.paid_in += worth_msat(text)
            return
    # It opened a balance of its own, and the answer was lost.
    balance = Balance(f"found {text[-6:]}", text, decode(text).unit, paid_in=worth_msat(text))
    owner.balances.append(balance)


async def settle_balance(world: World, caller: Caller, balance: Balance) -> None:
    """Find out what was spent and refunded unseen; what is left must be what the balance says."""
    told = (await world.request("GET", "/v1/balance/info", bearer=balance.bearer)).json
    check(told["reserved"] == 0, f"{balance.name} holds {told['reserved']} msat that nobody owns")
    possible = {balance.spent + each for each in possible_sums(balance.doubtful_spending)}
    check(told["spent"] in possible, f"{balance.name} was charged {told['spent']}, not one of {sorted(possible)}")
    balance.spent, balance.doubtful_spending, balance.may_be_held = told["spent"], [], False
    if balance.child:
        check(
            min(possible_sums(balance.child_spending)) <= balance.child_limit, f"{balance.name}'s child spent too much"
        )
    for _ in range(MOST_REFUNDS):
        if told["balance"] >= balance.total or not balance.refund_lost:
            break
        await caller.refund(balance)
        balance.refund_lost = True
        told = (await world.request("GET", "/v1/balance/info", bearer=balance.bearer)).json
    balance.refund_lost = False
    if balance.untold_fees:
        fees = balance.total - told["balance"]
        check(
            0 <= fees <= 2 * balance.untold_fees * MSAT_PER_SAT, f"{balance.name} lost {fees} msat in fees of refunds"
        )
        balance.refunded, balance.untold_fees = balance.refunded + fees, 0
    check(told["balance"] == balance.total, f"{balance.name} has {told['balance']} msat, {balance.total} are its own")


async def check_sums(world: World, callers: list[Caller]) -> None:
    """The books add up; the wallet holds what they say; and all coins that the mint has not seen again are somewhere."""
    node = world.node
    await node.audit()
    totals = await node.ledger.audit()
    holdings = node.wallet.holdings()
    has_msat = holdings.all_msat
    check(totals.held_msat == 0, f"{totals.held_msat} msat are held when nothing runs")
    check(not await node.ledger.open_refunds(), "a refund is open when all is well")
    check(has_msat == totals.ecash_in_msat, f"the wallet holds {has_msat} msat, the books {totals.ecash_in_msat}")
    owed = sum(balance.total for caller in callers for balance in caller.balances)
    check(owed <= totals.keys_msat, f"callers own {owed} msat, the books {totals.keys_msat}")
    for unit, books in world.mint.books.items():
        wallets = [node.wallet, *(caller.purse.wallet for caller in callers)]
        held = sum(wallet.balances().get((MINT_URL, unit), 0) for wallet in wallets)
        out = [text for caller in callers for text in caller.purse.unsure + caller.purse.refunds]
        # Accepted without the mint, and worth too little by itself to be swapped: it waits for more.
        out += [text for caller in callers for text in caller.purse.locked if not is_taken(world.mint, text)]
        tokens = [decode(text) for text in dict.fromkeys(out)]
        afoot = sum(token.amount for token in tokens if token.unit == unit)
        check(held + afoot == books.outstanding, f"{held} + {afoot} {unit} are somewhere, {books.outstanding} are out")


async def pay_all_out(world: World, callers: list[Caller]) -> None:
    """Everybody takes everything back; what remains is less than a coin, or than its fee."""
    for caller in callers:
        for balance in caller.balances:
            told = ""
            for _ in range(MOST_REFUNDS):
                if balance.refundable <= 0:
                    break
                told = await caller.refund(balance)
                for text in list(caller.purse.refunds):
                    await caller.purse.redeem(text)
                if not told.startswith(f"refund {balance.name} 200"):
                    break
            stuck = balance.refundable
            enough = stuck <= world.most_of_one_unit_msat()
            check(stuck < 2 * MSAT_PER_SAT or not enough, f"{stuck} msat of {balance.name} are stuck: {told}")
    await check_sums(world, callers)
