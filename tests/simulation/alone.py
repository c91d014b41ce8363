"""Whether anything of the same kind ran beside a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Blocks:
    """Blocks of one kind."""

    def __init__(self) -> None:
        self._begun = self._running = 0

    @contextmanager
    def block(self) -> Iterator[Callable[[], bool]]:
        """One of them; gives whether, so far, no other ran beside it."""
        self._begun, self._running = self._begun + 1, self._running + 1
        alone, begun = self._running == 1, self._begun
        try:
            yield lambda: alone and self._begun == begun
        finally:
            self._running -= 1
