"""The npm packages `openai` and `@anthropic-ai/sdk` work unchanged: every endpoint they have, streamed and not."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from node.ledger.model import Key
from relays.pricing import Usage, cost
from tests.conftest import DEAD_MINT
from tests.node.harness import Running, granted_key, running_node
from tests.node.shopful import PIXEL, WORDS
from tests.node.test_endpoints import MODEL, PRICE, models_file, sound
from tests.node.toolful import CALLS, CHAT_USED, MESSAGES_USED, Toolful, running_toolful

PACKAGE: Final = Path(__file__).parent / "npm"
REGISTRY: Final = "https://registry.npmjs.org/"
GRANT_MSAT: Final = 10_000_000
SAID: Final = "".join(WORDS)
TOOL_CALLS: Final = [list(call) for call in CALLS]
IMAGES: Final = Usage(10, 1000, images=1)

Sdks = tuple[Path, str]
"""The folder with the packages, and the program that runs them."""


EXPECTED: Final[dict[str, tuple[Any, Usage | None]]] = {
    "chat": ([SAID, SAID], msgspec.structs.replace(CHAT_USED, completion_tokens=12)),
    "chat_stream": (WORDS, CHAT_USED),
    "chat_tools": (TOOL_CALLS, CHAT_USED),
    "chat_tools_stream": (TOOL_CALLS, CHAT_USED),
    "completions": (SAID, CHAT_USED),
    "completions_stream": (WORDS, CHAT_USED),
    "responses": (SAID, CHAT_USED),
    "responses_stream": (WORDS, CHAT_USED),
    "embeddings": ([[0.25, -0.5]] * 2, Usage(7, 0)),
    "moderations": (False, Usage(1, 0)),
    "images": ([PIXEL, PIXEL], Usage(10, 1000, images=2)),
    "images_stream": ([["image_generation.partial_image", PIXEL], ["image_generation.completed", PIXEL]], IMAGES),
    "image_edits": ([PIXEL], IMAGES),
    "speech": ("ID3 sound", Usage(1, 0, characters=3)),
    "transcriptions": (SAID, Usage(0, 6, audio_ms=3000)),
    "transcriptions_text": (SAID, Usage(0, 6, audio_ms=2500)),
    "transcriptions_stream": (WORDS, Usage(30, 6, audio_ms=2500)),
    "translations": (SAID, Usage(0, 6, audio_ms=3000)),
    "messages": ([SAID], CHAT_USED),
    "messages_stream": (WORDS, CHAT_USED),
    "messages_tools": (TOOL_CALLS, CHAT_USED),
    "messages_tools_stream": (TOOL_CALLS, CHAT_USED),
}
"""What each call says and uses at a server that speaks chat's language. Counting tokens is another matter."""


@pytest.fixture(scope="session")
def sdks(tmp_path_factory: pytest.TempPathFactory) -> Sdks:
    """The packages of the lock, and a sound to send."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm is not installed: apt-get install nodejs npm")
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json", "sdks.mjs"):
        shutil.copy(PACKAGE / name, folder)
    (folder / "a.wav").write_bytes(sound(2.5))
    flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run([npm, "ci", *flags], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return folder, node


@pytest.fixture
async def shop() -> AsyncIterator[tuple[Toolful, str]]:
    async with running_toolful(MODEL) as running:
        yield running


@pytest.fixture
async def node(folder: Path, shop: tuple[Toolful, str], request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    models = models_file(folder, shop_1=PRICE)
    settings = getattr(request, "param", {})
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_base_url=shop[1], models_path=models, **settings
    ) as running:
        yield running


async def run(sdks: Sdks, node: Running, amount_msat: int = GRANT_MSAT) -> tuple[dict[str, Any], Key]:
    """What each call came to, and who paid."""
    folder, program = sdks
    key, text = await granted_key(node.node, amount_msat)
    # Proxies are for the world outside, and a key in the environment would stand for ours.
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    process = await asyncio.create_subprocess_exec(
        *(program, "sdks.mjs", node.url, text, MODEL, "a.wav"),
        cwd=folder,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out), key


async def used(node: Running, key: Key, told: dict[str, Any]) -> Usage | None:
    """By the receipt of a call that says its id."""
    posted = await node.node.ledger.receipt(told["id"], key.account)
    return None if posted is None else posted.receipt.usage


async def test_every_endpoint_is_served_and_charged_for_what_it_used(sdks: Sdks, node: Running) -> None:
    told, key = await run(sdks, node)
    assert told.pop("models") == {"said": [MODEL]}
    assert 5 < told.pop("count_tokens")["said"] < 20
    assert {name: result.get("said", result) for name, result in told.items()} == {n: e[0] for n, e in EXPECTED.items()}
    for name, result in told.items():
        if "id" in result:  # the SDKs' own stream helpers do not show it
            assert (name, await used(node, key, result)) == (name, EXPECTED[name][1])
    spent_msat = PRICE.request_msat + sum(cost(usage, PRICE) for _, usage in EXPECTED.values() if usage is not None)
    account = await node.node.ledger.account(key.account)
    assert (account.available_msat, account.held_msat) == (GRANT_MSAT - spent_msat, 0)


@pytest.mark.parametrize("node", [{"upstream_kind": "anthropic"}], indirect=True, ids=["anthropic"])
async def test_a_server_that_speaks_anthropics_language_serves_both_kinds_of_chat(sdks: Sdks, node: Running) -> None:
    told, key = await run(sdks, node)
    assert told["count_tokens"]["said"] == 14
    assert told["chat"] == {"error": "BadRequestError", "status": 400}  # it writes one answer, not two
    for name in ("chat_stream", "chat_tools", "messages", "messages_stream", "messages_tools"):
        assert (name, told[name]["said"]) == (name, EXPECTED[name][0])
        assert (name, await used(node, key, told[name])) == (name, MESSAGES_USED)
    for name in ("chat_tools_stream", "messages_tools_stream"):
        assert told[name] == {"said": TOOL_CALLS}
    assert told["embeddings"] == {"error": "BadRequestError", "status": 400}


async def test_without_money_every_call_is_an_api_error_of_its_sdk(
    sdks: Sdks, node: Running, shop: tuple[Toolful, str]
) -> None:
    told, _ = await run(sdks, node, amount_msat=0)
    assert told.pop("models") == {"said": [MODEL]}
    assert set(told) == {*EXPECTED, "count_tokens"}
    for name, result in told.items():
        anthropics = name == "count_tokens" or name.startswith("messages")
        kind = "PaymentRequiredError" if anthropics else "APIError"
        assert (name, result) == (name, {"error": kind, "status": 402})
    assert shop[0].asked == []


@pytest.mark.parametrize("node", [{"requests_per_minute": 1}], indirect=True, ids=["slow"])
async def test_beyond_its_rate_every_call_is_a_rate_limit_error_of_its_sdk(
    sdks: Sdks, node: Running, shop: tuple[Toolful, str]
) -> None:
    told, _ = await run(sdks, node)
    assert told.pop("models") == {"said": [MODEL]}
    assert told.pop("chat")["said"] == [SAID, SAID]  # the first
    assert set(told) == {*EXPECTED, "count_tokens"} - {"chat"}
    for name, result in told.items():
        assert (name, result) == (name, {"error": "RateLimitError", "status": 429})
    assert len(shop[0].asked) == 1


def test_the_lock_names_no_registry_but_npms_own() -> None:
    packages = json.loads((PACKAGE / "package-lock.json").read_text())["packages"]
    installed = {name: package for name, package in packages.items() if name}
    assert {"node_modules/openai", "node_modules/@anthropic-ai/sdk"} <= set(installed)
    for package in installed.values():
        assert package["resolved"].startswith(REGISTRY)
        assert package["integrity"].startswith("sha512-")
