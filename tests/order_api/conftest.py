"""Fixtures of the API's tests: a migrated database, the topic of requests, an API that serves over both, an issuer."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from pydantic import SecretStr

from contracts.topics import (
    ASSETS_COMMANDS,
    ASSETS_PRICES,
    ASSETS_REPLIES,
    HOLDS_EVENTS,
    HOLDS_REQUESTS,
    ORDERS_CANCELS,
    ORDERS_CHANGES,
    ORDERS_EVENTS,
    ORDERS_REQUESTS,
)
from order_api.settings import ApiSettings
from tests.order_api.issuer import ALGORITHMS, Issuer, issuing
from tests.order_api.support import SECRET, Api, Orchestrator, running
from tests.support.infrastructure import Database, Infrastructure


@pytest.fixture(scope="session")
def shared_prefix(infrastructure: Infrastructure) -> Iterator[str]:
    """Create one topic of requests for all tests of the API: they know their records by the order ids."""
    prefix = f"api{secrets.token_hex(4)}."
    topics = (
        *(ORDERS_REQUESTS, ORDERS_CANCELS, ORDERS_CHANGES, ORDERS_EVENTS),
        *(ASSETS_COMMANDS, ASSETS_PRICES, ASSETS_REPLIES, HOLDS_REQUESTS, HOLDS_EVENTS),
    )
    asyncio.run(infrastructure.create_topics({prefix + topic.name: topic.partitions for topic in topics}))
    yield prefix
    asyncio.run(infrastructure.delete_topics(prefix))


@pytest.fixture
def settings(infrastructure: Infrastructure, database: Database, shared_prefix: str) -> ApiSettings:
    """Make settings for an API with the API's own login."""
    return ApiSettings(
        database_url=SecretStr(database.url_of("api")),
        kafka_bootstrap_servers=infrastructure.kafka_bootstrap_servers,
        kafka_topic_prefix=shared_prefix,
        jwt_secret=SecretStr(SECRET),
        api_sweep_interval_s=0.05,
        api_rate_limit_per_s=0,
    )


@pytest_asyncio.fixture
async def api(settings: ApiSettings) -> AsyncIterator[Api]:
    """Run an API."""
    async with running(settings) as one:
        yield one


@pytest.fixture
def orchestrator(database: Database) -> Orchestrator:
    """Stand in for the orchestrator."""
    return Orchestrator(database.url)


@pytest_asyncio.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Run an issuer with one key of each kind."""
    async with issuing() as one:
        for alg in ALGORITHMS:
            one.add(alg, alg)
        yield one
