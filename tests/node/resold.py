"""Another node that is resold, and what is bought of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from node.errors import UpstreamUnreachable
from node.tasks import Tasks
from node.upstream.base import UpstreamRequest
from node.upstream.kind import Surroundings
from node.upstream.kinds.satroute import SatrouteUpstream
from node.upstream.spec import Timeouts, UpstreamSpec
from relays.endpoints import CHAT
from relays.pricing import ModelPrice
from tests.client.cheat import BODY, Cheat

PURSE_MSAT = 20_000
BOTH = pytest.mark.parametrize("cheat", ["plain", "locked"], indirect=True)
"""Whether the node takes locked tokens."""
STREAM = {"Content-Type": "text/event-stream"}
ASK = {**BODY, "stream": True}
DEARER = ModelPrice(3_000_000, 9_000_000, 0)
DEARER_COST_MSAT = 31 * 3 + 5 * 9


@asynccontextmanager
async def buying(folder: Path, cheat: Cheat, idle_s: float = 30) -> AsyncIterator[SatrouteUpstream]:
    spec = UpstreamSpec(name="other", kind="satroute", base_url=cheat.url, wallet=str(folder / "purse"))
    upstream = await SatrouteUpstream.open(spec, Surroundings(Timeouts(5, 30, idle_s), Tasks(), folder))
    try:
        yield upstream
    finally:
        await upstream.close()


async def bought(upstream: SatrouteUpstream, fields: dict[str, Any] = ASK, pieces: int = 1000) -> bytes:
    """An answer, or its first pieces, settled."""
    body = msgspec.json.encode(fields)
    reply = await upstream.send(UpstreamRequest(CHAT, fields, body, "application/json", "stream" in fields))
    answer = b""
    async for chunk in reply.chunks():
        answer += chunk
        pieces -= 1
        if not pieces:
            break
    reply.close()
    assert await upstream._tasks.drain(30) == 0
    return answer


async def not_bought_again(upstream: SatrouteUpstream, cheat: Cheat, why: str) -> None:
    asked = list(cheat.asked)
    with pytest.raises(UpstreamUnreachable, match=f"until this node is restarted: .*{why}"):
        await bought(upstream)
    assert await upstream.models() == []
    await upstream._tasks.drain(30)
    assert [path for path in cheat.asked[len(asked) :] if "refund" not in path] == []
