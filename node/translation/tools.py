"""Definitions of tools, and how they may be used, between the two languages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from node.translation.reading import bad, flag, mapping, name, objects, shown, text

Json = dict[str, Any]


def for_chat(body: Mapping[str, Any]) -> Json:
    """Anthropic's `tools` and `tool_choice` as OpenAI's."""
    tools = [_function(tool, f"tools[{i}]") for i, tool in enumerate(objects(body.get("tools"), "tools"))]
    choice = mapping(body.get("tool_choice") or {}, "tool_choice")
    kind = choice.get("type", "auto")
    if kind not in ("auto", "any", "none", "tool"):
        raise bad("'tool_choice.type' is auto, any, tool or none")
    if not tools:
        if kind in ("any", "tool"):
            raise bad("'tool_choice' asks for a tool, but 'tools' has none")
        return {}
    said: Json = {"tools": tools}
    if kind == "tool":
        said["tool_choice"] = {
            "type": "function",
            "function": {"name": name(choice.get("name"), "tool_choice.name")},
        }
    elif "type" in choice:
        said["tool_choice"] = "required" if kind == "any" else kind
    if flag(choice.get("disable_parallel_tool_use"), "tool_choice.disable_parallel_tool_use"):
        said["parallel_tool_calls"] = False
    return said


def _function(tool: Json, where: str) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise bad(
            f"'{where}' of type {shown(tool['type'])} runs at Anthropic's servers: this model takes your own tools"
        )
    function: Json = {"name": name(tool.get("name"), f"{where}.name")}
    if tool.get("description") is not None:
        function["description"] = text(tool["description"], f"{where}.description")
    function["parameters"] = mapping(tool.get("input_schema"), f"{where}.input_schema")
    if flag(tool.get("strict"), f"{where}.strict"):
        function["strict"] = True
    return {"type": "function", "function": function}


def for_messages(body: Mapping[str, Any]) -> Json:
    """OpenAI's `tools`, `tool_choice` and `parallel_tool_calls` as Anthropic's."""
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(objects(body.get("tools"), "tools"))]
    choice = _tool_choice(body.get("tool_choice"))
    if not tools:
        if choice and choice["type"] in ("any", "tool"):
            raise bad("'tool_choice' asks for a tool, but 'tools' has none")
        return {}
    parallel = body.get("parallel_tool_calls")
    if parallel is not None and not flag(parallel, "parallel_tool_calls") and choice != {"type": "none"}:
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    return {"tools": tools} | ({"tool_choice": choice} if choice else {})


def _tool_choice(choice: object) -> Json:
    if choice is None:
        return {}
    if choice in ("auto", "none"):
        return {"type": choice}
    if choice == "required":
        return {"type": "any"}
    if isinstance(choice, dict) and choice.get("type") == "function":
        function = mapping(choice.get("function"), "tool_choice.function")
        return {"type": "tool", "name": name(function.get("name"), "tool_choice.function.name")}
    raise bad("'tool_choice' is auto, none, required or a function by its name")


def _tool(tool: Json, where: str) -> Json:
    if tool.get("type") != "function":
        raise bad(f"'{where}.type' is {shown(tool.get('type'))}: this model takes tools of type function")
    function = mapping(tool.get("function"), f"{where}.function")
    made: Json = {"name": name(function.get("name"), f"{where}.function.name")}
    if function.get("description") is not None:
        made["description"] = text(function["description"], f"{where}.function.description")
    parameters = mapping(function.get("parameters") or {}, f"{where}.function.parameters")
    made["input_schema"] = {"type": "object", **parameters}
    if flag(function.get("strict"), f"{where}.function.strict"):
        made["strict"] = True
    return made
