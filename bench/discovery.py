"""What 10,000 announcements cost a router client: to verify, to read, to keep, to start from, and to choose among.

    uv run python bench/discovery.py [--json] [--events 10000] [--models 5] [--hostile]

Events are signed by as many authors as there are nodes, and taken from their JSON as relays send it. With --hostile as many
again are forged, dated ahead, by one key, or huge. Nothing goes over a network.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from relays.announcement import Announcement, ModelOffer, encode
from relays.bounds import ModelLimits
from relays.errors import InvalidEvent
from relays.event import Signer
from relays.jsontext import from_json
from relays.pricing import ModelPrice
from relays.sieve import Sieve
from router_client.complexity import assess
from router_client.discovery.board import Board
from router_client.discovery.directory import ANNOUNCED, Provider
from router_client.discovery.shelf import Shelf
from router_client.routing.candidates import Purse
from router_client.selection import choose

MINT = "https://mint.example"
BODY = {"model": "m1", "max_tokens": 50, "messages": [{"role": "user", "content": "What is 2+2?"}]}


def announced(number: int, signer: Signer, models: int, at: int) -> list[object]:
    offers = tuple(
        ModelOffer(f"m{n}", ModelLimits(8192, 4096), ModelPrice(100_000 + number, 400_000 + number))
        for n in range(models)
    )
    made = Announcement(
        pubkey=signer.pubkey,
        identifier="satroute",
        urls=(f"https://node{number}.example",),
        mints=(MINT,),
        version="1",
        name=f"node {number}",
        about="",
        models=offers,
        created_at=at,
        expires_at=at + 3600,
    )
    return ["EVENT", "s1", msgspec.to_builtins(encode(made, signer))]


def hostile(messages: list[list[object]], now: int) -> list[list[object]]:
    """As many again that are worth nothing."""
    one, made = Signer.generate(), []
    for number, message in enumerate(messages):
        event = message[2]
        assert isinstance(event, dict)
        kind = number % 4
        if kind == 0:
            made.append(["EVENT", "s1", {**event, "content": event["content"] + " "}])
        elif kind == 1:
            made.append(["EVENT", "s1", {**event, "sig": "0" * 128}])
        elif kind == 2:
            made.append(announced(number, one, 1, now + 10**6))
        else:
            tags = [["d", str(number)], ["u", "https://x.example"], *([["x", "y" * 50]] * 100)]
            made.append(
                ["EVENT", "s1", msgspec.to_builtins(one.sign(kind=38421, content="", created_at=now, tags=tags))]
            )
    return made


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def measure(events: int, models: int, *, with_hostile: bool) -> dict[str, float | int]:
    now = int(time.time())
    messages = [announced(number, Signer.generate(), models, now) for number in range(events)]
    texts = [msgspec.json.encode(each).decode() for each in messages + (hostile(messages, now) if with_hostile else [])]
    del messages
    gc.collect()
    before = megabytes()
    said: dict[str, float | int] = {"events": len(texts), "bytes_each": round(sum(map(len, texts)) / len(texts))}

    def timed(name: str, began: float) -> None:
        said[name] = round(time.perf_counter() - began, 3)

    sieve, board, genuine = Sieve([ANNOUNCED]), Board(), []
    began = time.perf_counter()
    for text in texts:
        with suppress(InvalidEvent):
            event = sieve.take(from_json(text)[2])
            if event is not None:
                genuine.append(event)
    timed("verify_s", began)
    began = time.perf_counter()
    for event in genuine:
        board.put(event, now)
    timed("read_s", began)
    del genuine
    said["kept"], said["kept_mb"] = len(board), round(board.bytes / 2**20, 1)
    with tempfile.TemporaryDirectory() as folder:
        shelf = await Shelf.open(Path(folder) / "directory.db")
        began = time.perf_counter()
        await shelf.store(board, ())
        timed("store_s", began)
        again = Board()
        began = time.perf_counter()
        shelf.fill(again)
        timed("start_from_disk_s", began)
        assert len(again) == len(board)
        del again
        shelf.close()
    providers = tuple(Provider(each, each.urls[0]) for each in board.announcements(now))
    for name, sellers in (("choose_all_alive_s", providers), ("choose_s", _few_alive(providers))):
        began = time.perf_counter()
        choice = choose(BODY, assess(BODY), sellers, [Purse(MINT, "msat", 10**9)])
        timed(name, began)
        assert choice.candidates
    said["memory_mb"] = round(megabytes() - before, 1)
    return said


def _few_alive(providers: tuple[Provider, ...]) -> tuple[Provider, ...]:
    """As it is under attack: a look asks no more than 256."""
    return tuple(each if n < 256 else msgspec.structs.replace(each, url=None) for n, each in enumerate(providers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--hostile", action="store_true")
    asked = parser.parse_args()
    said = asyncio.run(measure(asked.events, asked.models, with_hostile=asked.hostile))
    if asked.as_json:
        json.dump(said, sys.stdout)
        print()
        return
    table = Table("what", "", title=f"{said['events']} announcements")
    for name, value in said.items():
        table.add_row(name, f"{value:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
