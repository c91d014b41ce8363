"""All upstreams of a node: a request goes to the first that is well, and to the next when that one fails before it has
served anything."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from node.errors import (
    Refusal,
    UpstreamDown,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from node.upstream.base import UNKNOWN_THERE, Source, Upstream
from node.upstream.breaker import LONGEST_REST_S, Breaker

T = TypeVar("T")

log = logging.getLogger(__name__)

THE_CALLERS: Final = (400, 413, 422)
"""Answers that are about the request: another upstream would say the same."""
MAX_BREAKERS: Final = 20_000

Attempt = Callable[[Upstream, Source], Awaitable[T]]


class Fleet:
    """The upstreams by name, and how they fare."""

    def __init__(self, upstreams: Sequence[Upstream], clock: Callable[[], float] = time.monotonic) -> None:
        self._upstreams = {upstream.name: upstream for upstream in upstreams}
        self._clock = clock
        self._lists: dict[str, list[Mapping[str, Any]]] = {}
        """The last list of models of each."""
        self._silent: set[str] = set()
        """Those that gave no list when they were asked last."""
        self._down: dict[str, Breaker] = {}
        """Of servers that cannot be reached."""
        self._failing: dict[tuple[str, str], Breaker] = {}
        """Of models that are answered with errors."""

    async def models(self) -> Mapping[str, list[Mapping[str, Any]]]:
        """The list of each, the last one of those that give none now. Raises UpstreamError when none ever did."""
        names = list(self._upstreams)
        lists = await asyncio.gather(*(self._upstreams[name].models() for name in names), return_exceptions=True)
        self._silent = {name for name, listed in zip(names, lists, strict=True) if isinstance(listed, Exception)}
        failures: list[UpstreamError] = []
        for name, listed in zip(names, lists, strict=True):
            if isinstance(listed, Exception):  # whatever one server's list does, the others' are read
                log.warning("no list of models of %s: %s", name, _why_no_list(listed))
                failures.append(listed if isinstance(listed, UpstreamError) else UpstreamUnreachable(str(listed)))
            elif isinstance(listed, BaseException):
                raise listed
            else:
                self._lists[name] = listed
        if failures and not self._lists:
            raise failures[0]
        return dict(self._lists)

    @property
    def is_well(self) -> bool:
        """Whether there is an upstream that answered when it was last asked, for its list or for a caller."""
        now = self._clock()
        return any(name not in self._silent and _state(self._down.get(name), now) != "open" for name in self._upstreams)

    async def serve(self, sources: Sequence[Source], attempt: Attempt[T]) -> T:
        """What `attempt` returns for the first source, in their order, that serves. Raises UpstreamError or Refusal."""
        failure: UpstreamError | Refusal = UpstreamDown("every upstream of this model is out of reach")
        for source in self._in_order(sources):
            try:
                return await self._try(source, attempt)
            except UpstreamRefused as error:
                if error.status in THE_CALLERS:
                    raise
                failure = error
            except Refusal as error:  # it cannot be said in that one's language
                failure = error
                continue
            except UpstreamError as error:
                failure = error
            log.warning("%s did not serve %s: %s", source.upstream, source.model, _reason(failure))
        raise failure

    async def close(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.close()

    def _in_order(self, sources: Sequence[Source]) -> list[Source]:
        """The well first, each group in the order given. Servers that cannot be reached are left out; models that fail are
        the last resort, since a caller's own request may be what they fail on."""
        now = self._clock()
        reachable = [s for s in sources if _state(self._down.get(s.upstream), now) != "open"]
        return sorted(reachable, key=lambda s: _state(self._failing.get((s.upstream, s.model)), now) == "open")

    async def _try(self, source: Source, attempt: Attempt[T]) -> T:
        name, key = source.upstream, (source.upstream, source.model)
        now = self._clock()
        for breaker in (self._down.get(name), self._failing.get(key)):
            if breaker is not None:
                breaker.begin(now)
        try:
            served = await attempt(self._upstreams[name], source)
        except UpstreamDown:
            self._breaker(self._down, name).failed(self._clock())
            raise
        except UpstreamRefused as error:
            self._down.pop(name, None)
            if error.status not in (*THE_CALLERS, *UNKNOWN_THERE):  # those say nothing of its health
                self._breaker(self._failing, key).failed(self._clock(), _asked_rest_s(error))
            raise
        except (UpstreamTimeout, UpstreamUnreachable):
            self._breaker(self._failing, key).failed(self._clock())
            raise
        self._down.pop(name, None)
        self._failing.pop(key, None)
        return served

    def _breaker(self, among: dict[T, Breaker], key: T) -> Breaker:
        if len(among) >= MAX_BREAKERS:
            among.clear()
        return among.setdefault(key, Breaker())


def _state(breaker: Breaker | None, now: float) -> str:
    return "closed" if breaker is None else breaker.state(now)


def _asked_rest_s(error: UpstreamRefused) -> float:
    """How long a server that is too busy asks to be left alone."""
    after = error.retry_after or ""
    if error.status not in (429, 503) or not (after.isascii() and after.isdecimal()):
        return 0.0
    return min(float(after), LONGEST_REST_S)


def _why_no_list(failure: Exception) -> str:
    if isinstance(failure, UpstreamRefused):
        return f"it answered {failure.status}: {failure.remedy}"
    return str(failure) if isinstance(failure, UpstreamError) else repr(failure)


def _reason(failure: UpstreamError) -> str:
    """For the log: not the server's words, which may hold the caller's."""
    return f"it answered {failure.status}" if isinstance(failure, UpstreamRefused) else str(failure)
