"""docs/protocol.md says what is on the wire: its examples are golden events, which we write and read, and which two
libraries that are not ours find genuine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from relays import announcement, capacity, pages, proof
from relays.announcement import Announcement, ModelOffer, NodeLimits
from relays.bounds import ModelLimits
from relays.deletion import deletion
from relays.event import Event, Signer, parse_event
from relays.pricing import ModelPrice
from tests.relays.golden import EVENTS, SECRET
from tests.relays.test_capacity import OURS

NOW: Final = 1_700_000_000
SIGNER: Final = Signer.parse(SECRET)
PACKAGE: Final = Path(__file__).parent / "nostr_tools"
PAGE: Final = Path(__file__).parents[2] / "docs" / "protocol.md"
NONCE: Final = "5f8a3c0e9d714b26a0c3e1f7d2b4968a"
SEES: Final = ModelOffer(
    "openai/gpt-4o-mini",
    ModelLimits(128_000, 16_384, "openai-mini"),
    ModelPrice(172_500, 690_000, cached_msat_per_mtok=86_250),
    input=("text", "image"),
    endpoints=("chat", "responses", "messages"),
    features=("tools", "vision", "json"),
)
SMALL: Final = ModelOffer("smollm2-135m", ModelLimits(2048, 1024), ModelPrice(2_000_000, 8_000_000, 5))
HEAD: Final = Announcement(
    pubkey=SIGNER.pubkey,
    identifier="satroute",
    urls=("https://node.example", "http://abc.onion"),
    mints=("https://mint.example",),
    version="0.1.0",
    name="golden",
    about="A node",
    models=(SEES,),
    created_at=NOW,
    expires_at=NOW + 3600,
    lock="02" + "a1" * 32,
    limits=NodeLimits(max_body_bytes=20_971_520, concurrent_requests=64, requests_per_minute=600),
    payments=("key", "cashu", "x-cashu", "lightning"),
    pages=1,
)
BUSY: Final = msgspec.structs.replace(OURS, model="openai/gpt-4o-mini", price_msats=863)


def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, Event]:
    """The document's events, as they are published."""
    monkeypatch.setattr(pages, "MAX_MODELS", 1)
    whole = announcement.Announcement(
        **{f: getattr(HEAD, f) for f in HEAD.__struct_fields__} | {"models": (SEES, SMALL)}
    )
    head, page = pages.encode_all(whole, SIGNER)
    busy = capacity.encode(BUSY, SIGNER)
    return {
        "protocol_announcement": head,
        "protocol_page": page,
        "protocol_capacity": busy,
        "protocol_proof": proof.encode(SIGNER, url="https://node.example", nonce=NONCE, now=NOW),
        "protocol_withdrawal": deletion((head, page, busy), SIGNER, NOW + 60),
    }


def golden(name: str) -> Event:
    return parse_event(EVENTS[f"protocol_{name}"])


def test_what_we_write_is_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name: event.id for name, event in written(monkeypatch).items()} == {
        name: event["id"] for name, event in EVENTS.items() if name.startswith("protocol_") and "review" not in name
    }


def test_what_is_golden_we_read() -> None:
    head = announcement.decode(golden("announcement"), now=NOW)
    assert head == HEAD
    page = pages.decode(golden("page"), now=NOW)
    assert pages.with_pages(head, [page]).models == (SEES, SMALL)
    assert capacity.decode(golden("capacity"), now=NOW) == BUSY
    proof.verify(golden("proof"), pubkey=SIGNER.pubkey, url="https://node.example/v1", nonce=NONCE, now=NOW)


def test_the_examples_of_the_document_are_the_golden_events() -> None:
    examples = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)]
    events = [example for example in examples if "sig" in example]
    assert events == [event for name, event in EVENTS.items() if name.startswith("protocol_")]


def test_every_golden_event_is_genuine_to_rust_nostr() -> None:
    nostr_sdk = pytest.importorskip("nostr_sdk")
    assert all(nostr_sdk.Event.from_json(json.dumps(event)).verify() for event in EVENTS.values())


def test_every_golden_event_is_genuine_to_nostr_tools(tmp_path: Path) -> None:
    assert set(nostr_tools(tmp_path, EVENTS).values()) == {True}
    forged = {name: {**event, "content": event["content"] + " "} for name, event in EVENTS.items()}
    assert set(nostr_tools(tmp_path, forged).values()) == {False}


def nostr_tools(folder: Path, events: dict[str, dict[str, Any]]) -> dict[str, bool]:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm is not installed: apt-get install nodejs npm")
    if not (folder / "node_modules").exists():
        shutil.copytree(PACKAGE, folder, dirs_exist_ok=True)
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run([npm, "ci", *flags], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [node, "check.mjs"],
        cwd=folder,
        input=json.dumps(events),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, bool] = json.loads(done.stdout)
    return found


def test_the_lock_names_no_registry_but_npms_own() -> None:
    packages = json.loads((PACKAGE / "package-lock.json").read_text())["packages"]
    for package in (package for name, package in packages.items() if name):
        assert package["resolved"].startswith("https://registry.npmjs.org/")
        assert package["integrity"].startswith("sha512-")
