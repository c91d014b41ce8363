"""`satroute route`: where a request would go, and why; nothing is paid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from node.cli.console import CommandFailed, escaped, out, print_json
from node.cli.place import data_option, json_option, relays_option, tor_options, with_client
from node.cli.preferences import routing_options
from node.cli.question import model_option, question_argument
from node.cli.sheet import sheet
from relays.money import in_sats
from router_client.buying.tries import why_none
from router_client.client import RouterClient
from router_client.complexity import Task
from router_client.preferences import Profile
from router_client.routing.scoring import Factors
from router_client.selection import Choice

MOST_REASONS = 40

profile_option = click.option(
    "--profile",
    type=click.Choice(get_args(Profile)),
    default="balanced",
    show_default=True,
    help="What counts beside the price.",
)


@click.command(epilog='Example: satroute route "Prove that there are infinitely many primes." --explain')
@question_argument()
@model_option
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@profile_option
@routing_options
@click.option("--explain", is_flag=True, help="Each factor of each node's score, and why the others were left out.")
@data_option
@tor_options
@relays_option
@json_option
def route(
    question: str,
    model: str,
    max_tokens: int,
    profile: Profile,
    explain: bool,
    data: Path | None,
    relays: tuple[str, ...],
    as_json: bool,
) -> None:
    """Which node would serve a request, and at which price. Pays nothing."""
    message = {"role": "user", "content": question}
    routing = {"profile": profile}
    body = {"model": model, "max_tokens": max_tokens, "messages": [message], "routing": routing}

    async def work(client: RouterClient) -> tuple[Task, Choice, Mapping[str, str]]:
        return *await client.choice(body), client.directory.failures

    task, choice, failures = with_client(data, relays, work, only_looks=True)
    if as_json:
        print_json(_json(task, choice, explain=explain))
    else:
        _show(task, choice, explain=explain)
    if not choice.candidates and not choice.rejected:
        raise CommandFailed(why_none({}, (), failures))
    if not choice.candidates:
        raise CommandFailed("no node can serve this: " + ("see above" if explain else "--explain says why"))


def _json(task: Task, choice: Choice, *, explain: bool) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(choice.explained(task))
    if not explain:
        del told["rejected"]
        for each in told["candidates"]:
            del each["score"], each["factors"]
    return told


def _show(task: Task, choice: Choice, *, explain: bool) -> None:
    out.print(
        f"difficulty {task.difficulty:.2f}, tier {task.tier}, about {task.prompt_tokens} tokens to read and up to "
        f"{task.completion_tokens} to write"
    )
    factors = Factors.__struct_fields__ if explain else ()
    columns = ("node", "model", "expected", "at most", *factors, *(("score",) if explain else ()))
    rows = []
    for each in choice.candidates:
        row = [escaped(each.label), escaped(each.offer.id), in_sats(each.expected_msat), in_sats(each.hold_msat)]
        if explain:
            row += [f"x{getattr(each.factors, name):.3g}" for name in factors] + [f"{each.score:.4g}"]
        rows.append(row)
    if rows:
        out.print(sheet(columns, rows, out.width))
    if explain:
        reasons = list(choice.rejected.items())
        for name, reason in reasons[:MOST_REASONS]:
            out.print(f"[dim]not {escaped(name)}: {escaped(reason)}[/]")
        if len(reasons) > MOST_REASONS:
            out.print(f"[dim]and {len(reasons) - MOST_REASONS} more; --json has all[/]")
