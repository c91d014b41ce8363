"""`satroute price`: what a request would cost at each node that sells the model, before anything is paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import RenderableType

from node.cli.console import CommandFailed, escaped, out, per_1k, print_json
from node.cli.place import data_option, json_option, relays_option, tor_options, with_client
from node.cli.question import named, question_argument
from node.cli.sheet import sheet
from relays.money import in_sats
from router_client.buying.quoting import Asked
from router_client.buying.tries import why_none
from router_client.client import RouterClient
from router_client.errors import NoProvider
from router_client.routing.wishes import AUTO


@click.command(epilog='Example: satroute price gpt-4o-mini "What is 2+2?" --max-tokens 50')
@click.argument("model", callback=named)
@question_argument("What is 2+2?")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@data_option
@tor_options
@relays_option
@json_option
def price(
    model: str, question: str, max_tokens: int, data: Path | None, relays: tuple[str, ...], as_json: bool
) -> None:
    """What a request would hold and is expected to cost at each node, cheapest first."""
    if model == AUTO:
        raise click.UsageError("name a model: satroute route says which of them auto would take, and for how much")
    body = {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": question}]}

    async def work(client: RouterClient) -> list[Asked]:
        asked = await client.quotes(body)
        if not client.directory.known():
            raise NoProvider(why_none({}, (), client.directory.failures))
        return asked

    asked = with_client(data, relays, work, only_looks=True)
    if as_json:
        print_json({"model": model, "quotes": [_json(each) for each in asked]})
    else:
        if any(each.quote for each in asked):
            out.print(_table(asked))
        for each in asked:
            if each.quote is None:
                out.print(f"[dim]not {escaped(each.name)}: {escaped(each.problem)}[/]")
    if not any(each.quote for each in asked):
        reasons = "; ".join(f"{each.name}: {each.problem}" for each in asked)
        raise CommandFailed(
            reasons or f"no node on these relays sells {escaped(model)}: satroute nodes lists what is sold"
        )


def _json(asked: Asked) -> dict[str, Any]:
    return {
        "node": asked.npub,
        "name": asked.name,
        "quote": None if asked.quote is None else msgspec.to_builtins(asked.quote),
        "problem": asked.problem,
    }


def _table(asked: list[Asked]) -> RenderableType:
    rows = [
        (
            escaped(each.name),
            f"{each.npub[:12]}…",
            in_sats(quote.expected_msat),
            in_sats(quote.hold_msat),
            per_1k(quote.price.prompt_msat_per_mtok),
            per_1k(quote.price.completion_msat_per_mtok),
            f"{quote.price.request_msat:,}",
        )
        for each in asked
        if (quote := each.quote) is not None
    ]
    columns = ("node", "npub", "expected", "at most", "msat per 1k in", "out", "request")
    return sheet(columns, rows, out.width, title=escaped(asked[0].model), spare=("npub",))
