"""What a request says of its own routing, in the words of OpenRouter, of Pura and of ours. Pure.

OpenRouter: `models`, `provider` and the endings `:floor` and `:nitro` of a model's name. Pura: `routing`. Ours: `auto`, a
profile as the ending of a name (`auto:cheap`), and `routing.profile`, `routing.session` and `routing.max_cost_msat`. What is
asked for and cannot be kept is refused, not passed over.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import msgspec

from relays.announcement import region_of
from relays.bounds import MAX_CONTEXT
from router_client.complexity import Tier
from router_client.errors import BadRequest
from router_client.preferences import Profile
from router_client.spending.budget import MOST_USD

AUTO: Final = "auto"
"""The model name that leaves the choice of model to the router."""

Sort = Literal["price", "throughput", "latency"]

MAX_NAMES: Final = 64
MAX_NAME_CHARS: Final = 200
MAX_SESSION_CHARS: Final = 200
_NUMBERS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n")
"""What a request can cost goes by these."""
_ENDINGS: Final[Mapping[str, Sort]] = {"floor": "price", "nitro": "throughput"}
_SPEEDS: Final[Mapping[str, Profile]] = {"cost": "cheap", "price": "cheap", "speed": "fast", "quality": "best"}
_QUALITIES: Final[Mapping[str, Tier]] = {
    "low": "cheap",
    "medium": "mid",
    "high": "premium",
    **{tier: tier for tier in get_args(Tier)},
}


class MaxPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most that may be charged, in USD: per million tokens read and written, and per request."""

    prompt: float | None = None
    completion: float | None = None
    request: float | None = None


class Cascade(msgspec.Struct, frozen=True):
    """Ask a cheap model first, and a better one when its answer is doubted."""

    threshold: float | None = None
    """The least confidence that an answer is right; None: half."""
    max_depth: int = 1
    """How often a better model is asked."""
    consistency: bool = False
    """Ask a second cheap model where its word can turn the decision, and see whether both say the same."""


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """How a request is to be routed. Nodes are named by name, npub or public key."""

    models: tuple[str, ...] = (AUTO,)
    """In the order in which they are tried."""
    picked: bool = False
    """The router picked these models, nobody named them."""
    profile: Profile = "balanced"
    sort: Sort | None = None
    """Strictly by this, without chance."""
    order: tuple[str, ...] = ()
    """These nodes first, one after the other."""
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    """Only nodes that say that they stand in one of these countries (ISO 3166-1); empty: wherever."""
    onion: bool = False
    """Only nodes at an onion address: they do not see where the caller is."""
    allow_fallbacks: bool = True
    require_parameters: bool = False
    """Only nodes that say that they serve what the request needs."""
    max_price: MaxPrice | None = None
    max_cost_usd: float | None = None
    max_cost_msat: int | None = None
    max_latency_ms: float | None = None
    """Until the first word."""
    preferred_min_throughput: float | None = None
    preferred_max_latency_s: float | None = None
    tier: Tier | None = None
    """The least tier, where the router chooses the model."""
    cascade: Cascade | None = None
    hedge: bool = False
    """Ask a second node where the first has no word by when it nearly always has one; both may be charged."""
    session: str = ""
    """Requests of one session go to one node, for its prompt cache, while that is among the good ones."""

    @property
    def auto(self) -> bool:
        """Whether the router chooses the model."""
        return self.picked or AUTO in self.models

    @property
    def in_usd(self) -> bool:
        """Whether a limit is."""
        return self.max_price is not None or self.max_cost_usd is not None


class _SortBy(msgspec.Struct, forbid_unknown_fields=True):
    by: Sort
    partition: Literal["model"] | None = None


class _Provider(msgspec.Struct, forbid_unknown_fields=True):
    """OpenRouter's `provider`, and where its nodes stand and whether behind Tor, which is ours."""

    order: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow"] | None = None
    sort: Sort | _SortBy | None = None
    max_price: MaxPrice | None = None
    preferred_min_throughput: float | None = None
    preferred_max_latency: float | None = None
    region: str | None = None
    regions: tuple[str, ...] | None = None
    onion: bool | None = None


class _Routing(msgspec.Struct, forbid_unknown_fields=True, rename={
    "max_cost": "maxCost", "max_latency": "maxLatency", "exclude_providers": "excludeProviders",
}):  # fmt: skip
    """Pura's `routing`, and ours."""

    quality: str | float | None = None
    prefer: str | tuple[str, ...] | None = None
    max_cost: float | None = None
    max_latency: float | None = None
    exclude_providers: tuple[str, ...] | None = None
    cascade: bool | None = None
    cascade_threshold: float | None = None
    cascade_max_depth: int | None = None
    cascade_consistency: bool | None = None
    hedge: bool | None = None
    profile: Profile | None = None
    session: str | None = None
    max_cost_msat: int | None = None


def read_wishes(
    body: Mapping[str, Any], default: Profile = "balanced", *, onion: bool = False
) -> tuple[Wishes, dict[str, Any]]:
    """The wishes of a request, and the request without them, as a node takes it; `default` and `onion` hold where it says
    nothing. Raises BadRequest."""
    _check_numbers(body)
    provider = _shaped(body.get("provider"), _Provider, "provider")
    routing = _shaped(body.get("routing"), _Routing, "routing")
    models, sort, ending = _models(body)
    profile, prefer = _preferred(routing)
    by = provider.sort.by if isinstance(provider.sort, _SortBy) else provider.sort
    wishes = Wishes(
        models=models,
        profile=profile or ending or default,
        sort=by or sort,
        order=_names(provider.order, "provider.order") + prefer,
        only=_names(provider.only, "provider.only"),
        ignore=_names(provider.ignore, "provider.ignore") + _names(routing.exclude_providers, "excludeProviders"),
        regions=_regions(provider),
        onion=onion if provider.onion is None else provider.onion,
        allow_fallbacks=provider.allow_fallbacks is not False,
        require_parameters=bool(provider.require_parameters),
        max_price=provider.max_price,
        max_cost_usd=_positive(routing.max_cost, "maxCost", MOST_USD),
        max_cost_msat=None if routing.max_cost_msat is None else _whole(routing.max_cost_msat, "max_cost_msat"),
        max_latency_ms=_positive(routing.max_latency, "maxLatency"),
        preferred_min_throughput=provider.preferred_min_throughput,
        preferred_max_latency_s=provider.preferred_max_latency,
        tier=_tier(routing.quality),
        cascade=_cascade(routing),
        hedge=bool(routing.hedge) and provider.allow_fallbacks is not False,
        session=(routing.session or str(body.get("user") or ""))[:MAX_SESSION_CHARS],
    )
    left = {name: value for name, value in body.items() if name not in ("provider", "routing", "models")}
    return wishes, left | {"model": models[0]}


def session_of(wishes: Wishes, body: Mapping[str, Any]) -> str:
    """The session's name, or one made of what a conversation begins with: its next turn begins with the same."""
    if wishes.session:
        return wishes.session
    said = body.get("messages") or body.get("input")
    first = []
    for message in said if isinstance(said, list) else [said]:
        first.append(message)
        if isinstance(message, Mapping) and message.get("role") == "user":
            break
    return hashlib.sha256(msgspec.json.encode(first)).hexdigest()


def _shaped(value: object, kind: type[Any], name: str) -> Any:
    if value is None:
        return kind()
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"'{name}' cannot be kept: {error}") from error


def _models(body: Mapping[str, Any]) -> tuple[tuple[str, ...], Sort | None, Profile | None]:
    """The models, and what the ending of the first name says."""
    more = body.get("models")
    if more is not None and not (isinstance(more, list) and all(isinstance(name, str) and name for name in more)):
        raise BadRequest("'models' is a list of names")
    names = [str(body["model"])] if body.get("model") else []
    names += [name for name in more or () if name not in names]
    if len(names) > MAX_NAMES:
        raise BadRequest(f"'models' has more than {MAX_NAMES} names")
    first, sort, profile = _ended(names[0] if names else AUTO)
    others = [_ended(name)[0] for name in names[1:]]
    return tuple(dict.fromkeys((first, *others))), sort, profile


def _ended(name: str) -> tuple[str, Sort | None, Profile | None]:
    stem, colon, ending = name.rpartition(":")
    if colon and ending in _ENDINGS:
        return stem, _ENDINGS[ending], None
    if stem == AUTO and ending in get_args(Profile):
        return stem, None, msgspec.convert(ending, type=Profile)
    return name, None, None


def _preferred(routing: _Routing) -> tuple[Profile | None, tuple[str, ...]]:
    """Pura's `prefer` names providers; a word for what is dear to the caller is a profile."""
    if isinstance(routing.prefer, str):
        word = routing.prefer.lower()
        if word in _SPEEDS or word in get_args(Profile):
            return routing.profile or _SPEEDS.get(word) or msgspec.convert(word, type=Profile), ()
        return routing.profile, _names((routing.prefer,), "prefer")
    return routing.profile, _names(routing.prefer, "prefer")


def _names(names: tuple[str, ...] | None, field: str) -> tuple[str, ...]:
    if names is not None and (len(names) > MAX_NAMES or any(not 0 < len(name) <= MAX_NAME_CHARS for name in names)):
        raise BadRequest(f"'{field}' names up to {MAX_NAMES} nodes")
    return names or ()


def _regions(provider: _Provider) -> tuple[str, ...]:
    named = ((provider.region,) if provider.region is not None else ()) + (provider.regions or ())
    regions = [region_of(name) for name in named]
    if None in regions or len(regions) > MAX_NAMES or provider.regions == ():
        raise BadRequest("'regions' are countries by their two letters (ISO 3166-1), such as CH")
    return tuple(dict.fromkeys(region for region in regions if region is not None))


def _tier(quality: str | float | None) -> Tier | None:
    """From a word, or a number from 0 to 1."""
    if quality is None:
        return None
    if isinstance(quality, str):
        if quality.lower() not in _QUALITIES:
            raise BadRequest(f"'quality' is one of {', '.join(_QUALITIES)}, or a number from 0 to 1")
        return _QUALITIES[quality.lower()]
    if not 0 <= quality <= 1:
        raise BadRequest("'quality' is a number from 0 to 1")
    return "cheap" if quality < 1 / 3 else "mid" if quality < 2 / 3 else "premium"


def _cascade(routing: _Routing) -> Cascade | None:
    if not routing.cascade:
        return None
    threshold, depth = routing.cascade_threshold, routing.cascade_max_depth
    if threshold is not None and not 0 <= threshold <= 1:
        raise BadRequest("'cascade_threshold' is a number from 0 to 1")
    if depth is not None and not 1 <= depth <= 2:
        raise BadRequest("'cascade_max_depth' is 1 or 2: there are three tiers")
    return Cascade(threshold, depth or 1, bool(routing.cascade_consistency))


def _positive(number: float | None, field: str, most: float = sys.float_info.max) -> float | None:
    if number is not None and not 0 < number <= most:
        raise BadRequest(f"'{field}' is a number above 0, and at most {most:g}")
    return number


def _check_numbers(body: Mapping[str, Any]) -> None:
    for field in _NUMBERS:
        value = body.get(field)
        if value is not None and (type(value) is not int or not 1 <= value <= MAX_CONTEXT):
            raise BadRequest(f"'{field}' is a whole number from 1 to {MAX_CONTEXT}")


def _whole(number: int, field: str) -> int:
    if number <= 0:
        raise BadRequest(f"'{field}' is a whole number above 0")
    return number
