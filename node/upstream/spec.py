"""Which upstreams a node has: one from the environment, or several from a TOML file."""

from __future__ import annotations

import fnmatch
import os
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from node.errors import BadSettings

Kind = Literal["openai", "azure", "anthropic", "gemini", "satroute"]
BASE_URLS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "openai": "https://api.openai.com/v1",
        "anthropic": "https://api.anthropic.com/v1",
        "gemini": "https://generativelanguage.googleapis.com/v1beta",
    }
)
"""Where a kind is found that has one home."""
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Timeouts(msgspec.Struct, frozen=True):
    """How long an upstream may take: to connect, to give an answer that is not streamed, and between two pieces of one
    that is."""

    connect_s: float
    whole_s: float
    idle_s: float


class UpstreamSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One upstream as the operator describes it. `api_key` is shown nowhere."""

    name: Name
    kind: Kind = "openai"
    base_url: str = ""
    api_key: str = ""
    api_key_env: str = ""
    """The environment variable that has the key."""
    models: tuple[str, ...] = ("*",)
    """Patterns of the models to sell, in the upstream's names."""
    prefix: str = ""
    """Before the upstream's names, to make ours of them."""
    aliases: dict[str, str] = {}
    """Names of ours, and the upstream's for each."""
    markup: Decimal | None = None
    """In the place of MARKUP."""
    native: tuple[str, ...] = ()
    """Endpoints that it serves beside those of its kind: `messages` for an OpenAI-compatible server that has it."""
    api_version: str = ""
    """Azure's."""
    wallet: str = ""
    """Of kind satroute: the folder of the wallet that pays, `buyer` in DATA_DIR if it is not named."""

    def __repr__(self) -> str:
        return f"UpstreamSpec({self.name!r}, {self.kind!r}, {self.base_url!r})"

    def sells(self, model: str) -> bool:
        """Whether a model of that name there is to be sold."""
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    upstream: tuple[UpstreamSpec, ...]


def read_specs(path: Path) -> tuple[UpstreamSpec, ...]:
    """The upstreams of a file with one `[[upstream]]` for each. Raises BadSettings."""
    try:
        raw: Any = tomllib.loads(path.read_text())
        specs = msgspec.convert(raw, type=_File).upstream
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings([f"UPSTREAMS_PATH: {path} cannot be read: {error}"]) from error
    except msgspec.ValidationError as error:
        raise BadSettings([f"UPSTREAMS_PATH: {path}: {error}"]) from error
    return checked(specs)


def checked(specs: tuple[UpstreamSpec, ...]) -> tuple[UpstreamSpec, ...]:
    """The same with URLs and keys filled in. Raises BadSettings with every problem."""
    problems: list[str] = []
    names = [spec.name for spec in specs]
    problems += [
        f"upstream {name}: this name is there twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    filled = []
    for spec in specs:
        url = (spec.base_url or BASE_URLS.get(spec.kind, "")).rstrip("/")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            problems.append(f"upstream {spec.name}: base_url {url!r} is not an http or https URL")
        key = spec.api_key
        if spec.api_key_env:
            key = os.environ.get(spec.api_key_env, "")
            if not key:
                problems.append(f"upstream {spec.name}: the environment variable {spec.api_key_env} is not set")
        if spec.markup is not None and spec.markup <= 0:
            problems.append(f"upstream {spec.name}: markup is more than 0")
        filled.append(msgspec.structs.replace(spec, base_url=url, api_key=key, wallet=_expanded(spec.wallet)))
    if problems:
        raise BadSettings(problems)
    return tuple(filled)


def _expanded(path: str) -> str:
    return str(Path(path).expanduser()) if path else ""
