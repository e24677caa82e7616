"""The database of the worker's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.infrastructure import Database
from tests.support.order_database import OrderDatabase, order_database


@pytest_asyncio.fixture
async def db(database: Database) -> AsyncIterator[OrderDatabase]:
    """Give a database without any order."""
    async with order_database(database) as one:
        yield one
