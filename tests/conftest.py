"""Real parts for the tests: one mint, relay and model a session, each started once when first needed."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from node.localnet.mint import start_mint, wait_mint
from node.localnet.model import start_model, wait_model
from node.localnet.postgres import postgres_bin, running_postgres
from node.localnet.process import free_port
from node.localnet.relay import start_relay, wait_relay

MINT_FEE_PPK = 100
DEAD_RELAY = "ws://127.0.0.1:9"
DEAD_MINT = "http://127.0.0.1:9"
"""Port 9 is nobody's here: a connection is refused at once."""


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for disks, mints and clocks a third of their time."""
    return (os.cpu_count() or 1) + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="simulate a million steps instead of ten thousand")
    parser.addoption("--seed", default=None, help="play this seed of the simulation again, and no other")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the longest tests first: processes that share a run end it together."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/system/"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI every part is installed: a skip there hides something, so it fails."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
    return report


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
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server."""
    if postgres_bin() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with running_postgres() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database of one's own."""
    name = f"test_{secrets.token_hex(6)}"
    programs = postgres_bin()
    assert programs is not None
    server = ["--maintenance-db", postgres_server]
    subprocess.run([programs / "createdb", *server, name], check=True)
    yield postgres_server.removesuffix("/postgres") + f"/{name}"
    subprocess.run([programs / "dropdb", *server, "--force", name], check=True)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(url)
    try:
        yield conn
    finally:
        await conn.close()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
