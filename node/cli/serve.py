"""`satroute serve`: one node for a real operator."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import uvicorn

from node.api.app import create_app
from node.app import open_node
from node.cli.console import note
from node.config import Settings, load_settings, unused_settings
from node.errors import BadSettings
from node.node import Node

if sys.platform == "win32":
    from asyncio import run
else:
    from uvloop import run

GC_THRESHOLD = 20_000
GRACE_S = 30
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
def serve(env_file: Path | None) -> None:
    """Run a node: sell an OpenAI-compatible upstream for ecash."""
    settings = load_settings(Settings, env_file)
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(LOG_FORMAT))
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    for quiet in ("httpx", "httpcore", "apscheduler", "alembic"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    for line in unused_settings(settings):
        note(f"note: {line}")
    run(_serve(settings))


async def _serve(settings: Settings) -> None:
    # The port comes first: a node that cannot be reached must not touch its books or announce itself.
    with _listening(settings.host, settings.port) as listener:
        async with open_node(settings) as node:
            config = uvicorn.Config(
                create_app(node),
                log_config=None,
                access_log=False,  # a URL may hold a token
                server_header=False,
                proxy_headers=False,  # nobody is told apart by address
                ws="none",
                timeout_graceful_shutdown=GRACE_S,
                lifespan="on",
            )
            _introduce(node, listener.getsockname()[1])
            settle_memory()
            with _told_to_stop():
                await _Server(config, node).serve(sockets=[listener])


@contextmanager
def _told_to_stop() -> Iterator[None]:
    """uvicorn ends what it serves at a SIGTERM, and then raises it anew: that would end the process before it has taken back
    what it published and closed its books."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Server(uvicorn.Server):
    """Told to stop, it says so to those who look for a node, while it ends what it began."""

    def __init__(self, config: uvicorn.Config, node: Node) -> None:
        super().__init__(config)
        self._node = node

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.gather(self._node.announcer.drain(), super().shutdown(sockets))


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to the address. Raises BadSettings when it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # two sockets may be bound to one port, but only one listens
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not an address"
        raise BadSettings([f"HOST, PORT: cannot listen on {host!a}:{port} ({reason}): set another PORT"]) from error
    with listener:
        yield listener


def _introduce(node: Node, port: int) -> None:
    settings, models = node.settings, node.catalogue.all()
    note(f"{settings.name} {node.signer.npub}")
    note(f"serving {settings.upstream_base_url} at http://{settings.host}:{port}/v1")
    note(f"{len(models)} models; mints: {', '.join(settings.cashu_mints)}")
    if not models:
        note("note: nothing to sell yet: the upstream gives no model that has a price; the log says why")
    note(f"relays: {', '.join(settings.relays) or 'none, this node is not announced'}")
