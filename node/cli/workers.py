"""Several processes that serve as one: forked, watched, told to leave together.

One that is killed is started again. One that ends by itself could not go on, and has said why: then all leave.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from node.cli.console import CommandFailed

log = logging.getLogger(__name__)

AGAIN_S = 1.0
"""Between a death and the next start of its number."""


class _Supervisor:
    """The parent: it does nothing but wait."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self._work = work
        self._numbers: dict[int, int] = {}
        """By the process's id."""
        self._leaving = False
        self._failed = False
        self.interrupted = False
        """Whether it was a person at a terminal."""
        # Closed when this process dies, however that comes: then its children leave, too.
        self._leash, self._held = os.pipe()

    def run(self, workers: int) -> bool:
        """Until all have ended; whether that was asked for."""
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._leave)
        for number in range(workers):
            self._fork(number)
        while self._numbers:
            pid, status = os.wait()
            number = self._numbers.pop(pid)
            if self._leaving:
                continue
            if os.WIFSIGNALED(status):
                log.error("worker %d was ended by signal %d: it is started again", number, os.WTERMSIG(status))
                time.sleep(AGAIN_S)
                if not self._leaving:
                    self._fork(number)
            else:
                log.error("worker %d has ended: so do the others", number)
                self._failed = True
                self._leave()
        return not self._failed

    def _leave(self, which: int = 0, _: FrameType | None = None) -> None:
        self._leaving = True
        self.interrupted |= which == signal.SIGINT
        for pid in list(self._numbers):
            with suppress(ProcessLookupError):  # waited for, and not struck off yet: a signal comes at any moment
                os.kill(pid, signal.SIGTERM)

    def _fork(self, number: int) -> None:
        # No signal between the fork and the note of it, which would be told to all but this one.
        signals = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            if pid := os.fork():
                self._numbers[pid] = number
                return
            os.close(self._held)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        self._become(number)

    def _become(self, number: int) -> NoReturn:
        """The child's whole life; it ends as a command does."""
        threading.Thread(target=self._follow, name="leash", daemon=True).start()
        self._work(number)
        sys.exit(0)

    def _follow(self) -> None:
        os.read(self._leash, 1)
        os.kill(os.getpid(), signal.SIGTERM)


def supervise(workers: int, work: Callable[[int], None]) -> None:
    """Run `work(number)` in so many processes until a signal says to leave. Raises CommandFailed if one could not go on."""
    supervisor = _Supervisor(work)
    done = supervisor.run(workers)
    if supervisor.interrupted:
        raise KeyboardInterrupt
    if not done:
        raise CommandFailed("a worker could not go on, and the others have left: the line of the one is above")
