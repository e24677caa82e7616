"""What an operator does with one dead letter."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from order_saga.cli.reach import Trouble, kafka_settings, publishing
from saga_kit.dead_letters import DeadLetter, DeadLetters

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


async def show(engine: AsyncEngine, schema: str, number: int) -> dict[str, Any]:
    """Return a letter as people can read it; raises `Trouble` when there is no such."""
    letter = await DeadLetters(schema).get(engine, number)
    if letter is None:
        raise Trouble(f"there is no dead letter {schema}/{number}")
    return readable(letter)


async def replay(engine: AsyncEngine, schema: str, number: int) -> None:
    """Publish a letter again; raises `Trouble` when it is not open or the broker did not take it."""
    async with publishing(kafka_settings()) as publisher:
        if not await DeadLetters(schema).replay(engine, publisher, number):
            raise Trouble(f"dead letter {schema}/{number} is not open, or the broker did not take it")


async def discard(engine: AsyncEngine, schema: str, number: int) -> None:
    """Close a letter for good; raises `Trouble` when it is not open."""
    if not await DeadLetters(schema).discard(engine, number):
        raise Trouble(f"dead letter {schema}/{number} is not open")


def readable(letter: DeadLetter) -> dict[str, Any]:
    """Show bytes as text where they are UTF-8, else as base64."""
    shown = letter._asdict()
    for name in ("key", "value"):
        shown[name] = _text(shown[name])
    shown["headers"] = [[name, _text(value)] for name, value in letter.headers]
    return shown


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value or b"").decode()
