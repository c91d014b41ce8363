"""Where a backup's copies lie while it is made, and how its file gets its name."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from node.backup import making
from node.backup.archive import manifest_of, pack, unpack
from node.backup.making import back_up
from node.backup.scratch import scratch
from node.backup.snapshot import copy_all
from node.errors import BadBackup
from node.storage import StorageSettings
from tests.conftest import DEAD_MINT, closed_to_us
from tests.node.harness import running_node


async def test_copies_in_the_clear_stay_in_the_data_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Path] = []

    async def noted(files: Mapping[Path, Path], postgres: str = "", dump: Path | None = None) -> None:
        copied.extend(files.values())
        await copy_all(files, postgres, dump)

    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url="http://127.0.0.1:9") as node:
        settings = StorageSettings.model_validate({"data_dir": node.node.settings.data_dir})
    before = sorted(settings.data_dir.iterdir())
    monkeypatch.setattr(making, "copy_all", noted)
    await back_up(settings, folder / "backup")
    assert {path.name for path in copied} == {"ledger.db", "wallet.db"}
    assert all(path.is_relative_to(settings.data_dir) for path in copied)
    assert sorted(settings.data_dir.iterdir()) == before, "and leave nothing behind"
    with closed_to_us(folder), pytest.raises(BadBackup, match="is another user's: run this as the node's own user"):
        await back_up(settings, Path("backup"))


def test_what_a_killed_command_has_left_is_removed_and_what_others_work_in_is_not(folder: Path) -> None:
    for name in (".backup-killed", ".restoring-killed", ".backup-fresh", "replaced-1"):
        (folder / name / "files").mkdir(parents=True)
        if "fresh" not in name:
            os.utime(folder / name, (0, 0))
    with scratch(folder, ".backup-") as one:
        os.utime(one.parent, (0, 0))
        with scratch(folder, ".restoring-") as other:
            assert one.exists()
            assert other.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {".backup-fresh", "replaced-1"}


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links, as on FAT"])
def test_a_backup_takes_nobodys_place(folder: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "of").mkdir()
    (folder / "of" / "nsec").write_text("secret")
    manifest = manifest_of(folder / "of", "npub", "none", running=False)
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    pack(folder / "of", manifest, folder / "backup")
    assert unpack(folder / "backup", folder / "out") == manifest
    whole = (folder / "backup").read_bytes()
    with pytest.raises(BadBackup, match="name another"):
        pack(folder / "of", manifest, folder / "backup")
    assert (folder / "backup").read_bytes() == whole
    assert not (folder / ".backup.part").exists()


async def test_a_backup_leaves_the_node_room_to_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url="http://127.0.0.1:9") as node:
        settings = StorageSettings.model_validate({"data_dir": node.node.settings.data_dir})
        monkeypatch.setattr(making, "LEAST_LEFT", 10**18)
        with pytest.raises(BadBackup, match="make room there"):
            await back_up(settings, folder / "backup")
    assert not (folder / "backup").exists()
    assert not list(settings.data_dir.glob(".backup-*"))
