"""`satroute proxy`: an OpenAI endpoint on this machine, by which any tool buys through the router."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from node.api.server import Server, config_of
from node.cli.console import CommandFailed, err, note
from node.cli.listening import listening
from node.cli.place import data_option, fund_command, place, relays_option, tor_options, with_client
from node.cli.preferences import routing_options, settle
from node.cli.route import profile_option
from node.errors import BadSettings
from relays.money import in_sats
from router_client.client import RouterClient
from router_client.paying.lnurl import is_local
from router_client.preferences import Profile
from router_client.proxy.app import Proxy
from router_client.proxy.guard import LOOPBACK, Guard
from router_client.proxy.replay import Replays

PORT = 8402
GRACE_S = 30
REPLAYS_FILE = "answers.db"
LEAST_KEY_CHARS = 16


@click.command(epilog="Example: satroute proxy --port 8402")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; elsewhere a key is needed.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any that is free.")
@click.option(
    "--key",
    envvar="SATROUTE_PROXY_KEY",
    show_envvar=True,
    help="What callers must send as their API key; better by the environment than here, where others see it.",
)
@profile_option
@routing_options
@data_option
@tor_options
@relays_option
def proxy(host: str, port: int, key: str | None, profile: Profile, data: Path | None, relays: tuple[str, ...]) -> None:
    """Serve OpenAI's API here, paid from the wallet: point any SDK at it. Pages in a browser are refused."""
    logging.basicConfig(level=logging.WARNING)
    settle(profile=profile)
    guard = _guard(host, key or "")
    with _listening(host, port) as listener:
        address = listener.getsockname()

        async def work(client: RouterClient) -> bool:
            async with Replays.open(place(data, relays).folder / REPLAYS_FILE) as replays:
                app = Proxy(client, guard, fund_command(data, relays), replays=replays)
                async with client.directory.live(), app.running():
                    server = Server(config_of(app, lifespan="off", grace_s=GRACE_S))
                    _introduce(client, address[0], address[1])
                    await server.serve(sockets=[listener])
            return server.interrupted

        interrupted = with_client(data, relays, work)
    if interrupted:
        raise KeyboardInterrupt


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Raises CommandFailed when the address cannot be had."""
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(listening(host, port))
        except BadSettings as error:
            reason = getattr(error.__cause__, "strerror", None) or "not an address"
            raise CommandFailed(f"cannot listen on {host!a}:{port} ({reason}): name another --port") from error
        yield listener


def _guard(host: str, key: str) -> Guard:
    """Raises CommandFailed where others could spend what is in the wallet."""
    if key and len(key) < LEAST_KEY_CHARS:
        raise CommandFailed(f"--key: at least {LEAST_KEY_CHARS} characters, such as {secrets.token_urlsafe(24)}")
    if is_local(host):
        return Guard(LOOPBACK | {host.strip("[]")}, key)
    if not key:
        raise CommandFailed(
            f"whoever reaches {host} could spend the wallet: set SATROUTE_PROXY_KEY, or leave --host out"
        )
    return Guard(frozenset(), key)


def _introduce(client: RouterClient, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    nodes = sum(provider.url is not None for provider in client.directory.known())
    note(f"{nodes} nodes; the wallet holds {in_sats(client.wallet.balance_msat())}")
    err.print(f"OpenAI base URL: http://{shown}:{port}/v1", soft_wrap=True, markup=False)
