"""What model's servers do in the wild, each by its name: no money is lost, no connection hangs, nobody gets a 500."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from relays.receipt import SSE_PREFIX
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, Running, bearer, granted_key, receipt_of, running_node
from tests.node.hostile import TEXT, Answer, Hostile

Server = tuple[Hostile, str]
GRANT_MSAT = 1_000_000
EVENTS = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json"}
DONE = b"data: [DONE]\n\n"
FULL_MSAT = 31 * 2 + 5 * 8


def usage(prompt: int = 31, completion: int = 5) -> bytes:
    report = {"prompt_tokens": prompt, "completion_tokens": completion}
    return b"data: " + json.dumps({"choices": [], "usage": report}).encode() + b"\n\n"


def whole(content: bytes = b"abcdefgh", **report: int) -> bytes:
    told = json.dumps(report or {"prompt_tokens": 31, "completion_tokens": 5}).encode()
    return b'{"choices":[{"message":{"content":"' + content + b'"}}],"usage":' + told + b"}"


@pytest.fixture
async def node(folder: Path, hostile: Server) -> AsyncIterator[Running]:
    async with running_node(
        folder,
        cashu_mints=DEAD_MINT,
        upstream_base_url=hostile[1],
        upstream_idle_timeout_s=1,
        upstream_answer_timeout_s=1,
        upstream_first_token_timeout_s=1,
    ) as running:
        yield running


class Outcome:
    """The reply, what it cost, and its receipt if there is one, once nothing is held and the books add up."""

    def __init__(self, reply: httpx.Response, charged_msat: int) -> None:
        self.status = reply.status_code
        self.text = reply.text
        self.content = reply.content
        self.charged_msat = charged_msat
        told = SSE_PREFIX in reply.text or "x-satroute-receipt" in reply.headers
        self.receipt = receipt_of(reply) if told else None
        assert charged_msat == (0 if self.receipt is None else self.receipt.cost_msat)
        assert reply.status_code != 500


async def ask(node: Running, http: httpx.AsyncClient, hostile: Server, answer: Answer, **fields: Any) -> Outcome:
    hostile[0].answer = answer
    key, text = await granted_key(node.node, GRANT_MSAT)
    async with asyncio.timeout(20):
        reply = await http.post(
            f"{node.url}/v1/chat/completions", json={**HELLO, **fields}, headers=bearer(text), timeout=20
        )
        account = await node.node.ledger.account(key.account)
        while account.held_msat:
            await asyncio.sleep(0.02)
            account = await node.node.ledger.account(key.account)
    await node.node.audit()
    return Outcome(reply, GRANT_MSAT - account.available_msat)


async def stream(node: Running, http: httpx.AsyncClient, hostile: Server, *chunks: bytes) -> Outcome:
    return await ask(node, http, hostile, (200, EVENTS, list(chunks)), stream=True)


async def test_slow_before_its_first_byte(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    for streams, headers in ((False, JSON), (True, EVENTS)):
        told = await ask(node, http, hostile, (200, headers, [b"WAIT", TEXT, DONE]), stream=streams)
        assert (told.status, told.charged_msat) == (504, 0)


async def test_slow_in_the_midst_of_a_stream(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    told = await stream(node, http, hostile, TEXT, b"WAIT", TEXT, usage(), DONE)
    assert told.receipt is not None
    assert (told.receipt.outcome, told.receipt.metered) == ("interrupted", "counted")
    assert 0 < told.charged_msat < told.receipt.hold_msat
    assert "upstream_timeout" in told.text
    assert not told.text.endswith("[DONE]\n\n")


async def test_dropping_in_the_midst_of_a_stream(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    told = await stream(node, http, hostile, TEXT, TEXT, b"CUT")
    assert told.receipt is not None
    assert told.receipt.outcome == "interrupted"
    assert 0 < told.charged_msat < told.receipt.hold_msat
    assert "upstream_unavailable" in told.text


async def test_dropping_in_the_midst_of_an_answer(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    told = await ask(node, http, hostile, (200, {**JSON, "Content-Length": "999"}, [whole()[:30], b"CUT"]))
    assert (told.status, told.charged_msat) == (502, 0)


@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream", "image/png", ""])
async def test_a_wrong_content_type(node: Running, http: httpx.AsyncClient, hostile: Server, kind: str) -> None:
    """A stream that is none is free; a whole answer is what its bytes are."""
    told = await ask(node, http, hostile, (200, {"Content-Type": kind}, [TEXT, DONE]), stream=True)
    assert (told.status, told.charged_msat) == (502, 0)
    told = await ask(node, http, hostile, (200, {"Content-Type": kind}, [b"<html>sorry</html>"]))
    assert (told.status, told.charged_msat) == (502, 0)


async def test_a_200_with_an_error_in_it(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    error = b'{"error":{"message":"no credits left","code":402}}'
    for streams, headers, chunks in (
        (False, JSON, [error]),
        (True, JSON, [error]),
        (True, EVENTS, [b"data: " + error + b"\n\n", DONE]),
    ):
        told = await ask(node, http, hostile, (200, headers, chunks), stream=streams)
        assert (told.status, told.charged_msat) == (502, 0)
        assert "credits" not in told.text


async def test_an_error_in_the_midst_of_a_stream(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    """Its words may tell of the operator's account: the caller hears that it broke off, and pays for what came."""
    error = b'data: {"error":{"message":"project 1234: no credits left","code":402}}\n\n'
    for chunks in ((TEXT, error), (TEXT, error, DONE), (TEXT, error + usage(), DONE)):
        told = await stream(node, http, hostile, *chunks)
        assert told.receipt is not None
        assert told.receipt.outcome == "interrupted"
        assert 0 < told.charged_msat < told.receipt.hold_msat
        assert "1234" not in told.text
        assert told.text.count("upstream_unavailable") == 1
        assert "[DONE]" not in told.text


@pytest.mark.parametrize("depth", [150, 400, 900, 2_000])
async def test_an_answer_that_nests_deeply(node: Running, http: httpx.AsyncClient, hostile: Server, depth: int) -> None:
    deep = b'[{"text":' * depth + b'"wave"' + b"}]" * depth
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":' + deep + b"}}]}\n\n"
    told = await stream(node, http, hostile, TEXT, chunk, DONE)
    assert told.receipt is not None
    assert 0 < told.charged_msat <= told.receipt.hold_msat
    body = b'{"choices":[{"message":{"content":' + deep + b"}}]}"
    told = await ask(node, http, hostile, (200, JSON, [body]))
    assert (told.status, told.charged_msat) == (502, 0) or told.charged_msat > 0
    assert told.status == 502 or told.receipt is not None


async def test_gzip_that_nobody_asked_for(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    squeezed = {"Content-Encoding": "gzip"}
    told = await ask(node, http, hostile, (200, {**JSON, **squeezed}, [gzip.compress(whole())]))
    assert (told.status, told.charged_msat) == (200, FULL_MSAT)
    told = await ask(
        node, http, hostile, (200, {**EVENTS, **squeezed}, [gzip.compress(TEXT + usage() + DONE)]), stream=True
    )
    assert (told.status, told.charged_msat) == (200, FULL_MSAT)
    assert "abcd" in told.text
    told = await ask(node, http, hostile, (200, {**JSON, **squeezed}, [b"not gzip at all"]))
    assert (told.status, told.charged_msat) == (502, 0)


async def test_gzip_that_unpacks_to_gigabytes(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    bomb = gzip.compress(b"\0" * 100_000_000)
    told = await ask(node, http, hostile, (200, {**JSON, "Content-Encoding": "gzip"}, [bomb]))
    assert (told.status, told.charged_msat) == (502, 0)


async def test_one_giant_chunk(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    giant = TEXT.replace(b"abcd", b"abcd" * 500_000)
    told = await stream(node, http, hostile, giant + usage() + DONE)
    assert (told.status, told.charged_msat) == (200, FULL_MSAT)
    assert len(told.content) > 2_000_000


async def test_bytes_that_are_no_utf_8(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    told = await stream(node, http, hostile, TEXT, TEXT.replace(b"abcd", b"\xff\xfe"), usage(), DONE)
    assert (told.status, told.charged_msat) == (200, FULL_MSAT)
    assert b"\xff\xfe" in told.content
    told = await ask(node, http, hostile, (200, JSON, [whole(b"\xff")]))
    assert (told.status, told.charged_msat) == (200, FULL_MSAT)


async def test_lines_that_end_in_crlf(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    told = await stream(node, http, hostile, *(part.replace(b"\n", b"\r\n") for part in (TEXT, usage(), DONE)))
    assert (told.status, told.charged_msat) == (200, FULL_MSAT)
    assert b'"usage"' not in told.content.split(b"satroute-receipt")[0], "the caller did not ask for it"


async def test_a_stream_without_done(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    told = await stream(node, http, hostile, TEXT, usage())
    assert (told.status, told.charged_msat) == (200, FULL_MSAT)


async def test_usage_that_comes_twice(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    """The last word counts, and is charged once."""
    told = await stream(node, http, hostile, TEXT, usage(31, 2), usage(31, 5), DONE)
    assert told.charged_msat == FULL_MSAT


async def test_usage_of_zero(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    """Beside text, that is no report: neither free nor the whole hold."""
    for told in (
        await stream(node, http, hostile, TEXT, usage(0, 0), DONE),
        await ask(node, http, hostile, (200, JSON, [whole(prompt_tokens=0, completion_tokens=0)])),
    ):
        assert told.receipt is not None
        assert told.receipt.metered == "counted"
        assert 0 < told.charged_msat < told.receipt.hold_msat


async def test_usage_below_zero(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    for told in (
        await stream(node, http, hostile, TEXT, usage(31, -5), DONE),
        await ask(node, http, hostile, (200, JSON, [whole(prompt_tokens=-31, completion_tokens=5)])),
    ):
        assert told.receipt is not None
        assert told.receipt.metered == "counted"
        assert 0 < told.charged_msat < told.receipt.hold_msat


async def test_usage_that_is_huge(node: Running, http: httpx.AsyncClient, hostile: Server) -> None:
    """More than a request can use: the hold, and no more; beyond all reason: no report."""
    told = await stream(node, http, hostile, TEXT, usage(31, 50_000_000), DONE)
    assert told.receipt is not None
    assert told.charged_msat == told.receipt.hold_msat
    told = await stream(node, http, hostile, TEXT, usage(31, 10**15), DONE)
    assert told.receipt is not None
    assert told.receipt.metered == "counted"
    assert 0 < told.charged_msat < told.receipt.hold_msat


async def test_ten_gigabytes_are_refused_at_their_header(node: Running) -> None:
    """Before a byte of the body was sent."""
    host, port = node.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {10 * 1024**3}\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(5):
        assert (await reader.readline()).split()[1] == b"413"
    writer.close()
