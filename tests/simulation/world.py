"""One node on a machine that can crash, put together by the node's own composition root, and asked over its own HTTP.

Replaced are the mint (`mint`), the model's server (`upstream`), the disk's thread (`machine`), the clock and the scheduler,
whose jobs the simulation runs when it likes. All else is the real thing, so that it follows when the node changes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import httpx
import msgspec

import node.app
import node.front
from node.app import open_node
from node.config import Settings, load_settings
from node.ledger.ledger import Ledger
from node.node import Node
from node.upstream.base import Upstream
from node.upstream.kind import Kind
from router_client.ecash.wallet import Wallet
from tests.application import Application
from tests.ledgers import lay_out
from tests.simulation.alone import Blocks
from tests.simulation.machine import Disk, Fault, Machine
from tests.simulation.mint import MSAT_PER_UNIT, Mint
from tests.simulation.mint_http import MintTransport
from tests.simulation.upstream import ScriptedUpstream
from tests.simulation.virtual import now

T = TypeVar("T")

MINT_URL = "http://mint.simulated"
PROMPT_MSAT, COMPLETION_MSAT = 2, 8
"""Per token."""
STOCK = 1
"""Small coins that the node's wallet keeps: each costs half a millisecond to make."""
SETTINGS: Mapping[str, Any] = {
    "upstream_base_url": "http://model.simulated/v1",
    "cashu_mints": MINT_URL,
    "fixed_per_1k_input_tokens": str(PROMPT_MSAT),
    "fixed_per_1k_output_tokens": str(COMPLETION_MSAT),
    "nsec": "07" * 32,
    "request_timeout_s": 600,
}


class Lost(Exception):
    """No answer came: the node died."""


class Answer(msgspec.Struct):
    """An HTTP answer; of a stream, as much as came."""

    status: int = 0
    headers: dict[str, str] = {}
    body: bytes = b""
    whole: bool = False

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """Of an error."""
        return str(self.json["error"]["code"]) if self.status >= 400 else ""


class World:
    """The node, its mint, its model, and its machine, which changes with every crash."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.mint = Mint(MINT_URL, now)
        self.mint.pays_itself = False
        self.upstream = ScriptedUpstream()
        lay_out(folder / "node" / "ledger.db")
        self.settings = load_settings(Settings, None, **{"data_dir": folder / "node", **SETTINGS})
        self.machine = Machine()
        self.node: Node
        self.jobs: dict[str, Callable[[], Awaitable[object]]] = {}
        self.crashes = 0
        self.taking_coins = Blocks()
        """In which coins may leave the node's wallet."""
        self._life: asyncio.Task[None]

    async def start(self, faults: dict[int, Fault] | None = None) -> None:
        """Start the node's process, as often as faults in its start make it end."""
        while True:
            self.machine = Machine(faults, self.chance)
            ready: asyncio.Future[Node] = asyncio.get_running_loop().create_future()
            # Kept: the loop itself does not hold on to a task that waits for ever.
            self._life = life = asyncio.create_task(self._live(ready), name="node")
            crashed = asyncio.create_task(self.machine.crashed.wait())
            waited: set[asyncio.Future[Any]] = {life, ready, crashed}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            crashed.cancel()
            if ready.done() and not self.machine.dead:
                self.node = ready.result()
                return
            if not self.machine.struck and not self.machine.dead:
                life.result()  # it did not start, and nothing was done to it
            self.machine.crash()
            await self.machine.bury()
            faults = None

    async def restart(self, faults: dict[int, Fault] | None = None) -> None:
        """Crash, if that has not happened already, and start again."""
        self.crashes += 1
        self.machine.crash()
        await self.machine.bury()
        await self.start(faults)

    async def _live(self, ready: asyncio.Future[Node]) -> None:
        async with AsyncExitStack() as stack:
            with self._wired(self.machine):
                opened = await stack.enter_async_context(open_node(self.settings))
            ready.set_result(opened)
            await asyncio.get_running_loop().create_future()

    @contextmanager
    def _wired(self, machine: Machine) -> Iterator[None]:
        """The composition root's parts, those that are played replaced."""
        jobs: dict[str, Callable[[], Awaitable[object]]] = {}
        self.jobs = jobs

        def client(*_: object, **__: object) -> httpx.AsyncClient:
            transport = MintTransport(self.mint, exchange=machine.exchange)
            return httpx.AsyncClient(transport=transport, trust_env=False)

        def opening(kind: Any, **chosen: Any) -> Any:
            async def opened(*args: Any, **kwargs: Any) -> Any:
                return await kind.open(*args, **kwargs | chosen)

            return SimpleNamespace(open=opened)

        async def scripted(*_: Any) -> Upstream:
            return self.upstream

        with ExitStack() as patches:
            patches.enter_context(machine.booting())
            for place, new in (
                ("node.app.client_for", client),
                ("node.front.known_kinds", lambda: {"openai": Kind("openai", scripted)}),
                ("node.app.Ledger", opening(Ledger, clock=now)),
                ("node.app.Wallet", opening(Wallet, clock=now, stock=STOCK)),
                ("node.jobs.AsyncIOScheduler", lambda **_: _Scheduler(jobs)),
            ):
                patches.enter_context(mock.patch(place, new))
            for module in (node.app, node.front):
                for name, kind in list(vars(module).items()):
                    made = vars(kind).get("__init__") if isinstance(kind, type) else None
                    if made is not None and "clock" in signature(made).parameters:
                        patches.enter_context(mock.patch(f"{module.__name__}.{name}", partial(kind, clock=now)))
            yield

    async def request(
        self,
        method: str,
        path: str,
        *,
        bearer: str | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
        leaves: Callable[[bytes], bool] = lambda _: False,
        answer: Answer | None = None,
    ) -> Answer:
        """One HTTP exchange with the node, whose caller may go away when it has read enough. Raises Lost.

        `answer` is filled in as it comes.
        """
        answer = Answer() if answer is None else answer
        exchange = _Exchange(answer, leaves)
        fields = {**(headers or {}), "content-type": "application/json"}
        if bearer is not None:
            fields["authorization"] = f"Bearer {bearer}"
        scope = _scope(method, path, fields)
        body = b"" if json is None else msgspec.json.encode(json)
        _APP.node = self.node
        await self.attempt(_APP.app(scope, exchange.receive(body), exchange.send))  # type: ignore[arg-type]
        return answer

    async def run_job(self, name: str) -> None:
        """Run a job of the scheduler. Raises Lost."""
        await self.attempt(self.jobs[name]())

    async def attempt(self, work: Awaitable[T]) -> T:
        """What the node's code answers. Raises Lost when the node dies meanwhile."""
        machine = self.machine
        working = asyncio.ensure_future(work)
        crashed = asyncio.create_task(machine.crashed.wait())
        await asyncio.wait({working, crashed}, return_when=asyncio.FIRST_COMPLETED)
        crashed.cancel()
        if machine.dead:
            raise Lost
        return working.result()

    def most_of_one_unit_msat(self) -> int:
        """A refund is made of coins of one unit: it can be no larger than this."""
        worth = (amount * MSAT_PER_UNIT[unit] for (_, unit), amount in self.node.wallet.balances().items())
        return max(worth, default=0)

    async def wallet(self, name: str) -> Wallet:
        """A caller's wallet, at the same mint, on a machine that does not fail."""
        http = httpx.AsyncClient(transport=MintTransport(self.mint), trust_env=False)
        with mock.patch("router_client.ecash.wallet.Database", Disk):
            return await Wallet.open(self.folder / f"{name}.db", http, now)


_APP = Application()


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    """A block in which the node runs; however the block ends, nothing of it is left."""
    await world.start()
    try:
        yield world
    finally:
        world.machine.crash()
        await world.machine.bury()


class _Exchange:
    """The server's side of one HTTP exchange (ASGI)."""

    def __init__(self, answer: Answer, leaves: Callable[[bytes], bool]) -> None:
        self._answer = answer
        self._leaves = leaves
        self._gone = asyncio.Event()

    def receive(self, body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def next_message() -> dict[str, Any]:
            if (message := next(messages, None)) is not None:
                return message
            await self._gone.wait()
            return {"type": "http.disconnect"}

        return next_message

    async def send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._answer.status = message["status"]
            self._answer.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        elif not self._gone.is_set():
            self._answer.body += message["body"]
            self._answer.whole = not message.get("more_body", False)
        if self._leaves(self._answer.body):
            self._gone.set()
            await asyncio.sleep(0)


class _Scheduler:
    """Keeps what is to be done every so often; nothing is done by itself."""

    running = False

    def __init__(self, jobs: dict[str, Callable[[], Awaitable[object]]]) -> None:
        self._jobs = jobs

    def add_job(self, job: Callable[[], Awaitable[object]], trigger: str, *, id: str = "", **_: object) -> None:  # noqa: A002
        if trigger == "interval":
            self._jobs[id] = job

    def start(self) -> None:
        return None

    def shutdown(self, **_: object) -> None:
        return None


def _scope(method: str, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("caller", 1),
        "server": ("node", 80),
        "state": {},
        "extensions": {},
    }
