"""`satroute ask` and `wallet`: the router client on the command line."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from node.cli.console import CommandFailed, err, escaped, note, out, print_json, printable
from node.cli.place import (
    data_option,
    fund_command,
    has_wallet,
    json_option,
    place,
    relays_option,
    run_client,
    tor_options,
    with_client,
)
from node.cli.preferences import routing_options
from node.cli.question import model_option, question_argument
from node.cli.real import Real
from node.cli.route import profile_option
from relays.event import pubkey_of
from relays.money import MSAT_PER_SAT, from_sat, in_sats
from relays.routes import checked_url, host_of
from router_client.buying.answer import Answer
from router_client.client import RouterClient
from router_client.ecash.outcomes import Unread
from router_client.ecash.token import decode, to_msat
from router_client.ecash.wallet import Wallet
from router_client.errors import ClientError, NoProvider, WalletError
from router_client.paying.change import Out
from router_client.paying.lnurl import is_local
from router_client.paying.payments import Payments
from router_client.preferences import Profile
from router_client.routing.wishes import AUTO, read_wishes

T = TypeVar("T")

MOST_MINTS = 3
"""So many are named."""
POLL_S = 1.0
INVOICE_WAIT_S = 900
ABANDONED_S = 600
"""An open payment this old is no other process's request under way."""


@click.command(epilog='Example: satroute ask "What is 2+2?" --max-tokens 50')
@question_argument()
@model_option
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer.")
@click.option("--max-sats", type=click.IntRange(min=1), help="Refuse to risk more than this on one request.")
@click.option("--max-usd", type=Real(min=0, min_open=True), help="Refuse to risk more than this on one request.")
@profile_option
@routing_options
@click.option("--review", is_flag=True, help="Publish how the node did, under a key made for that alone.")
@data_option
@tor_options
@relays_option
@json_option
def ask(
    question: str,
    model: str,
    max_tokens: int,
    max_sats: int | None,
    max_usd: float | None,
    profile: Profile,
    review: bool,
    data: Path | None,
    relays: tuple[str, ...],
    as_json: bool,
) -> None:
    """Buy one answer: find the best node, pay it, stream the answer, verify its receipt. The question - is read
    from standard input."""
    message = {"role": "user", "content": question}
    routing = {"profile": profile, "maxCost": max_usd}
    body = {"model": model, "max_tokens": max_tokens, "messages": [message], "routing": routing}

    begun = False

    def show(text: str) -> None:
        nonlocal begun
        begun = True
        click.echo(printable(text), nl=False)

    async def work(client: RouterClient) -> tuple[Answer, list[Out]]:
        await client.recover(older_than_s=ABANDONED_S)
        limit_msat = None if max_sats is None else from_sat(max_sats)
        try:
            answer = await client.chat(body, on_text=None if as_json else show, max_cost_msat=limit_msat)
        except (ClientError, OSError, asyncio.CancelledError) as error:  # the last by Ctrl-C
            if begun and not isinstance(error, OSError):
                click.echo()
            _tell_what_is_out(client.payments.out())
            if isinstance(error, NoProvider):
                raise CommandFailed(_why_none(error, client, body)) from error
            raise
        if not as_json:
            click.echo()
        if review:
            await _review(client, answer)
        return answer, client.payments.out()

    answer, still_out = with_client(data, relays, work)
    if as_json:
        print_json(answer_json(answer))
    else:
        state = "[green]receipt verified[/]" if answer.verified else f"[red]receipt not verified: {answer.problem}[/]"
        note(
            f"[dim]{escaped(answer.model)} at {escaped(answer.node_name)} · {answer.usage.prompt_tokens} + "
            f"{answer.usage.completion_tokens} tokens · {in_sats(answer.cost_msat)} · [/]{state}"
        )
    _tell_what_is_out(still_out)
    if not answer.verified:
        raise CommandFailed(f"the receipt does not verify: {answer.problem}")


def _why_none(error: NoProvider, client: RouterClient, body: dict[str, Any]) -> str:
    """What is in the way, and what to do about it where that is in one's own hand."""
    providers = client.directory.known()
    wanted = read_wishes(body)[0].models
    if providers and not {*wanted} & {AUTO, *(offer.id for each in providers for offer in each.offers)}:
        return f"no node on these relays sells {' or '.join(wanted)}: satroute nodes lists what is sold"
    if error.cause != "money":
        return str(error)
    mints = Counter(mint for each in providers for mint in {*each.announcement.mints})
    taken = ", ".join(f"{mint} ({count} of {len(providers)} nodes)" for mint, count in mints.most_common(MOST_MINTS))
    why = str(error) if client.wallet.balance_msat() else "the wallet is empty"
    return f"{why}: fill it with `satroute wallet fund --sats 1000 --mint URL`; ecash is taken of {taken}"


async def _review(client: RouterClient, answer: Answer) -> None:
    """The answer is paid and there, whatever relays say."""
    try:
        published = await client.review(pubkey_of(answer.node))
    except ClientError as error:
        note(f"[yellow]the review is not published: {escaped(str(error))}[/]")
    else:
        note("[dim]too little to review yet[/]" if published is None else f"[dim]reviewed as {published.value('t')}[/]")


def answer_json(answer: Answer) -> dict[str, Any]:
    """An answer for programs."""
    return {
        "request_id": answer.request_id,
        "node": answer.node,
        "model": answer.model,
        "tier": answer.tier,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "cost_msat": answer.cost_msat,
        "saved_msat": answer.saved_msat,
        "budget_left_msat": answer.budget_left_msat,
        "wait_ms": answer.wait_ms,
        "verified": answer.verified,
        "text": answer.text,
    }


@click.group()
def wallet() -> None:
    """The buyer's ecash wallet."""


@wallet.command(epilog="Example: satroute wallet balance --json")
@data_option
@json_option
def balance(data: Path | None, as_json: bool) -> None:
    """What the wallet holds, by mint, and what is out at nodes."""

    async def work(payments: Payments) -> tuple[dict[tuple[str, str], int], list[Out], list[Unread]]:
        return payments.wallet.balances(), payments.out(), payments.wallet.unread()

    folder = place(data).folder
    if not has_wallet(folder):
        told = _no_wallet(data)
        if as_json:
            note(escaped(told))
            print_json({"coins": [], "out": [], "unread": []})
        else:
            out.print(escaped(told), soft_wrap=True)
        return
    balances, out_there, unread = _with_payments(folder, work)
    if as_json:
        rows = [{"mint": mint, "unit": unit, "amount": amount} for (mint, unit), amount in balances.items()]
        sent = [_unread_json(one) for one in unread]
        print_json({"coins": rows, "out": [_out_json(one) for one in out_there], "unread": sent})
        return
    for (mint, unit), amount in balances.items():
        out.print(f"{amount} {unit} at {escaped(mint)}")
    if not balances:
        out.print(escaped(f"the wallet in {folder} is empty; `{fund_command(data)}` fills it"), soft_wrap=True)
    if out_there:
        out.print(_out_line(out_there))
    if unread:
        out.print(_unread_line(unread))


def _no_wallet(data: Path | None, relays: tuple[str, ...] = ()) -> str:
    return f"no wallet in {place(data, relays).folder} yet; `{fund_command(data, relays)}` makes one"


def _out_json(one: Out) -> dict[str, Any]:
    return {"node": one.node_url, "msat": one.amount_msat, "locked": one.locked, "since": one.created_at}


def _unread_json(one: Unread) -> dict[str, Any]:
    return {"mint": one.mint, "unit": one.unit, "amount": one.amount, "since": one.created_at}


def _unread_line(unread: list[Unread]) -> str:
    """One line: how much nobody has read the tokens of."""
    amount_msat = sum(to_msat(one.amount, one.unit) for one in unread)
    return (
        f"not lost: {in_sats(amount_msat)} for tokens of `satroute wallet send` that nobody has read; "
        "`satroute wallet recover` takes them back"
    )


def _tell_what_is_out(out_there: list[Out]) -> None:
    if out_there:
        note(f"[yellow]{_out_line(out_there)}[/]")


def _out_line(out_there: list[Out]) -> str:
    """One line: how much is out, and where."""
    by_node: dict[str, int] = {}
    for one in out_there:
        by_node[one.node_url] = by_node.get(one.node_url, 0) + one.amount_msat
    where = ", ".join(f"{in_sats(amount_msat)} at {escaped(url)}" for url, amount_msat in by_node.items())
    return f"out, not lost: {where}, less what was served; `satroute wallet recover` asks for it"


def _mint(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else checked_url(value.rstrip("/"), "http", "https")
    except ValueError as error:
        raise click.BadParameter(f"{error}, such as https://mint.example.com") from error


@wallet.command(epilog="Example: satroute wallet fund --sats 1000 --mint https://mint.example.com")
@click.option("--sats", type=click.IntRange(min=1), required=True)
@click.option("--mint", "mint_url", callback=_mint, help="Mint to keep the money at; a local network's is known.")
@data_option
@tor_options
def fund(sats: int, mint_url: str | None, data: Path | None) -> None:
    """Fill the wallet over Lightning: prints an invoice and waits for it to be paid."""
    where = place(data)
    mint = (mint_url or where.mint_url or "").rstrip("/")
    if not mint:
        raise click.UsageError("name a mint with --mint")
    if where.mint_url and not is_local(host_of(mint)):
        raise CommandFailed(
            f"{where.folder} is a play network's wallet, which `satroute up --fresh` empties: "
            "name your relays first (SATROUTE_RELAYS), or a folder of your own (--data)"
        )

    async def work(opened: Wallet) -> int:
        operation = f"fund:{time.time_ns()}"
        invoice = await opened.invoice(sats, mint, "sat", operation)
        note("pay this Lightning invoice:")
        click.echo(invoice.bolt11)
        with err.status("waiting for the payment"):
            until = time.monotonic() + INVOICE_WAIT_S
            while await opened.claim(operation) is None:
                if time.monotonic() > until:
                    raise CommandFailed(
                        "not paid yet; once it is, the next `satroute wallet recover` fetches the money"
                    )
                await asyncio.sleep(POLL_S)
        return opened.balance_msat()

    note(f"the wallet in {where.folder} holds {in_sats(_with_wallet(where.folder, work))}")


@wallet.command(epilog="Example: satroute wallet receive < token.txt")
@data_option
@tor_options
def receive(data: Path | None) -> None:
    """Take in a Cashu token from standard input."""
    if sys.stdin.isatty():
        note("paste the token, then press Enter and Ctrl-D")
    token = decode(sys.stdin.read().strip())

    async def work(opened: Wallet) -> str:
        received = await opened.receive(token, f"receive:{time.time_ns()}")
        return f"{in_sats(received.amount_msat)} received, the mint took {in_sats(received.fee_msat)}"

    note(_with_wallet(place(data).folder, work))


@wallet.command(epilog="Example: satroute wallet send --sats 100 --mint https://mint.example.com")
@click.option("--sats", type=click.IntRange(min=1), required=True)
@click.option("--mint", "mint_url", callback=_mint, help="Whose coins; needed when there are several mints.")
@data_option
@tor_options
def send(sats: int, mint_url: str | None, data: Path | None) -> None:
    """Take money out as a Cashu token, on standard output."""
    folder = place(data).folder
    if not has_wallet(folder):
        raise CommandFailed(_no_wallet(data))

    async def work(opened: Wallet) -> None:
        fitting = [
            (mint, unit, sats * (MSAT_PER_SAT if unit == "msat" else 1))
            for (mint, unit), amount in opened.balances().items()
            if mint_url in (None, mint) and amount >= sats * (MSAT_PER_SAT if unit == "msat" else 1)
        ]
        if not fitting:
            raise CommandFailed(
                f"no mint holds {sats} sat of this wallet's; `satroute wallet balance` says what each holds"
            )
        mint, unit, amount = fitting[0]
        operation = f"send:{time.time_ns()}"
        try:
            click.echo((await opened.send(amount, mint, unit, operation, unread=True)).token)
        except (OSError, WalletError):  # nobody has seen it
            with suppress(WalletError):
                await opened.reclaim(operation)
            if unread := opened.unread():
                note(f"[yellow]{_unread_line(unread)}[/]")
            raise
        await opened.have_read(operation)

    _with_wallet(folder, work)


@wallet.command(epilog="Example: satroute wallet recover")
@data_option
@tor_options
@relays_option
def recover(data: Path | None, relays: tuple[str, ...]) -> None:
    """Fetch what interrupted requests, unclaimed invoices and unread tokens left at nodes and mints."""
    where = place(data, relays)
    if not has_wallet(where.folder):
        note(escaped(_no_wallet(data, relays)))
        return

    async def work(client: RouterClient) -> str:
        back_msat = await client.recover() + await client.wallet.take_back_unread()
        told = [f"{in_sats(back_msat)} came back; the wallet holds {in_sats(client.wallet.balance_msat())}"]
        if still_out := client.payments.out():
            told.append(_out_line(still_out))
        if unread := client.wallet.unread():
            told.append(_unread_line(unread))
        return "\n".join(told)

    note(asyncio.run(run_client(where.folder, where.relays, work)))


def _with_wallet(folder: Path, work: Callable[[Wallet], Awaitable[T]]) -> T:
    return _with_payments(folder, lambda payments: work(payments.wallet))


def _with_payments(folder: Path, work: Callable[[Payments], Awaitable[T]]) -> T:
    return asyncio.run(run_client(folder, (), lambda client: work(client.payments)))
