"""What the tests of translations share: streams cut anywhere, and requests that are nearly right."""

import itertools
import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Final

from hypothesis import strategies as st

HELLO: Final = [{"role": "user", "content": "Hello"}]
PNG: Final = "iVBORw0KGgo="
CUTS: Final = st.lists(st.integers(0, 4000), max_size=12)
ENDS: Final = st.sampled_from(["\n\n", "\r\n\r\n"])

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)

_WORDS: Final = (
    *("text", "image", "document", "tool_use", "tool_result", "thinking", "base64", "url", "content", "enabled"),
    *("user", "assistant", "system", "tool", "function", "auto", "json_schema", "image_url", "file", "refusal"),
    *("application/pdf", "https://a.example/b", "data:text/plain;base64,eA==", "{}", "low", "none"),
)
_KEYS: Final = (
    *("type", "role", "content", "text", "source", "data", "media_type", "url", "id", "name", "input", "title"),
    *("tool_use_id", "input_schema", "is_error", "citations", "format", "schema", "budget_tokens", "effort"),
    *("function", "arguments", "tool_calls", "tool_call_id", "image_url", "file", "file_data", "filename"),
    *("json_schema", "parameters", "strict", "index", "delta", "error", "usage", "message", "choices", "finish_reason"),
)
LIKELY: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(_WORDS) | JSON,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5),
    max_leaves=12,
)


@st.composite
def spoiled(draw: st.DrawFn, whole: Any) -> Any:
    """`whole`, with something else in up to three places of it."""
    value: Any = [deepcopy(whole)]
    for _ in range(draw(st.integers(0, 3))):
        place: Any = value
        key: Any = 0
        while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 5)):
            place = place[key]
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        place[key] = draw(JSON)
    return value[0]


def bodies(limit: str, fields: Iterable[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Requests of any shape, most of them near one that could be meant."""
    near = st.fixed_dictionaries(
        {"model": st.just("m"), "messages": st.just(HELLO) | st.lists(LIKELY, max_size=3), limit: st.just(9) | JSON},
        optional=dict.fromkeys(fields, LIKELY),
    )
    return near | st.dictionaries(st.text(max_size=8), JSON, max_size=4)


def sse(*events: object, end: str = "\n\n") -> bytes:
    """A stream of events without names."""
    return b"".join(f"data: {e if isinstance(e, str) else json.dumps(e)}{end}".encode() for e in events)


def pieces(whole: bytes, cuts: list[int]) -> list[bytes]:
    """The same bytes, in chunks."""
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    return [whole[a:b] for a, b in itertools.pairwise(places)]
