"""One connection to one relay (NIP-01, NIP-42): opened when needed, answers matched to questions, all with deadlines."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import msgspec

from relays import kinds
from relays.errors import InvalidJson, NoTor, RelayUnavailable
from relays.event import MAX_EVENT_BYTES, Event, Signer
from relays.filters import Filter
from relays.jsontext import from_json

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = MAX_EVENT_BYTES + 4096
"""What is longer is not read: anybody can have a relay keep a large event, which must not cost the others there."""
MAX_FRAME_BYTES = 8 * 1024 * 1024
"""Who sends a longer one is hung up on."""
MAX_QUEUED = 256
MAX_WORDS = 200
"""Characters of what a relay says that are kept."""
"""Messages of a feed that wait for their reader; then the relay itself has to wait, so that a flood cannot fill memory."""
STALL_S = 10
"""A reader that takes nothing for so long loses its feed: the connection's others wait behind it."""
HEARTBEAT_S = 30
CLOSE_S = 2
MAX_CHALLENGES = 10
"""Each is answered with a signature; a relay needs one for a connection."""
MAX_STRAY = 20_000
"""Messages of one connection that nobody waits for, long ones counted as many."""


class Relay:
    """A relay by its URL. Methods open the connection when it is not open; none waits past its deadline."""

    def __init__(self, url: str, session: Callable[[], aiohttp.ClientSession], signer: Signer | None = None) -> None:
        """`session` gives the one that leads there, or raises NoTor."""
        self.url = url
        self._session = session
        self._signer = signer
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._acks: dict[str, asyncio.Future[tuple[bool, str]]] = {}
        self._feeds: dict[str, asyncio.Queue[object]] = {}
        self._names = itertools.count(1)
        self._authenticated = asyncio.Event()
        """Set once the relay has said whether it takes our key."""
        self._takes_key = False
        self._authenticating: asyncio.Task[None] | None = None
        self._challenges = 0
        self._stray = 0

    @property
    def has_key(self) -> bool:
        """Whether we could answer a NIP-42 challenge."""
        return self._signer is not None

    async def publish(self, event: Event, deadline_s: float) -> tuple[bool, str]:
        """Send the event and wait for the relay's OK: (accepted, its words). Raises RelayUnavailable."""
        try:
            async with asyncio.timeout(deadline_s):
                accepted, words = await self._send_for_ok(["EVENT", msgspec.to_builtins(event)], event.id)
                if not accepted and words.startswith("auth-required") and self._signer is not None:
                    await self._authenticated.wait()
                    accepted, words = await self._send_for_ok(["EVENT", msgspec.to_builtins(event)], event.id)
                return accepted, words
        except TimeoutError as error:
            raise RelayUnavailable(f"{self.url} did not answer within {deadline_s:g} s") from error

    @asynccontextmanager
    async def feed(self, filters: list[Filter], deadline_s: float) -> AsyncIterator[asyncio.Queue[object]]:
        """A subscription as a queue of raw messages `["EVENT", …]`, `["EOSE", …]`, `["CLOSED", …]`; `None` ends it."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._open()
                name = f"s{next(self._names)}"
                queue: asyncio.Queue[object] = asyncio.Queue(MAX_QUEUED)
                self._feeds[name] = queue
                await self._send(["REQ", name, *filters])
        except TimeoutError as error:
            raise RelayUnavailable(f"{self.url} did not answer within {deadline_s:g} s") from error
        try:
            yield queue
        finally:
            self._feeds.pop(name, None)
            while not queue.empty():  # whoever waits to put something in is let go
                queue.get_nowait()
            with suppress(RelayUnavailable, TimeoutError):
                if self._socket is not None and not self._socket.closed:
                    async with asyncio.timeout(CLOSE_S):
                        await self._send(["CLOSE", name])

    async def wait_authenticated(self) -> bool:
        """Whether the relay takes our NIP-42 answer, once it has said so; False at once without a key to answer with."""
        if self._signer is None:
            return False
        await self._authenticated.wait()
        return self._takes_key

    def drop(self) -> None:
        """Break the connection off, with whatever waits in it; the next question opens another."""
        if self._reader is not None:
            self._reader.cancel()  # it closes the socket, which takes a moment with a relay that does not listen
        self._socket = None

    async def close(self) -> None:
        """Close the connection and end every feed."""
        tasks = [task for task in (self._reader, self._authenticating) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    async def _open(self) -> aiohttp.ClientWebSocketResponse:
        async with self._opening:
            if self._socket is not None and not self._socket.closed:
                return self._socket
            try:
                self._socket = await self._session().ws_connect(
                    self.url, heartbeat=HEARTBEAT_S, max_msg_size=MAX_FRAME_BYTES
                )
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise RelayUnavailable(f"{self.url} cannot be reached ({_reason(error)})") from error
            except NoTor as error:
                raise RelayUnavailable(str(error)) from error
            self._authenticated.clear()
            self._challenges = self._stray = 0
            self._reader = asyncio.create_task(self._read(self._socket), name=f"relay {self.url}")
            return self._socket

    async def _send(self, message: list[Any]) -> None:
        socket = await self._open()
        try:
            await socket.send_str(msgspec.json.encode(message).decode())
        except (aiohttp.ClientError, OSError) as error:
            raise RelayUnavailable(f"{self.url} closed the connection") from error

    async def _send_for_ok(self, message: list[Any], event_id: str) -> tuple[bool, str]:
        ack = self._acks.setdefault(event_id, asyncio.get_running_loop().create_future())
        try:
            await self._send(message)
            return await asyncio.shield(ack)
        finally:
            self._acks.pop(event_id, None)
            ack.cancel()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Hand each message to whom it belongs until the connection ends, then tell all who wait."""
        try:
            async for frame in socket:
                if frame.type is aiohttp.WSMsgType.TEXT:
                    await self._receive(frame.data)
                if self._stray > MAX_STRAY:
                    log.warning("relay %s talks without end; connection dropped", self.url)
                    break
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await socket.close()
            for ack in self._acks.values():
                if not ack.done():
                    ack.set_exception(RelayUnavailable(f"{self.url} closed the connection"))
            for queue in self._feeds.values():
                _put_last(queue)
            self._feeds.clear()

    async def _receive(self, text: str) -> None:
        if len(text) > MAX_MESSAGE_BYTES:
            self._stray += len(text) * 64 // MAX_MESSAGE_BYTES
            return
        try:
            message = from_json(text)
        except InvalidJson:
            message = None
        match message:
            case ["OK", str(event_id), bool(accepted), *rest] if event_id in self._acks:
                if not self._acks[event_id].done():
                    self._acks[event_id].set_result(
                        (accepted, " ".join(str(rest[0]).split())[:MAX_WORDS] if rest else "")
                    )
            case ["EVENT" | "EOSE" | "CLOSED", str(name), *_] if name in self._feeds:
                await self._hand_on(name, message)
            case ["AUTH", str(challenge)] if self._signer is not None and self._challenges < MAX_CHALLENGES:
                self._challenges += 1
                if self._authenticating is not None:
                    self._authenticating.cancel()  # a newer challenge takes the place of an elder (NIP-42)
                self._authenticating = asyncio.create_task(self._authenticate(challenge, self._signer))
            case ["NOTICE", str(words), *_]:
                self._stray += 1
                log.info("relay %s says: %s", self.url, words[:MAX_WORDS])
            case _:
                self._stray += 1

    async def _hand_on(self, name: str, message: object) -> None:
        queue = self._feeds[name]
        try:
            queue.put_nowait(message)
        except asyncio.QueueFull:
            try:
                async with asyncio.timeout(STALL_S):
                    await queue.put(message)
            except TimeoutError:
                log.warning("what relay %s sends is not read; feed dropped", self.url)
                self._feeds.pop(name, None)
                _put_last(queue)

    async def _authenticate(self, challenge: str, signer: Signer) -> None:
        """Answer a NIP-42 challenge; whoever was refused for want of it waits for `_authenticated`."""
        event = signer.sign(
            kind=kinds.RELAY_AUTH,
            content="",
            created_at=int(time.time()),
            tags=[["relay", self.url], ["challenge", challenge]],
        )
        with suppress(RelayUnavailable):
            accepted, words = await self._send_for_ok(["AUTH", msgspec.to_builtins(event)], event.id)
            self._takes_key = accepted
            self._authenticated.set()
            if not accepted:
                log.warning("relay %s refused to authenticate us: %s", self.url, words[:200])


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return f"it answers HTTP {error.status}, as no relay does"
    return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__


def _put_last(queue: asyncio.Queue[object]) -> None:
    """End a feed; on a full queue the oldest message makes room."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(None)
