"""Lightning in and out of a node, through a real mint: invoices credited unasked, refunds to addresses, earnings paid out,
and foreign mints' ecash brought home."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from node.ledger.model import Deposit
from node.localnet.mint import start_mint, wait_mint
from node.localnet.process import free_port
from node.payouts import PayoutRule, Payouts
from relays.money import from_sat
from router_client.ecash.invoices import read_invoice
from router_client.ecash.token import decode
from router_client.ecash.wallet import Wallet
from tests.client.mints import running_mint
from tests.client.test_lnurl import LnurlServer
from tests.node.harness import HELLO, Running, adds_up, bearer, funded_wallet, paying_node, running_node, token_of


@pytest.fixture
async def node(folder: Path, mint_url: str, model_url: str) -> AsyncIterator[Running]:
    async with paying_node(folder, mint_url, model_url) as running:
        yield running


# invoices ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/lightning/invoice", "/v1/balance/lightning/invoice"])
async def test_a_paid_invoice_is_credited_though_nobody_asks(node: Running, http: httpx.AsyncClient, path: str) -> None:
    """Elsewhere, a payment counts only if the client polls."""
    made = (await http.post(f"{node.url}{path}", json={"amount_sats": 21, "purpose": "create"})).json()
    invoice = read_invoice(made["bolt11"])
    assert (invoice.amount_msat, invoice.payment_hash) == (21_000, made["payment_hash"])
    for _ in range(100):
        if await node.node.invoices.watch():
            break
        await asyncio.sleep(0.1)
    assert (await node.node.ledger.audit()).keys_msat == 21_000
    status = (await http.get(f"{node.url}{path}/{made['invoice_id']}/status")).json()
    assert (status["status"], status["msats"]) == ("paid", 21_000)
    again = (await http.get(f"{node.url}{path}/{made['invoice_id']}/status")).json()
    assert again["api_key"] == status["api_key"], "an answer may be lost"
    balance = await http.get(f"{node.url}/v1/balance", headers=bearer(status["api_key"]))
    assert balance.json()["balance"] == 21_000
    used = (await http.get(f"{node.url}{path}/{made['invoice_id']}/status")).json()
    assert "api_key" not in used, "once it is used, it is told no more"
    await adds_up(node)


async def test_an_invoice_tops_a_key_up_once(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    key = bearer(await token_of(wallet, mint_url, 5_000))
    before = (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"]
    wish = {"amount_sats": 7, "purpose": "topup"}
    made = (await http.post(f"{node.url}/lightning/invoice", json=wish, headers=key)).json()
    url = f"{node.url}/lightning/invoice/{made['invoice_id']}/status"
    for _ in range(100):
        watching = asyncio.create_task(node.node.invoices.watch())
        answers = await asyncio.gather(*(http.get(url) for _ in range(4)))
        await watching
        if answers[0].json()["status"] == "paid":
            break
        await asyncio.sleep(0.1)
    assert "api_key" not in answers[0].json()
    assert (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"] == before + 7_000
    await adds_up(node)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"amount_sats": 0}, 400),
        ({"amount_sats": -1}, 400),
        ({"amount_sats": 1, "purpose": "gift"}, 400),
        ({"amount_sats": 1, "purpose": "topup"}, 401),
        ({}, 400),
    ],
)
async def test_invoices_that_cannot_be(
    node: Running, http: httpx.AsyncClient, body: dict[str, object], status: int
) -> None:
    assert (await http.post(f"{node.url}/lightning/invoice", json=body)).status_code == status
    assert (await http.get(f"{node.url}/lightning/invoice/inv_unknown/status")).status_code == 404


async def test_a_mint_that_is_gone_keeps_nobody_elses_invoice_waiting(
    node: Running, folder: Path, http: httpx.AsyncClient
) -> None:
    """An invoice of a mint that the node had before, and that does not answer any more, is the first to be looked at."""
    with running_mint(folder / "gone") as gone:
        await node.node.wallet.invoice(5000, gone, "msat", "inv_gone")
        lost = Deposit(
            id="inv_gone",
            purpose="open",
            account=None,
            state="open",
            mint=gone,
            unit="msat",
            amount_msat=5000,
            fee_msat=0,
            reason="",
        )
        await node.node.ledger.begin_deposit(lost)
    made = (await http.post(f"{node.url}/lightning/invoice", json={"amount_sats": 21, "purpose": "create"})).json()
    for _ in range(100):
        if await node.node.invoices.watch():
            break
        await asyncio.sleep(0.1)
    status = (await http.get(f"{node.url}/lightning/invoice/{made['invoice_id']}/status")).json()
    assert status["status"] == "paid"
    waiting = await node.node.ledger.deposit("inv_gone")
    assert waiting is not None
    assert waiting.state == "open", "its mint may come back"


# refunds to a Lightning address ---------------------------------------------------------------------------------------


async def test_a_refund_goes_to_a_lightning_address(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, address: LnurlServer
) -> None:
    key = bearer(await token_of(wallet, mint_url, 200_000))
    before = (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"]
    wish = {"recipient": address.address}
    paid = await http.post(f"{node.url}/v1/balance/refund", json=wish, headers=key)
    assert paid.status_code == 200, paid.text
    answer = paid.json()
    assert answer["recipient"] == address.address
    assert "token" not in answer
    assert answer["msats"] + answer["fee_msats"] + answer["balance"] == before
    assert answer["msats"] > before * 9 // 10
    assert int(address.asked[-1].split("amount=")[1]) == answer["msats"], "what was invoiced is what was told"
    await adds_up(node)


async def test_eight_refunds_to_an_address_at_once_pay_one_after_the_other(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, address: LnurlServer
) -> None:
    key = bearer(await token_of(wallet, mint_url, 200_000))
    before = (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"]
    url, wish = f"{node.url}/v1/balance/refund", {"recipient": address.address}
    answers = await asyncio.gather(*(http.post(url, json=wish, headers=key) for _ in range(8)))
    paid = [answer.json() for answer in answers if answer.status_code == 200]
    left = (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"]
    assert sum(answer["msats"] + answer["fee_msats"] for answer in paid) + left == before
    await adds_up(node)


async def test_the_accounts_own_address_is_used_when_none_is_named(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, address: LnurlServer
) -> None:
    key = bearer(await token_of(wallet, mint_url, 100_000))
    bad = await http.put(f"{node.url}/v1/balance/refund-address", json={"address": "nowhere"}, headers=key)
    assert bad.status_code == 400
    saved = await http.put(f"{node.url}/v1/balance/refund-address", json={"address": address.address}, headers=key)
    assert saved.json() == {"refund_address": address.address}
    paid = await http.post(f"{node.url}/v1/balance/refund", headers=key)
    assert paid.json()["recipient"] == address.address
    await adds_up(node)


async def test_an_address_that_does_not_take_it_leaves_the_balance(
    node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str
) -> None:
    key = bearer(await token_of(wallet, mint_url, 100_000))
    before = (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"]
    for recipient, status in (("no address", 400), ("bob@127.0.0.1:9", 502)):
        failed = await http.post(f"{node.url}/v1/balance/refund", json={"recipient": recipient}, headers=key)
        assert failed.status_code == status, failed.text
        after = (await http.get(f"{node.url}/v1/balance", headers=key)).json()
        assert (after["balance"], after["reserved"]) == (before, 0)
    token = await http.post(f"{node.url}/v1/balance/refund", headers=key)
    assert decode(token.json()["token"]).amount_msat == token.json()["msats"]
    await adds_up(node)


async def test_an_address_inside_the_operators_network_is_refused(
    folder: Path, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, model_url: str, address: LnurlServer
) -> None:
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=model_url) as node:
        key = bearer(await token_of(wallet, mint_url, 50_000))
        failed = await http.post(f"{node.url}/v1/balance/refund", json={"recipient": address.address}, headers=key)
        assert failed.status_code == 502
        assert address.asked == []


# payouts --------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def dear_node(folder: Path, mint_url: str, model_url: str) -> AsyncIterator[Running]:
    """One that earns enough in a few requests to be worth a payment's fees."""
    async with running_node(
        folder,
        cashu_mints=mint_url,
        upstream_base_url=model_url,
        allow_local_addresses=True,
        fixed_cost_per_request="20",
    ) as running:
        yield running


async def test_earnings_are_paid_out_and_balances_are_not(
    dear_node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, address: LnurlServer
) -> None:
    node = dear_node
    key = bearer(await token_of(wallet, mint_url, 400_000))
    for _ in range(3):
        assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)).status_code == 200
    earned_msat = (await node.node.ledger.earnings()).available_msat
    owed_msat = (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"]
    parts = (node.node.ledger, node.node.wallet, node.node.payouts._cashier)
    dear = Payouts(*parts, PayoutRule(address.address, from_sat(1_000_000), (mint_url,)))
    assert await dear.run() is None, "below the threshold nothing is paid"
    assert await Payouts(*parts, PayoutRule("", from_sat(1), (mint_url,))).run() is None, "nor without an address"

    payouts = Payouts(*parts, PayoutRule(address.address, from_sat(1), (mint_url,)))
    offer = address.offer
    address.offer = lambda path, query: (503, {}, b"")
    assert await payouts.run() is None, "an address that is away leaves the earnings where they are"
    assert (await node.node.ledger.earnings()).available_msat == earned_msat
    address.offer = offer
    paid = await payouts.run()
    assert paid is not None
    assert paid.amount_msat <= earned_msat
    assert (await node.node.ledger.earnings()).available_msat == earned_msat - paid.amount_msat
    assert (await http.get(f"{node.url}/v1/balance", headers=key)).json()["balance"] == owed_msat
    back = await http.post(f"{node.url}/v1/balance/refund", headers=key)
    assert back.status_code == 200, "what is the caller's is still there"
    assert {payout.state for payout in await node.node.ledger.payouts()} == {"done", "failed"}
    await adds_up(node)


async def test_a_payout_never_touches_what_callers_are_owed(
    dear_node: Running, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, address: LnurlServer
) -> None:
    """Earnings whose coins are gone are not taken out of the coins that refunds need."""
    node = dear_node
    key = bearer(await token_of(wallet, mint_url, 400_000))
    for _ in range(3):
        await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)
    earned_msat = (await node.node.ledger.earnings()).available_msat
    await node.node.wallet.send(earned_msat - 30_000, mint_url, "msat", "the operator took this out by hand")
    parts = (node.node.ledger, node.node.wallet, node.node.payouts._cashier)
    paid = await Payouts(*parts, PayoutRule(address.address, from_sat(1), (mint_url,))).run()
    assert paid is not None
    assert paid.amount_msat <= 30_000
    back = await http.post(f"{node.url}/v1/balance/refund", headers=key)
    assert back.status_code == 200, back.text


# several mints --------------------------------------------------------------------------------------------------------


async def test_a_second_mint_keeps_its_own_money(
    folder: Path, wallet: Wallet, http: httpx.AsyncClient, mint_url: str, model_url: str
) -> None:
    """A refund comes in the ecash that was paid in."""
    other, other_url = start_mint(folder / "other", port=free_port())
    try:
        wait_mint(other, other_url)
        second = await funded_wallet(folder / "second.db", http, other_url)
        mints = f"{mint_url},{other_url}"
        async with running_node(folder, cashu_mints=mints, upstream_base_url=model_url) as node:
            for purse, url in ((wallet, mint_url), (second, other_url)):
                key = bearer(await token_of(purse, url, 30_000))
                assert (await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=key)).status_code == 200
                back = (await http.post(f"{node.url}/v1/balance/refund", headers=key)).json()
                assert decode(back["token"]).mint == url
                assert (await purse.receive(back["token"], "back")).amount_msat > 0
            await adds_up(node)
        second.close()
    finally:
        other.stop()


async def test_a_foreign_mints_token_comes_home_over_lightning_if_the_operator_allows_it(
    folder: Path, http: httpx.AsyncClient, mint_url: str, model_url: str
) -> None:
    foreign, foreign_url = start_mint(folder / "foreign", port=free_port(), input_fee_ppk=100)
    try:
        wait_mint(foreign, foreign_url)
        stranger = await funded_wallet(folder / "stranger.db", http, foreign_url)
        async with running_node(folder / "a", cashu_mints=mint_url, upstream_base_url=model_url) as strict:
            token = await token_of(stranger, foreign_url, 100_000)
            refused = await http.get(f"{strict.url}/v1/balance", headers=bearer(token))
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "foreign_mint")
        async with running_node(
            folder / "b",
            cashu_mints=mint_url,
            upstream_base_url=model_url,
            swap_foreign_mints=True,
            allow_local_addresses=True,
        ) as node:
            made = await http.post(f"{node.url}/v1/balance/create", json={"initial_balance_token": token})
            assert made.status_code == 200, made.text
            answer = made.json()
            assert answer["balance"] + answer["fee_msats"] == decode(token).amount_msat, "fees are shown, not swallowed"
            assert answer["balance"] > 90_000
            assert node.node.wallet.balances()[mint_url, "sat"] * 1000 == answer["balance"]
            again = await http.post(f"{node.url}/v1/balance/create", json={"initial_balance_token": token})
            assert again.status_code == 409
            back = await http.post(f"{node.url}/v1/balance/refund", headers=bearer(answer["api_key"]))
            assert decode(back.json()["token"]).mint == mint_url
            totals = await node.node.ledger.audit()
            at_home = sum(amount for (mint, _), amount in node.node.wallet.balances().items() if mint == mint_url)
            assert at_home == totals.ecash_in_msat == 0, "what stayed abroad is in no book"
            assert totals.earned_msat == 0
        stranger.close()
    finally:
        foreign.stop()
