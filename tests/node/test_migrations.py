"""Books of any earlier version are brought up to date with every msat where it was, on both databases."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

from node.ledger import schema
from node.ledger.ledger import Ledger
from node.ledger.model import EARNINGS, GRANTS, Held
from node.ledger.upgrade import alembic_config, migrate_postgres, migrate_sqlite
from router_client.ecash.token import token_hash
from router_client.errors import StorageError
from tests.conftest import connected

GOLDEN = Path(__file__).parent / "golden" / "ledger_v1.sql"
"""Books as the first release kept them: a granted key, a revoked one, a balance named by a token with a request that a crash
left and an open refund, one named by token and key with a finished refund, and deposits in every state."""

REVISIONS = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]


@pytest.fixture
def first_release(folder: Path) -> Path:
    """A file of the first release, which knew no Alembic."""
    path = folder / "ledger.db"
    with sqlite3.connect(path) as conn:
        conn.executescript(GOLDEN.read_text())
        conn.execute("PRAGMA user_version=1")
    conn.close()
    return path


def differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), SQLModel.metadata))


async def test_every_msat_of_the_first_release_is_where_it_was(first_release: Path) -> None:
    ledger = await Ledger.open(f"sqlite:///{first_release}", clock=lambda: 1_790_000_100)
    totals = await ledger.audit()
    assert (totals.keys_msat, totals.held_msat, totals.earned_msat) == (500_000, 97_766, 61_234)
    assert (totals.ecash_in_msat, totals.granted_msat, totals.lost_msat) == (159_000, 500_000, 0)

    granted = await ledger.key_of(token_hash("sk-golden-granted"))
    assert granted is not None
    assert (granted.name, granted.hint, granted.limits.spend_limit_msat) == ("alice", "sk-…nted", None)
    assert (await ledger.account(granted.account)).available_msat == 500_000
    assert (await ledger.account(granted.account)).refundable_msat == 0, "a grant is not paid out"
    revoked = await ledger.key_of(token_hash("sk-golden-revoked"))
    assert revoked is not None
    assert revoked.revoked

    bearer = await ledger.key_of(token_hash("token-bearer"))
    assert bearer is not None
    assert await ledger.expire_orphans() == 1
    assert isinstance(await ledger.hold(bearer, "req_new", 30_000, 60), Held)
    assert [refund.id for refund in await ledger.open_refunds()] == ["refund_open"]
    assert (await ledger.finish_refund("refund_open", token="cashuBlate")).amount_msat == 67_766

    assert await ledger.key_of(token_hash("token-keyed")) is not None
    paid = await ledger.key_of(token_hash("sk-golden-paid"))
    assert paid is not None
    posted = await ledger.receipt("req_1", paid.account)
    assert posted is not None
    assert posted.receipt.cost_msat == 60_000
    again = await ledger.unreceived_refunds(paid.account, 5)
    assert [refund.token for refund in again] == ["cashuBgolden"], "a lost answer can still be had again"
    await ledger.audit()
    await ledger.close()


async def test_what_was_there_is_copied_first(first_release: Path) -> None:
    before = GOLDEN.read_text()
    await (await Ledger.open(f"sqlite:///{first_release}")).close()
    copy = first_release.with_name("ledger.db.0001.bak")
    assert copy.stat().st_mode & 0o077 == 0, "for its owner alone"
    with sqlite3.connect(copy) as conn:
        assert "\n".join(conn.iterdump()) + "\n" == before
    conn.close()


OPENED_AGAIN = """
import asyncio, sys
from node.ledger.ledger import Ledger

async def main():
    await (await Ledger.open(sys.argv[1])).close()

asyncio.run(main())
assert not {"alembic", "sqlalchemy"} & set(sys.modules)
"""


async def test_a_ledger_of_today_is_opened_without_alembic(ledger_url: str) -> None:
    """Which takes a third of a node's start to import."""
    assert REVISIONS[-1] == schema.CURRENT
    await (await Ledger.open(ledger_url)).close()
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", OPENED_AGAIN, ledger_url], check=True, timeout=60)


@pytest.mark.parametrize("revision", [None, *REVISIONS])
async def test_up_from_every_version_the_tables_are_the_same(folder: Path, revision: str | None) -> None:
    """Whatever version a file begins at, its tables end as the program declares them."""
    path = folder / "x.db"
    if revision is not None:
        migrate_sqlite(path, revision)
    await (await Ledger.open(f"sqlite:///{path}")).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert differences(connection) == []
    engine.dispose()
    with sqlite3.connect(path) as conn, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        conn.execute(
            "INSERT INTO transfers (debit, credit, amount_msat, kind, reference, created_at) VALUES (3, 4, 1, 'x', 'x', 0)"
        )
        conn.execute("DELETE FROM transfers")
    conn.close()


@pytest.mark.parametrize("revision", [None, *REVISIONS])
async def test_up_from_every_version_in_postgresql(postgres_url: str, revision: str | None) -> None:
    if revision is not None:
        await migrate_postgres(postgres_url, revision)
    await (await Ledger.open(postgres_url)).close()
    engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_charges_of_before_are_their_holds_in_postgresql(postgres_url: str) -> None:
    """SQLite's are in the books of the first release."""
    await migrate_postgres(postgres_url, "0003")
    async with connected(postgres_url) as conn:
        account = await conn.fetchval(
            "INSERT INTO accounts (kind, available_msat, held_msat, spent_msat, paid_in_msat, refund_address, created_at) "
            "VALUES ('key', 868, 0, 132, 0, '', 1) RETURNING id"
        )
        await conn.execute("UPDATE accounts SET available_msat = 132 WHERE id = 1")
        await conn.execute("UPDATE accounts SET available_msat = -1000 WHERE id = $1", GRANTS)
        for kind, debit, credit, msat in (("grant", GRANTS, account, 1000), ("charge", account, EARNINGS, 132)):
            await conn.execute(
                "INSERT INTO transfers (kind, reference, debit, credit, amount_msat, created_at) "
                "VALUES ($1, 'r', $2, $3, $4, 1)",
                *(kind, debit, credit, msat),
            )
        await conn.execute(
            "INSERT INTO holds (id, account, purpose, amount_msat, posted_msat, state, created_at, instance, fingerprint, "
            "receipt, posted_at) VALUES ('r', $1, 'request', 500, 132, 'posted', 1, '', '', '{}', 1)",
            account,
        )
    ledger = await Ledger.open(postgres_url)
    assert (await ledger.audit()).earned_msat == 132
    await ledger.close()


async def test_eight_processes_that_start_at_once_lay_the_tables_once(postgres_url: str) -> None:
    ledgers = await asyncio.gather(*(Ledger.open(postgres_url) for _ in range(8)))
    for ledger in ledgers:
        await ledger.close()
    async with connected(postgres_url) as conn:
        assert await conn.fetchval("SELECT COUNT(*) FROM accounts") == 4


async def test_an_upgrade_that_fails_changes_nothing(first_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a crash in its midst: the file is as it was, and the next start does it all."""
    from node.ledger import upgrade

    real: Callable[..., None] = upgrade._upgrade

    def broken(connection: Connection, revision: str) -> None:
        real(connection, revision)
        raise OSError("the disk is full")

    before = GOLDEN.read_text()
    monkeypatch.setattr(upgrade, "_upgrade", broken)
    with pytest.raises(StorageError, match="disk is full"):
        migrate_sqlite(first_release)
    shutil.copy(first_release, first_release.with_name("seen.db"))
    with sqlite3.connect(first_release.with_name("seen.db")) as conn:
        assert "\n".join(conn.iterdump()) + "\n" == before
    conn.close()
    monkeypatch.undo()
    ledger = await Ledger.open(f"sqlite:///{first_release}")
    await ledger.audit()
    await ledger.close()


async def test_no_code_is_run_that_lies_where_the_command_was_given(
    folder: Path, first_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = folder / "node" / "ledger"
    strange.mkdir(parents=True)
    for path in (strange.parent / "__init__.py", strange / "__init__.py", strange / "upgrade.py"):
        path.write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(folder)
    ledger = await Ledger.open(f"sqlite:///{first_release}")
    await ledger.audit()
    await ledger.close()
    assert not (folder / "ran").exists()
