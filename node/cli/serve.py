"""`satroute serve`: one node for a real operator."""

from __future__ import annotations

import gc
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click

from node.api.app import create_app
from node.api.counter import create_counter
from node.api.passing import Passing
from node.api.server import GRACE_S, Server, at_socket, config_of
from node.app import open_node
from node.cli.console import note
from node.cli.workers import supervise
from node.config import Settings, load_settings, unused_settings
from node.counter import open_counter
from node.errors import BadSettings
from node.node import Node
from node.shop.lease import BACKLOG, socket_path
from node.storage import POSTGRES
from node.till import SHOP

if sys.platform == "win32":
    from asyncio import run
else:
    from uvloop import run

GC_THRESHOLD = 20_000
HTTP = "till"
"""What the socket is called at which a till takes what its counters pass on."""
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class OneLine(logging.Formatter):
    """A line a record, whatever strangers' words it repeats: theirs must not pass for lines of the log's own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if not record.message.isprintable():
            record.message = "".join(
                each if each.isprintable() else each.encode("unicode_escape").decode() for each in record.message
            )
        return super().formatMessage(record)


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
def serve(env_file: Path | None, workers: int) -> None:
    """Run a node: sell an OpenAI-compatible upstream for ecash."""
    settings = load_settings(Settings, env_file)
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(LOG_FORMAT))
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    for quiet in ("httpx", "httpcore", "apscheduler", "alembic"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    for line in unused_settings(settings):
        note(f"note: {line}")
    # The port comes first: a node that cannot be reached must not touch its books or announce itself.
    if workers == 1:
        with _listening(settings.host, settings.port) as listener:
            run(_serve(settings, listener))
        return
    _check_shared(settings)
    with _listening(settings.host, settings.port) as listener:  # nobody else does
        port = listener.getsockname()[1]
    with _bound(settings.host, port, shared=True):  # nor will
        supervise(workers, partial(_work, settings, port))


def _check_shared(settings: Settings) -> None:
    """Raise BadSettings unless several processes can serve from these settings; make what they have in common."""
    if not settings.ledger_url.startswith(POSTGRES):
        remedy = "set postgresql://USER:PASSWORD@HOST/NAME, or leave --workers out"
        raise BadSettings([f"DATABASE_URL: several workers need books that they can share: {remedy}"])
    for name in (SHOP, HTTP):
        socket_path(settings.data_dir, name)
    settings.signer(), settings.instance()


def _work(settings: Settings, port: int, number: int) -> None:
    """One of several processes: the first is the till."""
    with _listening(settings.host, port, shared=True) as listener:
        run(_serve(settings, listener, with_counters=True) if number == 0 else _count(settings, number, listener))


async def _serve(settings: Settings, listener: socket.socket, *, with_counters: bool = False) -> None:
    async with open_node(settings, with_counters=with_counters) as node:
        app = create_app(node)
        server = Server(config_of(app), node.announcer.drain)
        _introduce(node, listener.getsockname()[1])
        settle_memory()
        if with_counters:
            async with at_socket(app, socket_path(settings.data_dir, HTTP)):
                await server.serve(sockets=[listener])
                await node.till.left(GRACE_S)
        else:
            await server.serve(sockets=[listener])
    if server.interrupted:
        raise KeyboardInterrupt


async def _count(settings: Settings, number: int, listener: socket.socket) -> None:
    passing = Passing(socket_path(settings.data_dir, HTTP))
    try:
        async with open_counter(settings, number) as node:
            server = Server(config_of(create_counter(node, passing), lifespan="off"))
            settle_memory()
            await server.serve(sockets=[listener])
    finally:
        await passing.close()
    if server.interrupted:
        raise KeyboardInterrupt


@contextmanager
def _listening(host: str, port: int, *, shared: bool = False) -> Iterator[socket.socket]:
    """A socket that listens at the address. Raises BadSettings when it cannot be had."""
    with _bound(host, port, shared=shared) as listener:
        try:
            listener.listen(BACKLOG)  # two sockets may be bound to one port, but only one listens
        except OSError as error:
            raise _not_to_be_had(host, port, error) from error
        yield listener


@contextmanager
def _bound(host: str, port: int, *, shared: bool) -> Iterator[socket.socket]:
    """A socket bound to the address; `shared`, among all that share it, callers are dealt out by the system."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except (OSError, ValueError) as error:
        raise _not_to_be_had(host, port, error) from error
    with bound:
        yield bound


def _not_to_be_had(host: str, port: int, error: Exception) -> BadSettings:
    reason = getattr(error, "strerror", None) or "not an address"
    return BadSettings([f"HOST, PORT: cannot listen on {host!a}:{port} ({reason}): set another PORT"])


def _introduce(node: Node, port: int) -> None:
    settings, models = node.settings, node.catalogue.all()
    note(f"{settings.name} {node.signer.npub}")
    note(f"serving {settings.upstream_base_url} at http://{settings.host}:{port}/v1")
    note(f"{len(models)} models; mints: {', '.join(settings.cashu_mints)}")
    if not models:
        note("note: nothing to sell yet: the upstream gives no model that has a price; the log says why")
    note(f"relays: {', '.join(settings.relays) or 'none, this node is not announced'}")
