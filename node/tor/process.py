"""A tor process of our own: started, its log lines in ours, stopped."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from node.errors import BadSettings, TorFailed
from node.tor.torrc import CONTROL_FILE, torrc

log = logging.getLogger("tor")

START_S: Final = 30.0
POLL_S: Final = 0.05
STOP_S: Final = 5.0
LINES: Final = "look at the lines of TOR_CONFIG, and at tor's in the log"
_LINE: Final = re.compile(r"\w{3} +\d+ [\d:.]+ \[(?P<level>\w+)\] (?P<words>.*)")
_LEVELS: Final = MappingProxyType({"warn": logging.WARNING, "err": logging.ERROR, "notice": logging.INFO})


def tor_program() -> str:
    """Where tor is installed. Raises BadSettings."""
    found = shutil.which("tor")
    if found is None:
        raise BadSettings(
            ["--tor: tor is not installed: apt-get install tor, or name one that runs elsewhere in TOR_CONTROL"]
        )
    return found


@asynccontextmanager
async def running_tor(folder: Path, socks: str, more: Path | None) -> AsyncIterator[str]:
    """Its control port, as HOST:PORT; it is stopped at the end of the block. Raises TorFailed when it does not start."""
    program = tor_program()
    try:
        _lay_out(folder, torrc(folder, socks, more))
        process = await asyncio.create_subprocess_exec(
            program,
            "-f",
            str(folder / "torrc"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the node alone, which serves to the end what it began
        )
    except OSError as error:
        raise TorFailed(f"tor cannot be started in {folder} ({error.strerror})", "name another DATA_DIR") from error
    last_words: list[str] = []
    reading = asyncio.create_task(_pass_on(process, last_words))
    try:
        yield await _control_port(process, folder / CONTROL_FILE, last_words)
    finally:
        await _stop(process)
        await reading


def _lay_out(folder: Path, text: str) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / CONTROL_FILE).unlink(missing_ok=True)
    (folder / "torrc").write_text(text)


def control_port_in(file: Path) -> str:
    """HOST:PORT, empty as long as tor has not written it. Of several, since TOR_CONFIG may have its own, any does."""
    with suppress(OSError):
        if (text := file.read_text()).endswith("\n"):
            return next((line[5:] for line in text.splitlines() if line.startswith("PORT=")), "")
    return ""


async def _control_port(process: asyncio.subprocess.Process, file: Path, last_words: list[str]) -> str:
    for _ in range(round(START_S / POLL_S)):
        if process.returncode is not None:
            raise TorFailed(
                f"tor has ended with code {process.returncode}: {last_words[-1] if last_words else ''}", LINES
            )
        if told := control_port_in(file):
            return told
        await asyncio.sleep(POLL_S)
    raise TorFailed(f"tor has not opened its control port within {START_S:g} s", LINES)


async def _pass_on(process: asyncio.subprocess.Process, last_words: list[str]) -> None:
    """Its lines to our log until it ends; what it warned of last, in `last_words`."""
    assert process.stdout is not None
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:  # one without an end
            continue
        if not line:
            return
        text = line.decode("utf-8", "replace").rstrip()
        found = _LINE.fullmatch(text)
        level, words = (_LEVELS.get(found["level"], logging.DEBUG), found["words"]) if found else (logging.INFO, text)
        log.log(level, "%s", words)
        if level >= logging.WARNING:
            last_words[:] = [words]


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
    await process.wait()
