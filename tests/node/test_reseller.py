"""A node that is resold and cheats is found out by what it kept and what it signed, and is not bought from again. One that
is only slow, away or dearer than a moment ago is.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from aiohttp import web

from node.errors import UpstreamRefused, UpstreamUnreachable
from node.upstream.kinds.satroute import SatrouteUpstream
from relays.event import Signer
from relays.payment import CASHU_HEADER, RECEIPT_HEADER
from relays.pricing import ModelPrice, Usage
from relays.receipt import SSE_PREFIX, Receipt, to_header
from relays.receipt import encode as receipt_event
from router_client.ecash.token import Token, decode
from router_client.ecash.token import encode as encode_token
from tests.client import cheat as cheats
from tests.client.cheat import BODY, DONE, NOTHING_LEFT, SIGNER, TEXT, Cheat, receipt
from tests.client.till import COST_MSAT, FEES_MSAT, Till, comment, honestly, silently
from tests.conftest import DEAD_MINT
from tests.node.resold import ASK, BOTH, DEARER, DEARER_COST_MSAT, PURSE_MSAT, bought, not_bought_again


@BOTH
async def test_an_honest_node_is_bought_from_again(upstream: SatrouteUpstream, cheat: Cheat, mint_url: str) -> None:
    for _ in range(3):
        Till(cheat, mint_url, honestly)
        assert await bought(upstream) == TEXT + b"\n" + b"\n" + DONE
    assert upstream._payments.open_count() == 0
    spent_msat = PURSE_MSAT - upstream._payments.wallet.balance_msat()
    assert 3 * COST_MSAT <= spent_msat <= 3 * COST_MSAT + 3 * FEES_MSAT


def signed(signer: Signer, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> bytes:
    monkeypatch.setattr(cheats, "SIGNER", signer)
    made = receipt(**changes)
    monkeypatch.setattr(cheats, "SIGNER", SIGNER)
    return made


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "price": ({"price": DEARER, "cost_msat": DEARER_COST_MSAT}, "higher price"),
    "hold": ({"hold_msat": 10_000}, "held 10000"),
    "cost": ({"cost_msat": COST_MSAT + 1}, "not the price of the usage"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_receipt_with_another_price_or_other_lies_ends_the_trade(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str, lie: str
) -> None:
    changes, why = LIES[lie]
    Till(cheat, mint_url, lambda change: [TEXT, receipt(**changes), comment(change), DONE])
    assert TEXT in await bought(upstream), "who asked has the answer"
    await not_bought_again(upstream, cheat, why)


async def test_more_usage_than_can_be_is_said_and_costs_no_more_than_the_hold(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The word of the node's own upstream, as of one with a long template: a short question must not end the trade."""
    much = receipt(300, usage=Usage(10**6, 5))
    Till(cheat, mint_url, lambda change: [TEXT, much, *([comment(change)] if change else []), DONE], cost_msat=300)
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    for _ in range(2):
        await bought(upstream)
    assert "which cannot be" in caplog.text


async def test_a_receipt_that_another_signed_ends_the_trade(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = signed(Signer.generate(), monkeypatch)
    Till(cheat, mint_url, lambda change: [TEXT, foreign, comment(change), DONE])
    await bought(upstream)
    await not_bought_again(upstream, cheat, "another key")


async def test_a_missing_receipt_ends_the_trade(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    Till(cheat, mint_url, lambda change: [TEXT, comment(change), DONE])
    await bought(upstream)
    assert cheat.asked[-1] == "/v1/receipts/r", "it was asked for"
    assert upstream._payments.open_count() == 0, "the change is in all the same"
    assert "other cheated: nothing is bought there until this node is restarted: it gave no receipt" in caplog.text
    assert "cashuB" not in caplog.text
    await not_bought_again(upstream, cheat, "no receipt")


async def test_a_whole_answer_without_a_receipt_ends_the_trade(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str
) -> None:
    cheat.chat_headers = {"Content-Type": "application/json"}
    Till(cheat, mint_url, lambda _: [b"{}"])
    assert await bought(upstream, BODY) == b"{}"
    await not_bought_again(upstream, cheat, "no receipt")


async def test_a_receipt_that_was_lost_on_its_way_is_asked_for(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str
) -> None:
    till = Till(cheat, mint_url, lambda change: [TEXT, comment(change), DONE])
    event = msgspec.json.decode(receipt().removeprefix(SSE_PREFIX.encode()).strip())
    cheat.kept_receipt = lambda token: web.json_response({"event": event} if token == till.tokens[-1] else {})
    for _ in range(2):
        await bought(upstream)
        assert cheat.asked[-1] == "/v1/receipts/r"


@BOTH
@pytest.mark.parametrize("kept_msat", [20, 150])
async def test_short_change_ends_the_trade(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str, kept_msat: int
) -> None:
    Till(cheat, mint_url, honestly, cost_msat=COST_MSAT + kept_msat)
    await bought(upstream)
    assert upstream._payments.open_count() == 0, "what came is taken"
    await not_bought_again(upstream, cheat, "the node kept")


@BOTH
async def test_no_change_at_all_ends_the_trade(upstream: SatrouteUpstream, cheat: Cheat, mint_url: str) -> None:
    Till(cheat, mint_url, silently)
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    await bought(upstream)
    await not_bought_again(upstream, cheat, "the node kept")


async def test_change_that_is_no_money_ends_the_trade(upstream: SatrouteUpstream, cheat: Cheat, mint_url: str) -> None:
    Till(cheat, mint_url, lambda change: honestly(encode_token(Token(DEAD_MINT, "msat", decode(change).proofs))))
    await bought(upstream)
    await not_bought_again(upstream, cheat, "not paid with")


@pytest.mark.parametrize("status", [400, 504])
async def test_a_refusal_that_keeps_the_money_ends_the_trade(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str, status: int
) -> None:
    Till(cheat, mint_url, lambda _: [b'{"error":{"message":"no"}}'])
    cheat.chat_status, cheat.refund = status, lambda _: web.json_response(NOTHING_LEFT, status=403)
    with pytest.raises(UpstreamUnreachable, match=r"it refused .* the node kept"):
        await bought(upstream)
    await not_bought_again(upstream, cheat, "it refused")


@BOTH
async def test_a_refusal_that_gives_the_money_back_is_none_but_a_refusal(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str
) -> None:
    till = Till(cheat, mint_url, lambda _: [b'{"error":{"message":"no"}}'], cost_msat=0)
    cheat.chat_status = 400
    cheat.refund = lambda _: web.json_response({"token": till.change})
    for _ in range(2):
        with pytest.raises(UpstreamRefused):
            await bought(upstream)
    assert upstream._payments.open_count() == 0


@BOTH
async def test_change_that_cannot_be_had_now_is_no_cheating_and_is_fetched_later(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str
) -> None:
    tills = []
    for _ in range(2):
        tills.append(Till(cheat, mint_url, silently))
        cheat.change = cheat.refund = lambda _: web.Response(status=503)
        await bought(upstream)
    assert upstream._payments.open_count() == 2
    changes = {till.tokens[0]: till.change for till in tills}
    cheat.refund = lambda token: web.json_response({"token": changes[token]})
    await upstream._payments._db.run(lambda conn: conn.execute("UPDATE payments SET created_at = 0").close())
    assert await upstream.models()
    await upstream._tasks.drain(30)
    assert upstream._payments.open_count() == 0


async def test_a_call_that_was_cut_off_has_its_change_when_the_node_has_ended_it(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str
) -> None:
    """The request runs on at the node for a moment: a part of the change comes at once, and no receipt."""
    till = Till(cheat, mint_url, lambda change: [TEXT] * 500_000)
    first = ""

    async def part(_: str) -> web.Response:
        nonlocal first
        first = first or await till.made(20)
        return web.json_response({"token": first, "reserved": 300, "balance": 0})

    cheat.change = cheat.refund = part
    await bought(upstream, pieces=1)
    assert "/v1/receipts/r" not in cheat.asked
    assert upstream._payments.open_count() == 1
    assert await upstream.models(), "it is trusted"
    cheat.change = cheat.refund = lambda _: web.json_response({"token": till.change})
    assert await upstream._payments.recover() > 0
    assert upstream._payments.open_count() == 0


async def test_a_call_that_was_cut_off_costs_no_more_than_was_held(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str
) -> None:
    till = Till(cheat, mint_url, lambda _: [TEXT] * 500_000)
    cheat.refund = lambda _: web.json_response({"token": till.change})
    await bought(upstream, pieces=1)
    assert await upstream.models(), "what it cost is not known, and may be the hold"
    dear = {**ASK, "max_tokens": 1000}
    Till(cheat, mint_url, lambda _: [TEXT] * 500_000)
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    purse = upstream._payments.pay

    async def twice(url: str, mint: str, unit: str, amount_msat: int, **more: Any) -> Any:
        return await purse(url, mint, unit, amount_msat + 500, **more)

    upstream._payments.pay = twice  # type: ignore[method-assign, assignment]
    await bought(upstream, dear, pieces=1)
    await not_bought_again(upstream, cheat, "the node kept")


def dearly(change: str) -> list[bytes]:
    return [TEXT, receipt(DEARER_COST_MSAT, price=DEARER, hold_msat=320), comment(change), DONE]


async def test_a_price_that_rose_a_moment_ago_is_no_cheating(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    Till(cheat, mint_url, dearly, cost_msat=DEARER_COST_MSAT)
    cheat.price = DEARER
    await bought(upstream)
    assert "has changed its terms" in caplog.text
    assert await upstream.models()
    await bought(upstream)


async def test_a_rise_beyond_what_was_agreed_to_be_held_ends_the_trade(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str
) -> None:
    cheat.price = ModelPrice(20_000_000, 80_000_000, 0)
    cost_msat = 31 * 20 + 5 * 80
    rose = receipt(cost_msat, price=cheat.price, hold_msat=3_000)
    Till(
        cheat, mint_url, lambda change: [TEXT, rose, *([comment(change)] if change else []), DONE], cost_msat=cost_msat
    )
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    await bought(upstream)
    await not_bought_again(upstream, cheat, "higher price")


async def test_what_a_models_server_writes_into_a_stream_does_not_make_its_node_a_cheat(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str
) -> None:
    """Comments pass through a node: the words that are its own are the last."""
    junk = [comment(f"cashuB{n}") for n in range(20)]
    Till(cheat, mint_url, lambda change: [TEXT, receipt(1), *junk, receipt(), comment(change), DONE])
    for _ in range(2):
        assert TEXT in await bought(upstream)


async def test_a_whole_answers_receipt_and_change_are_in_its_head(
    upstream: SatrouteUpstream, cheat: Cheat, mint_url: str
) -> None:
    till = Till(cheat, mint_url, lambda _: [b"{}"])
    taking = cheat.on_payment
    event = msgspec.json.decode(receipt().removeprefix(SSE_PREFIX.encode()).strip())

    async def take(token: str) -> None:
        assert taking is not None
        await taking(token)
        header = to_header(receipt_event(msgspec.json.decode(event["content"], type=Receipt), SIGNER, 1))
        cheat.chat_headers = {"Content-Type": "application/json", RECEIPT_HEADER: header, CASHU_HEADER: till.change}

    cheat.on_payment = take
    for _ in range(2):
        assert await bought(upstream, BODY) == b"{}"
    assert [path for path in cheat.asked if path != "/v1/chat/completions"] == []
