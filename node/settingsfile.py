"""The file that `--env-file` names: NAME=value lines, as shells, systemd and Docker read them; and an example of one."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from node.errors import BadSettings

OTHERS: Final = ("COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME", "DOMAIN", "POSTGRES_PASSWORD")
"""What compose.yml and Compose itself read in the same file."""
PREFIX: Final = "SATROUTE_"
"""Of the buyer's variables, and the passphrase of backups."""


def read_settings_file(path: Path) -> Mapping[str, str]:
    """What it sets, by the names in it. Raises BadSettings with one line for each line that cannot be read: a setting that
    is passed over in silence is a node that does what nobody wanted."""
    if not path.is_file():
        raise BadSettings([f"there is no settings file {path}"])
    try:
        with path.open(encoding="utf-8") as file:
            lines = [each.original.line for each in parse_stream(file) if each.error]
        if lines:
            raise BadSettings([f"{path}, line {line}: cannot be read: expected NAME=value" for line in lines])
        values = dotenv_values(path, encoding="utf-8")
    except UnicodeError as error:
        raise BadSettings([f"{path} is not text in UTF-8"]) from error
    except OSError as error:
        raise BadSettings([f"{path} cannot be read ({error.strerror})"]) from error
    return {name: value for name, value in values.items() if value is not None}


def remarks_on(said: Mapping[str, str], settings: Collection[str], used: Collection[str]) -> list[str]:
    """On each name that is neither one of `settings` nor read by anybody, a slip of the pen, most likely; and on each whose
    place the environment takes."""
    known = {*settings, *used, *OTHERS}
    remarks = []
    for name, value in said.items():
        if name.upper() in settings and (os.environ.get(name.upper()) or value) != value:
            remarks.append(f"{name} of the environment is used, and not the one of the settings file")
        if name.upper() in known or name in used or name.upper().startswith(PREFIX):
            continue
        near = get_close_matches(name.upper(), settings, 1, cutoff=0.7)
        remarks.append(f"{name} is no setting, and has no effect" + (f": is it {near[0]}?" if near else ""))
    return remarks


def example_of(fields: Mapping[str, FieldInfo]) -> str:
    """A file with every setting, its meaning and its default."""
    lines = ["# Settings of `satroute serve`, from the environment or from a file given with --env-file.", ""]
    for name, field in fields.items():
        lines.append(f"# {field.description}")
        if field.is_required() or field.validate_default:
            lines.append(f"{name.upper()}={field.examples[0] if field.examples else ''}")
        else:
            example = field.examples[0] if field.examples else _default(field.default)
            lines.append(f"#{name.upper()}={example}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _default(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return "" if value is None else ",".join(value) if isinstance(value, tuple) else str(value)
