"""A real PostgreSQL server in a folder of its own, for tests and benchmarks: nothing is kept when it stops."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.errors import PartFailed
from node.localnet.process import free_port

READY_S = 30
DEBIAN = Path("/usr/lib/postgresql")


def postgres_bin() -> Path | None:
    """The folder of PostgreSQL's programs, the newest one; None when it is not installed."""
    if DEBIAN.is_dir() and (versions := sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))):
        return versions[-1].parent
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of a server that runs as long as the block. Raises PartFailed when it cannot be had."""
    programs = postgres_bin()
    if programs is None:
        raise PartFailed("PostgreSQL is not installed: apt-get install postgresql")
    folder, port = Path(tempfile.mkdtemp(prefix="satroute-pg-")), free_port()
    if os.geteuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "postgres")
    data = folder / "data"
    try:
        _run([programs / "initdb", "-D", data, "-U", "satroute", "--auth=trust", "--no-sync"])
        server = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        _run([programs / "pg_ctl", "-D", data, "-l", folder / "log", "-o", server, "-w", "-t", READY_S, "start"])
        try:
            yield f"postgresql://satroute@127.0.0.1:{port}/postgres"
        finally:
            _run([programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(words: list[object]) -> None:
    user = "postgres" if os.geteuid() == 0 else None
    # Not captured: the server would keep the pipe of the program that started it.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [str(word) for word in words],
            stdout=output,
            stderr=output,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd="/",
            timeout=60 + READY_S,
            check=False,
        )
        if done.returncode != 0:
            output.seek(0)
            raise PartFailed(f"{words[0]} failed: {output.read().decode(errors='replace')[-500:]}")
