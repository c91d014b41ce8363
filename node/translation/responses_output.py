"""The output of OpenAI's Responses: items that grow by pieces, each piece an event. A whole answer is a stream in one go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

from node.errors import UpstreamUnreachable

Json = dict[str, Any]

MAX_CHARS: Final = 4 * 1024 * 1024
"""Of all items: the last event says everything again."""


class Item(ABC):
    """One item: its number in the output, and what it holds so far."""

    def __init__(self, item_id: str, number: int) -> None:
        self._id = item_id
        self._place: Json = {"item_id": item_id, "output_index": number}
        self._number = number
        self._pieces: list[str] = []
        self.status = "in_progress"

    def begin(self) -> list[Json]:
        """Its first events."""
        return [{"type": "response.output_item.added", "output_index": self._number, "item": self.shown()}]

    def add(self, piece: str) -> list[Json]:
        """A piece of its text."""
        if not piece:
            return []
        self._pieces.append(piece)
        return [self._delta(piece)]

    def end(self, status: str) -> list[Json]:
        """Its last events."""
        self.status = status
        done = {"type": "response.output_item.done", "output_index": self._number, "item": self.shown()}
        return [*self._done(), done]

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @abstractmethod
    def shown(self) -> Json:
        """The item as it is now."""

    @abstractmethod
    def _delta(self, piece: str) -> Json: ...

    @abstractmethod
    def _done(self) -> list[Json]: ...


class Message(Item):
    """What the model says: `output_text`, or a `refusal`."""

    def __init__(self, item_id: str, number: int, kind: str) -> None:
        super().__init__(item_id, number)
        self.kind = kind
        self._place |= {"content_index": 0}

    def begin(self) -> list[Json]:
        return [*super().begin(), {"type": "response.content_part.added", **self._place, "part": self._part("")}]

    def shown(self) -> Json:
        content = [self._part(self.text)] if self._pieces else []
        return {"id": self._id, "type": "message", "role": "assistant", "status": self.status, "content": content}

    def _part(self, text: str) -> Json:
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _delta(self, piece: str) -> Json:
        return {"type": f"response.{self.kind}.delta", **self._place, "delta": piece, **self._probable()}

    def _done(self) -> list[Json]:
        field = "refusal" if self.kind == "refusal" else "text"
        return [
            {"type": f"response.{self.kind}.done", **self._place, field: self.text, **self._probable()},
            {"type": "response.content_part.done", **self._place, "part": self._part(self.text)},
        ]

    def _probable(self) -> Json:
        return {} if self.kind == "refusal" else {"logprobs": []}


class Reasoning(Item):
    """What the server shows of the model's thoughts, as their summary."""

    kind = "reasoning"

    def __init__(self, item_id: str, number: int) -> None:
        super().__init__(item_id, number)
        self._place |= {"summary_index": 0}

    def begin(self) -> list[Json]:
        part = {"type": "response.reasoning_summary_part.added", **self._place, "part": _summary("")}
        return [*super().begin(), part]

    def shown(self) -> Json:
        return {"id": self._id, "type": "reasoning", "summary": [_summary(self.text)] if self._pieces else []}

    def _delta(self, piece: str) -> Json:
        return {"type": "response.reasoning_summary_text.delta", **self._place, "delta": piece}

    def _done(self) -> list[Json]:
        return [
            {"type": "response.reasoning_summary_text.done", **self._place, "text": self.text},
            {"type": "response.reasoning_summary_part.done", **self._place, "part": _summary(self.text)},
        ]


def _summary(text: str) -> Json:
    return {"type": "summary_text", "text": text}


class FunctionCall(Item):
    """A call of a tool of the caller's."""

    kind = "function_call"

    def __init__(self, item_id: str, number: int, call_id: str, name: str) -> None:
        super().__init__(item_id, number)
        self._call = {"call_id": call_id, "name": name}

    def shown(self) -> Json:
        return {"id": self._id, "type": "function_call", "status": self.status, **self._call, "arguments": self.text}

    def _delta(self, piece: str) -> Json:
        return {"type": "response.function_call_arguments.delta", **self._place, "delta": piece}

    def _done(self) -> list[Json]:
        name = self._call["name"]
        said = {"arguments": self.text, "name": name}
        return [{"type": "response.function_call_arguments.done", **self._place, **said}]


class Output:
    """All items of one answer, in the order in which they begin. What is said goes on in one item until another begins;
    calls are open until the end, since their pieces may come in any order."""

    def __init__(self, answer_id: str) -> None:
        self._id = answer_id
        self._items: list[Item] = []
        self._saying: Message | Reasoning | None = None
        self._calls: list[FunctionCall] = []
        self._chars = 0

    def say(self, kind: str, piece: str) -> list[Json]:
        """A piece of `output_text`, `refusal` or `reasoning`."""
        if not piece:
            return []
        events: list[Json] = []
        item = self._saying
        if item is None or item.kind != kind:
            events += self._hush()
            number = len(self._items)
            if kind == "reasoning":
                item = Reasoning(f"rs_{self._id}_{number}", number)
            else:
                item = Message(f"msg_{self._id}_{number}", number, kind)
            self._saying = item
            self._items.append(item)
            events += item.begin()
        return events + self._add(item, piece)

    def call(self, call_id: str, name: str) -> list[Json]:
        """A call begins; it is numbered by how many were before it."""
        events, number = self._hush(), len(self._items)
        item = FunctionCall(f"fc_{self._id}_{number}", number, call_id, name)
        self._calls.append(item)
        self._items.append(item)
        return events + item.begin()

    def argue(self, number: int, piece: str) -> list[Json]:
        """A piece of a call's arguments."""
        return self._add(self._calls[number], piece)

    def end(self, status: str) -> list[Json]:
        """What is still open ends."""
        return [event for item in self._items if item.status == "in_progress" for event in item.end(status)]

    def shown(self) -> list[Json]:
        return [item.shown() for item in self._items]

    def _add(self, item: Item, piece: str) -> list[Json]:
        self._chars += len(piece)
        if self._chars > MAX_CHARS:
            raise UpstreamUnreachable("the upstream's answer has no end")
        return item.add(piece)

    def _hush(self) -> list[Json]:
        events = [] if self._saying is None else self._saying.end("completed")
        self._saying = None
        return events
