"""The command line."""

import os
import sys


def main() -> None:
    """Entry point of `satroute`. What takes time to import is imported inside, so that Ctrl-C is quiet from the start."""
    try:
        _open_what_is_closed()
        from node.cli.main import run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        sys.exit(130)


def _open_what_is_closed() -> None:
    """A stream that was closed (`>&-`) is None, and a file that is opened later would get its number. What should be read
    from it is empty, a result cannot be written to it, remarks are lost."""
    for name, mode, way in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, way), mode))
