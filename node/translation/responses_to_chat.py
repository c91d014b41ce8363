"""Callers of OpenAI's Responses at upstreams that have chat completions alone. Pure but for its clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from node.translation import responses_input
from node.translation.answers import read_answer
from node.translation.reading import bad, check_fields, count, flag, mapping, name, objects, shown, text
from node.translation.responses_answer import ResponsesStream, whole_answer
from relays.endpoints import CHAT

_TRANSLATED: Final = frozenset(
    {
        *("model", "input", "instructions", "max_output_tokens", "parallel_tool_calls", "reasoning", "stream"),
        *("temperature", "text", "tool_choice", "tools", "top_p", "user", "include"),
    }
)
_HINTS: Final = frozenset(
    {"metadata", "truncation", "safety_identifier", "prompt_cache_key", "stream_options", "service_tier"}
)
"""Left out, since the answer stays what was asked for."""
_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "store": (False,),
    "background": (False,),
    "top_logprobs": (0,),
    "previous_response_id": (),
    "conversation": (),
}
_INCLUDED: Final = "reasoning.encrypted_content"
"""What may be wished for in vain: no server of chat has it."""
_MAX_USER: Final = 64
_SAID_AGAIN: Final[Mapping[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""What an answer says of its request, and what that is where the request did not say."""

Json = dict[str, Any]


class ResponsesToChat:
    """Translates one request to a chat completion and its answer to a response, which says again what was asked."""

    def __init__(self, max_tokens_field: str = "max_tokens", clock: Callable[[], float] = time.time) -> None:
        self._max_tokens_field = max_tokens_field
        self._clock = clock
        self._asked: Json = {}

    def request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request as a chat completion. Raises Refusal 400 for what that cannot say."""
        check_fields(body, _TRANSLATED | _HINTS, _NEUTRAL)
        if (wished := body.get("include") or []) not in ([], [_INCLUDED]):
            raise bad(f"'include' of {shown(wished)} is not possible with this model's server: leave it out")
        said = {field: body[field] for field in _SAID_AGAIN if body.get(field) is not None}
        self._asked = {**_SAID_AGAIN, **said, "store": False, "background": False, "previous_response_id": None}
        conversation = responses_input.messages(body.get("input"))
        if not conversation:
            raise bad("'input' holds nothing to answer: send a user message")
        chat: Json = {"model": name(body.get("model"), "model"), "messages": conversation}
        if body.get("instructions"):
            system = {"role": "system", "content": text(body["instructions"], "instructions")}
            chat["messages"] = [system, *conversation]
        if body.get("max_output_tokens") is not None:
            chat[self._max_tokens_field] = count(body["max_output_tokens"], "max_output_tokens")
        chat |= {field: body[field] for field in ("temperature", "top_p") if body.get(field) is not None}
        chat |= _tools(body) | _form(body) | _effort(body) | _user(body)
        if flag(body.get("stream"), "stream"):
            chat |= {"stream": True, "stream_options": {"include_usage": True}}
        return chat

    def answer(self, body: bytes) -> bytes:
        """A chat completion as a response. Raises UpstreamUnreachable."""
        return msgspec.json.encode(whole_answer(read_answer(body, CHAT), self._asked, int(self._clock())))

    def stream(self) -> ResponsesStream:
        """For one streamed answer."""
        return ResponsesStream(self._asked, int(self._clock()))


def _tools(body: Mapping[str, Any]) -> Json:
    tools = [_function(tool, f"tools[{i}]") for i, tool in enumerate(objects(body.get("tools"), "tools"))]
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "function":
        choice = {"type": "function", "function": {"name": name(choice.get("name"), "tool_choice.name")}}
    elif choice not in (None, "auto", "none", "required"):
        raise bad("'tool_choice' is auto, none, required or a function by its name for this model")
    if not tools:
        if choice not in (None, "auto", "none"):
            raise bad("'tool_choice' asks for a tool, but 'tools' has none")
        return {}
    said: Json = {"tools": tools} | ({} if choice is None else {"tool_choice": choice})
    parallel = body.get("parallel_tool_calls")
    return said | ({} if parallel is None else {"parallel_tool_calls": flag(parallel, "parallel_tool_calls")})


def _function(tool: Json, where: str) -> Json:
    if tool.get("type") != "function":
        raise bad(f"'{where}.type' is {shown(tool.get('type'))}: this model's server takes tools of type function")
    function: Json = {"name": name(tool.get("name"), f"{where}.name")}
    if tool.get("description") is not None:
        function["description"] = text(tool["description"], f"{where}.description")
    if tool.get("parameters") is not None:
        function["parameters"] = mapping(tool["parameters"], f"{where}.parameters")
    if tool.get("strict") is not None:
        function["strict"] = flag(tool["strict"], f"{where}.strict")
    return {"type": "function", "function": function}


def _form(body: Mapping[str, Any]) -> Json:
    """In which form to answer, and at what length."""
    wanted = mapping(body.get("text") or {}, "text")
    said: Json = {}
    if wanted.get("verbosity") is not None:
        said["verbosity"] = text(wanted["verbosity"], "text.verbosity")
    form = mapping(wanted.get("format") or {}, "text.format")
    kind = form.get("type", "text")
    if kind == "json_object":
        said["response_format"] = {"type": kind}
    elif kind == "json_schema":
        described: Json = {"name": name(form.get("name"), "text.format.name")}
        described["schema"] = mapping(form.get("schema"), "text.format.schema")
        described |= {field: form[field] for field in ("description", "strict") if form.get(field) is not None}
        said["response_format"] = {"type": kind, "json_schema": described}
    elif kind != "text":
        raise bad("'text.format.type' is text, json_object or json_schema")
    return said


def _effort(body: Mapping[str, Any]) -> Json:
    """A summary of the thoughts comes wherever the server shows them."""
    effort = mapping(body.get("reasoning") or {}, "reasoning").get("effort")
    return {} if effort is None else {"reasoning_effort": text(effort, "reasoning.effort")}


def _user(body: Mapping[str, Any]) -> Json:
    user = body.get("user")
    return {"user": user} if isinstance(user, str) and 0 < len(user) <= _MAX_USER else {}
