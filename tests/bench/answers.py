"""Both participants of the lean and the naive loop in one process: they approve every order and settle every hold.

The answers are computed and stored nowhere, so a repeated command gets the same answer. Without a ledger, a loop is
faster than any system with real participants can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from contracts.topics import ASSETS_COMMANDS, ASSETS_REPLIES, BALANCE_COMMANDS, BALANCE_REPLIES
from contracts.vocabulary import HoldState
from saga_kit.runtime.settings import KafkaSettings, load
from tests.bench import bare
from tests.bench.plain import AssetApproved, BalanceReserved, BalanceSettled, Command

_read = msgspec.json.Decoder(Command).decode
_write = msgspec.json.Encoder().encode


async def answer(settings: KafkaSettings) -> None:
    """Answer commands batch by batch."""
    topics = (ASSETS_COMMANDS.name, BALANCE_COMMANDS.name)
    async with bare.producer(settings) as producer, bare.consumer(settings, "answers", *topics) as consumer:
        bare.say_ready()
        async for records in bare.batches(consumer):
            await bare.publish(producer, settings.kafka_topic_prefix, "/answers", replies(records, datetime.now(UTC)))


def replies(records: Iterable[Any], now: datetime) -> Iterator[bare.Message]:
    """Approve every command."""
    for record in records:
        asked = _read(record.value)
        reply, topic = _yes(bare.type_of(record), asked, now)
        kind = type(reply).__name__
        reply_id = f"{asked.command_id}:{kind}"
        yield bare.Message(topic, bare.partition_of(asked.order_id), asked.order_id, reply_id, kind, _write(reply))


def _yes(kind: str, asked: Command, now: datetime) -> tuple[msgspec.Struct, str]:
    command_id, order_id, hold_id = asked.command_id, asked.order_id, asked.hold_id
    if kind == "CheckAsset":
        approved = AssetApproved(
            command_id, order_id, asked.asset_id, "20.00", 1, now, "0.01", "1", 10, "USD", 2, 1
        )  # fmt: skip
        return approved, ASSETS_REPLIES.name
    if kind == "ReserveBalance":
        reserved = BalanceReserved(
            command_id, order_id, hold_id, HoldState.HELD, asked.amount, asked.user_id, asked.asset_id
        )
        return reserved, BALANCE_REPLIES.name
    if kind == "SettleBalance":
        return BalanceSettled(
            command_id, order_id, hold_id, HoldState.SETTLED, asked.capture, "0", asked.user_id, asked.asset_id
        ), BALANCE_REPLIES.name
    raise ValueError(f"neither loop sends {kind}")


if __name__ == "__main__":
    bare.run_until_told(answer(load(KafkaSettings)))
