"""What tests of whole networks share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.localnet.process import free_port
from node.localnet.relay import start_relay, wait_relay


@pytest.fixture
async def relay(folder: Path) -> AsyncIterator[str]:
    """A relay of this test's own, so that it holds these nodes alone."""
    child, url = start_relay(folder / "relay", port=free_port())
    wait_relay(child, url)
    yield url
    child.stop()
