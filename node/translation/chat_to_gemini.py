"""Callers who speak OpenAI's chat completions, upstreams that speak Gemini's `generateContent`. Pure.

The model and whether to stream stand in Gemini's URL, not in its body. What would change the answer and cannot be said in
Gemini's language is refused by name; what only serves OpenAI's own books is dropped. Nothing is fetched for the caller:
pictures, sounds and files come as data. Answers are in `gemini_stream`.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from node.translation import reading
from node.translation.gemini_stream import GeminiStream, whole_answer
from relays.errors import InvalidJson
from relays.jsontext import from_json

Json = dict[str, Any]

THINKING_BUDGETS: Final = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24_576}
"""Tokens of thought per `reasoning_effort`."""
AUDIO_FORMATS: Final = ("wav", "mp3", "aiff", "aac", "ogg", "flac")
"""What Gemini reads, as the last part of its MIME types."""
MAX_INT: Final = 2**31 - 1
"""Gemini's numbers are of 32 bits."""

_NUMBERS: Final = {
    "temperature": "temperature",
    "top_p": "topP",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_INTEGERS: Final = {"top_k": ("topK", 1), "n": ("candidateCount", 1), "seed": ("seed", -MAX_INT - 1)}
"""Gemini's name, and the least there is."""
_SAID: Final = frozenset(
    {
        *(*_NUMBERS, *_INTEGERS, "messages", "tools", "tool_choice", "max_tokens", "max_completion_tokens", "stop"),
        *("response_format", "logprobs", "top_logprobs", "reasoning_effort"),
    }
)
_DROPPED: Final = frozenset(
    {
        *("model", "stream", "stream_options", "user", "metadata", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention"),
    }
)
_SAYS_NOTHING: Final[Mapping[str, tuple[Any, ...]]] = {
    "store": (False,),
    "parallel_tool_calls": (True,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "service_tier": ("auto", "default"),
    "min_p": (0,),
    "typical_p": (1,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
}
"""Fields that Gemini has no word for, with the values that ask for what it does anyway."""
_MIME: Final = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)


class ChatToGemini:
    """The caller speaks chat completions, the upstream Gemini."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def request(self, body: Mapping[str, Any]) -> Json:
        """The body of `generateContent` and of `streamGenerateContent`. Raises Refusal 400."""
        _refuse_unsayable(body)
        talk = _Conversation()
        for place, message in enumerate(_list(body.get("messages"), "messages")):
            where = f"messages[{place}]"
            talk.add(reading.mapping(message, where), where)
        if not talk.contents:
            raise reading.bad("'messages' holds nothing to answer: send a message of the user")
        said: Json = {"contents": talk.contents}
        if talk.system:
            said["systemInstruction"] = {"parts": talk.system}
        said |= _tools(body)
        if config := _generation_config(body):
            said["generationConfig"] = config
        return said

    def answer(self, body: bytes) -> bytes:
        """A chat completion. Raises UpstreamUnreachable."""
        return whole_answer(body, self._clock)

    def stream(self) -> GeminiStream:
        """For one streamed answer."""
        return GeminiStream(self._clock)


class _Conversation:
    """Messages as they become Gemini's contents: turns of the user and of the model, each in one piece."""

    def __init__(self) -> None:
        self.system: list[Json] = []
        self.contents: list[Json] = []
        self._called: dict[str, str] = {}
        """Names of the functions by the ids of their calls: Gemini wants both with a result."""

    def add(self, message: Json, where: str) -> None:
        content = message.get("content")
        match message.get("role"):
            case "system" | "developer":
                if text := _text_only(content, f"{where}.content"):
                    self.system.append({"text": text})
            case "user":
                if content is None:
                    raise reading.bad(f"'{where}.content' is missing: a text or a list of parts")
                self._say("user", _parts(content, f"{where}.content"))
            case "assistant":
                self._say("model", self._assistant(message, where))
            case "tool":
                self._say("user", [self._result(message, where)])
            case _:
                raise reading.bad(f"'{where}.role' is not known here: say system, developer, user, assistant or tool")

    def _say(self, role: str, parts: list[Json]) -> None:
        if not parts:
            return
        if self.contents and self.contents[-1]["role"] == role:
            self.contents[-1]["parts"] += parts
        else:
            self.contents.append({"role": role, "parts": parts})

    def _assistant(self, message: Json, where: str) -> list[Json]:
        if message.get("function_call") is not None:
            raise reading.bad(f"'{where}.function_call' is not read: send it in 'tool_calls'")
        if message.get("audio") is not None:
            raise reading.bad(f"'{where}.audio' cannot be read by this model: send its transcript as 'content'")
        parts = _parts(message.get("content"), f"{where}.content")
        if message.get("refusal") is not None and not parts:
            parts = [{"text": reading.name(message["refusal"], f"{where}.refusal")}]
        for place, call in enumerate(_list(message.get("tool_calls") or [], f"{where}.tool_calls")):
            spot = f"{where}.tool_calls[{place}]"
            parts.append(self._call(reading.mapping(call, spot), spot))
        return parts

    def _call(self, call: Json, where: str) -> Json:
        if call.get("type", "function") != "function":
            raise reading.bad(f"'{where}.type' cannot be said to this model: only calls of type 'function' can")
        function = reading.mapping(call.get("function"), f"{where}.function")
        name = reading.name(function.get("name"), f"{where}.function.name")
        written = reading.text(function.get("arguments"), f"{where}.function.arguments")
        try:
            args = from_json(written or "{}")
        except InvalidJson as error:
            raise reading.bad(f"'{where}.function.arguments' is not JSON: {error}") from error
        args = reading.shallow(args, f"{where}.function.arguments")
        call_id = reading.name(call.get("id"), f"{where}.id")
        self._called[call_id] = name
        return {"functionCall": {"id": call_id, "name": name, "args": args}} | _signature(call, where)

    def _result(self, message: Json, where: str) -> Json:
        call_id = reading.name(message.get("tool_call_id"), f"{where}.tool_call_id")
        if call_id not in self._called:
            raise reading.bad(f"'{where}.tool_call_id' names no tool call of an assistant message before it")
        written = _text_only(message.get("content"), f"{where}.content")
        try:
            result = from_json(written)
        except InvalidJson:
            result = None
        if not isinstance(result, dict):
            result = {"result": written}
        result = reading.shallow(result, f"{where}.content")
        return {"functionResponse": {"id": call_id, "name": self._called[call_id], "response": result}}


def _signature(call: Json, where: str) -> Json:
    """Gemini's seal on its own thought, where Google's OpenAI-compatible endpoint puts it. Gemini 3 wants it back."""
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    if signature is None:
        return {}
    return {"thoughtSignature": reading.name(signature, f"{where}.extra_content.google.thought_signature")}


def _parts(content: Any, where: str) -> list[Json]:
    """Content as Gemini's parts; empty texts, which Gemini refuses, are left out."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"text": content}] if content else []
    parts = [
        _part(reading.mapping(part, f"{where}[{i}]"), f"{where}[{i}]") for i, part in enumerate(_list(content, where))
    ]
    return [part for part in parts if part != {"text": ""}]


def _part(part: Json, where: str) -> Json:
    match part.get("type"):
        case "text" | "refusal" as kind:
            return {"text": reading.text(part.get(kind), f"{where}.{kind}")}
        case "image_url":
            return _inline(
                reading.mapping(part.get("image_url"), f"{where}.image_url").get("url"), f"{where}.image_url.url"
            )
        case "file":
            file = reading.mapping(part.get("file"), f"{where}.file")
            return _inline(file.get("file_data"), f"{where}.file.file_data")
        case "input_audio":
            audio = reading.mapping(part.get("input_audio"), f"{where}.input_audio")
            form = audio.get("format")
            if form not in AUDIO_FORMATS:
                raise reading.bad(f"'{where}.input_audio.format' is one of {', '.join(AUDIO_FORMATS)}")
            data = _base64(audio.get("data"), f"{where}.input_audio.data")
            return {"inlineData": {"mimeType": f"audio/{form}", "data": data}}
        case _:
            raise reading.bad(f"'{where}.type' cannot be read by this model: send text, image_url, input_audio or file")


def _inline(url: Any, where: str) -> Json:
    """What a data: URL holds. Others would have to be fetched, which a node never does for strangers."""
    head, _, data = (url if isinstance(url, str) else "").partition(",")
    mime = head[5:].split(";")[0].lower()
    if not (head[:5].lower() == "data:" and head.lower().endswith(";base64") and _MIME.fullmatch(mime)):
        raise reading.bad(f"'{where}' cannot be fetched: send it as a data: URL, such as 'data:image/png;base64,…'")
    return {"inlineData": {"mimeType": mime, "data": _base64(data, where)}}


def _base64(data: Any, where: str) -> str:
    text = reading.name(data, where)
    try:
        base64.b64decode(text, validate=True)
    except ValueError as error:
        raise reading.bad(
            f"'{where}' is not base64: encode the bytes with the standard alphabet and padding"
        ) from error
    return text


def _text_only(content: Any, where: str) -> str:
    """The text of content that can be nothing else."""
    parts = _parts(content, where)
    if not all("text" in part for part in parts):
        raise reading.bad(f"'{where}' holds more than text: only messages of the user can")
    return "".join(part["text"] for part in parts)


def _tools(body: Mapping[str, Any]) -> Json:
    """Function declarations and which of them are to be called."""
    tools = _list(body.get("tools") or [], "tools")
    declared = [_declaration(reading.mapping(tool, f"tools[{i}]"), f"tools[{i}]") for i, tool in enumerate(tools)]
    config = _tool_choice(body.get("tool_choice"), {declaration["name"] for declaration in declared})
    if not declared:
        return {}
    said: Json = {"tools": [{"functionDeclarations": declared}]}
    return said | ({"toolConfig": {"functionCallingConfig": config}} if config else {})


def _declaration(tool: Json, where: str) -> Json:
    if tool.get("type") != "function":
        raise reading.bad(f"'{where}.type' cannot be said to this model: only tools of type 'function' can")
    function = reading.mapping(tool.get("function"), f"{where}.function")
    said: Json = {"name": reading.name(function.get("name"), f"{where}.function.name")}
    if function.get("description") is not None:
        said["description"] = reading.text(function["description"], f"{where}.function.description")
    if function.get("parameters") is not None:
        spot = f"{where}.function.parameters"
        said["parametersJsonSchema"] = reading.shallow(function["parameters"], spot)
    return said


def _tool_choice(choice: Any, declared: set[str]) -> Json | None:
    match choice:
        case None:
            return None
        case "auto" | "none":
            return {"mode": choice.upper()}
        case "required":
            names: list[str] = []
        case {"type": "function"}:
            names = [_chosen(choice)]
        case {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [_, *_] as tools}}:
            names = [_chosen(tool) for tool in tools]
        case _:
            raise reading.bad("'tool_choice' cannot be said to this model: say auto, none, required or name a function")
    if not declared or not declared.issuperset(names):
        raise reading.bad("'tool_choice' asks for a function that 'tools' does not hold: declare it there")
    return {"mode": "ANY"} | ({"allowedFunctionNames": names} if names else {})


def _chosen(choice: Any) -> str:
    function = reading.mapping(reading.mapping(choice, "tool_choice").get("function"), "tool_choice.function")
    return reading.name(function.get("name"), "tool_choice.function.name")


def _generation_config(body: Mapping[str, Any]) -> Json:
    config: Json = {}
    for field, name in _NUMBERS.items():
        if (number := body.get(field)) is not None:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise reading.bad(f"'{field}' is a number")
            config[name] = number
    for field, (name, least) in _INTEGERS.items():
        if body.get(field) is not None:
            config[name] = _integer(body[field], field, least)
    field = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    if body.get(field) is not None:
        config["maxOutputTokens"] = _integer(body[field], field, 1)
    if stop := body.get("stop"):
        stops = _list([stop] if isinstance(stop, str) else stop, "stop")
        config["stopSequences"] = [reading.name(text, f"stop[{i}]") for i, text in enumerate(stops)]
    if (effort := body.get("reasoning_effort")) is not None:
        if not isinstance(effort, str) or effort not in THINKING_BUDGETS:
            raise reading.bad(f"'reasoning_effort' is one of {', '.join(THINKING_BUDGETS)}")
        config["thinkingConfig"] = {"thinkingBudget": THINKING_BUDGETS[effort], "includeThoughts": False}
    return config | _response_format(body.get("response_format")) | _logprobs(body)


def _response_format(wanted: Any) -> Json:
    match wanted:
        case None | {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"responseMimeType": "application/json"}
        case {"type": "json_schema"}:
            said: Json = {"responseMimeType": "application/json"}
            schema = reading.mapping(wanted.get("json_schema"), "response_format.json_schema").get("schema")
            if schema is not None:
                spot = "response_format.json_schema.schema"
                said["responseJsonSchema"] = reading.shallow(schema, spot)
            return said
        case _:
            raise reading.bad(
                "'response_format' cannot be said to this model: its type is text, json_object or json_schema"
            )


def _logprobs(body: Mapping[str, Any]) -> Json:
    wanted, top = body.get("logprobs"), body.get("top_logprobs")
    if wanted not in (None, False, True):
        raise reading.bad("'logprobs' is true or false")
    if top is not None and _integer(top, "top_logprobs", 0) and not wanted:
        raise reading.bad("'top_logprobs' needs 'logprobs': true")
    if not wanted:
        return {}
    return {"responseLogprobs": True} | ({"logprobs": top} if top else {})


def _refuse_unsayable(body: Mapping[str, Any]) -> None:
    for field, value in body.items():
        if field in _SAID or field in _DROPPED or value is None or value in _SAYS_NOTHING.get(field, ()):
            continue
        if field in ("functions", "function_call"):
            raise reading.bad(f"'{field}' is not read: send 'tools' and 'tool_choice'")
        raise reading.bad(f"{str(field)[:40]!r} with this value cannot be said to this model: leave it out")


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise reading.bad(f"'{where}' is a list")
    return value


def _integer(value: Any, field: str, least: int) -> int:
    if type(value) is not int or not least <= value <= MAX_INT:
        raise reading.bad(f"'{field}' is a whole number from {least} to {MAX_INT}")
    return value
