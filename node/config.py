"""Settings: read once from the environment or a settings file, checked before anything starts, secrets masked.

The names are Routstr's where they mean the same. `.env.example` is written from the descriptions here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import Field, PrivateAttr, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import NoDecode

from node import betas
from node.errors import BadSettings
from node.settingsfile import example_of, read_settings_file, remarks_on
from node.storage import StorageSettings
from node.tor.settings import TorSettings
from node.upstream.kinds import known_kinds
from node.upstream.spec import UpstreamSpec
from node.upstream.specs import checked, read_specs
from relays.errors import InvalidKey, InvalidProof
from relays.event import Signer
from relays.proof import base_of
from relays.routes import checked_url
from router_client.spending.btc import KNOWN_SOURCES, source_from

List = Annotated[tuple[str, ...], NoDecode]
"""Written with commas."""


class Settings(TorSettings):
    """One node's settings."""

    _file: Mapping[str, str] = PrivateAttr(default_factory=dict)
    """All that the settings file says: among it may be keys that `api_key_env` names."""

    # The model's server
    upstream_kind: str = Field(
        "openai", description="What it speaks: openai (and all that are compatible) or a kind of docs/upstreams.md"
    )
    upstreams_path: Path | None = Field(
        None, description="TOML file of several upstreams, beside or instead of the one above; see docs/upstreams.md"
    )
    upstream_base_url: str = Field(
        "",
        validate_default=True,
        description="Server to resell, with its /v1",
        examples=["https://api.openai.com/v1"],
    )
    upstream_api_key: SecretStr = Field(SecretStr(""), description="Its API key, if it wants one", examples=["sk-..."])
    upstream_connect_timeout_s: float = Field(10, gt=0, description="Give up connecting to the upstream after this")
    upstream_answer_timeout_s: float = Field(
        600, gt=0, description="Give up when an answer that is not streamed has not come after this"
    )
    upstream_first_token_timeout_s: float = Field(
        120, gt=0, description="Give up when a stream has not said its first word after this"
    )
    upstream_idle_timeout_s: float = Field(
        120, gt=0, description="Give up when a stream that has begun is silent for this long"
    )
    request_timeout_s: float = Field(3600, gt=0, description="Longest a request may run, streams included")

    # Money
    cashu_mints: List = Field(
        description="Mints whose ecash is taken, with commas; the first is the primary one",
        examples=["https://mint.example.com"],
    )
    primary_mint_unit: Literal["sat", "msat"] = Field(
        "sat", description="Unit of the primary mint for Lightning invoices and what comes from foreign mints"
    )
    change_stock: int = Field(
        100,
        ge=0,
        le=1000,
        description="Coins of each small amount that the wallet keeps, to give change without the mint",
    )
    swap_foreign_mints: bool = Field(
        default=False,
        description="Take ecash of any mint, by bringing it to the primary mint over Lightning; the sender bears the fees",
    )
    l402: bool = Field(
        default=False,
        description="Refuse who brings no money with a Lightning invoice that pays for the request (L402); the primary mint "
        "is asked for each",
    )
    receive_ln_address: str = Field(
        "", description="Lightning address that the node's earnings are paid out to", examples=["you@example.com"]
    )
    minimum_payout: int = Field(1000, ge=1, description="Sats of earnings from which on a payout is made")
    allow_local_addresses: bool = Field(
        default=False,
        description="Let Lightning addresses and foreign mints be on this machine: for play networks alone",
    )

    # Prices: outright in sats, or from USD list prices
    fixed_per_1k_input_tokens: Decimal | None = Field(
        None, ge=0, description="Sats per 1,000 tokens read, for every model", examples=["0.05"]
    )
    fixed_per_1k_output_tokens: Decimal | None = Field(
        None, ge=0, description="Sats per 1,000 tokens written, for every model", examples=["0.2"]
    )
    fixed_cost_per_request: Decimal = Field(Decimal(0), ge=0, description="Sats per request, on top of the tokens")
    markup: Decimal = Field(Decimal("1.15"), gt=0, description="Factor on prices that come in USD")
    fixed_btc_usd: Decimal | None = Field(
        None,
        gt=0,
        description="USD per bitcoin, for prices that come in USD; without it BTC_PRICE_SOURCES are asked",
        examples=["100000"],
    )
    btc_price_sources: List = Field(
        tuple(KNOWN_SOURCES),
        description="Where the price of bitcoin is asked for, with commas: names, or URLs with a JSON pointer "
        "(https://example.com/ticker#/data/usd); more than half must agree",
    )
    btc_price_timeout_s: float = Field(5, gt=0, description="Give up asking a source after this")
    btc_price_max_age_s: float = Field(
        900, gt=0, description="Sell nothing that is priced in USD when bitcoin's price is older than this"
    )
    utilisation_gamma: Decimal = Field(
        Decimal(0),
        ge=0,
        le=100,
        description="Dearer when busy: prices times 1 + GAMMA u / (1 - u), u from 0 to 1; 0 switches it off",
    )
    utilisation_capacity: int = Field(32, ge=1, description="Requests at the same time that count as u = 1")
    price_floor: Decimal = Field(Decimal(1), ge=1, le=1000, description="Least factor of being busy")
    price_ceiling: Decimal = Field(Decimal(3), ge=1, le=1000, description="Greatest factor of being busy")
    models_path: Path | None = Field(
        None, description="JSON file of the models to sell, in OpenRouter's form; without it: all of the upstream's"
    )
    default_context_length: int = Field(
        8192, gt=0, description="Context window of a model for which neither the upstream nor the models file has one"
    )

    # Who and where
    name: str = Field("satroute node", description="Shown to clients")
    description: str = Field("", description="Shown to clients")
    region: str = Field(
        "",
        pattern="^([A-Z]{2})?$",
        description="Country where the node stands, for buyers who want one",
        examples=["CH"],
    )
    nsec: SecretStr = Field(
        SecretStr(""), description="Nostr key (nsec1... or hex); without it one is made and kept in DATA_DIR/nsec"
    )
    relays: List = Field((), description="Nostr relays, with commas; empty announces nothing")
    publish_profile: bool | None = Field(
        None,
        description="Publish NAME and DESCRIPTION as the key's Nostr profile, and RELAYS as its relay list; "
        "without it: unless NSEC is set, since a key of your own may have a profile already",
        examples=["true"],
    )
    http_url: str = Field("", description="Public URL of this node", examples=["https://node.example.com"])
    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on")

    drain_s: int = Field(
        30,
        gt=0,
        description="Seconds that running requests have when the node is stopped; then they are cut off and charged for "
        "what was served",
    )

    # Limits, and what is to come
    max_body_bytes: int = Field(20 * 1024 * 1024, gt=0, description="Larger requests are refused")
    max_requests_per_key: int = Field(64, gt=0, description="Requests of one account that may run at the same time")
    requests_per_minute: int = Field(0, ge=0, description="Requests of one account in a minute; 0: as many as it pays")
    tokens_per_minute: int = Field(0, ge=0, description="Tokens of one account in a minute; 0: as many as it pays")
    extra_request_fields: List = Field(
        (),
        description="Fields of requests to let through beside the known ones, with commas: make sure they cost nothing",
    )
    extra_anthropic_betas: List = Field(
        (),
        description="Anthropic's betas to let through beside the known ones, with commas: make sure they cost nothing",
    )
    admin_password: SecretStr = Field(SecretStr(""), description="Reserved: the dashboard is not built yet")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")

    @property
    def announced_urls(self) -> tuple[str, ...]:
        """Where the node says that it is."""
        return tuple(url for url in (self.http_url, self.onion_url) if url)

    @property
    def publishes_profile(self) -> bool:
        return not self.nsec.get_secret_value() if self.publish_profile is None else self.publish_profile

    def upstreams(self) -> tuple[UpstreamSpec, ...]:
        """The upstreams, the one of the environment first. Raises BadSettings."""
        alone: tuple[UpstreamSpec, ...] = ()
        if self.upstream_base_url or self.upstreams_path is None:
            key = self.upstream_api_key.get_secret_value()
            kind, url = self.upstream_kind, self.upstream_base_url
            alone = (UpstreamSpec(name="upstream", kind=kind, base_url=url, api_key=key, tor=self.upstream_tor),)
        more = () if self.upstreams_path is None else read_specs(self.upstreams_path, self._file)
        # Prices in USD are marked up where they become msat; those of other nodes are in msat already.
        return checked(
            tuple(
                msgspec.structs.replace(spec, markup=self.markup) if spec.markup is None else spec
                for spec in (*alone, *more)
            ),
            self._file,
        )

    @field_validator(
        "cashu_mints", "relays", "extra_request_fields", "extra_anthropic_betas", "btc_price_sources", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(dict.fromkeys(part.strip().rstrip("/") for part in value.split(",") if part.strip()))

    @field_validator("upstream_kind")
    @classmethod
    def _kind(cls, value: str) -> str:
        if value not in known_kinds():
            raise ValueError(f"expected one of {', '.join(known_kinds())}")
        return value

    @field_validator("upstream_base_url")
    @classmethod
    def _upstream(cls, value: str, info: ValidationInfo) -> str:
        kind = str(info.data.get("upstream_kind"))
        wanted = kind == "openai" or (kind in known_kinds() and not known_kinds()[kind].home)
        if not value and wanted and info.data.get("upstreams_path") is None:
            raise ValueError("missing: Server to resell, with its /v1 (or name several in UPSTREAMS_PATH)")
        return value

    @field_validator("btc_price_sources")
    @classmethod
    def _sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            source_from(text)
        return value

    @field_validator("upstream_base_url", "http_url", "onion_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        return checked_url(value.rstrip("/"), "http", "https") if value else value

    @field_validator("http_url", "onion_url")
    @classmethod
    def _ours(cls, value: str) -> str:
        try:
            if value:
                base_of(value)
        except InvalidProof as error:
            raise ValueError(f"{error}: give scheme, host and port, such as https://node.example.com") from error
        if value.endswith("/v1"):
            raise ValueError(f"{value!r} ends in /v1: leave that out, callers add it")
        return value

    @field_validator("cashu_mints")
    @classmethod
    def _mints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one mint")
        return tuple(checked_url(url, "http", "https") for url in value)

    @field_validator("extra_anthropic_betas")
    @classmethod
    def _betas(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if strange := [name for name in value if not betas.NAME.fullmatch(name)]:
            raise ValueError(f"{strange[0]!r} is no name of a beta, such as context-1m-2025-08-07")
        return value

    @field_validator("relays")
    @classmethod
    def _relays(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(checked_url(url, "ws", "wss") for url in value)

    @field_validator("nsec")
    @classmethod
    def _key(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            try:
                Signer.parse(value.get_secret_value())
            except InvalidKey as error:
                raise ValueError(str(error)) from error
        return value

    @field_validator("receive_ln_address")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not re.fullmatch(r"[^@\s]+@[^@\s]+", value):
            raise ValueError("expected a Lightning address, name@domain")
        return value

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("expected DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("models_path", "upstreams_path")
    @classmethod
    def _models(cls, value: Path | None) -> Path | None:
        if value is not None and not value.expanduser().is_file():
            raise ValueError(f"there is no file {value}")
        return None if value is None else value.expanduser()

    @model_validator(mode="after")
    def _priced(self) -> Settings:
        outright = (self.fixed_per_1k_input_tokens, self.fixed_per_1k_output_tokens)
        if (outright[0] is None) != (outright[1] is None):
            raise ValueError("FIXED_PER_1K_INPUT_TOKENS and FIXED_PER_1K_OUTPUT_TOKENS belong together: set both")
        priced = outright[0] is not None or self.fixed_btc_usd is not None or self.models_path is not None
        if not priced and not self.btc_price_sources:
            raise ValueError(
                "no price: set FIXED_PER_1K_INPUT_TOKENS and FIXED_PER_1K_OUTPUT_TOKENS in sats, "
                "or FIXED_BTC_USD or BTC_PRICE_SOURCES for models priced in USD"
            )
        return self

    @model_validator(mode="after")
    def _between(self) -> Settings:
        if self.price_floor > self.price_ceiling:
            raise ValueError("PRICE_FLOOR is above PRICE_CEILING: lower one or raise the other")
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Settings:
        if self.tor_only and self.http_url:
            raise ValueError("HTTP_URL: it tells where the node is, which TOR_ONLY keeps: leave one of them out")
        has_onion = self.onion_url or self.has_onion_service or self.onion_hostname_file is not None
        if self.relays and not (self.http_url or has_onion):
            raise ValueError("HTTP_URL or ONION_URL: missing: RELAYS is set, and an announcement needs a URL to reach")
        return self

    def signer(self) -> Signer:
        """The node's key: the setting, or the one kept in the data folder, made when there is none."""
        if secret := self.nsec.get_secret_value():
            return Signer.parse(secret)
        try:
            return Signer.parse(self.kept("nsec", lambda: Signer.generate().nsec()))
        except InvalidKey as error:
            raise BadSettings([f"NSEC: the file {self.data_dir / 'nsec'} does not hold a key"]) from error


S = TypeVar("S", bound=StorageSettings)


def load_settings(kind: type[S], env_file: Path | None = None, **overrides: Any) -> S:
    """The settings from the environment, over those of `env_file`. Raises BadSettings with one line per problem."""
    said = {} if env_file is None else read_settings_file(env_file)
    try:
        settings = kind(**{"_env_file": env_file, **overrides})
        if isinstance(settings, Settings):
            settings._file = said
        return settings
    except ValidationError as error:
        raise BadSettings([_line(detail) for detail in error.errors(include_input=False)]) from error


def env_example() -> str:
    """The text of `.env.example`: every setting with its meaning and its default."""
    tors = TorSettings.model_fields.keys() - StorageSettings.model_fields.keys()
    return example_of(
        dict(sorted(Settings.model_fields.items(), key=lambda named: named[0] in tors))
    )  # those come last


def unused_settings(settings: Settings) -> list[str]:
    """What was set and has no effect: said aloud, so that nobody counts on it. Raises BadSettings."""
    used = [spec.api_key_env for spec in settings.upstreams()]
    return remarks_on(settings._file, [name.upper() for name in Settings.model_fields], used) + [
        f"{name.upper()} has no effect in this version: {field.description}"
        for name, field in Settings.model_fields.items()
        if name in settings.model_fields_set and (field.description or "").startswith("Reserved")
    ]


def _line(detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"]).upper()
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "missing":
        description = Settings.model_fields[name.lower()].description
        message = f"missing: {description}"
    return f"{name}: {message}" if name else message


if __name__ == "__main__":
    print(env_example(), end="")  # noqa: T201 - `python -m node.config > .env.example`
