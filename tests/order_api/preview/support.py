"""An asset service for previews: it judges by the reference rules, over real topics, and can be told to misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import structs

from contracts.assets import AssetApproved, AssetRefused, CheckAsset, Trading
from contracts.codec import decode, outgoing
from contracts.envelope import Outgoing, read_envelope
from contracts.topics import ASSETS_COMMANDS
from order_api.settings import ApiSettings
from participants.assets.rules import Asset, CurrentPrice, judge
from saga_kit.messaging.publisher import Publisher

ASSETS = {
    "BTC": Asset("BTC", tick=Decimal("0.01")),
    "HALT": Asset("HALT", tick=Decimal("0.01"), trading=False),
}
PRICE = Decimal(50_000)
Reply = AssetApproved | AssetRefused


@dataclass
class AssetService:
    """What it was asked; `answers` may change what it says, and how often."""

    answers: Callable[[Reply], Sequence[Reply | Outgoing]] = lambda reply: [reply]
    trading: Trading = Trading.OPEN
    confirmed_before: timedelta = timedelta()
    asked: list[CheckAsset] = field(default_factory=list)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, an answer waits."""

    def answer(self, command: CheckAsset) -> Sequence[Outgoing]:
        """Judge as the reference service does."""
        self.asked.append(command)
        now = datetime.now(UTC)
        quote = CurrentPrice(PRICE, 7, now - timedelta(seconds=2), now - self.confirmed_before, self.trading)
        reply = judge(command, ASSETS.get(command.asset_id), quote, now, timedelta(seconds=10))
        made = [one if isinstance(one, Outgoing) else message_of(one) for one in self.answers(reply)]
        return [structs.replace(one, id=f"{one.id}:{number}") for number, one in enumerate(made)]


def message_of(reply: Reply) -> Outgoing:
    """Make the message of an answer."""
    name = f"{reply.command_id}:{type(reply).__name__}"
    return outgoing(reply, message_id=name, source="test/assets", time=datetime.now(UTC))


@asynccontextmanager
async def asset_service(settings: ApiSettings) -> AsyncIterator[AssetService]:
    """Answer the checks that come from now on."""
    service = AssetService()
    service.may_answer.set()
    publisher = Publisher(settings, client_id="assets-test")
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers, enable_auto_commit=False, fetch_max_wait_ms=20
    )
    await consumer.start()
    topic = settings.kafka_topic_prefix + ASSETS_COMMANDS.name
    consumer.assign([TopicPartition(topic, number) for number in range(ASSETS_COMMANDS.partitions)])
    await consumer.seek_to_end()
    for partition in consumer.assignment():
        await consumer.position(partition)

    async def serve() -> None:
        async for record in consumer:
            command = decode(read_envelope(record.headers).type, record.value)
            assert isinstance(command, CheckAsset)
            assert command.asset_id.encode() == record.key
            answers = service.answer(command)
            await service.may_answer.wait()
            await publisher.publish(answers)

    serving = asyncio.create_task(serve())
    try:
        yield service
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        await consumer.stop()
        await publisher.stop()
