"""Several relays as one, against a real relay: what is up answers, what is down costs no more than its deadline."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from relays.event import Event, Signer
from relays.pool import RelayPool
from tests.conftest import DEAD_RELAY
from tests.strangers import served

SIGNER = Signer.generate()


def event(content: str = "x", kind: int = 1, at: int | None = None) -> Event:
    return SIGNER.sign(kind=kind, content=content, created_at=at or int(time.time()), tags=[["d", "a"]])


async def test_publishes_and_finds_again(relay_url: str) -> None:
    async with RelayPool([relay_url, relay_url]) as pool:
        sent = event("found again")
        answers = await pool.publish(sent)
        assert list(answers) == [relay_url]
        assert answers[relay_url].accepted
        result = await pool.query({"ids": [sent.id]})
        assert result.events == (sent,)
        assert not result.failures


async def test_a_dead_relay_costs_its_answer_alone(relay_url: str) -> None:
    async with RelayPool([DEAD_RELAY, relay_url]) as pool:
        sent = event("despite the dead")
        answers = await pool.publish(sent)
        assert answers[relay_url].accepted
        assert not answers[DEAD_RELAY].accepted
        result = await pool.query({"ids": [sent.id]})
        assert result.events == (sent,)
        assert list(result.failures) == [DEAD_RELAY]


async def test_no_relay_at_all_is_empty_not_an_error() -> None:
    async with RelayPool([]) as pool:
        assert await pool.publish(event()) == {}
        assert (await pool.query({"kinds": [1]})).events == ()


async def test_a_refusal_carries_the_relays_words(relay_url: str) -> None:
    forged = event("forged")
    forged = Event(forged.id, forged.pubkey, forged.created_at, forged.kind, forged.tags, "changed", forged.sig)
    async with RelayPool([relay_url]) as pool:
        answer = (await pool.publish(forged))[relay_url]
        assert not answer.accepted
        assert answer.words


async def test_follows_what_comes_later(relay_url: str) -> None:
    async with RelayPool([relay_url]) as reader, RelayPool([relay_url]) as writer:
        author = Signer.generate()
        following = reader.follow({"authors": [author.pubkey]})
        first = author.sign(kind=1, content="stored", created_at=int(time.time()))
        await writer.publish(first)
        assert await asyncio.wait_for(anext(following), 5) == first
        second = author.sign(kind=1, content="live", created_at=int(time.time()))
        await writer.publish(second)
        assert await asyncio.wait_for(anext(following), 5) == second
        await following.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("signer", [SIGNER, None])
async def test_nip42_is_answered_with_a_key_and_explained_without(signer: Signer | None, auth_relay_url: str) -> None:
    async with RelayPool([auth_relay_url], signer) as pool:
        sent = event("for members")
        answer = (await pool.publish(sent, deadline_s=5))[auth_relay_url]
        result = await pool.query({"ids": [sent.id]}, deadline_s=5)
        if signer is None:
            assert not answer.accepted
            assert "auth-required" in answer.words
            assert "NIP-42" in result.failures[auth_relay_url]
        else:
            assert answer.accepted
            assert result.events == (sent,)


@pytest.fixture
async def liar_url() -> AsyncIterator[str]:
    """A hand-written relay that does what no honest one does; the honest one passes the tests above."""
    genuine = event("genuine")

    async def talk(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            match message.json():
                case ["REQ", name, {"kinds": [1]}]:
                    forged = {**_plain(genuine), "content": "forged"}
                    await socket.send_json(["EVENT", name, forged])
                    await socket.send_json(["EVENT", name, {"nonsense": 1}])
                    await socket.send_str("no json")
                    await socket.send_json(["EVENT", "another-subscription", _plain(genuine)])
                    await socket.send_json(["EVENT", name, _plain(genuine)])
                    await socket.send_json(["EVENT", name, _plain(genuine)])
                    await socket.send_json(["EOSE", name])
                case ["REQ", name, {"kinds": [2]}]:
                    await socket.send_json(["CLOSED", name, "error: no"])
                case ["REQ", _, {"kinds": [3]}]:
                    await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/", talk)
    async with served(app) as where:
        yield f"ws://{where}"


def _plain(value: Event) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


async def test_a_lying_relay_gets_nothing_past_us(liar_url: str) -> None:
    async with RelayPool([liar_url]) as pool:
        result = await pool.query({"kinds": [1]}, deadline_s=5)
        assert [found.content for found in result.events] == ["genuine"]
        assert "error: no" in (await pool.query({"kinds": [2]}, deadline_s=5)).failures[liar_url]
        assert "closed" in (await pool.query({"kinds": [3]}, deadline_s=5)).failures[liar_url]
        assert "did not finish" in (await pool.query({"kinds": [4]}, deadline_s=0.3)).failures[liar_url]
        assert "did not answer" in (await pool.publish(event(), deadline_s=0.3))[liar_url].words
