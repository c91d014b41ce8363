"""The `satroute` command: its groups, and errors in one line each."""

from __future__ import annotations

import sys

import click

from node.cli.buyer import ask, wallet
from node.cli.console import CommandFailed
from node.cli.keys import keys
from node.cli.local import demo, up
from node.cli.nodes import nodes
from node.cli.price import price
from node.cli.serve import serve
from node.cli.trust import block, follow, trust
from node.errors import BadSettings, NodeFault
from node.version import VERSION
from relays.errors import RelaysError
from router_client.errors import ClientError


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
    Buy an answer:                                     satroute ask "What is 2+2?"
    See who sells what, live:                          satroute nodes --watch
    Ask what it costs first:                           satroute price MODEL "What is 2+2?"
    """


for _command in (up, demo, serve, keys, ask, nodes, price, wallet, trust, block, follow):
    satroute.add_command(_command)


def run() -> None:
    """Run the command of `sys.argv`. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        sys.exit(satroute.main(standalone_mode=False))
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
