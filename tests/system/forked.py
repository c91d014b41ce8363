"""The `satroute` command in processes of its own, forked from one that has Python and all imports ready: that saves each a
second. `test_up.py` and `test_demo.py` start it as a person does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from node.cli import main
from node.localnet.process import free_port

POLL_S = 0.02
READY_S = 60
STOP_S = 10
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__, "node.cli.main", "cashu.core.nuts.nut18", "cashu.core.p2pk"])


class Forked:
    """A running command, with its standard streams in files."""

    def __init__(
        self, *words: str, env: Mapping[str, str], folder: Path, out: Path, err: Path, stdin: str = ""
    ) -> None:
        self._process = _FORKS.Process(target=_run, args=(words, {**env}, folder, out, err, stdin), daemon=True)
        self._process.start()

    def exit_code(self, within_s: float = 0) -> int | None:
        """None while it runs; a signal's is negative."""
        self._process.join(within_s)
        return self._process.exitcode

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def kill(self) -> None:
        """As a crash would."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """SIGTERM, and after a grace SIGKILL."""
        self._process.terminate()
        if self.exit_code(STOP_S) is None:
            self.kill()


def satroute(
    *words: str, env: Mapping[str, str], stdin: str = "", within_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """What became of the command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out, err = folder / "out", folder / "err"
        command = Forked(*words, env=env, folder=Path.cwd(), out=out, err=err, stdin=stdin)
        code = command.exit_code(within_s)
        if code is None:
            command.kill()
            raise subprocess.TimeoutExpired(words, within_s, out.read_text(), err.read_text())
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())


class Served:
    """A node in a process of its own, which can be killed and started again on the same folder."""

    words: tuple[str, ...] = ("serve",)

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.log = folder / "log.txt"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {"HOME": str(folder), "PORT": str(self.port), "DATA_DIR": str(folder / "data"), **env}
        folder.mkdir(parents=True)
        self.start()

    def start(self) -> None:
        """Return when it answers."""
        self._process = Forked(*self.words, env=self.env, folder=self.folder, out=self.log, err=self.log)
        until = time.monotonic() + READY_S
        with httpx.Client(trust_env=False, verify=False) as http:
            while True:
                assert self._process.exit_code() is None, self.log.read_text()[-500:]
                assert time.monotonic() < until, "it does not answer"
                try:
                    if http.get(f"{self.url}/health").is_success:
                        return
                except httpx.HTTPError:
                    time.sleep(POLL_S)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._process.stop()

    def tell_to_leave(self) -> None:
        """SIGTERM, without waiting."""
        os.kill(self._process.pid, signal.SIGTERM)

    def exit_code(self, within_s: float = 0) -> int | None:
        return self._process.exit_code(within_s)


class Workers(Served):
    """A till and a counter under one supervisor."""

    words = ("serve", "--workers", "2")

    def pids(self) -> list[int]:
        """The till's, then the counter's, unless they were started again."""
        first = self._process.pid
        return sorted(int(pid) for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split())

    def kill_all(self) -> None:
        """As a power cut would."""
        for pid in (self._process.pid, *self.pids()):
            os.kill(pid, signal.SIGKILL)
        self._process.kill()


def _run(words: tuple[str, ...], env: dict[str, str], folder: Path, out: Path, err: Path, stdin: str) -> None:
    """In the new process: become the command."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    with tempfile.TemporaryFile() as given:
        given.write(stdin.encode())
        given.seek(0)
        os.dup2(given.fileno(), 0)
    for number, path in ((1, out), (2, err)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww"))
    sys.argv = ["satroute", *words]
    threading.Thread(target=_follow, name="leash", daemon=True).start()
    main()


def _follow() -> None:
    """It does not outlive the tests."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
