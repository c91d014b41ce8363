"""A caller's `anthropic-beta` reaches servers of Anthropic's language, as far as it costs nothing apart."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from node.betas import allowed
from tests.conftest import DEAD_MINT
from tests.node.harness import PRICES, bearer, granted_key, running_node
from tests.node.shopful import running_shopful

GRANT_MSAT = 1_000_000
ASK = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "What is two and two?"}]}
THINKS = "interleaved-thinking-2025-05-14"
STREAMS = "fine-grained-tool-streaming-2025-05-14"
COSTS = "context-1m-2025-08-07"
NATIVE = 'kind = "anthropic"'
MAYBE = 'kind = "openai"\nnative = ["messages"]'
"""An OpenAI-compatible server that has Anthropic's messages too."""


async def beta_that_reached(
    folder: Path, http: httpx.AsyncClient, spec: str, path: str, beta: str, **settings: str
) -> str | None:
    """What the server was told, of an answer that came."""
    async with running_shopful("m") as (server, url):
        text = f'[[upstream]]\nname = "one"\nbase_url = "{url}"\napi_key = "secret"\n{spec}\n'
        (folder / "upstreams.toml").write_text(text)
        chosen = {"upstreams_path": folder / "upstreams.toml", **PRICES, **settings}
        async with running_node(folder, cashu_mints=DEAD_MINT, **chosen) as node:
            _, key = await granted_key(node.node, GRANT_MSAT)
            headers = {**bearer(key), "anthropic-beta": beta, "anthropic-version": "1999-01-01"}
            body = {name: value for name, value in ASK.items() if name != "max_tokens" or "count" not in path}
            reply = await http.post(f"{node.url}/v1{path}", json=body, headers=headers)
            assert reply.status_code == 200, reply.text
        assert len(server.headers) == 1
        assert server.headers[0].get("anthropic-version") != "1999-01-01", "what it answers is read as we know it"
        return server.headers[0].get("anthropic-beta")


@pytest.mark.parametrize("path", ["/messages", "/messages/count_tokens"])
@pytest.mark.parametrize("spec", [NATIVE, MAYBE])
async def test_harmless_betas_are_passed_on_and_others_left_out(
    folder: Path, http: httpx.AsyncClient, spec: str, path: str
) -> None:
    """A longer context costs twice as much, and the quote does not know."""
    sent = f"{COSTS}, {THINKS},claude-code-20250219,{STREAMS}, {THINKS}"
    assert await beta_that_reached(folder, http, spec, path, sent) == f"{THINKS},{STREAMS}"


async def test_the_operator_may_let_more_through(folder: Path, http: httpx.AsyncClient) -> None:
    told = await beta_that_reached(folder, http, NATIVE, "/messages", f"{COSTS},x", extra_anthropic_betas=COSTS)
    assert told == COSTS


@pytest.mark.parametrize(
    ("spec", "path"), [('kind = "openai"', "/messages"), (NATIVE, "/chat/completions"), (MAYBE, "/chat/completions")]
)
async def test_servers_and_calls_of_another_language_are_told_of_none(
    folder: Path, http: httpx.AsyncClient, spec: str, path: str
) -> None:
    assert await beta_that_reached(folder, http, spec, path, THINKS) is None


@pytest.mark.parametrize("header", ["", ",", COSTS, THINKS.upper(), f"{THINKS}\r\nx: y", "é" * 5000, THINKS + "\0"])
def test_nothing_but_known_names_passes(header: str) -> None:
    assert allowed(header) == ()


def test_a_long_header_is_no_longer_than_what_is_known() -> None:
    assert allowed(",".join([THINKS, "x"] * 1000)) == (THINKS,)
