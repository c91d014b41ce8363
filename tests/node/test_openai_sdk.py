"""The official `openai` SDK works unchanged: chat, stream, models, and errors as its own exception classes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from node.deposits import new_key
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, MODEL, Running, running_node


@pytest.fixture
async def node(folder: Path, model_url: str) -> AsyncIterator[Running]:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url) as running:
        yield running


async def client(node: Running, amount_msat: int = 1_000_000) -> openai.AsyncOpenAI:
    key = new_key()
    await node.node.ledger.create_key(key.hash, key.hint, "", amount_msat)
    return openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key=key.text, max_retries=0)


async def test_chat(node: Running) -> None:
    async with await client(node) as sdk:
        answer = await sdk.chat.completions.create(**HELLO)
        assert answer.choices[0].message.content
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0


async def test_stream_with_and_without_usage(node: Running) -> None:
    async with await client(node) as sdk:
        for options in ({}, {"stream_options": {"include_usage": True}}):
            request: dict[str, Any] = HELLO | options
            chunks = [chunk async for chunk in await sdk.chat.completions.create(**request, stream=True)]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert text
            assert sum(chunk.usage is not None for chunk in chunks) == bool(options)


async def test_models(node: Running) -> None:
    async with await client(node) as sdk:
        assert [model.id async for model in sdk.models.list()] == [MODEL]
        assert (await sdk.models.retrieve(MODEL)).id == MODEL


async def test_errors_are_its_exception_classes(node: Running) -> None:
    async with await client(node) as sdk:
        with pytest.raises(openai.NotFoundError, match="gpt-9"):
            await sdk.chat.completions.create(**HELLO | {"model": "gpt-9"})
        with pytest.raises(openai.BadRequestError):
            await sdk.chat.completions.create(**HELLO | {"messages": []})
        with pytest.raises(openai.AuthenticationError):
            await sdk.with_options(api_key="sk-wrong").chat.completions.create(**HELLO)
        with pytest.raises(openai.BadRequestError, match="token"):
            await sdk.with_options(api_key="cashuBwrong").chat.completions.create(**HELLO)
    async with await client(node, 10) as poor:
        with pytest.raises(openai.APIStatusError) as caught:
            await poor.chat.completions.create(**HELLO)
        assert caught.value.status_code == 402
        assert caught.value.code == "insufficient_balance"


async def test_a_dead_upstream_is_its_server_error(folder: Path, model_url: str) -> None:
    models = folder / "models.json"
    models.write_text('{"data": [{"id": "smollm2-135m"}]}')
    dead = "http://127.0.0.1:9/v1"
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=dead, models_path=str(models)) as node:
        node.node.catalogue.update({})
        async with await client(node) as sdk:
            with pytest.raises(openai.InternalServerError, match="nothing was charged"):
                await sdk.chat.completions.create(**HELLO)
