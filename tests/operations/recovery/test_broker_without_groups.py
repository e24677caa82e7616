"""Who reads, on a broker that can't tell."""

from __future__ import annotations

import pytest

from operations.access.errors import Trouble
from operations.recovery.groups import members
from saga_kit.runtime.settings import KafkaSettings
from tests.support.servers import EmbeddedBroker


async def test_a_broker_that_knows_no_groups_is_told_from_one_that_is_away() -> None:
    """The local stack's broker has no request for it: one line says so."""
    broker = EmbeddedBroker()
    with pytest.raises(Trouble, match="it takes Apache Kafka"):
        await members(KafkaSettings(kafka_bootstrap_servers=broker.address))
    broker.close()
