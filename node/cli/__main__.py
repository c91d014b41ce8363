"""`python -m node.cli` is the `satroute` command."""

from node.cli import main

if __name__ == "__main__":
    main()
