"""`satroute doctor`: what is right and wrong with a configuration, one line each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import click
import msgspec

from node.cli.console import CommandFailed, err, escaped, out, print_json
from node.cli.logs import silent
from node.config import Settings, load_settings, unused_settings
from node.doctor.finding import Finding, note, wrong
from node.doctor.look import examine
from node.doctor.machine import settings_file
from node.errors import BadSettings

COLOURS: Final = {"ok": "green", "note": "yellow", "wrong": "bold red"}


@click.command(epilog="Example: satroute doctor --env-file /etc/satroute.env")
@click.option("--env-file", type=click.Path(path_type=Path, dir_okay=False), help="The node's settings file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(env_file: Path | None, as_json: bool) -> None:
    """Check a configuration from end to end, beside a running node or before its first start; nothing is bought or sold.

    Exit code 1 when something keeps the node from selling.
    """
    with silent("node", "tor"), err.status("asking mints, upstreams and relays"):
        found = _look(env_file)
    if as_json:
        print_json({"ok": not _failed(found), "findings": msgspec.to_builtins(found)})
    for each in [] if as_json else found:
        remedy = f" [dim]→[/] {escaped(each.remedy)}" if each.remedy else ""
        state = f"[{COLOURS[each.state]}]{each.state:5}[/]"
        out.print(f"{state} {each.part:8} {escaped(each.words)}{remedy}", soft_wrap=True)
    if failed := _failed(found):
        raise CommandFailed(f"{failed} of {len(found)} parts are not right")


def _failed(found: list[Finding]) -> int:
    return sum(each.state == "wrong" for each in found)


def _look(env_file: Path | None) -> list[Finding]:
    try:
        settings = load_settings(Settings, env_file)
    except BadSettings as error:
        return [wrong("settings", words, "see .env.example") for words in error.problems]
    try:
        unused = [note("settings", words, "take it out, or correct it") for words in unused_settings(settings)]
        return [*settings_file(env_file), *unused, *asyncio.run(examine(settings))]
    except PermissionError:
        whose = "run this as the node's own user: runuser -u satroute -- satroute doctor"
        return [wrong("data", f"{settings.data_dir} is another user's", whose)]
    except BadSettings as error:  # of the upstreams' file, or a key that is none
        return [wrong("settings", words, "see .env.example") for words in error.problems]
