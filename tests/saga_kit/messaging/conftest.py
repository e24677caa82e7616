"""Fixtures of the messaging tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from saga_kit.messaging.publisher import Publisher
from tests.saga_kit.messaging.consumer_setup import PARTITIONS, ConsumerSetup
from tests.saga_kit.support import Schema, Worker, kit_settings
from tests.support.infrastructure import Infrastructure


@pytest_asyncio.fixture
async def setup(schema: Schema, infrastructure: Infrastructure, topic_prefix: str) -> AsyncIterator[ConsumerSetup]:
    """Give this test two topics and a worker."""
    await infrastructure.create_topics({f"{topic_prefix}{name}": PARTITIONS for name in ("t", "u", "out")})
    address = infrastructure.kafka_bootstrap_servers
    publisher = Publisher(kit_settings(schema.url, address, topic_prefix), timeout_s=15)
    yield ConsumerSetup(schema, address, topic_prefix, publisher, Worker(schema.name, topics=("t", "u")))
    await publisher.stop()
