"""Change that comes with the answer: taken in once, checked, and asked for elsewhere when it does not come. A node that
keeps, shortens or falsifies it is found out, and what only it can give back is told of until it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from relays.payment import CASHU_HEADER
from router_client.buying.tries import MAX_TRIES
from router_client.client import RouterClient
from router_client.discovery.directory import Directory
from router_client.ecash.token import Token, decode, encode, token_hash
from router_client.ecash.wallet import Wallet
from router_client.errors import NodeRefused, NoProvider
from router_client.paying.change import short_change
from router_client.paying.payments import Payments
from tests.client.cheat import BODY, DONE, NOTHING_LEFT, TEXT, Cheat, announce, receipt
from tests.client.purses import until_claimed
from tests.client.till import COST_MSAT, FEES_MSAT, Till, comment, honestly, silently
from tests.conftest import DEAD_MINT


@pytest.fixture(params=["plain", "locked"])
def lock(request: pytest.FixtureRequest, buyer: RouterClient, cheat: Cheat, mint_url: str) -> str | None:
    key = cheat.wallet.lock_key if request.param == "locked" else None
    announce(buyer, cheat, mint_url, key)
    return key


@pytest.fixture
def locked(buyer: RouterClient, cheat: Cheat, mint_url: str) -> None:
    announce(buyer, cheat, mint_url, cheat.wallet.lock_key)


async def stocked(cheat: Cheat, mint: str, unit: str = "msat") -> None:
    await cheat.wallet.invoice(2_000, mint, unit, f"own {unit}")
    await until_claimed(cheat.wallet, f"own {unit}")


async def test_one_exchange_pays_serves_and_gives_change(
    buyer: RouterClient, cheat: Cheat, mint_url: str, lock: str | None
) -> None:
    till = Till(cheat, mint_url, honestly)
    answer = await buyer.chat(BODY)
    assert answer.verified, answer.problem
    assert answer.settled
    assert cheat.asked == ["/v1/chat/completions"]
    assert cheat.wallet.is_locked_here(decode(till.tokens[0])) is (lock is not None)
    assert len(decode(till.tokens[0]).proofs) <= 3 or lock is None
    assert 10_000 - COST_MSAT - FEES_MSAT <= buyer.wallet.balance_msat() <= 10_000 - COST_MSAT
    assert buyer.payments.out() == []


def _whatever(stream: list[bytes], _: str) -> list[bytes]:
    """Said whatever the change is."""
    return stream


def _change_of(till: Till, token: str) -> web.Response:
    return web.json_response({"token": till.change, "fee_msats": 3} if token == till.tokens[-1] else {})


def _refund_of(till: Till, _: str) -> web.Response:
    return web.json_response({"token": till.change})


async def test_change_that_is_not_in_the_stream_is_fetched_by_the_requests_id(
    buyer: RouterClient, cheat: Cheat, mint_url: str, lock: str | None
) -> None:
    for unreadable in ("", "creqAnotatoken", "garbage"):
        stream = [TEXT, receipt(), comment(unreadable), DONE]
        till = Till(cheat, mint_url, partial(_whatever, stream))
        cheat.asked = []
        cheat.change = partial(_change_of, till)
        answer = await buyer.chat(BODY)
        assert answer.verified, answer.problem
        assert cheat.asked == ["/v1/chat/completions", "/v1/change/r"]
        assert buyer.payments.open_count() == 0


@pytest.mark.parametrize("change", [(404, b""), (401, b"{}"), (500, b"no"), (200, b"{}"), (200, b"junk")])
async def test_a_node_that_knows_the_bearer_way_alone_is_asked_for_a_refund(
    buyer: RouterClient, cheat: Cheat, mint_url: str, locked: None, change: tuple[int, bytes]
) -> None:
    till = Till(cheat, mint_url, silently)
    cheat.change = lambda _: web.Response(status=change[0], body=change[1])
    cheat.refund = lambda _: web.json_response({"token": till.change, "fee_msats": 3})
    answer = await buyer.chat(BODY)
    assert answer.verified, answer.problem
    assert cheat.asked[1:] == ["/v1/change/r", "/v1/balance/refund"]
    assert buyer.payments.open_count() == 0


async def test_a_node_that_gives_no_change_is_found_out(
    buyer: RouterClient, cheat: Cheat, mint_url: str, lock: str | None
) -> None:
    Till(cheat, mint_url, silently)
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    answer = await buyer.chat(BODY)
    assert "the node kept" in str(answer.problem)
    assert buyer.payments.open_count() == 0, "there is nothing to wait for"


async def test_too_little_change_is_taken_and_said(
    buyer: RouterClient, cheat: Cheat, mint_url: str, lock: str | None
) -> None:
    Till(cheat, mint_url, honestly, cost_msat=COST_MSAT + 50)
    before = buyer.wallet.balance_msat()
    answer = await buyer.chat(BODY)
    assert "the node kept" in str(answer.problem)
    assert answer.settled
    assert buyer.wallet.balance_msat() >= before - COST_MSAT - 50 - FEES_MSAT


async def test_change_of_another_mint_or_unit_is_no_money_and_the_right_one_is_taken_later(
    buyer: RouterClient, cheat: Cheat, mint_url: str, lock: str | None
) -> None:
    await stocked(cheat, mint_url, "sat")
    sats = decode((await cheat.wallet.send(500, mint_url, "sat", "foreign unit")).token)
    for worthless in (encode(sats), encode(Token(DEAD_MINT, "msat", sats.proofs))):
        till = Till(cheat, mint_url, partial(_whatever, honestly(worthless)))
        announce(buyer, cheat, mint_url, lock)  # who cheats is left alone until looked at again
        answer = await buyer.chat(BODY)
        assert not answer.settled
        assert "not paid with" in str(answer.problem)
        assert [one.node_url for one in buyer.payments.out()] == [cheat.url]
        cheat.refund = partial(_refund_of, till)
        assert await buyer.recover() > 0
        assert buyer.payments.open_count() == 0
    assert {unit for _, unit in buyer.wallet.balances()} == {"msat"}


async def test_change_said_twice_is_taken_once_and_two_tokens_are_both_taken(
    buyer: RouterClient, cheat: Cheat, mint_url: str
) -> None:
    Till(cheat, mint_url, lambda change: [TEXT, receipt(), comment(change), comment(change), DONE])
    assert (await buyer.chat(BODY)).verified
    await stocked(cheat, mint_url)
    gift = (await cheat.wallet.send(500, mint_url, "msat", "gift")).token
    spent = (await cheat.wallet.send(100, mint_url, "msat", "spent")).token
    await cheat.wallet.receive(spent, "spend it")
    before = buyer.wallet.balance_msat()
    Till(cheat, mint_url, lambda change: [TEXT, receipt(), *map(comment, (spent, change, gift)), DONE])
    answer = await buyer.chat(BODY)
    assert answer.verified, "one that is no money takes nothing from the others"
    assert buyer.wallet.balance_msat() >= before + 500 - COST_MSAT - FEES_MSAT


async def test_change_that_is_not_worth_its_swap_closes_the_payment(
    buyer: RouterClient, cheat: Cheat, mint_url: str
) -> None:
    await stocked(cheat, mint_url)
    dust = (await cheat.wallet.send(2, mint_url, "msat", "dust", fees="inside")).token
    assert decode(dust).amount == 1
    Till(cheat, mint_url, lambda _: honestly(dust), cost_msat=1_000)
    answer = await buyer.chat(BODY)
    assert "the node kept" in str(answer.problem)
    assert buyer.payments.open_count() == 0


@pytest.mark.parametrize("status", [400, 404, 409, 429, 502, 503])
async def test_an_error_with_change_is_the_money_back(
    buyer: RouterClient, cheat: Cheat, mint_url: str, locked: None, status: int
) -> None:
    till = Till(cheat, mint_url, lambda _: [b'{"error":{"message":"no","code":"x"}}'], cost_msat=0)
    taking = cheat.on_payment
    assert taking is not None

    async def take(token: str) -> None:
        await taking(token)
        cheat.chat_headers = {CASHU_HEADER: till.change}

    cheat.on_payment, cheat.chat_status = take, status
    with pytest.raises((NoProvider, NodeRefused)):
        await buyer.chat(BODY)
    assert set(cheat.asked) == {"/v1/chat/completions"}
    assert len(cheat.asked) == (1 if status != 429 else MAX_TRIES), "who is full is waited for, and asked again"
    assert buyer.payments.open_count() == 0
    assert buyer.wallet.balance_msat() >= 10_000 - FEES_MSAT * len(cheat.asked)


async def test_an_error_that_gives_back_too_little_is_said(
    buyer: RouterClient, cheat: Cheat, mint_url: str, locked: None
) -> None:
    await stocked(cheat, mint_url)
    till = Till(cheat, mint_url, lambda _: [b"{}"])
    cheat.chat_headers = {CASHU_HEADER: await till.made(50)}
    cheat.chat_status = 404
    with pytest.raises(NoProvider, match="the node kept"):
        await buyer.chat(BODY)
    assert buyer.payments.open_count() == 0


async def test_a_stream_without_its_end_is_said_and_its_change_is_taken(
    buyer: RouterClient, cheat: Cheat, mint_url: str, lock: str | None
) -> None:
    Till(cheat, mint_url, lambda change: honestly(change)[:-1])
    answer = await buyer.chat(BODY)
    assert (answer.text, answer.settled) == ("hello", True)
    assert "[DONE]" in str(answer.problem)
    assert buyer.wallet.balance_msat() >= 10_000 - COST_MSAT - FEES_MSAT


async def test_a_locked_token_that_a_node_keeps_is_told_of_until_it_relents(
    buyer: RouterClient, cheat: Cheat, mint_url: str, locked: None
) -> None:
    till = Till(cheat, mint_url, silently)
    cheat.change = cheat.refund = lambda _: web.Response(status=500)
    answer = await buyer.chat(BODY)
    assert not answer.settled
    for _ in range(2):
        (out,) = buyer.payments.out()
        assert (out.node_url, out.locked) == (cheat.url, True)
        assert out.amount_msat == decode(till.tokens[0]).amount_msat
        assert await buyer.recover() == 0
    cheat.refund = lambda _: web.json_response({"token": till.change})
    assert await buyer.recover() > 0
    assert buyer.payments.out() == []
    assert buyer.wallet.balance_msat() >= 10_000 - COST_MSAT - FEES_MSAT


@asynccontextmanager
async def gone_after_its_quote() -> AsyncIterator[str]:
    """The URL of a node that answers once, that it gives no quotes, and is not there any more."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.close()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_a_locked_token_that_could_not_be_delivered_pays_for_the_next_request(
    buyer: RouterClient, cheat: Cheat, mint_url: str, locked: None
) -> None:
    (provider,) = await buyer.directory.providers()
    live = cheat.url
    async with gone_after_its_quote() as cheat.url:
        announce(buyer, cheat, mint_url, provider.announcement.lock)
        with pytest.raises(NoProvider):
            await buyer.chat(BODY)
    (out,) = buyer.payments.out()
    await buyer.payments._db.run(
        lambda conn: conn.execute("UPDATE payments SET node_url = ? WHERE id = ?", (live, out.id)).close()
    )  # the node is back at its address
    cheat.url = live
    announce(buyer, cheat, mint_url, provider.announcement.lock)
    till = Till(cheat, mint_url, honestly)
    for _ in range(2):
        assert (await buyer.chat(BODY)).verified
    assert (sent := buyer.wallet.outcome(out.id)) is not None
    assert token_hash(till.tokens[0]) == token_hash(sent.result)
    assert till.tokens[1] != till.tokens[0]
    assert buyer.payments.out() == []
    assert buyer.wallet.balance_msat() >= 10_000 - 2 * COST_MSAT - 2 * FEES_MSAT


async def test_a_plain_token_that_could_not_be_delivered_is_swapped_back(
    buyer: RouterClient, cheat: Cheat, mint_url: str
) -> None:
    cheat.url = DEAD_MINT
    announce(buyer, cheat, mint_url)
    with pytest.raises(NoProvider):
        await buyer.chat(BODY)
    assert buyer.payments.open_count() == 0
    assert buyer.wallet.balance_msat() >= 10_000 - FEES_MSAT


async def test_earlier_refunds_are_taken_too_and_spent_ones_are_no_error(
    buyer: RouterClient, cheat: Cheat, mint_url: str, locked: None
) -> None:
    await stocked(cheat, mint_url)
    till = Till(cheat, mint_url, silently)
    cheat.change = cheat.refund = lambda _: web.Response(status=503)
    assert not (await buyer.chat(BODY)).settled
    spent = (await cheat.wallet.send(90, mint_url, "msat", "spent")).token
    await cheat.wallet.receive(spent, "spend it")
    lost = (await cheat.wallet.send(300, mint_url, "msat", "lost")).token
    earlier = [{"refund_id": f"refund_{at}", "token": token, "msats": 1} for at, token in enumerate((spent, lost))]
    cheat.refund = lambda _: web.json_response({"refund_id": "refund_2", "token": till.change, "earlier": earlier})
    before = buyer.wallet.balance_msat()
    back_msat = await buyer.recover()
    assert back_msat == buyer.wallet.balance_msat() - before >= decode(till.change).amount_msat + 300 - 3
    assert await buyer.recover() == 0
    assert buyer.payments.open_count() == 0


async def test_a_refund_that_a_requests_end_overtakes_is_asked_for_again(
    buyer: RouterClient, cheat: Cheat, mint_url: str, locked: None
) -> None:
    """Made while a request held the rest, answered when it had ended: nothing is reserved, and there is a balance."""
    paid = await buyer.payments.pay(cheat.url, mint_url, "msat", 1_000, lock=cheat.wallet.lock_key)
    before = buyer.wallet.balance_msat()
    await cheat.wallet.accept_locked(paid.token, "paid")
    await cheat.wallet.redeem_locked()
    names, refunds = iter("ab"), []

    async def give(_: str) -> web.Response:
        sent = await cheat.wallet.send(400, mint_url, "msat", f"refund {next(names)}", fees="inside")
        refunds.append(sent)
        earlier = [{"token": other.token} for other in refunds[:-1]]
        balance = 0 if earlier else 400
        return web.json_response(
            {"token": sent.token, "fee_msats": sent.fee_msat, "reserved": 0, "balance": balance, "earlier": earlier}
        )

    cheat.refund = give
    settled = await buyer.payments.take_back(paid)
    assert len(refunds) == 2
    assert settled.change_msat == sum(decode(sent.token).amount_msat for sent in refunds) - settled.fee_msat
    assert settled.node_fee_msat == sum(sent.fee_msat for sent in refunds)
    assert buyer.wallet.balance_msat() == before + settled.change_msat
    assert short_change(paid, settled, paid.credit_msat - 800) is None
    assert buyer.payments.out() == []


async def test_a_payment_under_way_is_left_alone_by_recover(
    buyer: RouterClient, cheat: Cheat, mint_url: str, lock: str | None
) -> None:
    """A stream may last for longer than others are waited for: its change must not come in behind its back."""
    till = Till(cheat, mint_url, silently)
    paid = await buyer.payments.pay(cheat.url, mint_url, "msat", 1_000, lock=lock)
    await till.take(paid.token)
    cheat.refund = lambda _: web.json_response({"token": till.change})
    assert await buyer.recover() == 0
    assert cheat.asked == []
    del paid  # whoever made the call was cancelled
    assert await buyer.recover() > 0
    assert buyer.payments.open_count() == 0


async def test_a_spare_whose_money_is_asked_back_pays_for_nothing_meanwhile(
    buyer: RouterClient, cheat: Cheat, mint_url: str, locked: None
) -> None:
    key = cheat.wallet.lock_key
    spare = await buyer.payments.pay(cheat.url, mint_url, "msat", 1_000, lock=key)
    await buyer.payments.keep(spare)
    others: list[str] = []

    async def busy(_: str) -> web.Response:
        others.append((await buyer.payments.pay(cheat.url, mint_url, "msat", 1_000, lock=key)).token)
        return web.Response(status=503)

    cheat.refund = busy
    assert await buyer.recover() == 0
    assert others[0] != spare.token
    assert (await buyer.payments.pay(cheat.url, mint_url, "msat", 1_000, lock=key)).token == spare.token


async def test_what_a_mint_would_have_taken_from_the_last_coins_is_not_called_kept(
    buyer: RouterClient, cheat: Cheat, mint_url: str, lock: str | None
) -> None:
    """A node that has less left than change of it would cost says that nothing is left."""
    till = Till(cheat, mint_url, silently)
    paid = await buyer.payments.pay(cheat.url, mint_url, "msat", 1_000, lock=lock)
    await till.take(paid.token)
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    settled = await buyer.payments.settle(paid)
    assert short_change(paid, settled, paid.credit_msat - 1) is None
    assert short_change(paid, settled, paid.credit_msat - 100) is not None


async def test_a_buyer_that_dies_before_its_change_is_its_own_fetches_it_in_its_next_life(
    buyer: RouterClient, cheat: Cheat, mint_url: str, http: httpx.AsyncClient, folder: Path, locked: None
) -> None:
    """The change was read and nothing of it written down: the node gives the same again."""
    till = Till(cheat, mint_url, honestly)

    class Killed(BaseException):
        pass

    async def dies(*_: object) -> None:
        raise Killed

    buyer.payments.settle = dies  # type: ignore[method-assign, assignment]
    with pytest.raises(Killed):
        await buyer.chat(BODY)
    cheat.refund = lambda token: web.json_response({"token": till.change} if token == till.tokens[0] else {})
    wallet = await Wallet.open(folder / "buyer.db", http)
    payments = await Payments.open(folder / "payments.db", wallet, http)
    reborn = RouterClient(Directory(buyer.directory._pool, http), wallet, payments, http)
    assert await reborn.recover() > 0
    assert wallet.balance_msat() >= 10_000 - COST_MSAT - FEES_MSAT
    assert payments.out() == []
    payments.close()
    wallet.close()
