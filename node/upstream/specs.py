"""Which upstreams a node has, of those that its operator describes: read from a TOML file, checked, filled in."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from node.errors import BadSettings
from node.upstream.kinds import known_kinds
from node.upstream.spec import UpstreamSpec


class _File(msgspec.Struct, forbid_unknown_fields=True):
    upstream: tuple[UpstreamSpec, ...]


def read_specs(path: Path, beside: Mapping[str, str] = MappingProxyType({})) -> tuple[UpstreamSpec, ...]:
    """The upstreams of a file with one `[[upstream]]` for each; `beside` has keys that the environment has not. Raises
    BadSettings."""
    try:
        raw: Any = tomllib.loads(path.read_text())
        specs = msgspec.convert(raw, type=_File).upstream
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings([f"UPSTREAMS_PATH: {path} cannot be read: {error}"]) from error
    except msgspec.ValidationError as error:
        raise BadSettings([f"UPSTREAMS_PATH: {path}: {error}"]) from error
    return checked(specs, beside)


def checked(
    specs: tuple[UpstreamSpec, ...], beside: Mapping[str, str] = MappingProxyType({})
) -> tuple[UpstreamSpec, ...]:
    """The same with URLs and keys filled in. Raises BadSettings with every problem."""
    problems: list[str] = []
    kinds = known_kinds()
    names = [spec.name for spec in specs]
    problems += [
        f"upstream {name}: this name is there twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    filled = []
    for spec in specs:
        kind = kinds.get(spec.kind)
        if kind is None:
            problems.append(f"upstream {spec.name}: kind {spec.kind!r} is none of {', '.join(kinds)}")
            continue
        url = (spec.base_url or kind.home).rstrip("/")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            problems.append(f"upstream {spec.name}: base_url {url!r} is not an http or https URL")
        key = spec.api_key
        if spec.api_key_env:
            key = os.environ.get(spec.api_key_env) or beside.get(spec.api_key_env, "")
            if not key:
                where = "neither in the environment nor in the settings file"
                problems.append(f"upstream {spec.name}: {spec.api_key_env} is {where}")
        if spec.markup is not None and spec.markup <= 0:
            problems.append(f"upstream {spec.name}: markup is more than 0")
        filled.append(msgspec.structs.replace(spec, base_url=url, api_key=key, wallet=_expanded(spec.wallet)))
    if problems:
        raise BadSettings(problems)
    return tuple(filled)


def _expanded(path: str) -> str:
    return str(Path(path).expanduser()) if path else ""
