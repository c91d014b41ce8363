"""Sixty-four requests at once on one key with money for ten: exactly ten are served, on either database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, bearer, granted_key, running_node
from tests.node.hostile import Hostile

REPLY = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":31,"completion_tokens":5}}'
EACH_MSAT = 1000
ONE_PRICE = {
    "fixed_per_1k_input_tokens": "0",
    "fixed_per_1k_output_tokens": "0",
    "fixed_cost_per_request": str(EACH_MSAT // 1000),
}
"""A request costs what it holds, so none gives money back for an eleventh."""


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_exactly_ten_of_sixty_four_are_served(
    folder: Path,
    http: httpx.AsyncClient,
    hostile: tuple[Hostile, str],
    request: pytest.FixtureRequest,
    backend: str,
    stream: bool,
) -> None:
    books = {"database_url": request.getfixturevalue("postgres_books_url")} if backend == "postgres" else {}
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"abcd"}}]}\n\n'
    hostile[0].answer = (200, {"content-type": "text/event-stream"}, [chunk]) if stream else (200, {}, [REPLY])
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1], **ONE_PRICE, **books) as node:
        key, text = await granted_key(node.node, 10 * EACH_MSAT)
        replies = await asyncio.gather(
            *(
                http.post(f"{node.url}/v1/chat/completions", json={**HELLO, "stream": stream}, headers=bearer(text))
                for _ in range(64)
            )
        )
        assert sorted(reply.status_code for reply in replies) == [200] * 10 + [402] * 54
        account = await node.node.ledger.account(key.account)
        assert (account.available_msat, account.held_msat, account.spent_msat) == (0, 0, 10 * EACH_MSAT)
        assert len(hostile[0].asked) == 10
        await node.node.ledger.audit()
