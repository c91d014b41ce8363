"""One upstream as its operator describes it."""

from __future__ import annotations

import fnmatch
from decimal import Decimal
from typing import Annotated

import msgspec

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
    kind: str = "openai"
    """One of those in `kinds`."""
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
    tor: bool = False
    """Whether it is reached through Tor; an onion is anyway."""
    options: dict[str, str] = {}
    """What a further kind wants to be told beside all this."""

    def __repr__(self) -> str:
        return f"UpstreamSpec({self.name!r}, {self.kind!r}, {self.base_url!r})"

    def sells(self, model: str) -> bool:
        """Whether a model of that name there is to be sold."""
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)
