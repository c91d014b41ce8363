"""The command line."""

import sys


def main() -> None:
    """Entry point of `satroute`. What takes time to import is imported inside, so that Ctrl-C is quiet from the start."""
    try:
        from node.cli.main import run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        sys.exit(130)
