"""Backups of a node whose books are in PostgreSQL, and what a restore does to books that are there."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from node.backup.making import back_up
from node.backup.postgres import PG_DUMP
from node.backup.restoring import put_back
from node.errors import BadBackup, BadSettings
from node.storage import StorageSettings
from router_client.ecash import restoring
from tests.conftest import DEAD_MINT, connected, database
from tests.node.harness import bearer, funded_wallet, running_node, token_of

NOWHERE = "http://127.0.0.1:9/v1"


def storage(folder: Path, url: str) -> StorageSettings:
    return StorageSettings.model_validate({"data_dir": folder, "database_url": url})


async def deposits_in(url: str) -> list[str]:
    async with connected(url) as conn:
        return [row["state"] for row in await conn.fetch("SELECT state FROM deposits")]


async def test_books_go_along_and_those_that_were_there_are_kept(
    folder: Path,
    http: httpx.AsyncClient,
    mint_url: str,
    postgres_url: str,
    postgres_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restoring, "GAP", 1)
    settings = {"cashu_mints": mint_url, "upstream_base_url": NOWHERE}
    async with running_node(folder, database_url=postgres_url, **settings) as node:
        await back_up(node.node.settings, folder / "empty")
        caller = await funded_wallet(folder / "caller.db", http, mint_url)
        token = await token_of(caller, mint_url, 50_000)
        before = (await http.get(f"{node.url}/v1/balance", headers=bearer(token))).json()
        manifest = await back_up(node.node.settings, folder / "backup")
        assert manifest.ledger == "postgres"
    with database(postgres_server) as other_url:
        new = storage(folder / "new", other_url)
        await put_back(new, folder / "empty")
        with pytest.raises(BadBackup, match="--replace"):
            await put_back(storage(folder / "another", other_url), folder / "backup")
        async with connected(other_url):
            with pytest.raises(BadBackup, match=r"1 others use the database .*: stop every node that shares it"):
                await put_back(new, folder / "backup", replace=True)
        assert await deposits_in(other_url) == []
        done = await put_back(new, folder / "backup", replace=True)
        assert await deposits_in(other_url) == ["credited"]

        assert done.aside is not None
        kept = done.aside / PG_DUMP
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        async with running_node(folder, **{**settings, "data_dir": folder / "new", "database_url": other_url}) as node:
            after = (await http.get(f"{node.url}/v1/balance", headers=bearer(token))).json()
            assert after["balance"] == before["balance"]
    with database(postgres_server) as third_url:
        subprocess.run(["pg_restore", "--no-owner", f"--dbname={third_url}", str(kept)], check=True)
        assert await deposits_in(third_url) == [], "the books of before, whole"
    caller.close()


async def test_when_the_mint_is_away_nothing_has_changed(folder: Path, postgres_url: str) -> None:
    settings = storage(folder / "node", postgres_url)
    async with running_node(folder, database_url=postgres_url, cashu_mints=DEAD_MINT, upstream_base_url=NOWHERE):
        pass
    with closing(sqlite3.connect(folder / "node" / "wallet.db")) as wallet, wallet:
        wallet.execute("INSERT INTO keysets VALUES ('00ad268c4d1f5826', ?, 'sat', 1, 0, '{}')", (DEAD_MINT,))
    await back_up(settings, folder / "backup")
    async with connected(postgres_url) as conn:
        await conn.execute("CREATE TABLE since (x int); INSERT INTO since VALUES (1)")
        was = await conn.fetchval("SELECT 'accounts'::regclass::oid")
    there = sorted(folder.joinpath("node").iterdir())
    with pytest.raises(BadBackup, match="nothing has changed here"):
        await put_back(settings, folder / "backup", replace=True)
    assert sorted(folder.joinpath("node").iterdir()) == there
    async with connected(postgres_url) as conn:
        assert await conn.fetchval("SELECT 'accounts'::regclass::oid") == was, "no table was made anew"
    done = await put_back(settings, folder / "backup", replace=True, without=[DEAD_MINT])
    assert done.aside is not None
    async with connected(postgres_url) as conn:
        assert await conn.fetchval("SELECT 'accounts'::regclass::oid") != was


async def test_books_that_cannot_be_replaced_stop_the_node_only_if_its_coins_are_new(
    folder: Path, postgres_url: str
) -> None:
    given = {"database_url": postgres_url, "cashu_mints": DEAD_MINT, "upstream_base_url": NOWHERE}
    async with running_node(folder, **given):
        pass
    settings = storage(folder / "node", postgres_url)
    await back_up(settings, folder / "backup")
    async with connected(postgres_url) as conn:
        await conn.execute("CREATE VIEW theirs AS SELECT * FROM accounts")
    with pytest.raises(BadBackup, match=r"pg_restore: .*depend on it"):
        await put_back(settings, folder / "backup", unchanged=True, replace=True)
    async with running_node(folder, **given):
        pass
    with pytest.raises(BadBackup, match=r"pg_restore: .*depend on it"):
        await put_back(settings, folder / "backup", replace=True)
    with pytest.raises(BadSettings, match="broke off half way"):
        async with running_node(folder, **given):
            pass
    async with connected(postgres_url) as conn:
        await conn.execute("DROP VIEW theirs")
    await put_back(settings, folder / "backup", replace=True)
    async with running_node(folder, **given):
        pass
