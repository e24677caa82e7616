"""Fixtures of the tests of transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.transactions import Transactions
from tests.saga_kit.support import Schema


@pytest_asyncio.fixture
async def names(schema: Schema) -> Schema:
    """Make a table of names, each with one number; both are unique."""
    await schema.execute(
        "CREATE TABLE {s}.names (id int GENERATED ALWAYS AS IDENTITY, name text CONSTRAINT one_name UNIQUE,"
        " number int CONSTRAINT one_number UNIQUE DEFERRABLE INITIALLY IMMEDIATE)"
    )
    return schema


@pytest_asyncio.fixture
async def only(names: Schema) -> AsyncIterator[Transactions]:
    """Make a pool of a single session."""
    one = Transactions(parse_database_url(names.url), application_name="kit-tests", size=1)
    yield one
    await one.close()


@pytest.fixture(params=["transactions", "engine"])
def source(names: Schema, request: pytest.FixtureRequest) -> AsyncEngine | Transactions:
    """Give what a transaction can be begun with: the pool, or an engine."""
    return names.engine if request.param == "engine" else names.transactions
