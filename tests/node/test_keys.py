"""Keys over HTTP: children with limits, rotation that no lost answer can break, and what only an owner may do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, MODEL, Running, bearer, granted_key, hold_of, running_node
from tests.node.hostile import Hostile

GRANT_MSAT = 1_000_000
REPLY = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":31,"completion_tokens":5}}'


@pytest.fixture
async def node(folder: Path, hostile: tuple[Hostile, str]) -> AsyncIterator[Running]:
    hostile[0].answer = (200, {}, [REPLY])
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=hostile[1]) as running:
        yield running


@pytest.fixture
async def owner(node: Running) -> str:
    return (await granted_key(node.node, GRANT_MSAT))[1]


async def child(node: Running, http: httpx.AsyncClient, owner: str, **wish: Any) -> dict[str, Any]:
    made = await http.post(f"{node.url}/v1/keys", json=wish, headers=bearer(owner))
    assert made.status_code == 200, made.text
    return dict(made.json())


async def chat(node: Running, http: httpx.AsyncClient, key: str) -> httpx.Response:
    return await http.post(f"{node.url}/v1/chat/completions", json=HELLO, headers=bearer(key))


async def test_a_child_spends_until_its_limit(node: Running, http: httpx.AsyncClient, owner: str) -> None:

    hold_msat = hold_of(node.node, HELLO)
    kid = await child(node, http, owner, name="agent", spend_limit_msat=hold_msat + 10)
    first = await chat(node, http, kid["api_key"])
    assert first.status_code == 200
    second = await chat(node, http, kid["api_key"])
    assert (second.status_code, second.json()["error"]["code"]) == (403, "limit_reached")
    left_msat = hold_msat + 10 - int(first.headers["x-satroute-cost-msat"])
    assert second.json()["error"]["left_msat"] == left_msat
    listed = (await http.get(f"{node.url}/v1/keys", headers=bearer(owner))).json()["keys"]
    assert listed == [
        {
            "id": kid["id"],
            "name": "agent",
            "hint": f"sk-…{kid['api_key'][-4:]}",
            "revoked": False,
            "spent_msat": int(first.headers["x-satroute-cost-msat"]),
            "held_msat": 0,
            "created_at": listed[0]["created_at"],
            "spend_limit_msat": hold_msat + 10,
        }
    ]
    balance = (await http.get(f"{node.url}/v1/balance", headers=bearer(kid["api_key"]))).json()
    assert balance["balance"] == left_msat, "a child sees what it can spend"
    assert (await chat(node, http, owner)).status_code == 200


@pytest.mark.parametrize(
    ("wish", "status", "code"),
    [
        ({"models": ["another-model"]}, 403, "not_allowed"),
        ({"models": [MODEL]}, 200, ""),
        ({"daily_limit_msat": 1}, 403, "limit_reached"),
        ({"expires_at": 1}, 403, "unknown_credential"),
        ({"expires_at": int(time.time()) + 3600}, 200, ""),
    ],
)
async def test_each_limit_holds(
    node: Running, http: httpx.AsyncClient, owner: str, wish: dict[str, Any], status: int, code: str
) -> None:
    kid = await child(node, http, owner, **wish)
    reply = await chat(node, http, kid["api_key"])
    assert reply.status_code == status
    assert reply.json().get("error", {}).get("code", "") == code
    await node.node.ledger.audit()


async def test_a_child_moves_no_money_and_makes_no_keys(node: Running, http: httpx.AsyncClient, owner: str) -> None:
    key = bearer((await child(node, http, owner))["api_key"])
    for method, path in (
        ("POST", "/v1/balance/refund"),
        ("POST", "/v1/keys"),
        ("GET", "/v1/keys"),
        ("PUT", "/v1/balance/refund-address"),
    ):
        body = {"address": ""} if method == "PUT" else {}
        refused = await http.request(method, f"{node.url}{path}", json=body, headers=key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_allowed"), path


async def test_a_revoked_child_is_closed_and_so_are_the_children_of_a_revoked_key(
    node: Running, http: httpx.AsyncClient, owner: str
) -> None:
    one, two = await child(node, http, owner), await child(node, http, owner)
    stranger = (await granted_key(node.node, 1))[1]
    url = f"{node.url}/v1/keys/{one['id']}"
    assert (await http.delete(url, headers=bearer(stranger))).status_code == 404
    assert (await http.delete(url, headers=bearer(owner))).status_code == 200
    assert (await chat(node, http, one["api_key"])).status_code == 403
    assert (await chat(node, http, two["api_key"])).status_code == 200
    root = (await node.node.ledger.keys())[0][0]
    await node.node.ledger.revoke_key(root.id)
    closed = await chat(node, http, two["api_key"])
    assert (closed.status_code, closed.json()["error"]["code"]) == (403, "unknown_credential")


async def test_a_rotated_key_takes_over_when_it_is_first_used(
    node: Running, http: httpx.AsyncClient, owner: str
) -> None:
    lost = (await http.post(f"{node.url}/v1/keys/rotate", headers=bearer(owner))).json()["api_key"]
    new = (await http.post(f"{node.url}/v1/keys/rotate", headers=bearer(owner))).json()["api_key"]
    assert (await chat(node, http, owner)).status_code == 200, "the answer may have been lost"
    assert (await chat(node, http, lost)).status_code == 401
    assert (await chat(node, http, new)).status_code == 200
    assert (await chat(node, http, owner)).status_code == 401, "from then on the old one is closed"


async def test_an_owner_rotates_a_child(node: Running, http: httpx.AsyncClient, owner: str) -> None:
    kid = await child(node, http, owner, spend_limit_msat=GRANT_MSAT)
    await chat(node, http, kid["api_key"])
    made = (await http.post(f"{node.url}/v1/keys/{kid['id']}/rotate", headers=bearer(owner))).json()
    assert (await chat(node, http, made["api_key"])).status_code == 200
    assert (await chat(node, http, kid["api_key"])).status_code == 401
    listed = (await http.get(f"{node.url}/v1/keys", headers=bearer(owner))).json()["keys"]
    assert len(listed) == 1
    assert listed[0]["spent_msat"] > 0, "what was spent still counts"
    assert (await http.post(f"{node.url}/v1/keys/999/rotate", headers=bearer(owner))).status_code == 404


@pytest.mark.parametrize(
    "wish", [{"spend_limit_msat": -1}, {"expires_at": 2**70}, {"models": "all"}, {"daily_limit_msat": 1.5}, []]
)
async def test_wishes_that_cannot_be(node: Running, http: httpx.AsyncClient, owner: str, wish: object) -> None:
    assert (await http.post(f"{node.url}/v1/keys", json=wish, headers=bearer(owner))).status_code == 400
