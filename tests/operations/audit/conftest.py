"""Fixtures of the audit's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from tests.migrations.support import connected
from tests.support.infrastructure import Database


@pytest_asyncio.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Connect as the owner to a migrated database, to plant faults in it."""
    async with connected(database.url) as connection:
        yield connection
