"""Commands typed at a database with orders in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final

import typer.main
from typer.testing import CliRunner

from operations.access.errors import Trouble
from operations.cli import app
from operations.cli.failures import exit_status
from tests.e2e.system import Output
from tests.support.order_database import OrderDatabase
from tests.support.planned_api import PlannedApi

COMMAND: Final = typer.main.get_command(app)
"""All commands. The library makes them anew whenever one is typed, which takes ten times as long as to carry it out."""


class Terminal(OrderDatabase):
    """A database with orders in it, and a terminal with that database in its environment."""

    async def cli(self, *words: str, **environment: str) -> Output:
        """Type a command."""
        return await asyncio.to_thread(_typed, words, {"DATABASE_URL": self.url, "COLUMNS": "300", **environment})


class Answering:
    """Stands in for the API: gives the answers one after the other, and remembers what it was asked."""

    def __init__(self, server: PlannedApi) -> None:
        self._server = server

    def answer(self, *answers: Mapping[str, Any]) -> None:
        """Answer so next."""
        for one in answers:
            self._server.plan(200, one)

    @property
    def bodies(self) -> list[Any]:
        """Return what was sent."""
        return [asked.body for asked in self._server.asked]

    @property
    def calls(self) -> list[str]:
        """Return what was asked."""
        return [f"{asked.method} {asked.path}" for asked in self._server.asked]

    @property
    def keys(self) -> list[str | None]:
        """Return the idempotency keys."""
        return [asked.headers.get("idempotency-key") for asked in self._server.asked]

    def typed(self, *words: str) -> Any:
        """Type a command that calls it."""
        environment = {"ORDER_API_URL": self._server.address, "JWT_SECRET": "x" * 32, "COLUMNS": "200"}
        return CliRunner().invoke(app, list(words), env=environment)


def _typed(words: tuple[str, ...], environment: dict[str, str]) -> Output:
    result = CliRunner().invoke(app, list(words), env=environment)
    if isinstance(result.exception, Trouble):  # `main` makes one line and a status of it
        said = f"{result.stderr}order-saga: {result.exception}\n"
        return Output(exit_status(result.exception), result.stdout, said)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Output(result.exit_code, result.stdout, result.stderr)


def lines(output: Output) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in output.out.splitlines()]
