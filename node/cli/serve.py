"""`satroute serve`: one node for a real operator."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import click

from node.api.app import create_app
from node.api.counter import create_counter
from node.api.passing import Passing
from node.api.server import Server, at_socket, config_of
from node.app import open_node
from node.backup.scratch import sweep
from node.cli.console import note
from node.cli.listening import bound, listening
from node.cli.logs import write_log
from node.cli.workers import supervise
from node.config import Settings, load_settings, unused_settings
from node.counter import open_counter
from node.errors import BadSettings
from node.localnet.process import free_port
from node.node import Node
from node.shop.lease import socket_path
from node.storage import POSTGRES
from node.till import SHOP
from node.tor.service import OnionService, with_tor
from router_client.paying.lnurl import is_local

if sys.platform == "win32":
    from asyncio import run
else:
    from uvloop import run

GC_THRESHOLD = 20_000
HTTP = "till"
"""What the socket is called at which a till takes what its counters pass on."""


def settle_memory() -> None:
    """What stands now stays: it is not looked through again at every collection, and those come less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


@click.command(epilog="Example: satroute serve --env-file /etc/satroute.env")
@click.option(
    "--env-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file; the environment overrides it. `.env.example` lists every setting.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    help="Processes that serve, one a core; more than one need DATABASE_URL=postgresql://…",
)
@click.option(
    "--tor",
    "run_tor",
    is_flag=True,
    help="With an onion service: by a tor process of its own, or by the one at TOR_CONTROL.",
)
def serve(env_file: Path | None, workers: int, run_tor: bool) -> None:
    """Run a node: sell an OpenAI-compatible upstream for ecash."""
    settings = load_settings(Settings, env_file, **({"run_tor": True} if run_tor else {}))
    write_log(settings.log_level)
    for line in unused_settings(settings):
        note(f"note: {line}")
    sweep(settings.data_dir)
    settings, service = with_tor(settings, free_port())
    if settings.tor_only and not is_local(settings.host):
        note(f"note: whoever reaches {settings.host} finds the node that TOR_ONLY hides: HOST=127.0.0.1, or a firewall")
    # The port comes first: a node that cannot be reached must not touch its books or announce itself.
    if workers == 1:
        with listening(settings.host, settings.port) as listener:
            run(_serve(settings, listener, service))
        return
    _check_shared(settings)
    with listening(settings.host, settings.port) as listener:  # nobody else does
        port = listener.getsockname()[1]
    with bound(settings.host, port, shared=True):  # nor will
        supervise(workers, partial(_work, settings, port, service))


def _check_shared(settings: Settings) -> None:
    """Raise BadSettings unless several processes can serve from these settings; make what they have in common."""
    if not settings.ledger_url.startswith(POSTGRES):
        remedy = "set postgresql://USER:PASSWORD@HOST/NAME, or leave --workers out"
        raise BadSettings([f"DATABASE_URL: several workers need books that they can share: {remedy}"])
    for name in (SHOP, HTTP):
        socket_path(settings.data_dir, name)
    settings.signer(), settings.instance()


def _work(settings: Settings, port: int, service: OnionService | None, number: int) -> None:
    """One of several processes: the first is the till."""
    with listening(settings.host, port, shared=True) as listener:
        if number == 0:
            run(_serve(settings, listener, service, with_counters=True))
        else:
            run(_count(settings, number, listener))


async def _serve(
    settings: Settings, listener: socket.socket, service: OnionService | None, *, with_counters: bool = False
) -> None:
    async with _onion(service, listener), open_node(settings, with_counters=with_counters) as node:
        app = create_app(node)
        server = Server(config_of(app, grace_s=settings.drain_s), partial(_leave, node))
        _introduce(node, listener.getsockname()[1])
        settle_memory()
        if with_counters:
            async with at_socket(app, socket_path(settings.data_dir, HTTP), settings.drain_s):
                await server.serve(sockets=[listener])
                await node.till.left(settings.drain_s)
        else:
            await server.serve(sockets=[listener])
    if server.interrupted:
        raise KeyboardInterrupt


async def _leave(node: Node) -> None:
    """While the server ends what it began: nobody shall come any more."""
    node.readiness.leaving = True
    await node.announcer.drain()


@asynccontextmanager
async def _onion(service: OnionService | None, listener: socket.socket) -> AsyncIterator[None]:
    """The onion service, if there is to be one, which leads to the listener."""
    if service is None:
        yield
        return
    host, port = listener.getsockname()[:2]
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is asked for, not given
    host = everywhere.get(host, host)
    async with service.open(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"):
        yield


async def _count(settings: Settings, number: int, listener: socket.socket) -> None:
    passing = Passing(socket_path(settings.data_dir, HTTP))
    try:
        async with open_counter(settings, number) as node:
            server = Server(config_of(create_counter(node, passing), lifespan="off", grace_s=settings.drain_s))
            settle_memory()
            await server.serve(sockets=[listener])
    finally:
        await passing.close()
    if server.interrupted:
        raise KeyboardInterrupt


def _introduce(node: Node, port: int) -> None:
    settings, models = node.settings, node.catalogue.all()
    note(f"{settings.name} {node.signer.npub}")
    note(f"serving {settings.upstream_base_url} at http://{settings.host}:{port}/v1")
    note(f"{len(models)} models; mints: {', '.join(settings.cashu_mints)}")
    if not models:
        note("note: nothing to sell yet: the upstream gives no model that has a price; the log says why")
    if settings.onion_url:
        note(f"onion service: {settings.onion_url}{', and no other address' if settings.tor_only else ''}")
    note(f"relays: {', '.join(settings.relays) or 'none, this node is not announced'}")
