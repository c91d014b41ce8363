"""An answer without anything is not charged, streamed or whole; one that its model ended without a word is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.errors import UpstreamUnreachable
from node.metering.whole import is_answer
from node.paid_stream import up_to_the_first_word
from node.translation.base import Translation
from node.translation.chat_to_gemini import ChatToGemini
from node.translation.chat_to_messages import ChatToMessages
from node.translation.messages_to_chat import MessagesToChat
from node.translation.responses_to_chat import ResponsesToChat
from relays.endpoints import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, Running, bearer, granted_key, running_node
from tests.node.hostile import Hostile
from tests.node.test_hostile_by_name import DONE, EVENTS, FULL_MSAT, GRANT_MSAT, JSON, ask, stream, usage

Server = tuple[Hostile, str]
PROMPT_MSAT = 31 * 2
READ = {"prompt_tokens": 31, "completion_tokens": 0}
THOUGHT = {**READ, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 5}}
ROLE: dict[str, Any] = {"role": "assistant", "content": ""}


def whole(choice: object, report: object = READ) -> bytes:
    return json.dumps({"choices": [choice], "usage": report}).encode()


def chunk(**choice: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


@pytest.fixture
async def node(folder: Path, hostile: Server) -> AsyncIterator[Running]:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as running:
        yield running


@pytest.mark.parametrize("report", [READ, None], ids=["reported", "not reported"])
async def test_a_whole_answer_without_anything_is_free(
    node: Running, http: httpx.AsyncClient, hostile: Server, report: object
) -> None:
    """`{"choices":[{}]}` cost its prompt."""
    blank = {"index": 0, "message": {**ROLE, "refusal": None, "tool_calls": []}, "finish_reason": ""}
    for choice in ({}, None, {"message": None}, {"message": ROLE}, {"message": "", "finish_reason": None}, blank):
        told = await ask(node, http, hostile, (200, JSON, [whole(choice, report)]))
        assert (told.status, told.charged_msat) == (502, 0), choice
    for choices in (b"7", b'"abc"', b"{}", b'""'):
        told = await ask(node, http, hostile, (200, JSON, [b'{"choices":' + choices + b"}"]))
        assert (told.status, told.charged_msat) == (502, 0), choices


async def test_a_stream_without_anything_is_free(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    """The first event, of whose turn it is, made it cost its prompt, whatever came after it."""
    begun = chunk(delta=ROLE, finish_reason=None)
    for chunks in (
        (begun,),
        (begun, DONE),
        (begun, usage(31, 0), DONE),
        (begun, chunk(delta={}), DONE),
        (begun, b"CUT"),
    ):
        told = await stream(node, http, hostile, *chunks)
        assert (told.status, told.charged_msat) == (502, 0), chunks


async def test_a_turn_that_a_model_ends_without_a_word_costs_what_it_read(
    node: Running, http: httpx.AsyncClient, hostile: Server
) -> None:
    """Its caller may have told it to, by `stop` or in words: that would be a way to have others pay for nothing."""
    for reason in ("stop", "length", "content_filter"):
        told = await ask(node, http, hostile, (200, JSON, [whole({"message": ROLE, "finish_reason": reason})]))
        assert (told.status, told.charged_msat) == (200, PROMPT_MSAT)
        end = chunk(delta={}, finish_reason=reason)
        told = await stream(node, http, hostile, chunk(delta=ROLE), end, usage(31, 0), DONE)
        assert (told.status, told.charged_msat) == (200, PROMPT_MSAT)


async def test_thoughts_that_are_reported_are_paid_though_nothing_shows(
    node: Running, http: httpx.AsyncClient, hostile: Server
) -> None:
    told = await ask(node, http, hostile, (200, JSON, [whole({"message": ROLE}, THOUGHT)]))
    assert (told.status, told.charged_msat) == (200, FULL_MSAT)
    told = await stream(node, http, hostile, chunk(delta=ROLE), usage(), DONE)
    assert (told.status, told.charged_msat) == (200, FULL_MSAT)


async def test_translated_it_does_not_seem_to_end_well(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    body = {"model": HELLO["model"], "max_tokens": 20, "messages": HELLO["messages"]}
    for streams, headers, chunks in (
        (False, JSON, [whole({"message": ROLE})]),
        (True, EVENTS, [chunk(delta=ROLE), usage(31, 0), DONE]),
    ):
        hostile[0].answer = (200, headers, chunks)
        key, text = await granted_key(node.node, GRANT_MSAT)
        reply = await http.post(f"{node.url}/v1/messages", json={**body, "stream": streams}, headers=bearer(text))
        assert reply.status_code == 502
        assert (await node.node.ledger.account(key.account)).available_msat == GRANT_MSAT


@pytest.mark.parametrize(
    ("endpoint", "answer", "expected"),
    [
        (CHAT, {"choices": [{"message": {"content": None, "tool_calls": [{"id": "x"}]}}]}, True),
        (CHAT, {"choices": [{}, {"message": {"content": "x"}}]}, True),
        (COMPLETIONS, {"choices": [{"text": ""}]}, False),
        (COMPLETIONS, {"choices": [{"text": "", "finish_reason": "stop"}]}, True),
        (COMPLETIONS, {"choices": [{"text": "x"}]}, True),
        (MESSAGES, {"content": []}, False),
        (MESSAGES, {"content": [], "stop_reason": None, "usage": {"input_tokens": 9, "output_tokens": 0}}, False),
        (MESSAGES, {"content": [], "usage": {"input_tokens": 9, "output_tokens": 2}}, True),
        (MESSAGES, {"content": [], "stop_reason": "end_turn"}, True),
        (RESPONSES, {"output": []}, False),
        (RESPONSES, {"output": [], "status": "completed"}, True),
        (RESPONSES, {"output": [], "usage": {"input_tokens": 9, "output_tokens": 2}}, True),
    ],
)
def test_one_rule_for_all_languages(endpoint: Endpoint, answer: object, expected: bool) -> None:
    assert is_answer(json.dumps(answer).encode(), "application/json", endpoint) is expected


def events(*data: object) -> bytes:
    return b"".join(
        b"data: " + (b"[DONE]" if each == "[DONE]" else json.dumps(each).encode()) + b"\n\n" for each in data
    )


NO_WORD = {"id": "c1", "choices": [{"index": 0, "delta": ROLE}]}
BEGUN = {"type": "message_start", "message": {"id": "m1", "usage": {"input_tokens": 9, "output_tokens": 1}}}


@pytest.mark.parametrize(
    ("translation", "said"),
    [
        (MessagesToChat(), events(NO_WORD, "[DONE]")),
        (ResponsesToChat(), events(NO_WORD, "[DONE]")),
        (ChatToMessages(9), events(BEGUN, {"type": "message_stop"})),
        (ChatToGemini(), events({"candidates": [{"index": 0, "content": {"parts": []}}]})),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, bytes) else "",
)
async def test_no_translation_ends_a_stream_well_that_said_nothing(translation: Translation, said: bytes) -> None:
    stream = translation.stream()

    async def chunks() -> AsyncIterator[bytes]:
        yield stream.feed(said)
        yield stream.finish()

    endpoint = {MessagesToChat: MESSAGES, ResponsesToChat: RESPONSES}.get(type(translation), CHAT)
    with pytest.raises(UpstreamUnreachable):
        await up_to_the_first_word(chunks(), endpoint)
