"""Fixtures of the kit's tests: a schema in the session's PostgreSQL, and a broker that fails on demand."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.transactions import Transactions
from tests.saga_kit.support import FaultyCluster, Schema
from tests.support.infrastructure import Infrastructure


@pytest_asyncio.fixture
async def schema(infrastructure: Infrastructure) -> AsyncIterator[Schema]:
    """Give this test a schema with the kit's tables."""
    url = infrastructure.database_url_admin
    engine = create_engine(parse_database_url(url), application_name="kit-tests", pool_size=10)
    transactions = Transactions(parse_database_url(url), application_name="kit-tests", size=10)
    one = Schema(engine, transactions, f"kit_{secrets.token_hex(4)}", url)
    await one.create()
    yield one
    await transactions.close()
    await one.execute("DROP SCHEMA {s} CASCADE")
    await engine.dispose()


@pytest.fixture(scope="module")
def cluster() -> Iterator[FaultyCluster]:
    """Give the tests of one module a mock cluster with librdkafka's fault injection."""
    one = FaultyCluster()
    yield one
    one.up()
    one.slow(0)
