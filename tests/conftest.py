"""Real parts for the tests: one mint, relay and model a session, each started once when first needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from node.localnet.mint import start_mint, wait_mint
from node.localnet.process import free_port

MINT_FEE_PPK = 100


@pytest.fixture(scope="session")
def mint_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A nutshell mint with sat and msat units that takes 0.1 per coin, rounded up, for a swap."""
    child, url = start_mint(tmp_path_factory.mktemp("mint"), port=free_port(), input_fee_ppk=MINT_FEE_PPK)
    try:
        wait_mint(child, url)
        yield url
    finally:
        child.stop()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
