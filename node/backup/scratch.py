"""Folders in the data folder for copies in the clear: others may see where a backup goes, and not where it is made."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from node.errors import BadBackup
from router_client.disk.storage import exclusive, is_held

PREFIXES: Final = (".backup-", ".restoring-")
LOCK: Final = "lock"
FRESH_S: Final = 60
"""One that was made so lately may not have its lock yet."""


@contextmanager
def scratch(folder: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `folder`, which is removed at the end. Raises BadBackup when it cannot be made."""
    sweep(folder)
    try:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        files = made / "files"
        files.mkdir(mode=0o700)
    except OSError as error:
        raise BadBackup(f"cannot write in {folder} ({error.strerror}): name another DATA_DIR") from error
    try:
        with exclusive(made / LOCK):
            yield files
    finally:
        shutil.rmtree(made, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what commands that were killed have left there."""
    with suppress(OSError):
        for left in [path for prefix in PREFIXES for path in folder.glob(f"{prefix}*")]:
            if left.stat().st_mtime < time.time() - FRESH_S and not is_held(left / LOCK):
                shutil.rmtree(left, ignore_errors=True)
