"""An `Idempotency-Key` at the local endpoint: a repeated request neither pays nor runs twice; it is answered as before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from router_client.client import RouterClient
from router_client.errors import StorageError
from router_client.proxy import replay
from router_client.proxy.app import Proxy
from router_client.proxy.guard import Guard
from router_client.proxy.refusal import Refusal
from router_client.proxy.replay import Kept, Named, Replays
from tests.client.cheat import BODY, DONE, NOTHING_LEFT, Cheat, receipt
from tests.client.clock import Clock
from tests.client.proxies import HELLO, calling, chunk, sdk_by

CHAT = "/v1/chat/completions"
STREAM = {**BODY, "stream": True}
REPLAYED = "idempotent-replayed"


@pytest.fixture
async def replays(folder: Path) -> AsyncIterator[Replays]:
    async with Replays.open(folder / "answers.db") as opened:
        yield opened


@pytest.fixture
def proxy(buyer: RouterClient, cheat: Cheat, replays: Replays) -> Proxy:
    cheat.chat = [*HELLO, receipt(), DONE]
    cheat.refund = lambda _: web.json_response(NOTHING_LEFT, status=403)
    return Proxy(buyer, Guard(), replays=replays)


Asking = Callable[..., Coroutine[Any, Any, httpx.Response]]


@pytest.fixture
def ask(caller: httpx.AsyncClient) -> Asking:
    async def named(
        name: str = "once", body: dict[str, Any] | None = None, path: str = CHAT, **headers: str
    ) -> httpx.Response:
        return await caller.post(path, json=body or BODY, headers={"Idempotency-Key": name, **headers})

    return named


def bought(cheat: Cheat) -> int:
    return sum(path.startswith("/v1/chat") for path in cheat.asked)


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "streamed"])
async def test_a_repeated_request_is_paid_once_and_answered_the_same(
    ask: Asking, cheat: Cheat, buyer: RouterClient, body: dict[str, Any]
) -> None:
    first = await ask(body=body)
    held_msat = buyer.wallet.balance_msat()
    again = await ask(body=body)
    assert (first.status_code, again.status_code) == (200, 200)
    assert "hel" in first.text
    assert again.content == first.content
    assert again.headers.pop(REPLAYED) == "true"
    assert again.headers == first.headers
    assert (bought(cheat), buyer.wallet.balance_msat()) == (1, held_msat)
    assert REPLAYED not in (await ask("another", body)).headers
    assert bought(cheat) == 2


def thinking(cheat: Cheat) -> tuple[asyncio.Event, asyncio.Event]:
    """The node has been paid; set the other, and it answers."""
    paid, thought = asyncio.Event(), asyncio.Event()

    async def thinks(_: str) -> None:
        paid.set()
        await thought.wait()

    cheat.on_payment = thinks
    return paid, thought


async def test_while_it_runs_a_repeated_request_is_told_to_wait(ask: Asking, cheat: Cheat) -> None:
    paid, thought = thinking(cheat)
    async with asyncio.timeout(20):
        first = asyncio.create_task(ask())
        await paid.wait()
        again = await asyncio.gather(*(ask() for _ in range(8)))
        thought.set()
        assert (await first).status_code == 200
    assert {reply.status_code for reply in again} == {409}
    assert {reply.json()["error"]["code"] for reply in again} == {"request_running"}
    assert all(reply.headers["retry-after"] for reply in again)
    assert (await ask()).content == (await first).content
    assert bought(cheat) == 1


async def test_an_sdk_that_repeats_by_itself_gets_the_answer(caller: httpx.AsyncClient, cheat: Cheat) -> None:
    """OpenAI's waits at a 409 and asks again."""
    _, thought = thinking(cheat)
    async with sdk_by(caller, max_retries=4) as sdk:
        asked: Any = {**BODY, "extra_headers": {"Idempotency-Key": "once"}}
        both = [asyncio.create_task(sdk.chat.completions.create(**asked)) for _ in range(2)]
        await asyncio.sleep(0.2)
        thought.set()
        one, other = await asyncio.gather(*both)
    assert one == other
    assert bought(cheat) == 1


@pytest.mark.parametrize(
    ("body", "path"),
    [({**BODY, "max_tokens": 3}, CHAT), (STREAM, CHAT), (BODY, "/v1/responses")],
    ids=["body", "stream", "endpoint"],
)
async def test_another_request_under_the_same_name_is_refused(
    ask: Asking, cheat: Cheat, body: dict[str, Any], path: str
) -> None:
    await ask()
    other = await ask(body=body, path=path)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert len([each for each in cheat.asked if each in (CHAT, "/v1/responses")]) == 1


async def test_names_belong_to_the_key_that_is_shown_and_are_not_long(ask: Asking, cheat: Cheat) -> None:
    for key in ("one", "two"):
        assert REPLAYED not in (await ask(authorization=f"Bearer {key}")).headers
    assert bought(cheat) == 2
    assert (await ask("x" * 256)).status_code == 400
    assert (await ask("x" * 255)).status_code == 200


async def test_what_failed_and_cost_nothing_is_bought_again(ask: Asking, cheat: Cheat, buyer: RouterClient) -> None:
    good, cheat.chat = cheat.chat, [b'{"error": {"message": "out of memory"}}']
    cheat.chat_status = 500
    for _ in range(2):
        assert (await ask()).status_code == 503
    assert bought(cheat) == 2
    assert (await ask(body={**BODY, "stream": 1})).status_code == 400, "it never began, so the name is free"
    cheat.chat, cheat.chat_status = good, 200
    assert (await ask()).status_code == 200
    assert REPLAYED in (await ask()).headers


async def test_what_failed_and_cost_something_is_not_paid_again(ask: Asking, cheat: Cheat) -> None:
    """The node neither serves nor gives back: another try would be another payment."""

    async def takes(token: str) -> None:
        await cheat.wallet.receive(token, "theft")

    cheat.on_payment = takes
    cheat.chat, cheat.chat_status = [b'{"error": {"message": "out of memory"}}'], 500
    cheat.refund = lambda _: web.json_response({"error": {}}, status=500)
    first, again = await ask(), await ask()
    assert (first.status_code, again.status_code, again.content) == (503, 503, first.content)
    assert (again.headers[REPLAYED], bought(cheat)) == ("true", 1)


async def test_a_stream_that_broke_off_is_given_again_as_it_was(ask: Asking, cheat: Cheat) -> None:
    cheat.chat = [*HELLO[:2], b'data: {"error": {"message": "out of memory"}}\n\n']
    first, again = await ask(body=STREAM), await ask(body=STREAM)
    assert "out of memory" in first.text
    assert (again.content, bought(cheat)) == (first.content, 1)


def leaving(proxy: Proxy, body: dict[str, Any], gone: asyncio.Event, words: int = 10**6) -> Awaitable[None]:
    """Call as one who hangs up when told to, or after so many pieces."""
    sent = [{"type": "http.request", "body": json.dumps(body).encode()}]
    heard = 0

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        nonlocal heard
        heard += 1
        if heard > words:
            gone.set()

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"idempotency-key", b"once")]
    return proxy({"type": "http", "method": "POST", "path": CHAT, "headers": headers}, receive, send)


async def test_who_leaves_a_whole_answer_can_have_it_later(proxy: Proxy, ask: Asking, cheat: Cheat) -> None:
    gone = asyncio.Event()

    async def leaves(_: str) -> None:
        gone.set()

    cheat.on_payment = leaves
    cheat.pause_s = 0.05
    async with asyncio.timeout(20):
        await leaving(proxy, BODY, gone)
    again = await ask()
    assert (again.status_code, again.headers[REPLAYED], bought(cheat)) == (200, "true", 1)
    assert again.json()["choices"][0]["message"]["content"] == "hello"


async def test_a_stream_that_its_caller_left_in_the_midst_is_not_paid_again(
    proxy: Proxy, ask: Asking, cheat: Cheat
) -> None:
    cheat.chat, cheat.pause_s = [chunk({"content": "word "})] * 200, 0.01
    async with asyncio.timeout(20):
        await leaving(proxy, STREAM, asyncio.Event(), words=3)
    again = await ask(body=STREAM)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "request_done")
    assert again.headers["x-should-retry"] == "false"
    assert bought(cheat) == 1


async def test_a_stream_left_before_its_first_word_whose_money_came_back_may_be_repeated(
    proxy: Proxy, ask: Asking, cheat: Cheat
) -> None:
    gone, thought = thinking(cheat)
    async with asyncio.timeout(20):
        await leaving(proxy, STREAM, gone)
    cheat.on_payment = None
    thought.set()
    assert (await ask(body=STREAM)).status_code == 200
    assert bought(cheat) == 2


async def test_after_a_restart_an_answer_is_there_and_what_was_cut_off_is_not_bought(
    buyer: RouterClient, cheat: Cheat, folder: Path, replays: Replays, proxy: Proxy, ask: Asking
) -> None:
    first = await ask()
    body = {**BODY, "max_tokens": 7}
    await replays.begin(Named.of("", "cut", CHAT, body))  # and there it ended
    async with Replays.open(folder / "answers.db") as later, calling(Proxy(buyer, Guard(), replays=later)) as caller:
        again = await caller.post(CHAT, json=BODY, headers={"Idempotency-Key": "once"})
        assert (again.content, again.headers[REPLAYED]) == (first.content, "true")
        cut = await caller.post(CHAT, json=body, headers={"Idempotency-Key": "cut"})
    assert (cut.status_code, cut.json()["error"]["code"]) == (409, "request_done")
    assert bought(cheat) == 1


async def test_the_file_says_nothing_of_an_answer(ask: Asking, folder: Path) -> None:
    await ask("a name of some length")
    written = b"".join(path.read_bytes() for path in folder.glob("answers.db*"))
    assert b"hello" not in written
    assert b"a name of some length" not in written
    assert (folder / "answers.db").stat().st_mode & 0o077 == 0


async def test_what_cannot_be_written_down_is_not_bought(
    ask: Asking, cheat: Cheat, replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(replays, "begin", fails)
    assert (await ask()).status_code == 500
    assert cheat.asked == []


async def test_without_a_file_no_name_is_taken(buyer: RouterClient, cheat: Cheat) -> None:
    async with calling(Proxy(buyer, Guard())) as caller:
        refused = await caller.post(CHAT, json=BODY, headers={"Idempotency-Key": "once"})
    assert (refused.status_code, "Idempotency-Key" in refused.json()["error"]["message"]) == (400, True)
    assert cheat.asked == []


async def test_names_and_answers_are_bounded_and_expire(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1000.0)
    monkeypatch.setattr(replay, "MAX_NAMES", 4)
    monkeypatch.setattr(replay, "MAX_ALL_BYTES", 250)
    async with Replays.open(folder / "small.db", clock) as replays:
        names = [Named.of("", str(number), CHAT, BODY) for number in range(8)]
        for named in names:
            clock.now += 1
            assert await replays.begin(named) is None
            await replays.keep(named, Kept(200, {}, b"x" * 60))
        assert await replays.begin(names[7]) == Kept(200, {}, b"x" * 60)
        with pytest.raises(Refusal, match="not kept"):
            await replays.begin(names[4])
        assert await replays.begin(names[0]) is None, "the oldest name is free again"
        clock.now += replay.KEEP_S + 1
        assert await replays.begin(names[7]) is None


async def test_an_answer_beyond_all_bounds_is_paid_once_and_not_kept(
    ask: Asking, cheat: Cheat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MAX_KEPT_BYTES", 100)
    assert (await ask()).status_code == 200
    again = await ask()
    assert (again.status_code, again.json()["error"]["code"]) == (409, "request_done")
    assert bought(cheat) == 1


async def test_an_answer_is_kept_before_its_last_byte_goes_out(proxy: Proxy, replays: Replays) -> None:
    """Who has it all, and asks again at once, finds it."""
    runs: list[str] = []
    sent = [{"type": "http.request", "body": json.dumps(STREAM).encode()}]

    async def receive() -> dict[str, Any]:
        if not sent:
            await asyncio.Event().wait()
        return sent.pop()

    async def send(message: Any) -> None:
        (run,) = replays._db.read(lambda conn: conn.execute("SELECT run FROM answers").fetchone())
        runs.append(run if message.get("more_body", True) else f"last {run}")

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"idempotency-key", b"once")]
    await proxy({"type": "http", "method": "POST", "path": CHAT, "headers": headers}, receive, send)
    assert runs[-1] == "last "
    assert "" not in runs


async def test_what_is_being_bought_is_not_forgotten_by_a_clock_that_is_set(folder: Path) -> None:
    clock = Clock(1000.0)
    named = Named.of("", "once", CHAT, BODY)
    async with Replays.open(folder / "clock.db", clock) as replays:
        assert await replays.begin(named) is None
        clock.now += replay.KEEP_S + 1
        with pytest.raises(Refusal, match="is running"):
            await replays.begin(named)
        await replays.keep(named, Kept(200, {}, b"answer"))
        kept = await replays.begin(named)
        assert kept is not None
        assert kept.body == b"answer"
