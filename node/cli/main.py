"""The `satroute` command: its groups, and errors in one line each."""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

import click

from node.cli.announce import announce
from node.cli.backup import backup, restore
from node.cli.buyer import ask, wallet
from node.cli.console import CommandFailed
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

DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Of who writes a result into a file."""


class _OneLine(click.Group):
    """Errors of the program end a command with one line each, not with a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BadSettings as error:
            raise CommandFailed("\n".join(error.problems)) from error
        except UnicodeEncodeError as error:
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
    """Run the command of `sys.argv`. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        code = satroute.main(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code)
    except click.exceptions.Abort:
        sys.exit(130)
    except OSError as error:
        if error.errno not in DISK:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it is not tried again
        CommandFailed(f"the result cannot be written ({error.strerror})").show()
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
