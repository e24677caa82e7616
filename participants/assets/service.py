"""The asset service: the handler of `CheckAsset`, and its composition root.

A check reads only. A redelivered one may get another answer; the saga takes the first. Answers go through the outbox
all the same, so that none is lost, and so that the answer of a slow asset can wait there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import Field

from contracts.assets import CheckAsset
from contracts.codec import decode, outgoing
from contracts.envelope import Envelope, UnreadableMessage
from contracts.topics import ASSETS_COMMANDS
from participants.assets.feed import Feed
from participants.assets.price_store import SOURCE
from participants.assets.publication import PriceMetrics, Publication
from participants.assets.rules import judge
from participants.assets.session_store import follow_sessions
from participants.assets.store import Listing, listings
from participants.assets.tables import SCHEMA
from saga_kit.messaging.batch import BatchProcess, Effects, Received, Record
from saga_kit.messaging.outbox import OutboxMessage
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.settings import KitSettings, load
from saga_kit.runtime.transactions import Transaction
from saga_kit.service import Kit, run_service

NAME: Final = "assets"


class AssetsSettings(KitSettings):
    """Settings of the asset service."""

    http_port: int = 8003
    assets_stale_after_s: float = Field(10.0, gt=0)
    """A price that its source has not confirmed for longer than this is not traded on."""
    assets_confirm_every_s: float = Field(1.0, gt=0)
    """How often the reference price source confirms its prices, and looks whether an asset opens or closes."""
    assets_heartbeat_s: float = Field(10.0, gt=0)
    """How often the newest price of each asset is published again while its source stands by it."""


class AssetHandler:
    """Answers batches of checks: one read of all assets that they name, and a decision for each."""

    topics: Sequence[str] = (ASSETS_COMMANDS.name,)

    def __init__(self, stale_after: timedelta, catch_up: Callable[[], Awaitable[bool]]) -> None:
        """`stale_after`: how old the confirmation of a price may be; `catch_up`: see `Feed`."""
        self._stale_after = stale_after
        self._catch_up = catch_up

    def decode(self, envelope: Envelope, record: Record) -> CheckAsset:
        """Read a check; raises `UnreadableMessage` for anything else."""
        message = decode(envelope.type, record.value)
        if not isinstance(message, CheckAsset):
            raise UnreadableMessage(f"{envelope.type} is not a command for the asset service")
        return message

    async def handle(self, tx: Transaction, messages: Sequence[Received[CheckAsset]]) -> Effects:
        """Answer every check of the batch, after the source has had a chance to confirm its prices."""
        asset_ids = {received.message.asset_id for received in messages}
        known = await listings(tx, asset_ids)
        if await self._catch_up():  # after the read, which may have waited for the end of the same outage
            known = await listings(tx, asset_ids)
        return Effects(outbox=[self._answer(received, known.get(received.message.asset_id)) for received in messages])

    async def park(self, _tx: Transaction, _message: Received[CheckAsset], _reason: str) -> bool:
        """Park nothing: a check has no state. One that can't be handled becomes a dead letter."""
        return False

    def _answer(self, received: Received[CheckAsset], listing: Listing | None) -> OutboxMessage:
        command = received.message
        now = datetime.now(UTC) if listing is None else listing.read_at
        asset, quote = (None, None) if listing is None else (listing.asset, listing.quote)
        reply = judge(command, asset, quote, now, self._stale_after)
        message = outgoing(
            reply,
            message_id=f"{command.command_id}:{type(reply).__name__}",
            source=SOURCE,
            time=now,
            traceparent=received.envelope.traceparent if received.envelope is not None else None,
        )
        return OutboxMessage(command.command_id, message, (asset.answer_delay_s or 0.0) if asset is not None else 0.0)


def run() -> int:
    """Run the service until it is told to stop; return the exit status."""
    settings = load(AssetsSettings)

    stale_after = timedelta(seconds=settings.assets_stale_after_s)
    feeds: list[Feed] = []
    publications: list[Publication] = []

    def handler(kit: Kit) -> AssetHandler:
        feed = Feed(kit.transactions, settings.assets_confirm_every_s)
        feeds.append(feed)
        metrics = PriceMetrics(kit.registry)
        publications.append(
            Publication(kit.transactions, feed, kit.publisher, metrics, heartbeat_s=settings.assets_heartbeat_s)
        )
        return AssetHandler(stale_after, feed.catch_up)

    async def confirming(kit: Kit, _process: BatchProcess[CheckAsset]) -> None:
        await feeds[0].run(kit.stopping)

    async def following(kit: Kit, _process: BatchProcess[CheckAsset]) -> None:
        async def follow() -> None:
            await follow_sessions(kit.transactions)

        await keep_doing("following sessions", follow, kit.stopping, every_s=settings.assets_confirm_every_s)

    async def moving(kit: Kit, _process: BatchProcess[CheckAsset]) -> None:
        await publications[0].move(kit.stopping)

    async def repeating(kit: Kit, _process: BatchProcess[CheckAsset]) -> None:
        await publications[0].repeat(kit.stopping)

    tasks = [confirming, following, moving, repeating]
    return run_service(settings, name=NAME, schema=SCHEMA, handler=handler, tasks=tasks)
