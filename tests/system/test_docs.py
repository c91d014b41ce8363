"""The README's Python examples run as they stand, on a running network."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.localnet.network import LocalNetwork, fund, local_network
from router_client.client import RouterClient

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    with local_network(tmp_path_factory.mktemp("docs"), fresh=True, done=print) as running:
        yield running


async def prepare(network: LocalNetwork) -> str:
    """A funded buyer and a funded key."""
    await network.announcements()
    async with RouterClient.open([], network.client_folder) as client:
        await fund(client.wallet, network.mint_url, 100)
    return await network.funded_key(network.nodes[0], 100)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split("\n")[0])
def test_the_readmes_python_runs(network: LocalNetwork, example: str) -> None:
    key = asyncio.run(prepare(network))
    code = (
        example.replace("http://127.0.0.1:8001", network.nodes[0].url)
        .replace("sk-...", key)
        .replace("ws://127.0.0.1:7777", network.relay_url)
        .replace('"~/.satroute/local/client"', repr(str(network.client_folder)))
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "verified: False" not in done.stdout


def test_both_kinds_of_example_are_there() -> None:
    assert len(EXAMPLES) == 2
