"""Reading what an upstream answered: strictly as a whole, leniently in what nobody needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

import msgspec

from node.errors import UpstreamUnreachable
from node.metering.whole import INPUT_LEVEL, is_answer
from node.sse import DONE, EventReader, data_of
from relays.endpoints import MESSAGES, Endpoint
from relays.errors import InvalidJson
from relays.jsontext import folded, from_cut_json, too_deep
from relays.pricing import Usage

MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
"""An event that is longer is none."""
_DONE: Final = data_of(DONE)


def read(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises UpstreamUnreachable."""
    try:
        answer = from_cut_json(raw)
    except InvalidJson as error:
        raise UpstreamUnreachable(f"the upstream's answer is not JSON: {error}") from error
    if not isinstance(answer, dict) or too_deep(answer):
        raise UpstreamUnreachable("the upstream's answer is no JSON object that can be read")
    return answer


def read_answer(raw: bytes, endpoint: Endpoint) -> dict[str, Any]:
    """A whole answer; inputs of tools that nest too deeply are JSON text. Raises UpstreamUnreachable, also for one that says
    nothing: translated, it would seem to end well."""
    if not is_answer(raw, "application/json", endpoint):
        raise UpstreamUnreachable("the upstream's answer is none")
    try:
        return read(raw)
    except UpstreamUnreachable:
        if endpoint is not MESSAGES:
            raise
        return read(folded(raw, INPUT_LEVEL))


def fields(value: object) -> dict[str, Any]:
    """An object, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[dict[str, Any]]:
    """The objects of a list, or nothing."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def said(content: object) -> str:
    """The text of a content: a string, or parts of which some are text."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in items(content) if isinstance(part.get("text"), str))


def reasoned(message: dict[str, Any]) -> str:
    """What a chat message or delta shows of the model's reasoning, by either of its names."""
    return said(message.get("reasoning_content")) or said(message.get("reasoning"))


def word(value: object, otherwise: str = "") -> str:
    """A string that is not empty, such as an id, or what stands in for it."""
    return value if isinstance(value, str) and value else otherwise


def arguments(value: object) -> str:
    """A tool call's arguments, or a piece of them: JSON text; some servers send the object itself."""
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return value if isinstance(value, str) else ""


class EventTranslation(ABC):
    """A stream of JSON events, cut anywhere, one event at a time to `_take`. What both directions share.

    What came before a broken event is given out first; the error is raised by the next call, once.
    """

    def __init__(self) -> None:
        self._reader = EventReader()
        self._broken: UpstreamUnreachable | None = None
        self._over = False
        """Nothing more is written: the stream has ended well, or with an error."""
        self._said = False
        """Whether there was more of it than whose turn it is: a word, or a reason for its end."""

    def feed(self, chunk: bytes) -> bytes:
        """The caller's events for what has come so far. Raises UpstreamUnreachable."""
        self._raise_broken()
        if self._over:
            return b""
        written: list[bytes] = []
        try:
            for event in self._reader.feed(chunk):
                written.append(self._event(event.data))
            if self._reader.waiting > MAX_EVENT_BYTES:
                raise UpstreamUnreachable("the upstream sent an event without end")
        except UpstreamUnreachable as error:
            self._over = True
            if not any(written):
                raise
            self._broken = error
        return b"".join(written)

    def finish(self) -> bytes:
        """The last events. A stream that was cut off stays cut off."""
        self._raise_broken()
        written = []
        for event in self._reader.finish():
            try:
                written.append(self._event(event.data))
            except UpstreamUnreachable:
                break  # a stream that was cut inside an event, not one that is nonsense
        return b"".join([*written, b"" if self._over else self._end()])

    def _check_said(self, usage: Usage | None) -> None:
        """Raises UpstreamUnreachable where the end has come of a stream that said nothing, and reports no thought."""
        if not self._said and (usage is None or not usage.completion_tokens):
            raise UpstreamUnreachable("the upstream's stream said nothing")

    def _raise_broken(self) -> None:
        if self._broken is not None:
            error, self._broken = self._broken, None
            raise error

    def _event(self, data: bytes) -> bytes:
        if self._over:
            return b""
        return self._take(None if data.strip() == _DONE else self._read(data))

    def _read(self, data: bytes) -> dict[str, Any]:
        """An event's data. Raises UpstreamUnreachable."""
        return read(data)

    @abstractmethod
    def _take(self, event: dict[str, Any] | None) -> bytes:
        """One event in the caller's language; None is `[DONE]`."""

    def _end(self) -> bytes:
        """The end of a stream that stopped without its last event."""
        return b""
