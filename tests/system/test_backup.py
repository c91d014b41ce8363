"""`satroute backup` beside a running node, and `restore` from a backup that is old: nothing counts twice."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from node.backup.archive import unpack
from node.backup.making import back_up
from node.backup.restoring import put_back
from node.errors import BadBackup, BadSettings
from node.storage import StorageSettings
from router_client.ecash import restoring
from router_client.errors import StorageError
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, bearer, funded_wallet, running_node, token_of
from tests.system import forked
from tests.system.children import satroute
from tests.system.forked import Served
from tests.system.stopped import holds_what_came_in, opened

NOWHERE = "http://127.0.0.1:9/v1"
PRICES = {"FIXED_PER_1K_INPUT_TOKENS": "2", "FIXED_PER_1K_OUTPUT_TOKENS": "8"}


@pytest.fixture(scope="module")
def mint(mint_url: str) -> str:
    return mint_url


@pytest.fixture
def served(folder: Path, mint: str, model_url: str) -> Iterator[Served]:
    node = Served(folder / "node", CASHU_MINTS=mint, UPSTREAM_BASE_URL=model_url, **PRICES)
    yield node
    node.stop()


def test_a_backup_that_nobody_gives_a_passphrase_for_says_so(folder: Path) -> None:
    """By cron, say: it ended as if somebody had interrupted it."""
    command = [*satroute(), "backup", str(folder / "sealed"), "--encrypt"]
    env = {**os.environ, "DATA_DIR": str(folder)}
    done = subprocess.run(  # no terminal to ask at
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, start_new_session=True
    )
    assert done.returncode == 1
    assert done.stderr == "error: nobody is there to ask for the passphrase: set SATROUTE_PASSPHRASE\n"


async def run(*words: str, data: Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(data.parent), "DATA_DIR": str(data), **env}
    return await asyncio.to_thread(forked.satroute, *words, env=environment, within_s=100)


async def books_of(data: Path, http: httpx.AsyncClient) -> tuple[int, int]:
    """What the ledger says came in, after an audit, and what the wallet holds."""
    async with opened(data, http) as (ledger, wallet):
        return (await ledger.audit()).ecash_in_msat, wallet.holdings().all_msat


async def test_a_backup_that_is_old_is_restored_and_nothing_counts_twice(
    served: Served, folder: Path, http: httpx.AsyncClient, mint: str
) -> None:
    caller = await funded_wallet(folder / "caller.db", http, mint)
    early, stays, late = [await token_of(caller, mint, amount) for amount in (100_000, 70_000, 50_000)]
    for token in (early, stays):
        assert (await http.get(f"{served.url}/v1/balance", headers=bearer(token))).is_success
    info = (await http.get(f"{served.url}/v1/info")).json()
    balance = (await http.get(f"{served.url}/v1/balance", headers=bearer(early))).json()["balance"]

    done = await run("backup", str(folder / "backup"), "--json", data=served.folder / "data")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["npub"] == info["npub"]
    assert stat.S_IMODE((folder / "backup").stat().st_mode) == 0o600

    # The node goes on, and is lost.
    assert (await http.get(f"{served.url}/v1/balance", headers=bearer(late))).is_success
    back = await http.post(f"{served.url}/v1/balance/refund", headers=bearer(early))
    await caller.receive(back.json()["token"], "the refund")
    out = (await http.post(f"{served.url}/v1/balance/refund", headers=bearer(late))).json()["token"]
    served.kill()

    there = await run("restore", str(folder / "backup"), data=served.folder / "data")
    assert there.returncode == 1
    assert "--replace" in there.stderr
    done = await run("restore", str(folder / "backup"), "--replace", data=served.folder / "data")
    assert done.returncode == 0, done.stderr
    assert "replaced-" in done.stderr
    came_msat, holds_msat = await books_of(served.folder / "data", http)
    assert holds_msat - came_msat in range(-200, 100_000), "the operator's loss is booked, but for what new coins cost"

    left = served.folder / "data" / ".backup-killed"
    left.mkdir()
    os.utime(left, (0, 0))
    served.start()
    assert not left.exists(), "what a backup that was killed has left"
    assert (await http.get(f"{served.url}/v1/info")).json()["npub"] == info["npub"]
    again = await http.get(f"{served.url}/v1/balance", headers=bearer(early))
    assert again.json()["balance"] == balance, "the books are those of then"
    twice = await http.get(f"{served.url}/v1/balance", headers=bearer(late))
    assert twice.status_code == 409, "a token that came in after the backup is not credited a second time"
    paid = await http.post(f"{served.url}/v1/chat/completions", json=HELLO, headers=bearer(stays))
    assert paid.status_code == 200, paid.text
    rest = await http.post(f"{served.url}/v1/balance/refund", headers=bearer(stays))
    with closing(sqlite3.connect(served.folder / "data" / "wallet.db")) as conn:
        told = {secret for (secret,) in conn.execute("SELECT secret FROM coins WHERE state = 'sent'")}
    assert not told & set(_secrets(out)), "no coin is in two tokens"
    await caller.receive(rest.json()["token"], "the rest")
    served.stop()
    async with running_node(
        folder, data_dir=served.folder / "data", cashu_mints=mint, upstream_base_url=NOWHERE
    ) as node:
        await node.node.audit()  # every sum, and that the wallet holds what the books say
    caller.close()


def _secrets(token: str) -> list[str]:
    from router_client.ecash.token import decode

    return [coin.secret for coin in decode(token).proofs]


async def test_every_backup_of_a_busy_node_adds_up(folder: Path, http: httpx.AsyncClient, mint: str) -> None:
    """Ledger and wallet are of one moment, in the midst of deposits and refunds."""
    caller = await funded_wallet(folder / "caller.db", http, mint)
    tokens = [await token_of(caller, mint, 10_000) for _ in range(12)]
    async with running_node(folder, cashu_mints=mint, upstream_base_url=NOWHERE) as node:
        settings = node.node.settings

        async def trade(token: str) -> None:
            await http.get(f"{node.url}/v1/balance", headers=bearer(token))
            await http.post(f"{node.url}/v1/balance/refund", headers=bearer(token))

        busy = asyncio.gather(*(trade(token) for token in tokens))
        made: list[Path] = []
        while not busy.done():
            made.append(folder / f"backup-{len(made)}")
            manifest = await back_up(settings, made[-1])
            assert manifest.running
        await busy
    for file in made:
        data = folder / f"of-{file.name}"
        unpack(file, data)
        of_one_moment(data)
        async with opened(data, http) as (ledger, wallet):
            totals = await ledger.audit()
            if not await ledger.open_deposits() and not await ledger.open_refunds():
                holds_what_came_in(wallet, totals.ecash_in_msat)
    assert len(made) >= 3
    caller.close()


def of_one_moment(data: Path) -> None:
    """Neither is behind the other: the ledger's intent comes before the wallet's step, and that before the ledger's end."""
    with closing(sqlite3.connect(data / "wallet.db")) as wallet, closing(sqlite3.connect(data / "ledger.db")) as ledger:
        steps = dict(wallet.execute("SELECT id, state FROM operations"))
        for table, names in (("deposits", ("deposit:{}", "accept:{}")), ("refunds", ("{}",))):
            rows = dict(ledger.execute(f"SELECT id, state FROM {table}"))
            known = {name.format(id_) for id_ in rows for name in names}
            prefixes = ("deposit:", "accept:") if table == "deposits" else ("refund_",)
            assert {name for name in steps if name.startswith(prefixes)} <= known, "the ledger is behind"
            for id_, state in rows.items():
                if state in ("credited", "done"):
                    made = [steps.get(name.format(id_)) for name in names]
                    assert "done" in made, f"the wallet is behind: {made}"


async def test_a_move_to_another_machine_asks_no_mint(folder: Path, http: httpx.AsyncClient, mint: str) -> None:
    async with running_node(folder, cashu_mints=mint, upstream_base_url=NOWHERE) as node:
        caller = await funded_wallet(folder / "caller.db", http, mint)
        token = await token_of(caller, mint, 50_000)
        await http.get(f"{node.url}/v1/balance", headers=bearer(token))
        await back_up(node.node.settings, folder / "early")
    old = StorageSettings.model_validate({"data_dir": folder / "node"})
    secret = {"SATROUTE_PASSPHRASE": "correct horse"}
    done = await run("backup", str(folder / "moved"), "--encrypt", data=old.data_dir, **secret)
    assert done.returncode == 0, done.stderr
    assert b"mnemonic" not in (folder / "moved").read_bytes()
    new = folder / "new"
    early = await run("restore", str(folder / "early"), "--unchanged", data=new)
    assert "--unchanged" in early.stderr, "that node went on"
    done = await run("restore", str(folder / "moved"), "--unchanged", data=new, **secret)
    assert done.returncode == 0, done.stderr
    assert await books_of(new, http) == await books_of(old.data_dir, http)
    for name in ("ledger.db", "wallet.db", "nsec"):
        assert stat.S_IMODE((new / name).stat().st_mode) == 0o600
    wrong = await run("restore", str(folder / "moved"), data=folder / "other", SATROUTE_PASSPHRASE="wrong")
    assert wrong.stderr.strip() == "error: the passphrase is wrong, or the file was changed"
    caller.close()


async def test_no_node_starts_where_a_restore_broke_off_half_way(
    folder: Path, http: httpx.AsyncClient, mint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_node(folder, cashu_mints=mint, upstream_base_url=NOWHERE) as node:
        caller = await funded_wallet(folder / "caller.db", http, mint)
        await http.get(f"{node.url}/v1/balance", headers=bearer(await token_of(caller, mint, 50_000)))
        caller.close()
    settings = StorageSettings.model_validate({"data_dir": folder / "node"})
    await back_up(settings, folder / "backup")
    before = await books_of(settings.data_dir, http)

    def power_cut(source: Path, target: Path) -> None:
        if target.name == "wallet.db" and target.parent == settings.data_dir:
            raise KeyboardInterrupt  # the old one is aside, the new one not yet there
        moved(source, target)

    moved = shutil.move
    monkeypatch.setattr(shutil, "move", power_cut)
    with pytest.raises(KeyboardInterrupt):
        await put_back(settings, folder / "backup", unchanged=True, replace=True)
    monkeypatch.undo()
    assert not settings.wallet_path.exists()
    with pytest.raises(BadSettings, match="broke off half way: give `satroute restore` the same backup again"):
        async with running_node(folder, cashu_mints=mint, upstream_base_url=NOWHERE):
            pass
    with pytest.raises(BadSettings, match="broke off"):
        await back_up(settings, folder / "of half a node")
    await put_back(settings, folder / "backup", unchanged=True, replace=True)
    assert await books_of(settings.data_dir, http) == before
    async with running_node(folder, cashu_mints=mint, upstream_base_url=NOWHERE) as node:
        await node.node.audit()


async def test_root_restores_no_other_users_node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root puts there, the node's user cannot open."""
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=NOWHERE) as node:
        await back_up(node.node.settings, folder / "backup")
    data = folder / "new"
    data.mkdir()
    if os.geteuid() == 0:
        os.chown(data, 1, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(BadBackup, match="is another user's: run this as the node's own user"):
        await put_back(StorageSettings.model_validate({"data_dir": data}), folder / "backup")
    assert list(data.iterdir()) == []


async def test_a_node_that_runs_is_not_restored_over(folder: Path, mint: str) -> None:
    async with running_node(folder, cashu_mints=mint, upstream_base_url=NOWHERE) as node:
        await back_up(node.node.settings, folder / "backup")
        with pytest.raises(StorageError, match="another process"):
            await put_back(node.node.settings, folder / "backup", replace=True)


async def test_when_the_mint_is_away_nothing_has_changed(folder: Path) -> None:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=NOWHERE) as node:
        await back_up(node.node.settings, folder / "backup")
    with closing(sqlite3.connect(folder / "node" / "wallet.db")) as conn, conn:
        conn.execute("INSERT INTO keysets VALUES ('00ad268c4d1f5826', ?, 'sat', 1, 0, '{}')", (DEAD_MINT,))
    await back_up(StorageSettings.model_validate({"data_dir": folder / "node"}), folder / "with a mint")
    new = folder / "new"
    done = await run("restore", str(folder / "with a mint"), data=new)
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "--without-mint" in done.stderr
    assert [path.name for path in new.iterdir()] == ["ledger.lock"]
    done = await run("restore", str(folder / "with a mint"), "--without-mint", DEAD_MINT, data=new)
    assert done.returncode == 0, done.stderr


async def test_a_mint_that_signs_without_end_can_be_given_up(
    folder: Path, http: httpx.AsyncClient, mint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_node(folder, cashu_mints=mint, upstream_base_url=NOWHERE) as node:
        await back_up(node.node.settings, folder / "backup")
        caller = await funded_wallet(folder / "caller.db", http, mint)
        await http.get(f"{node.url}/v1/balance", headers=bearer(await token_of(caller, mint, 50_000)))
        await node.node.wallet.redeem_locked()
        caller.close()
    new = StorageSettings.model_validate({"data_dir": folder / "new"})
    monkeypatch.setattr(restoring, "MOST_COINS", 0)
    monkeypatch.setattr(restoring, "GAP", 1)
    with pytest.raises(BadBackup, match=r"signs without end: nothing has changed here; .* --without-mint"):
        await put_back(new, folder / "backup")
    done = await put_back(new, folder / "backup", without=[mint])
    assert done.wallets["wallet.db"].found_msat == 0


async def test_a_file_that_was_cut_off_or_changed_is_no_backup(folder: Path, mint: str) -> None:
    async with running_node(folder, cashu_mints=mint, upstream_base_url=NOWHERE) as node:
        await back_up(node.node.settings, folder / "plain")
        await back_up(node.node.settings, folder / "sealed", passphrase="a")
        with pytest.raises(BadBackup, match="name another"):
            await back_up(node.node.settings, folder / "plain")
    for name in ("plain", "sealed"):
        whole = (folder / name).read_bytes()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        for number, wrong in enumerate((whole[:-1], whole[:-100], whole[:-5000], bytes(changed))):
            (folder / "wrong").write_bytes(wrong)
            with pytest.raises(BadBackup, match=r"cut off|changed"):
                unpack(folder / "wrong", folder / f"of {name} {number}", "a")
