"""Commands typed at a database with orders in it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
from typer.testing import CliRunner

from operations.access.errors import Trouble
from operations.cli import app
from operations.cli.failures import exit_status
from tests.e2e.system import Output
from tests.support.order_database import OrderDatabase


class Terminal(OrderDatabase):
    """A database with orders in it, and a terminal with that database in its environment."""

    async def cli(self, *words: str, **environment: str) -> Output:
        """Type a command."""
        return await asyncio.to_thread(_typed, words, {"DATABASE_URL": self.url, "COLUMNS": "300", **environment})


class Answering:
    """Stands in for the API: gives the answers one after the other, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.bodies: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.keys: list[str | None] = []

    def request(self, method: str, url: str, **more: Any) -> httpx2.Response:
        """Answer the next."""
        self.calls.append(f"{method} {url.removeprefix('http://api.test')}")
        self.bodies.append(more["json"])
        self.keys.append(more["headers"].get("Idempotency-Key"))
        return httpx2.Response(200, json=self.answers.pop(0))


def typed(*words: str) -> Any:
    """Type a command that calls the API."""
    environment = {"ORDER_API_URL": "http://api.test", "JWT_SECRET": "x" * 32, "COLUMNS": "200"}
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
