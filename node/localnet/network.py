"""The local network as a whole: parts started side by side, watched, and stopped in order."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

from node.errors import PartFailed
from node.localnet.mint import start_mint, wait_mint
from node.localnet.model import start_model, wait_model, weights_path
from node.localnet.process import Child, free_port
from node.localnet.relay import start_relay, wait_relay
from relays.announcement import Announcement
from relays.money import MSAT_PER_SAT
from relays.pool import RelayPool
from router_client.discovery.directory import Directory
from router_client.disk.storage import exclusive
from router_client.ecash.wallet import Wallet

STATE_FILE = "network.json"
NODE_READY_S = 60
ANNOUNCED_S = 30
PAID_S = 30
KEY_SATS = 1000

NODE_PLANS: dict[str, dict[str, str]] = {
    "sprint": {
        "DESCRIPTION": "No fee per request, dearer tokens: for short tasks. Play money.",
        "FIXED_PER_1K_INPUT_TOKENS": "2",
        "FIXED_PER_1K_OUTPUT_TOKENS": "8",
        "PORT": "8001",
    },
    "marathon": {
        "DESCRIPTION": "A fee per request, cheap tokens: for long tasks. Play money.",
        "FIXED_COST_PER_REQUEST": "2",
        "FIXED_PER_1K_INPUT_TOKENS": "0.5",
        "FIXED_PER_1K_OUTPUT_TOKENS": "2",
        "PORT": "8002",
    },
}
"""Two sellers of one model whose prices are of different shape, so that the best one depends on the task."""

Step = Callable[[str], None]
"""Told the name of each step as it is done."""

STEPS = ("mint", "relay", "model", *(f"node {name}" for name in NODE_PLANS), "announcements")


class RunningNode(msgspec.Struct, frozen=True):
    name: str
    url: str


class NetworkState(msgspec.Struct, frozen=True):
    """What others need to join; the folder's lock file tells whether the network runs."""

    mint_url: str
    relay_url: str
    nodes: tuple[RunningNode, ...]


class LocalNetwork:
    """The running parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[Child] = []
        self.mint_url = self.relay_url = ""
        self.nodes: list[RunningNode] = []

    @property
    def client_folder(self) -> Path:
        """Where the network's own buyer keeps its wallet."""
        return self.folder / "client"

    def start(self, done: Step) -> None:
        """Bring everything up. Raises PartFailed."""
        mint, self.mint_url = self._child(*start_mint(self.folder / "mint"))
        relay, self.relay_url = self._child(*start_relay(self.folder / "relay"))
        model, model_url = self._child(*start_model(self.folder / "model"))
        for name, wait, child, url in (
            ("mint", wait_mint, mint, self.mint_url),
            ("relay", wait_relay, relay, self.relay_url),
            ("model", wait_model, model, model_url),
        ):
            wait(child, url)
            done(name)
        asyncio.run(self._move_wallets())
        started = [self._start_node(name, plan, model_url) for name, plan in NODE_PLANS.items()]
        for child, node in started:
            child.wait_http(f"{node.url}/v1/info", NODE_READY_S)
            self.nodes.append(node)
            done(f"node {node.name}")
        state = NetworkState(self.mint_url, self.relay_url, tuple(self.nodes))
        (self.folder / STATE_FILE).write_bytes(msgspec.json.encode(state))

    def stop(self) -> None:
        """Stop every part, the last started first. Safe after any crash."""
        for child in reversed(self.children):
            child.stop()

    def crashed(self) -> list[Child]:
        """Parts that ended by themselves."""
        return [child for child in self.children if child.exit_code() is not None]

    async def announcements(self) -> tuple[Announcement, ...]:
        """The nodes as a stranger sees them: from the relay, once all have announced themselves. Raises PartFailed."""
        deadline = time.monotonic() + ANNOUNCED_S
        async with RelayPool([self.relay_url]) as pool, httpx.AsyncClient() as http:
            directory = Directory(pool, http)
            while time.monotonic() < deadline:
                living = [provider for provider in await directory.providers(fresh=True) if provider.url is not None]
                if len(living) == len(NODE_PLANS):
                    return tuple(sorted((p.announcement for p in living), key=lambda a: a.name))
                await asyncio.sleep(0.1)
        raise PartFailed(f"the nodes did not announce themselves within {ANNOUNCED_S} s; see {self.folder}/nodes")

    async def funded_key(self, node: RunningNode, sats: int = KEY_SATS) -> str:
        """A key of a node, paid with ecash fresh from the mint."""
        async with httpx.AsyncClient() as http:
            wallet = await Wallet.open(self.client_folder / "wallet.db", http)
            try:
                await fund(wallet, self.mint_url, sats)
                sent = await wallet.send(sats * MSAT_PER_SAT, self.mint_url, "msat", f"key:{time.time_ns()}")
            finally:
                wallet.close()
            body = {"initial_balance_token": sent.token}
            reply = await http.post(f"{node.url}/v1/balance/create", json=body, timeout=PAID_S)
        if not reply.is_success:
            raise PartFailed(f"{node.name} did not make a key: {reply.text[:200]}")
        return str(reply.json()["api_key"])

    def _child(self, child: Child, url: str) -> tuple[Child, str]:
        self.children.append(child)
        return child, url

    def _start_node(self, name: str, plan: dict[str, str], model_url: str) -> tuple[Child, RunningNode]:
        port = free_port(int(plan["PORT"]))
        url = f"http://127.0.0.1:{port}"
        folder = self.folder / "nodes" / name
        env = plan | {
            "NAME": name,
            "PORT": str(port),
            "HTTP_URL": url,
            "UPSTREAM_BASE_URL": model_url,
            "CASHU_MINTS": self.mint_url,
            "RELAYS": self.relay_url,
            "DATA_DIR": str(folder),
        }
        child, _ = self._child(Child(f"node {name}", "node.cli", ["serve"], env, folder), url)
        return child, RunningNode(name, url)

    async def _move_wallets(self) -> None:
        """Wallets of earlier runs know one mint, wherever it listened then: it is this one."""
        for path in (self.client_folder, *(self.folder / "nodes" / name for name in NODE_PLANS)):
            if (path / "wallet.db").exists():
                async with httpx.AsyncClient() as http:
                    wallet = await Wallet.open(path / "wallet.db", http)
                    for url in wallet.mints() - {self.mint_url}:
                        await wallet.move_mint(url, self.mint_url)
                    wallet.close()


@contextmanager
def local_network(folder: Path, *, fresh: bool, done: Step) -> Iterator[LocalNetwork]:
    """A running network with its state in `folder`, stopped at the end of the block however that comes.

    `fresh` clears the folder first. Raises PartFailed when parts are missing or one does not start, and for a folder that
    holds what is not a network's; StorageError when another network works in it.
    """
    check_parts()
    _check_ours(folder)
    with exclusive(folder / "lock"):
        if fresh:
            _clear(folder)
        network = LocalNetwork(folder)
        try:
            network.start(done)
            yield network
        finally:
            network.stop()


def check_parts() -> None:
    """Raise PartFailed unless the local network's packages are installed."""
    weights_path()
    missing = [name for name in ("nostr_sdk", "xllamacpp", "cashu") if importlib.util.find_spec(name) is None]
    if missing:
        raise PartFailed(f"not installed: {', '.join(missing)}; run this with `uv run` in a checkout")


def read_state(folder: Path) -> NetworkState | None:
    """What the network in `folder` wrote, if there is or was one."""
    try:
        return msgspec.json.decode((folder / STATE_FILE).read_bytes(), type=NetworkState)
    except (OSError, msgspec.MsgspecError):
        return None


async def fund(wallet: Wallet, mint_url: str, sats: int) -> None:
    """Fill a wallet from the play mint, whose invoices pay themselves. Raises PartFailed."""
    operation = f"fund:{time.time_ns()}"
    await wallet.invoice(sats * MSAT_PER_SAT, mint_url, "msat", operation)
    deadline = time.monotonic() + PAID_S
    while await wallet.claim(operation) is None:
        if time.monotonic() > deadline:
            raise PartFailed(f"the mint's invoice was not paid within {PAID_S} s")
        await asyncio.sleep(0.1)


OURS = ("mint", "relay", "model", "nodes", "client")


def _check_ours(folder: Path) -> None:
    """Refuse a folder that is a wallet's, which ours would hide from every command, or that holds somebody else's files
    under our names: `--fresh` would remove them."""
    if (folder / "wallet.db").exists():
        raise PartFailed(f"{folder} holds a wallet: name another folder for a network of play money with --data")
    if not (folder / "lock").exists() and any((folder / name).exists() for name in OURS):
        raise PartFailed(f"{folder} holds files that no network of ours made: name another folder with --data")


def _clear(folder: Path) -> None:
    """Remove what earlier runs left."""
    for name in OURS:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / STATE_FILE).unlink(missing_ok=True)
