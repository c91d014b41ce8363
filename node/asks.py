"""What a caller asks for: a request of any endpoint, read and checked. Pure; what cannot be served is refused here.

Every endpoint has a list of the fields that are sent upstream. Others are refused, since servers have fields of their own
that change the model, its length or its price (`models`, `n_predict`, `service_tier`, `plugins` …), or that reach into
what the operator keeps there for others (`previous_response_id`, `file_id`, stored prompts).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any, Final

import msgspec

from node.durations import audio_ms, least_audio_ms, most_audio_ms
from node.errors import Refusal
from node.forms import Form, read_form
from relays import endpoints, payment
from relays.bounds import MAX_CONTEXT, is_search
from relays.endpoints import Endpoint
from relays.errors import InvalidJson
from relays.jsontext import MAX_DEPTH, from_cut_json, has_many, too_deep
from relays.prompt import Prompt, read_prompt

MAX_CHOICES: Final = 128
MAX_IMAGES: Final = 10
MAX_INPUTS: Final = 4096
MAX_SEARCHES: Final = 100
MAX_PICTURES: Final = 500
LONG_BYTES: Final = 128 * 1024
"""What is longer is read and looked through beside the loop, in which others are served."""
MAX_VALUES: Final = 400_000
"""What a request is looked through for, part by part, before anybody pays. OpenAI embeds 300,000 tokens at once."""
DEFAULT_MODERATION_MODEL: Final = "omni-moderation-latest"
_SAMPLING: Final = (
    *("temperature", "top_p", "top_k", "min_p", "typical_p", "frequency_penalty", "presence_penalty", "logit_bias"),
    *("repetition_penalty", "repeat_penalty", "seed", "stop", "n", "logprobs", "user", "stream", "stream_options"),
)
_IMAGE: Final = (
    *("model", "prompt", "n", "size", "quality", "response_format", "style", "background", "output_format", "user"),
    *("output_compression", "moderation", "stream", "partial_images"),
)
_SOUND: Final = (
    *("model", "language", "prompt", "response_format", "temperature", "timestamp_granularities[]", "stream"),
    *("include[]", "chunking_strategy"),
)

FIELDS: Final[Mapping[str, Collection[str]]] = MappingProxyType(
    {
        "chat": {
            *("model", "messages", "max_tokens", "max_completion_tokens", "top_logprobs", "tools", "tool_choice"),
            *("functions", "parallel_tool_calls", "function_call", "response_format", "reasoning_effort", "verbosity"),
            *("modalities", "web_search_options", "metadata", "store", "safety_identifier", "prompt_cache_key"),
            *_SAMPLING,
        },
        "completions": {"model", "prompt", "suffix", "max_tokens", "echo", *_SAMPLING},
        "responses": {
            *("model", "input", "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning"),
            *("store", "stream", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation"),
            *("user", "include", "safety_identifier", "prompt_cache_key", "stream_options"),
        },
        "messages": {
            *("model", "messages", "system", "max_tokens", "metadata", "stop_sequences", "stream", "temperature"),
            *("thinking", "tool_choice", "tools", "top_k", "top_p", "output_config", "output_format", "cache_control"),
        },
        "count_tokens": {
            *("model", "messages", "system", "thinking", "tool_choice", "tools", "output_config", "cache_control"),
        },
        "embeddings": {
            *("model", "input", "dimensions", "encoding_format", "user", "input_type", "truncate", "task"),
            *("normalized", "embedding_type", "late_chunking"),
        },
        "moderations": {"model", "input"},
        "rerank": {"model", "query", "documents", "top_n", "top_k", "return_documents", "max_tokens_per_doc"},
        "images": {*_IMAGE},
        "image_edits": {*_IMAGE, "input_fidelity"},
        "speech": {"model", "input", "voice", "instructions", "response_format", "speed"},
        "transcriptions": {*_SOUND},
        "translations": {"model", "prompt", "response_format", "temperature"},
    }
)
_OUTPUTS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_AS_ALWAYS: Final = (("service_tier", "auto"), ("service_tier", "default"), ("service_tier", "standard_only"))
_CLIENT_TOOLS: Final = ("bash_", "text_editor_", "computer_", "memory_")
"""Anthropic's tools that the caller runs; all others with a type of their own run, and cost, at the server."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request that can be served. `fields` is its JSON, or the text fields of its form."""

    endpoint: Endpoint
    fields: Mapping[str, Any]
    prompt: Prompt
    form: Form | None = None
    audio_ms: int = 0
    """How long the sound says it is."""
    most_audio_ms: int = 0
    is_long: bool = False
    """Longer than LONG_BYTES."""
    betas: tuple[str, ...] = ()
    """Anthropic's, that servers of its language are to be told."""

    @property
    def model(self) -> str:
        return str(self.fields["model"])

    @property
    def stream(self) -> bool:
        return bool(self.fields.get("stream"))

    @property
    def wants_usage(self) -> bool:
        """Whether the caller of a stream is to see its usage: in other languages than chat it is part of the answer."""
        if self.endpoint not in (endpoints.CHAT, endpoints.COMPLETIONS):
            return True
        options = self.fields.get("stream_options")
        return isinstance(options, Mapping) and bool(options.get("include_usage"))


def read_ask(endpoint: Endpoint, raw: bytes, content_type: str, extra_fields: Collection[str] = ()) -> Ask:
    """Read a request. `extra_fields` are more that the operator lets through. Raises Refusal 400, 413 with what is wrong."""
    form: Form | None = None
    fields: Mapping[str, Any]
    if endpoint.multipart:
        form = read_form(raw, content_type)
        fields = _typed(form.texts())
    else:
        fields = _json(raw)
    if endpoint is endpoints.MODERATIONS and "model" not in fields:
        fields = {**fields, "model": DEFAULT_MODERATION_MODEL}
    known = {*FIELDS[endpoint.name], *extra_fields}
    fields = {name: value for name, value in fields.items() if not _asks_for_nothing(name, value, known)}
    _check_common(fields, known)
    _CHECKS[endpoint.name](fields)
    prompt = read_prompt(fields, endpoint)
    if len(prompt.pictures) > MAX_PICTURES:  # each is looked at, to count its tiles
        raise _bad(f"a request holds at most {MAX_PICTURES} pictures")
    if form is None:
        return Ask(endpoint=endpoint, fields=fields, prompt=prompt, is_long=len(raw) > LONG_BYTES)
    _check_files(form, endpoint)
    if endpoint is endpoints.IMAGE_EDITS:
        return Ask(endpoint=endpoint, fields=fields, prompt=prompt, form=form)
    sound = next(part.data for part in form.files)
    told_ms = audio_ms(sound)
    if told_ms is not None:
        told_ms = max(told_ms, least_audio_ms(sound))
    return Ask(
        endpoint=endpoint,
        fields=fields,
        prompt=prompt,
        form=form,
        audio_ms=told_ms or most_audio_ms(sound),
        most_audio_ms=max(told_ms or 0, most_audio_ms(sound)),
    )


def _asks_for_nothing(name: str, value: Any, known: AbstractSet[str]) -> bool:
    """A field that may as well not be there: clients dump theirs whether or not they are set."""
    return (name, value) in _AS_ALWAYS or (value is None and name not in known)


def _json(raw: bytes) -> dict[str, Any]:
    if has_many(raw, MAX_VALUES):
        raise Refusal(413, payment.INVALID_REQUEST, f"the request has more than {MAX_VALUES} values: send less at once")
    try:
        body = from_cut_json(raw)
    except InvalidJson as error:
        raise _bad(f"the request body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise _bad("the request body is not a JSON object")
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and too_deep(body):
        raise _bad(f"the request nests deeper than {MAX_DEPTH} levels: make it flatter")
    return body


def _typed(texts: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """A form's fields, with numbers and truth values where we look at them."""
    fields: dict[str, Any] = dict(texts)
    if isinstance(number := fields.get("n"), str) and re.fullmatch(r"[0-9]{1,4}", number):
        fields["n"] = int(number)
    if fields.get("stream") in ("true", "false"):
        fields["stream"] = fields["stream"] == "true"
    return fields


def _check_common(fields: Mapping[str, Any], known: AbstractSet[str]) -> None:
    if strange := fields.keys() - known:
        raise _bad(f"unknown field {min(strange)[:40]!r} could cost more than was agreed: leave it out")
    if not isinstance(fields.get("model"), str) or not fields["model"]:
        raise _bad("'model' is missing: name one of GET /v1/models")
    for field in (*_OUTPUTS, "n"):
        value = fields.get(field)
        if value is not None and (type(value) is not int or not 1 <= value <= MAX_CONTEXT):
            raise _bad(f"'{field}' is a whole number from 1")
    if len({fields[field] for field in _OUTPUTS if fields.get(field)}) > 1:
        raise _bad("'max_tokens' and 'max_completion_tokens' say different things: send one of them")
    if (fields.get("n") or 1) > MAX_CHOICES:
        raise _bad(f"'n' is at most {MAX_CHOICES}")
    if not isinstance(fields.get("stream"), bool | None):
        raise _bad("'stream' is true or false")
    if not isinstance(fields.get("stream_options"), dict | None):
        raise _bad("'stream_options' is an object")


def _check_caches(value: Any) -> None:
    """Refuse caches that are kept longer than usual, which cost more than usual."""
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, list):
            todo.extend(part)
        elif isinstance(part, dict):
            cache = part.get("cache_control")
            if isinstance(cache, dict) and cache.get("ttl") not in (None, "5m"):
                raise _bad("a cache is kept for 5 minutes here: leave 'ttl' out")
            todo.extend(part.values())


def _check_chat(fields: Mapping[str, Any]) -> None:
    _check_messages(fields)
    _check_caches(dict(fields))
    _check_tools(fields, lambda tool: tool.get("type") in ("function", "custom"))
    _check_stored(fields["messages"])
    if fields.get("store"):
        raise _bad("nothing is stored here: leave 'store' out, or send false")
    if any(isinstance(message.get("audio"), dict) for message in fields["messages"]):
        raise _bad("sounds kept at a server are not served here: send the message as text")
    if not isinstance(fields.get("web_search_options"), dict | None):
        raise _bad("'web_search_options' is an object")
    modalities = fields.get("modalities")
    if modalities is not None and not (isinstance(modalities, list) and set(map(str, modalities)) <= {"text", "audio"}):
        raise _bad("'modalities' are text and audio: pictures are made at /v1/images/generations")


def _check_completions(fields: Mapping[str, Any]) -> None:
    _check_texts(fields, "prompt")


def _check_responses(fields: Mapping[str, Any]) -> None:
    if not isinstance(fields.get("input"), str | list) or not fields["input"]:
        raise _bad("'input' is missing: a text, or a list of items")
    if isinstance(fields["input"], list) and not all(
        isinstance(item, dict) and item.keys() & {"type", "role"} for item in fields["input"]
    ):  # without either it is a reference to one that is kept at the server
        raise _bad("every item of 'input' is an object with a 'role' or a 'type'")
    if fields.get("store"):
        raise _bad("nothing is stored here: leave 'store' out, or send false")
    _check_tools(fields, lambda tool: tool.get("type") in ("function", "custom"))
    _check_stored(fields["input"])


def _check_anthropic(fields: Mapping[str, Any]) -> None:
    _check_messages(fields)
    _check_caches(dict(fields))
    _check_tools(fields, _runs_at_the_caller)
    _check_stored(fields["messages"])


def _check_anthropic_messages(fields: Mapping[str, Any]) -> None:
    _check_anthropic(fields)
    if fields.get("max_tokens") is None:
        raise _bad("'max_tokens' is missing")


def _check_embeddings(fields: Mapping[str, Any]) -> None:
    _check_texts(fields, "input")


def _check_moderations(fields: Mapping[str, Any]) -> None:
    if not isinstance(fields.get("input"), str | list) or not fields["input"]:
        raise _bad("'input' is missing: a text, or a list of them")


def _check_rerank(fields: Mapping[str, Any]) -> None:
    documents = fields.get("documents")
    if not isinstance(fields.get("query"), str):
        raise _bad("'query' is missing")
    if not isinstance(documents, list) or not 0 < len(documents) <= MAX_INPUTS:
        raise _bad(f"'documents' is a list of up to {MAX_INPUTS} texts")


def _check_images(fields: Mapping[str, Any]) -> None:
    if not isinstance(fields.get("prompt"), str) or not fields["prompt"]:
        raise _bad("'prompt' is missing")
    if (fields.get("n") or 1) > MAX_IMAGES:
        raise _bad(f"'n' is at most {MAX_IMAGES}")
    for field in ("size", "quality"):  # they decide what an image costs
        if not isinstance(fields.get(field), str | None):
            raise _bad(f"'{field}' is a text, such as 1024x1024 or hd")


def _check_speech(fields: Mapping[str, Any]) -> None:
    if not isinstance(fields.get("input"), str) or not fields["input"]:
        raise _bad("'input' is missing: the text to be spoken")


def _check_sound(fields: Mapping[str, Any]) -> None:
    if not isinstance(fields.get("prompt", ""), str):
        raise _bad("'prompt' is a text")


_CHECKS: Final[Mapping[str, Callable[[Mapping[str, Any]], None]]] = MappingProxyType(
    {
        "chat": _check_chat,
        "completions": _check_completions,
        "responses": _check_responses,
        "messages": _check_anthropic_messages,
        "count_tokens": _check_anthropic,
        "embeddings": _check_embeddings,
        "moderations": _check_moderations,
        "rerank": _check_rerank,
        "images": _check_images,
        "image_edits": _check_images,
        "speech": _check_speech,
        "transcriptions": _check_sound,
        "translations": _check_sound,
    }
)


def _check_messages(fields: Mapping[str, Any]) -> None:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad("'messages' is missing: a list of at least one message")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise _bad("every message is an object with a 'role'")


def _check_texts(fields: Mapping[str, Any], field: str) -> None:
    """One text, or several, or as tokens."""
    value = fields.get(field)
    if isinstance(value, str) and value:
        return
    if not isinstance(value, list) or not value:
        raise _bad(f"'{field}' is missing: a text, or a list of them")
    if len(value) > MAX_INPUTS and not all(type(token) is int for token in value):
        raise _bad(f"'{field}' is a list of up to {MAX_INPUTS} texts")


def _check_tools(fields: Mapping[str, Any], allowed: Callable[[dict[str, Any]], bool]) -> None:
    """Refuse tools that run at the server: they cost what no quote knows."""
    tools = fields.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        raise _bad("'tools' is a list")
    for tool in tools:
        if not isinstance(tool, dict) or not allowed(tool):
            kind = str(tool.get("type") if isinstance(tool, dict) else tool)[:40]
            raise _bad(f"tools of type {kind!r} run at the server and are not sold here: send functions")


def _runs_at_the_caller(tool: dict[str, Any]) -> bool:
    """Or searches the web, as often as is said: that has a price."""
    kind = tool.get("type")
    if is_search(tool):
        if type(tool.get("max_uses")) is not int or not 1 <= tool["max_uses"] <= MAX_SEARCHES:
            raise _bad(f"a search of the web says how often it may be used: 'max_uses' from 1 to {MAX_SEARCHES}")
        return True
    return kind in (None, "custom") or (isinstance(kind, str) and kind.startswith(_CLIENT_TOOLS))


def _check_stored(messages: Any) -> None:
    """Refuse references to what is kept at the upstream in the operator's name: it may be another caller's."""
    for part in _parts(messages):
        file = part.get("file")
        inner = [part.get("source"), file] if part.get("type") in ("image", "document", "file") else []
        if any(isinstance(place, dict) and "file_id" in place for place in (part, *inner)):
            raise _bad("files kept at a server are not served here: send the data itself")
        if part.get("type") in ("item_reference", "container_upload"):
            raise _bad("items kept at a server are not served here: send them whole")


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, list):
            todo.extend(part)
        elif isinstance(part, dict):
            yield part
            todo.extend(part[field] for field in ("content", "output") if field in part)


def _check_files(form: Form, endpoint: Endpoint) -> None:
    names = ("image", "image[]", "mask") if endpoint is endpoints.IMAGE_EDITS else ("file",)
    strange = [part.name for part in form.files if part.name not in names]
    if strange or not form.files or (names == ("file",) and len(form.files) != 1):
        raise _bad(f"the form holds a file in {names[0]!r}, and no other")


def _bad(message: str) -> Refusal:
    return Refusal(400, payment.INVALID_REQUEST, message)
