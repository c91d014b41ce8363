"""What a person at the terminal sees. Results go to stdout; progress, notes and errors to stderr."""

from __future__ import annotations

import errno
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from node.cli.logs import FAULT, is_journal
from relays.pricing import TOKENS_PER_PRICE

PIPED_WIDTH = 1000
"""Tables are tables where nobody watches."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """An error like any other, so that what is open is closed in order; Rich's own ends the program."""
        raise BrokenPipeError(errno.EPIPE, "nobody reads this any more")


out = _Terminal(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
err = _Terminal(stderr=True, highlight=False)


class CommandFailed(click.ClickException):
    """One line on stderr and exit code 1."""

    def show(self, file: Any = None) -> None:
        mark = FAULT if is_journal() else ""
        for line in self.message.splitlines():
            err.print(f"{mark}[bold red]error:[/] {escaped(line)}", soft_wrap=True)


def write_what_fits() -> None:
    """Letters that a terminal's encoding has not are question marks: they end no command, least of all one that has paid."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_json(value: object) -> None:
    """One JSON object on stdout; where not every letter can be written, with escapes."""
    click.echo(json.dumps(value, ensure_ascii=not (sys.stdout.encoding or "").lower().startswith("utf")))


def note(text: str) -> None:
    """A remark on stderr."""
    err.print(text, soft_wrap=True)


@contextmanager
def steps(title: str, names: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """A progress bar over named steps, lines where there is no terminal. The yielded function is told of each one done."""
    started = time.monotonic()
    if not err.is_terminal:
        yield lambda name: note(f"{name} ready ({time.monotonic() - started:.1f} s)")
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        waiting = list(names)
        bar = progress.add_task(f"{title}: {waiting[0]}", total=len(names))

        def done(name: str) -> None:
            if name in waiting:
                waiting.remove(name)
            progress.update(bar, advance=1, description=f"{title}: {waiting[0] if waiting else 'ready'}")

        yield done


def escaped(text: str) -> str:
    """Text that is not ours, without effect as markup."""
    return escape(printable(text))


def printable(text: str) -> str:
    """Text of strangers without control characters, so that it cannot steer the terminal."""
    return _CONTROL.sub("", text)


def per_1k(msat_per_mtok: int) -> str:
    """A price per million tokens, as msat per thousand."""
    whole, rest = divmod(msat_per_mtok * 1000, TOKENS_PER_PRICE)
    return f"{whole:,}" if rest == 0 else f"{msat_per_mtok * 1000 / TOKENS_PER_PRICE:,.3f}"
