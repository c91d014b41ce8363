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
from node.upstream.specs import read_specs
from router_client.client import RouterClient
from tests.system.forked import Served

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"tor.md"}
"""Pages whose examples need more than a local network: `test_tor.py` runs it."""
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in ELSEWHERE)]
EXAMPLES = [text for page in PAGES for text in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    with local_network(tmp_path_factory.mktemp("docs"), fresh=True, done=print) as running:
        yield running


class Endpoint(Served):
    """`satroute proxy` on the network's client."""

    def __init__(self, folder: Path, network: LocalNetwork) -> None:
        self._data = network.folder
        super().__init__(folder)

    def start(self) -> None:
        self.words = ("proxy", "--port", str(self.port), "--data", str(self._data))
        super().start()


@pytest.fixture(scope="module")
def endpoint(network: LocalNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    asyncio.run(prepare(network))
    running = Endpoint(tmp_path_factory.mktemp("endpoint") / "proxy", network)
    yield running
    running.tell_to_leave()
    assert running.exit_code(20) == 0, running.log.read_text()


async def prepare(network: LocalNetwork) -> str:
    """A funded buyer and a funded key."""
    await network.announcements()
    async with RouterClient.open([], network.client_folder) as client:
        await fund(client.wallet, network.mint_url, 100)
    return await network.funded_key(network.nodes[0], 100)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split("\n")[0])
def test_the_python_of_the_docs_runs(network: LocalNetwork, endpoint: Endpoint, example: str) -> None:
    key = asyncio.run(prepare(network))
    code = (
        example.replace("http://127.0.0.1:8001", network.nodes[0].url)
        .replace("http://127.0.0.1:8402", endpoint.url)
        .replace("sk-...", key)
        .replace("ws://127.0.0.1:7777", network.relay_url)
        .replace('"~/.satroute/local/client"', repr(str(network.client_folder)))
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "verified: False" not in done.stdout


def test_all_examples_are_there() -> None:
    assert len(EXAMPLES) == 4


def test_the_upstreams_of_the_docs_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "upstreams.md").read_text(), re.DOTALL)
    for variable in re.findall(r'api_key_env = "(\w+)"', text):
        monkeypatch.setenv(variable, "a key")
    (folder / "upstreams.toml").write_text(text)
    specs = read_specs(folder / "upstreams.toml")
    assert {spec.kind for spec in specs} == {"openai", "azure", "anthropic", "gemini", "satroute"}
    assert "a key" not in repr(specs)
