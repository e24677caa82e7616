"""The database that commands are typed at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from operations.access.database import connected
from tests.operations.cli.support import COMMAND, Answering, Terminal
from tests.support.infrastructure import Database
from tests.support.planned_api import PlannedApi, planned_api


@pytest.fixture(autouse=True)
def made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the commands that are typed made once."""
    monkeypatch.setattr("typer.main.get_command", lambda _: COMMAND)
    monkeypatch.setattr("typer.testing._get_command", lambda _: COMMAND)


@pytest_asyncio.fixture
async def db(database: Database) -> AsyncIterator[Terminal]:
    """Give a terminal at a database without any order."""
    async with connected(database.url) as engine:
        yield Terminal(database, engine)


@pytest.fixture
def server() -> Iterator[PlannedApi]:
    """Serve what an API would."""
    with planned_api() as one:
        yield one


@pytest.fixture
def api(server: PlannedApi) -> Answering:
    """Stand in for the API."""
    return Answering(server)
