"""A streamed chat completion put together again: what OpenAI's API answers when it is not asked to stream. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from router_client.buying.reading import ChunkChoice

MAX_CHOICES: Final = 128
MAX_CALLS: Final = 1024
"""Of one choice; more are passed over."""
_GROWING: Final = ("content", "refusal", "reasoning", "reasoning_content")
"""Fields of a delta that come in pieces; of the others the last counts."""


class _Call:
    """A call of a tool, whose arguments come in pieces."""

    def __init__(self) -> None:
        self._said: dict[str, Any] = {}
        self._function: dict[str, Any] = {}
        self._arguments: list[str] = []

    def take(self, delta: Mapping[str, Any]) -> None:
        self._said |= {name: value for name, value in delta.items() if value and name not in ("index", "function")}
        function = delta.get("function")
        for name, value in function.items() if isinstance(function, Mapping) else ():
            if name == "arguments" and isinstance(value, str):
                self._arguments.append(value)
            elif value:
                self._function[name] = value

    def whole(self) -> dict[str, Any]:
        function = self._function | {"arguments": "".join(self._arguments)}
        return {"type": "function", **self._said, "function": function}


class _Choice:
    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, _Call] = {}
        self._rest: dict[str, Any] = {}
        self._logprobs: dict[str, list[Any]] = {}
        self._finish_reason: str | None = None

    def take(self, said: ChunkChoice) -> None:
        self._finish_reason = said.finish_reason or self._finish_reason
        for name, value in (said.logprobs or {}).items():
            if isinstance(value, list):
                self._logprobs.setdefault(name, []).extend(value)
        for name, value in (said.delta or {}).items():
            if name in _GROWING and isinstance(value, str):
                self._texts.setdefault(name, []).append(value)
            elif name == "tool_calls" and isinstance(value, list):
                for call in value:
                    self._take_call(call)
            elif isinstance(value, list) and isinstance(before := self._rest.setdefault(name, []), list):
                before.extend(value)
            elif value is not None:
                self._rest[name] = [*value] if isinstance(value, list) else value  # which may grow

    def _take_call(self, delta: object) -> None:
        if not isinstance(delta, Mapping):
            return
        last = len(self._calls) - 1
        place = delta.get("index", last + 1 if delta.get("id") else max(last, 0))  # some servers leave it out
        if isinstance(place, int) and (place in self._calls or len(self._calls) < MAX_CALLS):
            self._calls.setdefault(place, _Call()).take(delta)

    def whole(self, index: int) -> dict[str, Any]:
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        message = {"role": "assistant", "content": None, **self._rest, **texts}
        if self._calls:
            message["tool_calls"] = [call.whole() for _, call in sorted(self._calls.items())]
            message["content"] = message["content"] or None
        logprobs = self._logprobs or None
        return {"index": index, "message": message, "finish_reason": self._finish_reason, "logprobs": logprobs}


class Completion:
    """The choices of a completion so far."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}

    def take(self, said: ChunkChoice) -> None:
        if said.index in self._choices or len(self._choices) < MAX_CHOICES:
            self._choices.setdefault(said.index, _Choice()).take(said)

    def choices(self) -> tuple[dict[str, Any], ...]:
        """In OpenAI's form: `index`, `message`, `finish_reason`, `logprobs`."""
        return tuple(choice.whole(index) for index, choice in sorted(self._choices.items()))
