"""L402 where it is switched on, where its mint is away, and at a counter, through a real mint."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from node.localnet.mint import start_mint, wait_mint
from node.localnet.process import free_port
from tests.node.harness import HELLO, adds_up, receipt_of, running_node
from tests.node.payers import CHAT, asked_by, pay
from tests.node.test_counter import running_pair


async def test_a_mint_that_is_away_takes_no_payment_and_loses_none(
    folder: Path, model_url: str, unwatched: None, http: httpx.AsyncClient
) -> None:
    port = free_port()
    mint, url = start_mint(folder / "mint", port=port)
    try:
        wait_mint(mint, url)
        async with running_node(folder, cashu_mints=url, upstream_base_url=model_url, l402="true") as node:
            asked = await asked_by(node.url, http)
            mint.stop()
            away = await http.post(node.url + CHAT, json=HELLO)
            assert (away.status_code, bool(away.headers["x-cashu"])) == (402, True)
            assert "www-authenticate" not in away.headers
            untold = await http.post(node.url + CHAT, json=HELLO, headers=asked.paid)
            error = untold.json()["error"]
            assert (untold.status_code, error["code"]) == (503, "mint_unavailable"), untold.text
            assert untold.headers["retry-after"]
            mint, url = start_mint(folder / "mint", port=port)
            wait_mint(mint, url)
            served = await pay(node.url, http, asked)
            assert served.status_code == 200, served.text
            await adds_up(node)
    finally:
        mint.stop()


@pytest.mark.parametrize("is_on", [False, True])
async def test_it_is_offered_and_announced_where_the_operator_wants_it(
    folder: Path, mint_url: str, model_url: str, http: httpx.AsyncClient, is_on: bool
) -> None:
    on = {"l402": "true"} if is_on else {}
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=model_url, **on) as node:
        answer = await http.post(node.url + CHAT, json=HELLO)
        assert (answer.status_code, "www-authenticate" in answer.headers) == (402, is_on)
        assert ("l402" in (node.node.announcer.announcement().payments or ())) == is_on


async def test_a_counter_serves_who_has_paid_and_asks_its_till_for_the_rest(
    folder: Path, postgres_books_url: str, mint_url: str, model_url: str, http: httpx.AsyncClient, unwatched: None
) -> None:
    prices = {"fixed_per_1k_input_tokens": "2", "fixed_per_1k_output_tokens": "8"}
    common = {"database_url": postgres_books_url, "cashu_mints": mint_url, "upstream_base_url": model_url}
    async with running_pair(folder, **common, **prices, l402="true") as pair:
        asked = await asked_by(pair.url, http)
        first = await pay(pair.url, http, asked)
        assert first.status_code == 200, first.text
        second = await http.post(pair.url + CHAT, json={**HELLO, "max_tokens": 1}, headers=asked.paid)
        assert second.status_code == 200, second.text
        more = await asked_by(pair.url, http, {**HELLO, "max_tokens": 1024}, **asked.paid)
        assert more.token != asked.token
        spent = receipt_of(first).cost_msat + receipt_of(second).cost_msat
        balance = (await http.get(f"{pair.url}/v1/balance", headers=asked.paid)).json()
        assert (balance["balance"], balance["spent"]) == (asked.amount_msat - spent, spent)
        await pair.till.audit()
