"""`satroute nodes`: who is announced, what it sells for how much, whether it answers, and how far it is trusted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import RenderableType
from rich.live import Live

from node.cli.console import CommandFailed, err, escaped, note, out, per_1k, print_json
from node.cli.place import data_option, json_option, relays_option, tor_options, with_client
from node.cli.real import Real
from node.cli.sheet import sheet
from relays.announcement import ModelOffer
from relays.pricing import TOKENS_PER_PRICE
from relays.routes import host_of, is_onion
from router_client.client import RouterClient
from router_client.discovery.directory import Provider, figures_of
from router_client.ecash.token import normal_mint_url

MAX_ROWS = 200
NOW: Final = "now 1k+1k"
COLUMNS: Final = ("node", "npub", "model", "in", "out", "request", NOW, "load", "answers", "trust", "seen")
SPARE: Final = frozenset({"npub", NOW, "load", "seen"})
"""Left out on a terminal that is too narrow for all."""
TITLE: Final = "msat per 1k tokens, and per request"
WATCH_S = 1.0


class Wanted(msgspec.Struct, frozen=True):
    """Which nodes and models are listed."""

    model: str | None = None
    max_msat_per_mtok: int | None = None
    mint: str | None = None
    onion: bool = False
    alive: bool = False

    def offers(self, provider: Provider) -> list[ModelOffer]:
        """What of the node's is wanted."""
        return [
            offer
            for offer in provider.offers
            if (self.model is None or self.model.lower() in offer.id.lower())
            and (
                self.max_msat_per_mtok is None
                or max(offer.price.prompt_msat_per_mtok, offer.price.completion_msat_per_mtok) <= self.max_msat_per_mtok
            )
        ]

    def fits(self, provider: Provider) -> bool:
        announced = provider.announcement
        return (
            (self.mint is None or normal_mint_url(self.mint) in map(normal_mint_url, announced.mints))
            and (not self.onion or any(is_onion(host_of(url)) for url in announced.urls))
            and (not self.alive or provider.url is not None)
            and ((self.model is None and self.max_msat_per_mtok is None) or bool(self.offers(provider)))
        )


@click.command(epilog="Example: satroute nodes --model gpt-4o --max-price 500 --watch")
@click.option("--model", help="Those that sell a model with this in its name.")
@click.option("--max-price", type=Real(min=0), help="At most so many msat per 1k tokens, read or written.")
@click.option("--mint", help="Those that take ecash of this mint.")
@click.option("--onion", is_flag=True, help="Those with an onion address.")
@click.option("--alive", is_flag=True, help="Those that answer under their key.")
@click.option("--npub", is_flag=True, help="Whole keys, a line each: for block, trust, follow and recommend.")
@click.option("--watch", is_flag=True, help="Follow the relays and show what changes, until Ctrl-C.")
@data_option
@tor_options
@relays_option
@json_option
def nodes(
    model: str | None,
    max_price: float | None,
    mint: str | None,
    onion: bool,
    alive: bool,
    npub: bool,
    watch: bool,
    data: Path | None,
    relays: tuple[str, ...],
    as_json: bool,
) -> None:
    """The announced nodes with their models, prices and trust, cheapest and best trusted first."""
    most = None if max_price is None else int(max_price * TOKENS_PER_PRICE / 1000)
    wanted = Wanted(model, most, mint, onion, alive)

    async def work(client: RouterClient) -> list[Provider]:
        if watch:
            await _watch(client, wanted, as_json=as_json)
        with err.status("asking relays and nodes"):
            providers = await client.directory.providers()
        failures = client.directory.failures.values()
        if failures and not providers:
            raise CommandFailed("no relay answered: " + "; ".join(failures))
        for failure in failures:
            note(f"[yellow]note:[/] {escaped(failure)}")
        return _listed(providers, wanted)

    found = with_client(data, relays, work, only_looks=True)
    if as_json:
        print_json(_json(found, wanted))
    elif found and npub:
        out.print("\n".join(f"{each.npub} {escaped(each.announcement.name[:40])}" for each in found), soft_wrap=True)
    elif found:
        out.print(nodes_table(found, wanted, out.width))
    else:
        out.print("no node is announced on these relays" if wanted == Wanted() else "no announced node is like that")


async def _watch(client: RouterClient, wanted: Wanted, *, as_json: bool) -> None:
    """Until it is interrupted: the table as it changes, without a terminal one for each change, or lines of JSON."""
    shown: object = None
    async with client.directory.live():
        on_screen = out.is_terminal and not as_json
        with Live(console=out, auto_refresh=False) if on_screen else nullcontext() as screen:
            while True:
                found = _listed(client.directory.known(), wanted)
                if (now := _json(found, wanted)) != shown:
                    shown = now
                    if as_json:
                        print_json(now)
                    elif screen is None:
                        out.print(nodes_table(found, wanted, out.width))
                    else:
                        screen.update(nodes_table(found, wanted, out.width), refresh=True)
                await asyncio.sleep(WATCH_S)


def _listed(providers: tuple[Provider, ...], wanted: Wanted) -> list[Provider]:
    """Who answers first, then the better trusted, then the cheaper; whom the user blocked last."""

    def place(provider: Provider) -> tuple[bool, bool, float, int, str]:
        prices = [offer.price.prompt_msat_per_mtok + offer.price.completion_msat_per_mtok for offer in provider.offers]
        trust = provider.trust
        return (trust.blocked, provider.url is None, -trust.score, min(prices, default=0), provider.announcement.pubkey)

    return sorted(filter(wanted.fits, providers), key=place)


def nodes_table(providers: list[Provider], wanted: Wanted, width: int) -> RenderableType:
    """Nodes and prices for people: msat per 1,000 tokens. `width` is the terminal's, in characters."""
    rows: list[Sequence[str]] = []
    for provider in providers[:MAX_ROWS]:
        for offer in wanted.offers(provider) or (None,):
            if len(rows) >= MAX_ROWS:
                break
            price = None if offer is None else offer.price
            row = (
                escaped(provider.announcement.name[:40]),
                f"{provider.npub[:12]}…",
                "?" if offer is None else escaped(offer.id),
                "?" if price is None else per_1k(price.prompt_msat_per_mtok),
                "?" if price is None else per_1k(price.completion_msat_per_mtok),
                "?" if price is None else f"{price.request_msat:,}",
                _price_now(provider, offer),
                _load(provider),
                _answers(provider),
                _trust(provider),
                _ago(provider.seen_at),
            )
            rows.append(row)
    caption = f"{len(providers)} nodes; the first rows only: --json has all" if len(rows) >= MAX_ROWS else ""
    more = "more on a wider terminal, all in --json"
    return sheet(COLUMNS, rows, width, title=TITLE, caption=caption, spare=SPARE, without=more)


def _price_now(provider: Provider, offer: ModelOffer | None) -> str:
    said = provider.capacity
    known = said is not None and offer is not None and said.model == offer.id and said.price_msats is not None
    return f"{said.price_msats:,}" if known and said is not None else "-"


def _load(provider: Provider) -> str:
    """Requests that run of those that fit, and how fast one is answered; as the node says itself."""
    said = provider.capacity
    if said is None:
        return "-"
    if said.state == "draining":
        return "[yellow]stopping[/]"
    taken = max(0, said.max_concurrent - said.capacity) if said.in_flight is None else said.in_flight
    words = f"{taken}/{said.max_concurrent}" + (" [yellow]full[/]" if not said.has_room else "")
    return words + ("" if said.tokens_per_s is None else f" {said.tokens_per_s} t/s")


def _answers(provider: Provider) -> str:
    if provider.url is None:
        return "[red]no[/]"
    return f"[green]{'proven' if provider.proven else 'yes'}[/] {provider.latency_ms} ms"


def _trust(provider: Provider) -> str:
    if provider.trust.blocked:
        return "[red]blocked[/]"
    return f"{provider.trust.score:.2f}" if provider.trust.reasons else "-"


def _ago(at: int) -> str:
    seconds = max(0, int(time.time()) - at)
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {name} ago"
    return "just now"


def _json(providers: list[Provider], wanted: Wanted) -> dict[str, Any]:
    return {"nodes": [_provider_json(provider, wanted) for provider in providers]}


def _provider_json(provider: Provider, wanted: Wanted) -> dict[str, Any]:
    announcement = provider.announcement
    return {
        "name": announcement.name,
        "npub": provider.npub,
        "urls": announcement.urls,
        "mints": announcement.mints,
        "alive": provider.url is not None,
        "proven": provider.proven,
        "latency_ms": provider.latency_ms,
        "plain": provider.is_plain,
        "trust": {"score": provider.trust.score, "reasons": provider.trust.reasons, "blocked": provider.trust.blocked},
        "announced_at": announcement.created_at,
        "seen_at": provider.seen_at,
        "capacity": None if provider.capacity is None else figures_of(provider.capacity),
        "models": msgspec.to_builtins(wanted.offers(provider)),
    }
