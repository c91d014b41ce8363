"""Real parts for the tests: one mint, relay and model a session, each started once when first needed."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import asyncpg
import httpx
import hypothesis
import pytest

from node.ledger.upgrade import migrate_postgres
from node.localnet.mint import start_mint, wait_mint
from node.localnet.model import start_model, wait_model
from node.localnet.postgres import postgres_bin, running_postgres
from node.localnet.process import free_port
from node.localnet.relay import start_relay, wait_relay
from tests import tornet
from tests.tornet import TorNet

MINT_FEE_PPK = 100
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 8 << 30
LONGEST = (
    *("tests/simulation/test_simulation", "tests/system/test_restart", "tests/simulation/test_every", "tests/system/"),
    *("tests/client/test_exchange", "tests/client/test_melt"),
)
NO_TOR = "127.0.0.1:9"
"""What commands are told of Tor: whatever runs on this machine is not for tests."""
TORNET = "TESTS_TOR_NETWORK"
"""Where the whole run's private Tor network lies: it is on its way up while other tests run."""
TOR_TESTS = Path(__file__).parent / "system" / "test_tor.py"
DEAD_RELAY = "ws://127.0.0.1:9"
DEAD_MINT = "http://127.0.0.1:9"
"""Port 9 is nobody's here: a connection is refused at once."""
CERTIFICATES = "TESTS_SSL_CERT_FILE"
"""Where this machine's are, for the tools that install programs for tests."""
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")  # a machine that is slow for a moment has no fault
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that ask this machine alone: it vouches for nobody, and is made once."""


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for disks, mints and clocks a third of their time."""
    return (os.cpu_count() or 1) + 1


def in_memory() -> None:
    """Folders of tests lie in memory where there is plenty: what is written there need not reach a disk, which is a sixth of
    the time. Programs must run from there, too."""
    if sys.platform != "linux" or "TMPDIR" in os.environ or not MEMORY.is_dir():
        return
    room = os.statvfs(MEMORY)
    if room.f_bavail * room.f_frsize >= MEMORY_BYTES and not room.f_flag & os.ST_NOEXEC and os.access(MEMORY, os.W_OK):
        os.environ |= {"TMPDIR": str(MEMORY), "UV_LINK_MODE": "copy"}
        tempfile.tempdir = None


def pytest_configure(config: pytest.Config) -> None:
    """Tests ask this machine alone: its HTTP clients, hundreds of them, need not read the world's certificates. And a run in
    a shell's background ignores SIGINT, which the programs that tests interrupt must not learn from it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(Failures(config))
    in_memory()
    nobody = tempfile.TemporaryDirectory(prefix="satroute-no-certificates-")
    config.add_cleanup(nobody.cleanup)
    os.environ.setdefault(CERTIFICATES, os.environ.pop("SSL_CERT_FILE", ""))
    os.environ["SSL_CERT_DIR"] = nobody.name
    os.environ["SATROUTE_TOR"] = NO_TOR
    named = [(config.invocation_params.dir / name.partition("::")[0]).resolve() for name in config.args]
    if TORNET not in os.environ and tornet.installed() and any(TOR_TESTS.is_relative_to(path) for path in named):
        folder = tempfile.TemporaryDirectory(prefix="satroute-tor-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        network = tornet.start(Path(folder.name))
        config.add_cleanup(partial(tornet.stop, network))
        os.environ[TORNET] = folder.name


def pytest_collection_finish() -> None:
    """What is imported stays: the collector need not look through it, half a million objects, again and again."""
    gc.collect()
    gc.freeze()


class Failures:
    """Named as they come: a run that is cut off has said what failed."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            lines = report.longreprtext.splitlines()
            words = [line for line in lines if line.startswith("E ") or "Error" in line] or lines or [""]
            terminal.write_line(f"\nfailed in its {report.when}: {report.nodeid}: {words[-1].strip()}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="simulate a million steps instead of ten thousand")
    parser.addoption("--seed", default=None, help="play this seed of the simulation again, and no other")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: processes that share a run end it together."""
    items.sort(
        key=lambda item: next((n for n, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI every part is installed: a skip there hides something, so it fails."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
    return report


def of_the_process() -> dict[str, object]:
    """What all tests of a process share, but for what pytest itself changes."""
    named = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    loggers = {name: logging.getLogger(name).level for name in ("node", "relays", "router_client", "tor")}
    ended = signal.getsignal(signal.SIGTERM)
    silenced = logging.root.manager.disable
    return {"variables": named, "folder": Path.cwd(), "loggers": loggers, "silenced": silenced, "ended": ended}


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """What a test changes of the whole process would change others, and those in no two runs are the same."""
    before = of_the_process()
    yield
    assert of_the_process() == before


@pytest.fixture(scope="session")
def mint_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A nutshell mint with sat and msat units that takes 0.1 per coin, rounded up, for a swap."""
    child, url = start_mint(tmp_path_factory.mktemp("mint"), port=free_port(), input_fee_ppk=MINT_FEE_PPK)
    try:
        wait_mint(child, url)
        yield url
    finally:
        child.stop()


@pytest.fixture(scope="session")
def relay_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """rust-nostr's relay."""
    child, url = start_relay(tmp_path_factory.mktemp("relay"), port=free_port())
    try:
        wait_relay(child, url)
        yield url
    finally:
        child.stop()


@pytest.fixture
async def auth_relay_url() -> AsyncIterator[str]:
    """The same relay, which wants NIP-42 before it reads or writes anything."""
    from nostr_sdk import LocalRelayBuilder, LocalRelayBuilderNip42, LocalRelayBuilderNip42Mode

    nip42 = LocalRelayBuilderNip42(mode=LocalRelayBuilderNip42Mode.BOTH)
    relay = LocalRelayBuilder().addr("127.0.0.1").port(free_port()).nip42(nip42).build()
    await relay.run()
    yield str(await relay.url())
    relay.shutdown()


@pytest.fixture(scope="session")
def model_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SmolLM2-135M on llama.cpp's server: the OpenAI base URL."""
    child, url = start_model(tmp_path_factory.mktemp("model"), port=free_port())
    try:
        wait_model(child, url)
        yield url
    finally:
        child.stop()


@pytest.fixture(scope="session")
def embedder_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same weights, which make vectors in the place of texts: the OpenAI base URL."""
    child, url = start_model(tmp_path_factory.mktemp("embedder"), port=free_port(), embeds=True)
    try:
        wait_model(child, url)
        yield url
    finally:
        child.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server, which waits for no disk: no test pulls its plug."""
    if (programs := postgres_bin()) is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with running_postgres() as url:
        words = ["-c", "ALTER SYSTEM SET fsync = off", "-c", "SELECT pg_reload_conf()"]
        subprocess.run([programs / "psql", "-q", "-o", os.devnull, *words, url], check=True)
        yield url


@pytest.fixture(scope="session")
def tor_network() -> TorNet:
    """A private Tor network that is up."""
    if not tornet.installed():
        pytest.skip("Tor is not installed: apt-get install tor")
    network = TorNet(Path(os.environ[TORNET]))
    network.wait()
    return network


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database of one's own."""
    with database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """The name of a database with empty books in it."""
    with database(postgres_server) as url, ThreadPoolExecutor(1) as beside:  # a loop may run already
        beside.submit(asyncio.run, migrate_postgres(url)).result()
        yield url.rpartition("/")[2]


@pytest.fixture
def postgres_books_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """The URL of empty books of one's own, copied: to lay their tables takes ten times as long."""
    with database(postgres_server, "--template", postgres_template) as url:
        yield url


@contextmanager
def database(server: str, *options: str) -> Iterator[str]:
    """The URL of a database that is there as long as the block runs."""
    name = f"test_{secrets.token_hex(6)}"
    programs = postgres_bin()
    assert programs is not None
    subprocess.run([programs / "createdb", "--maintenance-db", server, *options, name], check=True)
    yield server.removesuffix("/postgres") + f"/{name}"
    subprocess.run([programs / "dropdb", "--maintenance-db", server, "--force", name], check=True)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(url)
    try:
        yield conn
    finally:
        await conn.close()


@contextmanager
def closed_to_us(folder: Path) -> Iterator[None]:
    """A folder as another user's is. Root, whom nothing is closed to, is nobody meanwhile."""
    mode, whose = stat.S_IMODE(folder.stat().st_mode), os.geteuid()
    folder.chmod(0)
    if whose == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(whose)
        folder.chmod(mode)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=60) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
