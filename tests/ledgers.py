"""Empty books, laid out once: all else a node does as it starts takes less. `test_migrations.py` does it anew."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from node.ledger.upgrade import migrate_sqlite


def lay_out(path: Path) -> None:
    """Make the file, if it is not there, what a first start makes it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_bytes(_empty())


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        migrate_sqlite(path)
        return path.read_bytes()
