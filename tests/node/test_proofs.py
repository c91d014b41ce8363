"""A node proves its key to whoever calls it by a URL that it announces; a copy of its announcement gains nothing."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import httpx
import pytest

from node.errors import Refusal
from node.proofs import Proofs
from relays.errors import InvalidProof
from relays.event import Event, Signer, parse_event
from relays.proof import verify
from tests.conftest import DEAD_MINT
from tests.node.books import Clock
from tests.node.harness import Running, running_node

OURS = "https://node.example"
NONCE = "ab" * 16


async def ask(http: httpx.AsyncClient, running: Running, url: object, nonce: object) -> httpx.Response:
    return await http.post(f"{running.url}/v1/proof", json={"url": url, "nonce": nonce})


async def test_the_key_behind_each_announced_url_is_proved(
    folder: Path, model_url: str, http: httpx.AsyncClient
) -> None:
    urls = {"http_url": OURS, "onion_url": "http://abc.onion"}
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url, **urls) as running:
        for url in (OURS, f"{OURS}/v1", "http://abc.onion/"):
            nonce = secrets.token_hex(32)
            event = parse_event((await ask(http, running, url, nonce)).content)
            verify(event, pubkey=running.node.signer.pubkey, url=url, nonce=nonce, now=int(time.time()))

        copied = await ask(http, running, "https://copy.example", NONCE)
        assert (copied.status_code, copied.json()["error"]["code"]) == (403, "not_allowed")
        for wish in ((OURS, "short"), ("no url", NONCE), (OURS, 7), (None, NONCE)):
            assert (await ask(http, running, *wish)).status_code == 400


async def test_a_copy_gains_nothing_by_passing_the_question_on(
    folder: Path, model_url: str, http: httpx.AsyncClient
) -> None:
    """The copy is called as `copy.example`, and asks the node in the node's own name: what it gets is not for its URL."""
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url, http_url=OURS) as running:
        passed_on = parse_event((await ask(http, running, OURS, NONCE)).content)
        with pytest.raises(InvalidProof, match="another URL"):
            pubkey = running.node.signer.pubkey
            verify(passed_on, pubkey=pubkey, url="https://copy.example", nonce=NONCE, now=int(time.time()))


async def test_it_is_in_the_openapi_document(folder: Path, model_url: str, http: httpx.AsyncClient) -> None:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url, http_url=OURS) as running:
        document = (await http.get(f"{running.url}/schema/openapi.json")).json()
    (content,) = document["paths"]["/v1/proof"]["post"]["requestBody"]["content"].values()
    wish = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    assert set(wish["required"]) == {"nonce", "url"}


def test_there_are_so_many_a_minute(clock: Clock) -> None:
    signer = Signer.generate()
    proofs = Proofs(signer, [OURS], clock, per_minute=60)
    assert all(isinstance(proofs.answer(NONCE, OURS), Event) for _ in range(60))
    with pytest.raises(Refusal) as refused:
        proofs.answer(NONCE, OURS)
    assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "1")
    clock.now += 1
    assert proofs.answer(NONCE, OURS).pubkey == signer.pubkey
    with pytest.raises(Refusal):
        proofs.answer(NONCE, OURS)


def test_a_node_that_announces_no_url_proves_none() -> None:
    with pytest.raises(Refusal, match="not a URL of this node"):
        Proofs(Signer.generate(), []).answer(NONCE, "http://127.0.0.1:8000")
