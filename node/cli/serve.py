"""`satroute serve`: one node for a real operator."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import click
import uvicorn

from node.api.app import create_app
from node.app import open_node
from node.cli.console import note
from node.config import Settings, load_settings, unused_settings

GRACE_S = 30
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@click.command(epilog="Example: satroute serve --env-file /etc/satroute.env")
@click.option(
    "--env-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file; the environment overrides it. `.env.example` lists every setting.",
)
def serve(env_file: Path | None) -> None:
    """Run a node: sell an OpenAI-compatible upstream for ecash."""
    settings = load_settings(Settings, env_file)
    logging.basicConfig(level=settings.log_level, format=LOG_FORMAT)
    for quiet in ("httpx", "httpcore", "apscheduler"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    for line in unused_settings(settings):
        note(f"note: {line}")
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    async with open_node(settings) as node:
        config = uvicorn.Config(
            create_app(node),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,  # a URL may hold a token
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            lifespan="on",
        )
        note(f"{settings.name} {node.signer.npub}")
        note(f"serving {settings.upstream_base_url} at http://{settings.host}:{settings.port}/v1")
        note(f"{len(node.catalogue.all())} models; mints: {', '.join(settings.cashu_mints)}")
        note(f"relays: {', '.join(settings.relays) or 'none, this node is not announced'}")
        await uvicorn.Server(config).serve()
