"""The audit of a wallet sees what is missing while money is on its way, and where several processes share the books."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from node.errors import LedgerError
from node.ledger.ledger import Ledger
from router_client.ecash.wallet import Wallet
from router_client.errors import MintUnavailable, StorageError
from tests.node.books import deposit
from tests.node.harness import Running, adds_up, bearer, running_node, token_of


async def missing(node: Running, mint_url: str) -> None:
    """A coin that nobody booked is missed."""
    await node.node.audit()
    await node.node.wallet.send(1_000, mint_url, "msat", "the operator took this out by hand")
    with pytest.raises(LedgerError, match="the wallet holds"):
        await node.node.audit()


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job finishes what a test has left open."""
    for job in ("REDEEM", "RESTOCK", "RECOVER", "AUDIT"):
        monkeypatch.setattr(f"node.jobs.{job}_EVERY_S", 3600)


async def test_refunds_that_are_not_booked_yet_do_not_stop_it(
    folder: Path,
    wallet: Wallet,
    http: httpx.AsyncClient,
    mint_url: str,
    model_url: str,
    idle: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One has left the wallet, one has not begun to: there is always one of them on a busy node."""
    caplog.set_level("INFO")
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=model_url) as node:
        keys = [bearer(await token_of(wallet, mint_url, 50_000 + n)) for n in range(3)]
        for key in keys:
            assert (await http.get(f"{node.url}/v1/balance", headers=key)).status_code == 200

        async def away(*_: object, **__: object) -> Any:
            raise StorageError("the books are away")

        async def silent(*_: object, **__: object) -> Any:
            raise MintUnavailable("no answer")

        for kind, name, fault in ((Ledger, "finish_refund", away), (Wallet, "send", silent)):
            with monkeypatch.context() as broken:
                broken.setattr(kind, name, fault)
                refused = await http.post(f"{node.url}/v1/balance/refund", headers=keys.pop())
                assert refused.status_code == 503, refused.text
        assert len(await node.node.ledger.open_refunds()) == 2
        await node.node.audit()
        assert "have left the wallet and are not booked yet" in caplog.text
        await missing(node, mint_url)


async def test_each_of_several_processes_answers_for_its_own_wallet(
    folder: Path,
    postgres_books_url: str,
    wallet: Wallet,
    http: httpx.AsyncClient,
    mint_url: str,
    model_url: str,
    idle: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    settings = {"database_url": postgres_books_url, "cashu_mints": mint_url, "upstream_base_url": model_url}
    async with running_node(folder, **settings) as node:
        other = await Ledger.open(postgres_books_url, instance="another")
        await other.begin_deposit(msgspec.structs.replace(deposit("its own"), instance="another"))
        await other.credit_deposit("its own", 1_000_000, 0)
        await other.book_redemption("redeem:another's", 0, 7)
        await other.close()
        key = bearer(await token_of(wallet, mint_url, 50_000))
        assert (await http.get(f"{node.url}/v1/balance", headers=key)).status_code == 200
        await node.node.audit()
        assert "whose 7 msat of mints' fees are" in caplog.text
        back = (await http.post(f"{node.url}/v1/balance/refund", headers=key)).json()
        assert back["msats"] > 0
        key = bearer(await token_of(wallet, mint_url, 50_000))
        assert (await http.get(f"{node.url}/v1/balance", headers=key)).status_code == 200
        await missing(node, mint_url)


async def test_an_audit_amid_refunds_and_deposits_raises_no_alarm(
    folder: Path,
    wallet: Wallet,
    http: httpx.AsyncClient,
    mint_url: str,
    model_url: str,
    idle: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What comes and goes between its looks at books and wallet."""
    async with running_node(folder, cashu_mints=mint_url, upstream_base_url=model_url) as node:
        tokens = [await token_of(wallet, mint_url, 20_000 + n) for n in range(8)]
        opening, closing = tokens[:4], tokens[4:]
        for token in closing:
            assert (await http.get(f"{node.url}/v1/balance", headers=bearer(token))).status_code == 200
        due = Ledger.due

        async def amid(ledger: Ledger) -> Any:
            told = await due(ledger)
            for token in opening[:1]:
                opening.remove(token)
                assert (await http.get(f"{node.url}/v1/balance", headers=bearer(token))).status_code == 200
            for token in closing[:1]:
                closing.remove(token)
                assert (await http.post(f"{node.url}/v1/balance/refund", headers=bearer(token))).status_code == 200
            return told

        monkeypatch.setattr(Ledger, "due", amid)
        monkeypatch.setattr("node.node.AUDIT_LOOKS", 1)
        await node.node.audit()
        await node.node.audit()
        assert (opening, closing) == ([], [])
        await adds_up(node)
