"""Run the local stack with dummy services until it gets a signal from a test."""

import sys
from pathlib import Path

from rich.console import Console

from local_stack.stack import LocalStack, StackOptions, up
from tests.local_stack.support import DUMMY_COMMAND


def ready(_: LocalStack) -> None:
    """Say to the test that the stack runs."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(up(Path(sys.argv[1]), StackOptions(command=DUMMY_COMMAND), ready, Console(stderr=True)))
