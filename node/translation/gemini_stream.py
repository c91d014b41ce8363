"""Gemini's answers in the words of OpenAI's chat completions, whole and streamed. Pure.

Money is taken by the usage, so it is told as Gemini told it or not at all. A stream ends in `[DONE]` only if every candidate
in it came to its end: one that broke off must not look complete.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final

import msgspec

from node import sse
from node.errors import UpstreamUnreachable
from node.translation import endings
from node.translation.answers import arguments
from node.translation.tokens import from_chat
from relays.errors import InvalidJson
from relays.jsontext import folded, from_json, shaped
from relays.pricing import Usage
from relays.usage import MAX_TOKENS

Json = dict[str, Any]

MAX_EVENT_BYTES: Final = 32 * 1024 * 1024
"""An event that is still not complete after this many bytes is none; a picture comes in one."""
FILTERED: Final = frozenset(
    {
        *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
        *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
    }
)
"""Finish reasons that hold back what was or would have been written."""
UNLIKELY: Final = -9999.0
"""OpenAI's word for a probability of nothing; JSON has no infinity."""

ARGS_LEVEL: Final = 7
"""Where a model may nest as deeply as it likes: `candidates[].content.parts[].functionCall.args`."""
_COUNTS: Final = (
    *("promptTokenCount", "toolUsePromptTokenCount", "cachedContentTokenCount"),
    *("candidatesTokenCount", "thoughtsTokenCount"),
)


class _Call(msgspec.Struct):
    name: str
    args: Json | str | None = None
    """Or as JSON text, where they nest too deeply."""
    id: str | None = None


class _Blob(msgspec.Struct, rename="camel"):
    mime_type: str = ""
    data: str = ""

    @property
    def is_picture(self) -> bool:
        return re.fullmatch(r"image/[\w.+-]+", self.mime_type, re.ASCII) is not None


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _Call | None = None
    inline_data: _Blob | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Token(msgspec.Struct, rename="camel"):
    token: str | None = None
    log_probability: float | str | None = None
    """Google writes what JSON has no number for as a text, such as "-Infinity"."""


class _TopTokens(msgspec.Struct):
    candidates: list[_Token] | None = None


class _Logprobs(msgspec.Struct, rename="camel"):
    chosen_candidates: list[_Token] | None = None
    top_candidates: list[_TopTokens] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    index: Annotated[int, msgspec.Meta(ge=0, lt=128)] | None = None
    """Google leaves out what is 0."""
    content: _Content | None = None
    finish_reason: str | None = None
    logprobs_result: _Logprobs | None = None

    @property
    def ended(self) -> bool:
        return self.finish_reason not in (None, "", "FINISH_REASON_UNSPECIFIED")


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Response(msgspec.Struct, rename="camel"):
    """A GenerateContentResponse: a whole answer, or a piece of a streamed one."""

    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: Any = None
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None

    @property
    def blocked(self) -> bool:
        return self.prompt_feedback is not None and bool(self.prompt_feedback.block_reason)


def whole_answer(body: bytes, clock: Callable[[], float]) -> bytes:
    """A chat completion. Raises UpstreamUnreachable for an error and for what is no answer."""
    said = _read(body)
    if said.error is not None:
        raise UpstreamUnreachable(_words(said.error))
    answer_id = said.response_id or _name_of(body)
    choices, says_something = [], said.blocked
    for candidate in said.candidates or []:
        spoken = _spoken(candidate, answer_id, 0)
        message = {"role": "assistant", "content": None if "tool_calls" in spoken else "", **spoken}
        choices.append(_choice(candidate, "message", message, _finish_reason(candidate, "tool_calls" in spoken)))
        says_something = says_something or candidate.ended or bool(spoken)
    written = any(_has_words(choice["message"]) for choice in choices)
    if not choices:
        if not said.blocked:
            raise UpstreamUnreachable("the upstream's answer holds no candidate")
        choices = [_choice(_Candidate(), "message", {"role": "assistant", "content": ""}, "content_filter")]
    answer = _head(said, answer_id, "chat.completion", clock) | {"choices": choices}
    if (counted := usage_of(said.usage_metadata, written=written)) is not None:
        answer["usage"] = counted
    if not says_something and not (counted and counted["completion_tokens"]):
        raise UpstreamUnreachable("the upstream's answer says nothing")
    return msgspec.json.encode(answer)


class _Spoken(msgspec.Struct):
    """How far one choice of a stream has come."""

    calls: int = 0
    words: bool = False
    ended: bool = False


class GeminiStream:
    """One stream of Gemini's events on its way to the caller."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events = sse.EventReader()
        self._head: Json = {}
        self._answer_id = ""
        self._choices: dict[int, _Spoken] = {}
        self._usage: Any = None
        self._broken = False

    @property
    def usage(self) -> Usage | None:
        counted = usage_of(self._usage, written=any(choice.words for choice in self._choices.values()))
        return None if counted is None else from_chat(counted)

    def feed(self, chunk: bytes) -> bytes:
        """The caller's events so far; nothing more after an error. Raises UpstreamUnreachable for what is no stream."""
        if self._broken:
            return b""
        written = self._pass(self._events.feed(chunk))
        if self._events.waiting > MAX_EVENT_BYTES:
            self._broken = True
            raise UpstreamUnreachable("the upstream's stream holds an event without an end")
        return written

    def finish(self) -> bytes:
        """What was left, the usage if there was one, and `[DONE]` if the answer came to its end."""
        written = b""
        if not self._broken:
            with suppress(UpstreamUnreachable):  # cut in the middle of an event: `_broken` says so
                written = self._pass(self._events.finish())
        words = any(choice.words for choice in self._choices.values())
        if (counted := usage_of(self._usage, written=words)) is not None:
            written += sse.write(self._head | {"choices": [], "usage": counted})
        return written + (sse.DONE if self._complete else b"")

    @property
    def _complete(self) -> bool:
        return not self._broken and bool(self._choices) and all(choice.ended for choice in self._choices.values())

    def _pass(self, events: Sequence[sse.Event]) -> bytes:
        return b"".join([self._translated(event.data) for event in events])

    def _translated(self, data: bytes) -> bytes:
        if self._broken or data.strip() == b"[DONE]":
            return b""
        try:
            said = _read(data)
            if said.error is not None:
                self._broken = True
                return sse.write(endings.CHAT_ERROR)
            return self._chunks(said, data)
        except UpstreamUnreachable:
            self._broken = True
            raise

    def _chunks(self, said: _Response, data: bytes) -> bytes:
        if not self._head:
            self._answer_id = said.response_id or _name_of(data)
            self._head = _head(said, self._answer_id, "chat.completion.chunk", self._clock)
        if said.usage_metadata is not None:
            self._usage = said.usage_metadata
        if not said.candidates and said.blocked:
            choices = self._blocked()
        else:
            choices = [choice for candidate in said.candidates or [] if (choice := self._delta(candidate))]
        return b"".join([sse.write(self._head | {"choices": [choice]}) for choice in choices])

    def _delta(self, candidate: _Candidate) -> Json | None:
        """What a candidate adds to its choice; None for nothing."""
        index = candidate.index or 0
        first = index not in self._choices
        choice = self._choices.setdefault(index, _Spoken())
        spoken = _spoken(candidate, self._answer_id, choice.calls)
        ends = candidate.ended and not choice.ended
        if not (first or spoken or ends or candidate.logprobs_result):
            return None
        for place, call in enumerate(spoken.get("tool_calls", ()), choice.calls):
            call["index"] = place
        choice.calls += len(spoken.get("tool_calls", ()))
        choice.words |= _has_words(spoken)
        choice.ended |= candidate.ended
        delta = ({"role": "assistant", "content": ""} if first else {}) | spoken
        return _choice(candidate, "delta", delta, _finish_reason(candidate, bool(choice.calls)) if ends else None)

    def _blocked(self) -> list[Json]:
        """The end of every choice that has none yet, and of the first if none has begun."""
        ends = []
        if not self._choices:
            self._choices[0] = _Spoken()
        for index, choice in self._choices.items():
            if not choice.ended:
                choice.ended = True
                delta = {"role": "assistant", "content": ""}
                ends.append(_choice(_Candidate(index), "delta", delta, "content_filter"))
        return ends


def usage_of(reported: Any, *, written: bool) -> Json | None:
    """Gemini's `usageMetadata` as OpenAI's usage, or None where it does not tell it or cannot be true.

    Google leaves out counts of 0, such as that of an answer that is all thought. But a count of what was written cannot be
    0 where something was.
    """
    if not isinstance(reported, dict):
        return None
    counts = [reported.get(name) for name in _COUNTS]
    if not all(count is None or (type(count) is int and 0 <= count <= MAX_TOKENS) for count in counts):
        return None
    prompt, tool_prompt, cached, candidates, thoughts = counts
    if prompt is None or (written and candidates is None) or (cached or 0) > prompt:
        return None
    read = prompt + (tool_prompt or 0)
    completion = (candidates or 0) + (thoughts or 0)
    if (thoughts or 0) <= (candidates or 0) and reported.get("totalTokenCount") == read + (candidates or 0):
        completion = candidates or 0  # some servers count thoughts among the candidates' tokens
    usage: Json = {"prompt_tokens": read, "completion_tokens": completion, "total_tokens": read + completion}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    if thoughts is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": thoughts}
    return usage


def _read(data: bytes) -> _Response:
    try:
        return _shaped(data)
    except InvalidJson as error:
        with suppress(InvalidJson):
            return _shaped(folded(data, ARGS_LEVEL))
        raise UpstreamUnreachable(f"the upstream's answer is not Gemini's: {error}") from error


def _shaped(data: bytes) -> _Response:
    """Raises InvalidJson."""
    value = from_json(data)
    if isinstance(value, list):  # so Google answers where a stream was asked for and there is an error
        value = value[0] if len(value) == 1 else None
    return shaped(value, _Response)


def _head(said: _Response, answer_id: str, kind: str, clock: Callable[[], float]) -> Json:
    return {
        "id": f"chatcmpl-{answer_id}",
        "object": kind,
        "created": int(clock()),
        "model": said.model_version or "",
    }


def _name_of(data: bytes) -> str:
    """A name for an answer that has none, the same whenever the same is read."""
    return hashlib.sha256(data).hexdigest()[:24]


def _choice(candidate: _Candidate, place: str, spoken: Json, reason: str | None) -> Json:
    return {
        "index": candidate.index or 0,
        place: spoken,
        "logprobs": _logprobs(candidate.logprobs_result),
        "finish_reason": reason,
    }


def _spoken(candidate: _Candidate, answer_id: str, calls: int) -> Json:
    """What a candidate says: of text, thoughts, pictures and calls what is there. `calls` came before in its choice."""
    parts = (candidate.content.parts if candidate.content else None) or []
    spoken: Json = {}
    if thoughts := "".join([part.text for part in parts if part.text and part.thought]):
        spoken["reasoning_content"] = thoughts
    if text := "".join([part.text for part in parts if part.text and not part.thought]):
        spoken["content"] = text
    blobs = [part.inline_data for part in parts if part.inline_data is not None and not part.thought]
    if drawn := [_picture(blob) for blob in blobs if blob.is_picture]:
        spoken["images"] = drawn
    calling = [part for part in parts if part.function_call is not None]
    if calling:
        prefix = f"call_{answer_id}_{candidate.index or 0}"
        spoken["tool_calls"] = [_tool_call(part, f"{prefix}_{place}") for place, part in enumerate(calling, calls)]
    return spoken


def _picture(blob: _Blob) -> Json:
    """In OpenRouter's form: OpenAI's chats have none."""
    return {"type": "image_url", "image_url": {"url": f"data:{blob.mime_type};base64,{blob.data}"}}


def _tool_call(part: _Part, name: str) -> Json:
    assert part.function_call is not None
    try:
        given = arguments(part.function_call.args or {})
    except RecursionError as error:
        raise UpstreamUnreachable("the upstream's tool call is nested too deeply") from error
    call: Json = {
        "id": part.function_call.id or name,
        "type": "function",
        "function": {"name": part.function_call.name, "arguments": given},
    }
    if part.thought_signature:
        call["extra_content"] = {"google": {"thought_signature": part.thought_signature}}
    return call


def _has_words(spoken: Json) -> bool:
    return bool(spoken.get("content") or spoken.get("tool_calls") or spoken.get("images"))


def _finish_reason(candidate: _Candidate, called: bool) -> str:
    if candidate.finish_reason in FILTERED:
        return "content_filter"
    if candidate.finish_reason == "MAX_TOKENS":
        return "length"
    return "tool_calls" if called and (candidate.finish_reason == "STOP" or not candidate.ended) else "stop"


def _logprobs(told: _Logprobs | None) -> Json | None:
    if told is None or told.chosen_candidates is None:
        return None
    tops = [top.candidates or [] for top in told.top_candidates or []]
    content = []
    for place, chosen in enumerate(told.chosen_candidates):
        top = [_token(token) for token in (tops[place] if place < len(tops) else [])]
        content.append(_token(chosen) | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def _token(token: _Token) -> Json:
    text, logprob = token.token or "", token.log_probability
    return {
        "token": text,
        "logprob": UNLIKELY if isinstance(logprob, str) else logprob or 0.0,
        "bytes": list(text.encode()),
    }


def _words(error: Any) -> str:
    """What is told of an error: Google's own words may speak of the operator's account."""
    status = error.get("status") if isinstance(error, dict) else None
    known = isinstance(status, str) and re.fullmatch(r"[A-Z_]{1,40}", status)
    return "the model's server broke off with an error" + (f": {status}" if known else "")
