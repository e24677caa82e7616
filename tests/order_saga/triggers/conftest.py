"""The trigger engine on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url
from tests.order_saga.triggers.market import StoredMarket
from tests.support.infrastructure import Database


@pytest_asyncio.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    """Connect as the orchestrator's login, which has no more rights than it needs."""
    engine = create_engine(parse_database_url(database.url_of("orchestrator")), application_name="triggers")
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture
async def market(engine: AsyncEngine) -> StoredMarket:
    """Give a market on which nothing rests and no price has come."""
    return StoredMarket(engine)
