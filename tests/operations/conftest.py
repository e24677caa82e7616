"""The desk that every test here sits at."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.operations.support import Desk, desk_of
from tests.support.infrastructure import Database


@pytest_asyncio.fixture
async def desk(database: Database) -> AsyncIterator[Desk]:
    """Give a desk at a database without any order."""
    async with desk_of(database) as one:
        yield one
