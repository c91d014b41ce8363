"""A real Nostr relay (rust-nostr's LocalRelay): `python -m node.localnet.relay PORT`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from node.localnet.process import Child, free_port

PORT = 7777
READY_S = 20


def start_relay(folder: Path, *, port: int | None = None) -> tuple[Child, str]:
    """Start the relay; returns it and its URL. It keeps events in memory."""
    port = free_port(PORT) if port is None else port
    return Child("relay", "node.localnet.relay", [str(port)], {}, folder), f"ws://127.0.0.1:{port}"


def wait_relay(child: Child, url: str) -> None:
    """Return when the relay listens."""
    child.wait_port(int(url.rpartition(":")[2]), READY_S)


async def _serve(port: int) -> None:
    from nostr_sdk import LocalRelayBuilder, RateLimit  # noqa: PLC0415 - a part of the local network alone

    limit = RateLimit(max_reqs=1000, notes_per_minute=100_000)
    relay = LocalRelayBuilder().addr("127.0.0.1").port(port).rate_limit(limit).build()
    await relay.run()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
