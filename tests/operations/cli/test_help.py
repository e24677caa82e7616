"""What `--help` shows as an example can be typed."""

from __future__ import annotations

import re
import shlex
from typing import Any, Final
from uuid import UUID

import pytest
import typer.main

from operations.cli import app
from tests.operations.cli.support import Terminal
from tests.operations.cli.test_typed import COMMANDS, LONG_LIVED

SELDOM_TYPED: Final = frozenset(
    {"acls", "accounts", "deposit", "migrate", "pauses", "sample-data", "settings", "token", "topics"}
)
"""They start or prepare a system, or need no option."""
ELSEWHERE: Final = (
    "orders",
    "submit",
    "preview",
    "watch",
    "cancel-all",
    "cancel-all-after",
    "--as",
    "--watch",
    "replay",
    "--seconds",
    "--told",
)
"""Words of examples that need the API or a broker, or that stay."""
ORDER: Final = str(UUID(int=1))


def _examples(command: Any) -> list[str]:
    text = " ".join((command.help or "").partition("Example")[2].split())
    return re.findall(r"order-saga .*?(?=, or |$)", text)


def _words(example: str) -> list[str]:
    return shlex.split(re.sub("(ORDER|HOLD|WEBHOOK)_ID", ORDER, example))[1:]


EXAMPLES: Final = {name: _examples(command) for name, command in COMMANDS.items()}
TYPED: Final = sorted({example for examples in EXAMPLES.values() for example in examples})


def test_every_command_that_operators_type_has_an_example() -> None:
    """One at least, which begins with the command itself."""
    without = {name[0] for name, examples in EXAMPLES.items() if not examples}
    assert LONG_LIVED | SELDOM_TYPED == without
    wrong = [
        e for name, examples in EXAMPLES.items() for e in examples if not e.startswith(" ".join(("order-saga", *name)))
    ]
    assert [] == wrong


@pytest.mark.parametrize("example", TYPED)
def test_an_example_is_understood(example: str) -> None:
    """Its options exist and take those values."""
    words = _words(example)
    command: Any = typer.main.get_command(app)
    context = command.make_context("order-saga", list(words))
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context)


_NEEDS_ANOTHER: Final = ({"webhooks", "--user"}, {"notify", "log"}, {"recover", "database"}, {"recover", "kafka"})


def _needs_another(example: str) -> bool:
    words = set(shlex.split(example))
    return bool(words & set(ELSEWHERE)) or any(those <= words for those in _NEEDS_ANOTHER)


@pytest.mark.parametrize("example", [each for each in TYPED if not _needs_another(each)])
async def test_an_example_does_something(example: str, db: Terminal) -> None:
    """Typed at a system with one order it finds or does something, or says what is missing: it is no wrong usage."""
    await db.begin(1)
    output = await db.cli(*_words(example))
    assert output.code in {0, 1}, output.err
