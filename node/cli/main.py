"""The `satroute` command: its groups, and errors in one line each."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, Final

import click

from node.cli.announce import announce
from node.cli.backup import backup, restore
from node.cli.buyer import ask, wallet
from node.cli.console import CommandFailed, write_what_fits
from node.cli.doctor import doctor
from node.cli.keys import keys
from node.cli.local import demo, up
from node.cli.nodes import nodes
from node.cli.price import price
from node.cli.proxy import proxy
from node.cli.route import route
from node.cli.serve import serve
from node.cli.spent import budget, report
from node.cli.trust import block, follow, recommend, trust
from node.errors import BadSettings, NodeFault
from node.version import VERSION
from relays.errors import RelaysError
from router_client.errors import ClientError

UNWRITTEN: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)
"""Of who writes a result into a file on a disk that is full or broken, or to nowhere (`>&-`)."""
UNREAD: Final = 128 + 13
"""SIGPIPE is 13. The signal itself stays ignored: it would end a program whose connection breaks as well."""


class _OneLine(click.Group):
    """Errors of the program end a command with one line each, not with a traceback."""

    def make_context(self, *args: Any, **settings: Any) -> click.Context:
        try:
            return super().make_context(*args, **settings)  # which writes its help
        except BrokenPipeError as error:
            raise click.exceptions.Exit(UNREAD) from error

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # which click would end with 1
            raise click.exceptions.Exit(UNREAD) from error
        except BadSettings as error:
            raise CommandFailed("\n".join(error.problems)) from error
        except UnicodeError as error:
            raise CommandFailed("the text given is not Unicode") from error
        except (NodeFault, ClientError, RelaysError) as error:
            raise CommandFailed(str(error)) from error


@click.group(cls=_OneLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="satroute")
def satroute() -> None:
    """Sell and buy AI inference per request, in ecash, found on Nostr.

    \b
    A paid network on this machine, with play money:   satroute up
    The same, and a story played on it once:           satroute demo
    Run a node for real:                               satroute serve --env-file .env
    See what it publishes before it does:              satroute announce --dry-run --env-file .env
    Buy an answer:                                     satroute ask "What is 2+2?"
    Let any OpenAI SDK buy:                            satroute proxy
    See who sells what, live:                          satroute nodes --watch
    Ask what it costs first:                           satroute price MODEL "What is 2+2?"
    See which node would serve, and why:               satroute route "What is 2+2?" --explain
    """


for _command in (
    *(up, demo, serve, announce, doctor, backup, restore, keys),
    *(ask, proxy, nodes, price, route, wallet, budget, report, trust, block, follow, recommend),
):
    satroute.add_command(_command)


def run() -> None:
    """Run the command of `sys.argv`. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 141 where who read the
    result has left, as a shell calls it."""
    write_what_fits()
    try:
        code = _code()
        sys.stdout.flush()
    except BrokenPipeError:
        code = UNREAD
        _close(1, 2)
    except OSError as error:
        if error.errno not in UNWRITTEN:
            raise
        _close(1)
        CommandFailed(f"the result cannot be written ({error.strerror})").show()
        code = 1
    sys.exit(code)


def _code() -> int:
    """Raises OSError for a result that cannot be written."""
    try:
        return satroute.main(standalone_mode=False) or 0
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code


def _close(*numbers: int) -> None:
    """What is left of a result is not tried again at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in numbers:
        os.dup2(nowhere, number)
