"""The node's log: a line a record on stderr, and under systemd with the level that `journalctl -p` asks for."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Final

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FAULT: Final = "<3>"
QUIET: Final = ("httpx", "httpcore", "apscheduler", "alembic")


class OneLine(logging.Formatter):
    """A line a record, whatever strangers' words it repeats: theirs must not pass for lines of the log's own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if not record.message.isprintable():
            record.message = "".join(
                each if each.isprintable() else each.encode("unicode_escape").decode() for each in record.message
            )
        return super().formatMessage(record)


class ForJournal(OneLine):
    """The level in front of each line, as the journal reads it (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        mark = FAULT if record.levelno >= logging.ERROR else "<4>" if record.levelno >= logging.WARNING else "<6>"
        return "\n".join(mark + line for line in super().format(record).splitlines())


def write_log(level: str) -> None:
    """What the node and its parts have to say goes to stderr from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter((ForJournal if is_journal() else OneLine)(FORMAT))
    logging.basicConfig(level=level, handlers=[handler])
    for quiet in QUIET:
        logging.getLogger(quiet).setLevel(logging.WARNING)


@contextlib.contextmanager
def silent(*names: str) -> Iterator[None]:
    """What these parts would log is told to the person in another way, meanwhile."""
    before = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in before:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


def is_journal() -> bool:
    """Whether stderr is a connection to systemd's journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        there = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"
