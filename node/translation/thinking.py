"""How hard a model is to think: OpenAI's effort in Anthropic's words, by what the model understands. Pure.

Claude up to 4.5 takes a budget of tokens. From 4.6 on it decides for itself how much to think, and takes an effort; from
Opus 4.7 on a budget is refused. Other makers' models at servers of this language take the older form.
"""

from __future__ import annotations

import re
from typing import Any, Final

from node.translation.reading import bad

_BUDGETS: Final = {"low": 2048, "medium": 8192, "high": 24576, "xhigh": 32768, "max": 49152}
_NONE: Final = ("none", "minimal")
_MIN_BUDGET: Final = 1024
_VERSION: Final = re.compile(r"claude.*?(?<!\d)(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
"""The first number of a name that is no date: 3-7, 4.5, 4."""
_FIRST_ADAPTIVE: Final = (4, 6)
_FIRST_WITH_XHIGH: Final = (4, 7)

Json = dict[str, Any]


def for_messages(effort: object, asked: Json) -> Json:
    """The fields of a message that say `reasoning_effort`. Thinking is left out where Anthropic's servers refuse it beside
    what else is asked."""
    if effort is None or effort in _NONE:
        return {}
    if not isinstance(effort, str) or effort not in _BUDGETS:
        raise bad(f"'reasoning_effort' is one of {', '.join((*_NONE, *_BUDGETS))}")
    sampled = asked.get("temperature", 1) != 1 or "top_k" in asked or asked.get("top_p", 1) < 0.95
    forced = asked.get("tool_choice", {}).get("type") in ("any", "tool")
    last = asked["messages"][-1]
    possible = not (sampled or forced or last["role"] == "assistant")
    version = _version(asked["model"])
    if version is None or version < _FIRST_ADAPTIVE:
        budget = min(_BUDGETS[effort], asked["max_tokens"] // 2)
        possible = possible and budget >= _MIN_BUDGET and not _has_results(last)
        return {"thinking": {"type": "enabled", "budget_tokens": budget}} if possible else {}
    if effort == "xhigh" and version < _FIRST_WITH_XHIGH:
        effort = "high"
    said: Json = {"output_config": {**asked.get("output_config", {}), "effort": effort}}
    if possible:  # later models show nothing of their thoughts unless asked
        said["thinking"] = {"type": "adaptive", "display": "summarized"}
    return said


def _version(model: str) -> tuple[int, int] | None:
    """Claude's version by its name, None for models of others. A name without a number is a new one."""
    name = model.lower()
    if "claude" not in name:
        return None
    found = _VERSION.search(name)
    return (99, 0) if found is None else (int(found[1]), int(found[2] or 0))


def _has_results(last: Json) -> bool:
    """Whether an answer goes on that began before, whose signed thoughts an older model wants to be sent along."""
    return any(block["type"] == "tool_result" for block in last["content"])
