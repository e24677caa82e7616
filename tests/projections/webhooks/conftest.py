"""Fixtures of the tests of webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest_asyncio

from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.transactions import Transactions
from tests.projections.webhooks.world import Webhooks
from tests.support.infrastructure import Database


@pytest_asyncio.fixture
async def webhooks(database: Database) -> AsyncIterator[Webhooks]:
    """Give the schema, with the production logins; commits do not wait for the disk."""
    owner = await asyncpg.connect(database.url)
    await owner.execute(f'ALTER DATABASE "{urlsplit(database.url).path[1:]}" SET synchronous_commit = off')
    api = await asyncpg.connect(database.url_of("api"))
    url = parse_database_url(database.url_of("webhooks"))
    transactions = Transactions(url, application_name="test-webhooks", size=10, by_key=True)
    yield Webhooks(transactions, api, owner)
    await transactions.close()
    await api.close()
    await owner.close()
