"""Whatever is sent to whatever path the node describes, it answers as it describes, and never fails."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok

from relays.endpoints import ENDPOINTS
from tests.conftest import DEAD_MINT
from tests.node.harness import bearer, granted_key, running_node
from tests.node.shopful import running_shopful
from tests.node.test_endpoints import MODEL, PRICE, models_file


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A node in a thread of its own, and a key with money."""
    folder, ready, loop = tmp_path_factory.mktemp("openapi"), threading.Event(), asyncio.new_event_loop()
    found: list[str] = []

    async def serve() -> None:
        async with (
            running_shopful(MODEL) as (_, url),
            running_node(
                folder, cashu_mints=DEAD_MINT, upstream_base_url=url, models_path=models_file(folder, shop_1=PRICE)
            ) as node,
        ):
            _, text = await granted_key(node.node, 10**12)
            found.extend((node.url, text))
            ready.set()
            await stop.wait()
            await node.node.audit()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(60)
    yield found[0], found[1]
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


@pytest.fixture(scope="module")
def document(served: tuple[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{served[0]}/schema/openapi.json").json()
    return found


def test_every_paid_endpoint_is_in_the_document(document: dict[str, Any]) -> None:
    assert {f"/v1{endpoint.path}" for endpoint in ENDPOINTS} <= set(document["paths"])


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # the node does, in its thread
def test_no_request_makes_the_node_fail(served: tuple[str, str], document: dict[str, Any]) -> None:
    """Answers are of the statuses described, errors in OpenAI's shape; none is the node's own failure."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=served[0])
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) > len(ENDPOINTS)
    for operation in operations:

        @settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(), st.booleans())
        def answered(case: Any, ours: bool) -> None:
            check(case, served[1], ours=ours)

        try:
            answered()
        except Exception as error:  # noqa: BLE001 - whatever it was, said plainly: pytest cannot show this one's traceback
            pytest.fail(f"{operation.label}: {error}", pytrace=False)


def check(case: Any, key: str, *, ours: bool) -> None:
    if ours and isinstance(case.body, dict):
        case.body["model"] = MODEL
    reply = case.call(headers=bearer(key), timeout=30)
    assert reply.status_code != 500, reply.text
    if reply.status_code >= 400:
        error = json.loads(reply.content)["error"]
        assert error["message"]
        assert error["code"]
    raw = case.operation.definition.raw
    if "paid" in raw.get("tags", ()):
        assert str(reply.status_code) in {*raw["responses"], "405"}


def test_the_document_says_nothing_of_this_machine(document: dict[str, Any]) -> None:
    assert str(Path.home()) not in json.dumps(document)


@pytest.mark.parametrize("path", ["/schema", "/schema/openapi.json"])
def test_the_document_is_data_and_loads_nothing_from_elsewhere(served: tuple[str, str], path: str) -> None:
    """A page would fetch its scripts from a stranger's server, by the way that the visitor's browser takes."""
    answer = httpx.get(f"{served[0]}{path}", headers={"accept": "text/html"})
    assert answer.json()["openapi"].startswith("3."), "it is JSON"
    assert "text/html" not in answer.headers["content-type"]


@pytest.mark.parametrize("page", ["swagger", "redoc", "scalar", "rapidoc", "elements"])
def test_there_are_no_pages_of_the_document(served: tuple[str, str], page: str) -> None:
    assert httpx.get(f"{served[0]}/schema/{page}").status_code == 404
