"""The command `order-saga`: starts the command line, or says in one line which extra it needs."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line."""
    if find_spec("typer") is None or find_spec("rich") is None:
        sys.exit("order-saga: the command line is not installed; pip install 'order-saga[cli]' brings it")
    from operations.cli import main as run

    run()


if __name__ == "__main__":
    main()
