"""`satroute price`: what a request would cost at each node that sells the model, before anything is paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from node.cli.console import CommandFailed, escaped, out, per_1k, print_json
from node.cli.place import data_option, json_option, relays_option, tor_options, with_client
from relays.money import in_sats
from router_client.buying.quoting import Asked
from router_client.client import RouterClient


@click.command(epilog='Example: satroute price gpt-4o-mini "What is 2+2?" --max-tokens 50')
@click.argument("model")
@click.argument("question", default="What is 2+2?")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@data_option
@tor_options
@relays_option
@json_option
def price(
    model: str, question: str, max_tokens: int, data: Path | None, relays: tuple[str, ...], as_json: bool
) -> None:
    """What a request would hold and is expected to cost at each node, cheapest first."""
    body = {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": question}]}

    async def work(client: RouterClient) -> list[Asked]:
        return await client.quotes(body)

    asked = with_client(data, relays, work)
    if as_json:
        print_json({"model": model, "quotes": [_json(each) for each in asked]})
    elif asked:
        out.print(_table(asked))
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


def _table(asked: list[Asked]) -> Table:
    table = Table("node", "npub", "expected", "at most", "msat per 1k in", "out", "request", title=asked[0].model)
    for each in asked:
        quote = each.quote
        if quote is None:
            table.add_row(escaped(each.name), f"{each.npub[:12]}…", f"[red]{escaped(each.problem)}[/]")
            continue
        table.add_row(
            escaped(each.name),
            f"{each.npub[:12]}…",
            in_sats(quote.expected_msat),
            in_sats(quote.hold_msat),
            per_1k(quote.price.prompt_msat_per_mtok),
            per_1k(quote.price.completion_msat_per_mtok),
            f"{quote.price.request_msat:,}",
        )
    return table
