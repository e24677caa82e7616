"""Fixtures of the participants' tests: services with their production logins on a migrated database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url
from tests.participants.support import Balance, HoldService
from tests.support.infrastructure import Database


@pytest_asyncio.fixture
async def database(database: Database) -> Database:
    """Let this test's database commit without waiting for the disk, because the tests commit very often."""
    owner = await asyncpg.connect(database.url)
    await owner.execute(f'ALTER DATABASE "{urlsplit(database.url).path[1:]}" SET synchronous_commit = off')
    await owner.close()
    return database


@pytest_asyncio.fixture
async def balance(database: Database) -> AsyncIterator[Balance]:
    """Give one instance of the balance service."""
    engine = _engine(database, "balance")
    yield Balance(engine)
    await engine.dispose()


@pytest_asyncio.fixture
async def another_balance(database: Database) -> AsyncIterator[Balance]:
    """Give a second instance of the balance service, with its own connections."""
    engine = _engine(database, "balance")
    yield Balance(engine)
    await engine.dispose()


@pytest_asyncio.fixture
async def holds(database: Database) -> AsyncIterator[HoldService]:
    """Give one instance of what the balance service does for services that hold money."""
    engine = _engine(database, "balance")
    yield HoldService(engine)
    await engine.dispose()


@pytest_asyncio.fixture
async def more_holds(database: Database) -> AsyncIterator[HoldService]:
    """Give a second instance of it, with its own connections."""
    engine = _engine(database, "balance")
    yield HoldService(engine)
    await engine.dispose()


@pytest_asyncio.fixture
async def assets_engine(database: Database) -> AsyncIterator[AsyncEngine]:
    """Give the asset service's connections."""
    engine = _engine(database, "assets")
    yield engine
    await engine.dispose()


def _engine(database: Database, login: str) -> AsyncEngine:
    return create_engine(parse_database_url(database.url_of(login)), application_name=f"test-{login}")
