"""`satroute up` and `satroute demo`: a paid network of real parts on this machine, with play money."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import RenderableType
from rich.panel import Panel

from node.cli.buyer import answer_json
from node.cli.console import CommandFailed, escaped, note, out, print_json, steps
from node.cli.place import DATA, RELAYS, ROOT, Folder, folder_option
from node.cli.sheet import sheet
from node.localnet.model import MODEL_ID
from node.localnet.network import KEY_SATS, STEPS, LocalNetwork, fund, local_network
from relays.announcement import Announcement
from relays.event import npub
from relays.money import in_sats
from relays.routes import host_of
from router_client.buying.answer import Answer
from router_client.client import RouterClient
from router_client.paying.lnurl import is_local

POLL_S = 0.3
CLIENT_SATS = 1000
PLAY_MONEY = "This is play money: the mint's Lightning side is simulated, its sats are worth nothing."

_data = folder_option("Folder that all state lies in; else ~/.satroute/local.")
_own_data = click.option("--data", type=Folder(), help="Folder that all state lies in; else it goes with the run.")
_fresh = click.option("--fresh", is_flag=True, help="Forget what earlier runs left in that folder.")

TASKS: tuple[dict[str, Any], ...] = (
    {"max_tokens": 40, "messages": [{"role": "user", "content": "What is 2+2? Answer in one sentence."}]},
    {
        "max_tokens": 160,
        "messages": [
            {
                "role": "user",
                "content": "Summarise this for a newspaper, in three sentences: "
                + "Lighthouses were built where ships were lost. Their keepers burned wood, then oil, and later "
                "gas, and wrote down every ship, storm and bird that passed. When lamps became electric, the keepers "
                "were sent home one by one, and a small box with a clock did their work. Some towers fell into the "
                "sea. Others were bought by people who had never seen a storm, and who now sell tea in rooms where "
                "somebody once stayed awake for forty years so that strangers would not drown. " * 2,
            }
        ],
    },
    {
        "max_tokens": 400,
        "messages": [{"role": "user", "content": "Write a short story about a lighthouse keeper who finds a letter."}],
    },
)

BY_PRICE: dict[str, Any] = {"provider": {"sort": "price"}}
"""The story is of prices: who happens to be quicker shall not decide."""


@click.command(epilog="Example: satroute up --data ./network --fresh")
@_data
@_fresh
def up(data: Path | None, fresh: bool) -> None:
    """Start a mint, a relay, a model and two nodes here; show how to use them; stop everything at Ctrl-C."""
    folder = (data or ROOT / "local").absolute()
    with _stopped_by_signals(exit_code=0), _network(folder, fresh=fresh) as (network, announcements):
        key = asyncio.run(network.funded_key(network.nodes[0]))
        asyncio.run(_fund_client(network))
        out.print(_panel(network, announcements))
        click.echo(_recipes(network, key))
        _watch(network)


@click.command(epilog="Example: satroute demo --json | python -m json.tool")
@_own_data
@_fresh
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def demo(data: Path | None, fresh: bool, as_json: bool) -> None:
    """Start the network, buy three answers as a stranger would who knows only the relay, and stop."""
    with (
        _stopped_by_signals(exit_code=130),
        _folder(data) as folder,
        _network(folder, fresh=fresh) as (network, announcements),
    ):
        answers, spent_msat = asyncio.run(_story(network.relay_url, network.client_folder, quiet=as_json))
    result = {
        "receipts": [_receipt_json(answer) for answer in answers],
        "wallet_spent_msat": spent_msat,
        "nodes": len(announcements),
    }
    if as_json:
        print_json(result)
    else:
        out.print(_answers_table(answers))
        total_msat = sum(answer.cost_msat for answer in answers)
        out.print(f"receipts: {in_sats(total_msat)} · the wallet spent {in_sats(spent_msat)} · {PLAY_MONEY}")
    if problems := [answer.problem for answer in answers if not answer.verified]:
        raise CommandFailed(f"a receipt does not verify: {problems[0]}")


async def _story(relay_url: str, folder: Path, *, quiet: bool) -> tuple[list[Answer], int]:
    """Three tasks, bought by a stranger who knows a relay alone; returns the answers and what the wallet has less."""
    answers = []
    async with RouterClient.open([relay_url], folder) as client:
        providers = await client.directory.providers()
        await fund(client.wallet, providers[0].announcement.mints[0], CLIENT_SATS)
        before_msat = client.wallet.balance_msat()
        for number, task in enumerate(TASKS, start=1):
            question = str(task["messages"][-1]["content"])
            note(f"[bold]task {number}:[/] {escaped(question[:90])}{'…' if len(question) > 90 else ''}")
            show = None if quiet else lambda text: out.print(escaped(text), end="", soft_wrap=True)
            answers.append(await client.chat({**task, **BY_PRICE}, on_text=show))
            if not quiet:
                out.print("\n")
        if client.payments.open_count():
            await client.recover()
        return answers, before_msat - client.wallet.balance_msat()


@contextmanager
def _network(folder: Path, *, fresh: bool) -> Iterator[tuple[LocalNetwork, tuple[Announcement, ...]]]:
    """The network, up and announced, with a progress bar on the way."""
    logging.basicConfig(level=logging.ERROR)
    if fresh:
        asyncio.run(_check_play(folder / "client"))
    started = time.monotonic()
    with ExitStack() as stack:
        with steps("starting", STEPS) as done:
            network = stack.enter_context(local_network(folder, fresh=fresh, done=done))
            announcements = asyncio.run(network.announcements())
            done("announcements")
        note(f"[green]network up[/] in {time.monotonic() - started:.1f} s; state and logs in {folder}")
        yield network, announcements


async def _check_play(folder: Path) -> None:
    """Raise CommandFailed where the wallet of an earlier run, which is to be forgotten, holds what is no play money."""
    if not (folder / "wallet.db").exists():
        return
    async with RouterClient.open([], folder) as client:
        real = [mint for mint, _ in client.wallet.balances() if not is_local(host_of(mint))]
    if real:
        raise CommandFailed(
            f"the wallet in {folder} holds money of {real[0]}, which --fresh would lose: take it out first "
            f"(satroute wallet send --data {folder} --sats … --mint {real[0]})"
        )


async def _fund_client(network: LocalNetwork) -> None:
    """Some money for `satroute ask` on this network, the first time."""
    async with RouterClient.open([], network.client_folder) as client:
        if client.wallet.balance_msat() == 0:
            await fund(client.wallet, network.mint_url, CLIENT_SATS)


def _watch(network: LocalNetwork) -> None:
    """Until Ctrl-C; a part that ends by itself is reported once, the others go on."""
    reported: set[str] = set()
    while True:
        for child in network.crashed():
            if child.name not in reported:
                reported.add(child.name)
                note(
                    f"[bold red]the {escaped(child.name)} ended[/] with code {child.exit_code()}; its log {child.log} "
                    f"ends:\n{escaped(child.last_words())}\nCtrl-C stops the rest."
                )
        time.sleep(POLL_S)


@contextmanager
def _folder(data: Path | None) -> Iterator[Path]:
    """The folder named, or one for this run alone, which stays when the run fails: its logs say why."""
    if data is not None:
        yield data.absolute()
        return
    temporary = Path(tempfile.mkdtemp(prefix="satroute-demo-"))
    failed = False
    try:
        yield temporary
    except Exception:  # but not KeyboardInterrupt: who stops a run that works leaves nothing
        failed = True
        raise
    finally:
        if not failed:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _stopped_by_signals(exit_code: int) -> Iterator[None]:
    """SIGTERM and a closed terminal stop everything as Ctrl-C does; a second signal does not cut the stopping short."""

    def stop(_: int, __: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stop) for number in signals]
    try:
        yield
    except KeyboardInterrupt:
        note("stopped")
        raise click.exceptions.Exit(exit_code) from None
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _panel(network: LocalNetwork, announcements: tuple[Announcement, ...]) -> Panel:
    """What runs: for reading, not for pasting."""
    lines = [f"[bold yellow]{PLAY_MONEY}[/]", ""]
    for announcement in announcements:
        lines += [f"[bold]{escaped(announcement.name)}[/]  {announcement.urls[0]}/v1", f"  {npub(announcement.pubkey)}"]
        for offer in announcement.models or ():
            price = offer.price
            lines.append(
                f"  {offer.id}: per 1k tokens {in_sats(price.prompt_msat_per_mtok // 1000)} in, "
                f"{in_sats(price.completion_msat_per_mtok // 1000)} out; per request {in_sats(price.request_msat)}"
            )
    lines += ["", f"[bold]mint[/]   {network.mint_url}", f"[bold]relay[/]  {network.relay_url}"]
    return Panel("\n".join(lines), title="satroute: a paid AI network on this machine", expand=False)


def _recipes(network: LocalNetwork, key: str) -> str:
    """Lines to paste, unbroken."""
    url, data = network.nodes[0].url, _data_option(network)
    return f"""
# curl: {KEY_SATS} sat lie on this key, paid with ecash
KEY={key}
curl {url}/v1/chat/completions -H "Authorization: Bearer $KEY" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{MODEL_ID}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

# the OpenAI SDK, in Python
from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{key}")
messages = [{{"role": "user", "content": "Hello"}}]
chat = client.chat.completions.create(model="{MODEL_ID}", messages=messages)
print(chat.choices[0].message.content)

# the router client, in another terminal
uv run satroute nodes{data}
uv run satroute ask "What is 2+2?"{data}
uv run satroute proxy{data}    # any OpenAI SDK buys through it, at http://127.0.0.1:8402/v1

Ctrl-C stops everything."""


def _data_option(network: LocalNetwork) -> str:
    """What the other commands are told, to find this network whatever is named in the environment."""
    relays = f" --relay {network.relay_url}" if os.environ.get(RELAYS) else ""
    if network.folder == ROOT / "local" and not relays and not os.environ.get(DATA):
        return ""
    return f" --data {shlex.quote(str(network.folder))}{relays}"


def _answers_table(answers: list[Answer]) -> RenderableType:
    columns = ("task", "node", "model", "tier", "tokens", "cost", "saved", "receipt")
    rows = [
        (
            str(number),
            escaped(answer.node_name),
            escaped(answer.model),
            answer.tier,
            f"{answer.usage.prompt_tokens}+{answer.usage.completion_tokens}",
            f"{answer.cost_msat:,}",
            f"{answer.saved_msat:,}",
            "[green]verified[/]" if answer.verified else f"[red]{escaped(str(answer.problem))}[/]",
        )
        for number, answer in enumerate(answers, start=1)
    ]
    return sheet(columns, rows, out.width, title="three tasks (cost and saved in msat)")


def _receipt_json(answer: Answer) -> dict[str, Any]:
    return {name: value for name, value in answer_json(answer).items() if name != "text"}
