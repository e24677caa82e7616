"""Handles batches of ticks: takes the gates of their assets, judges, and binds each order that fires to its tick.

A batch is judged in rounds, each a transaction of its own that writes a limited number of orders. The marks move in the
last round only, so a crash between rounds loses nothing: the same ticks come again, what has fired is out of the
indexes, and the rest is judged on the same ticks. An asset whose orders wait behind a full round goes on alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from contracts.assets import AssetPriceChanged
from contracts.codec import decode
from contracts.envelope import UnreadableMessage
from contracts.topics import ASSETS_PRICES
from order_saga.core.phases import MAX_TICK_AGE_S
from order_saga.triggers import store
from order_saga.triggers.book import Book
from order_saga.triggers.feed import Tick, admit, judge_age
from order_saga.triggers.metrics import BackwardFeeds
from saga_kit.messaging.batch import Effects
from saga_kit.runtime.crash_points import reached
from saga_kit.runtime.errors import DATABASE_ERRORS, LOCK_NOT_AVAILABLE, sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from uuid import UUID

    from contracts.envelope import Envelope
    from order_saga.triggers.book import Hit
    from order_saga.triggers.feed import Admitted
    from order_saga.triggers.metrics import TriggerMetrics
    from order_saga.triggers.store import Market
    from saga_kit.messaging.batch import Received, Record
    from saga_kit.runtime.transactions import Begins, Transaction

TICK_AGE_MAX: Final = timedelta(seconds=MAX_TICK_AGE_S)
"""An older tick moves watermarks and fires nothing. It does not scale with the saga's clock."""
ROUND_MAX: Final = 2_000
"""Rows that one statement of a round may find."""

log = structlog.get_logger(__name__)


class TriggerPoint(StrEnum):
    """Places between two effects of a batch of ticks: see `saga_kit.runtime.crash_points`."""

    TICKS_TAKEN = "ticks taken"
    """Nothing of the round has begun."""
    ROUND_WRITTEN = "round written"
    """Orders are bound to ticks; nothing is committed."""
    ROUND_COMMITTED = "round committed"
    """They are; the marks are as before, and more orders wait for the same ticks."""
    MARK_MOVED = "mark moved"
    """The last round is committed."""
    FIRED_HANDED = "fired handed"
    """The ids of a round are handed on; no offset is committed."""


class Price(NamedTuple):
    """One message of the feed."""

    asset_id: str
    tick: Tick


class TriggerHandler:
    """The trigger engine's handler: see `saga_kit.messaging.batch.Handler`. Its rounds begin their own transactions."""

    topics = (ASSETS_PRICES.name,)
    compacted = (ASSETS_PRICES.name,)
    """Those of its topics that are to be compacted."""

    def __init__(
        self,
        transactions: Begins,
        *,
        metrics: TriggerMetrics,
        on_fired: Callable[[Sequence[UUID]], None],
        age_max: timedelta = TICK_AGE_MAX,
        round_max: int = ROUND_MAX,
    ) -> None:
        """`on_fired` gets, after each commit, the ids of the orders that were fired or triggered, in their order."""
        self._transactions = transactions
        self._metrics = metrics
        self._on_fired = on_fired
        self._age_max = age_max
        self._round_max = round_max
        self._backward = BackwardFeeds(metrics)

    def decode(self, envelope: Envelope, record: Record) -> Price:
        """Read one record. A tick's age counts from the broker's time or the source's confirmation, the older one."""
        message = decode(envelope.type, record.value)
        if not isinstance(message, AssetPriceChanged):
            raise UnreadableMessage(f"{envelope.type} is not for the trigger engine")
        appended_at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
        confirmed_at = message.confirmed_at or message.as_of
        tick = Tick(message.sequence, message.price, message.as_of, confirmed_at, appended_at, message.trading)
        return Price(message.asset_id, tick)

    async def handle(self, _: Transaction, received: Sequence[Received[Price]]) -> Effects:
        """Judge a batch to its end, in transactions of its own. It may run again at any time, and does no harm."""
        ticks: dict[str, list[Tick]] = {}
        for price in (each.message for each in received):
            ticks.setdefault(price.asset_id, []).append(price.tick)
        batch = _Batch(self._transactions, ticks, self._age_max, self._round_max)
        busy = await self._free_ones(batch, list(ticks))
        for asset_id in await self._free_ones(batch, busy):
            await self._alone(batch, asset_id)
        return Effects()

    async def park(self, _tx: Transaction, _message: Received[Price], _reason: str) -> bool:
        """Park nothing: a tick that can't be judged belongs to no order alone, and becomes a dead letter."""
        return False

    async def _free_ones(self, batch: _Batch, asset_ids: Collection[str]) -> list[str]:
        """Judge the assets whose gates are free; return the others."""
        if not asset_ids:
            return []
        done = await batch.round(asset_ids, wait=False)
        self._after(batch, done)
        if done.full:
            hits = [hit.row.asset_id for hit in done.hits]
            for asset_id in sorted(done.markets, key=hits.count):  # calm assets do not wait for the others
                await self._alone(batch, asset_id)
        return [asset_id for asset_id in asset_ids if asset_id not in done.markets]

    async def _alone(self, batch: _Batch, asset_id: str) -> None:
        """Judge one asset in as many rounds as it takes. Between them, batches of orders get its gate."""
        while True:
            done = await batch.round([asset_id], wait=True)
            self._after(batch, done)
            if not done.full:
                return

    def _after(self, batch: _Batch, done: _Done) -> None:
        """Hand on and count what a round has committed."""
        ids = [hit.row.order_id for hit in done.hits]
        reached(TriggerPoint.ROUND_COMMITTED if done.full else TriggerPoint.MARK_MOVED, ids)
        if ids:
            self._on_fired(ids)
            reached(TriggerPoint.FIRED_HANDED, ids)
        self._metrics.count_hits(done.hits, done.ticks, done.now)
        for asset_id, admitted in () if done.full else done.admitted.items():
            self._metrics.count_ticks(admitted)
            self._backward.note(asset_id, batch.ticks[asset_id], admitted)


class _Done(NamedTuple):
    """A committed round."""

    full: bool
    """It found as many rows as it may, so the marks have not moved."""
    markets: dict[str, Market]
    """Of the assets whose gates it had."""
    admitted: dict[str, Admitted]
    hits: list[Hit]
    ticks: dict[tuple[str, int], Tick]
    """The ticks of those assets, by asset and sequence."""
    now: datetime


class _Batch:
    """A batch of ticks, and their ages, which are judged once."""

    def __init__(self, transactions: Begins, ticks: dict[str, list[Tick]], age_max: timedelta, round_max: int) -> None:
        self.ticks = ticks
        self._transactions = transactions
        self._age_max = age_max
        self._round_max = round_max
        self._judged: set[str] = set()

    async def round(self, asset_ids: Collection[str], *, wait: bool) -> _Done:
        """Do a round on assets whose gate is free, or `wait` for that of one asset; commit it."""
        reached(TriggerPoint.TICKS_TAKEN, asset_ids)
        try:
            async with self._transactions.begin() as tx:
                if wait:
                    for asset_id in asset_ids:
                        await store.wait_for_gate(tx, asset_id)
                    taken = set(asset_ids)
                else:
                    taken = await store.try_gates(tx, asset_ids)
                done = await self._judge(tx, sorted(taken))
                await tx.flush()
                reached(TriggerPoint.ROUND_WRITTEN, [hit.row.order_id for hit in done.hits])
        except DATABASE_ERRORS as error:
            if sqlstate_of(error) == LOCK_NOT_AVAILABLE:
                # The kit would drop a tick that a lock holds up, for ticks come again; but their prices may not.
                raise TimeoutError(f"the gate of {', '.join(asset_ids)} is held for very long") from error
            raise
        return done

    async def _judge(self, tx: Transaction, asset_ids: Sequence[str]) -> _Done:
        markets, now = await store.read_market(tx, asset_ids)
        for asset_id in set(asset_ids) - self._judged:
            self.ticks[asset_id] = [judge_age(tick, now, self._age_max) for tick in self.ticks[asset_id]]
            self._judged.add(asset_id)
        admitted = {asset_id: admit(market.mark, self.ticks[asset_id]) for asset_id, market in markets.items()}
        books = {
            asset_id: Book(market.mark, market.steps, market.trails, admitted[asset_id].path)
            for asset_id, market in markets.items()
        }
        hits, full = await self._hits(tx, books, now)
        ticks = {(asset_id, tick.sequence): tick for asset_id in markets for tick in self._known(asset_id, markets)}
        store.write_hits(tx, hits, {key: tick.as_of for key, tick in ticks.items()}, now)
        if not full:
            marks = {asset_id: one.mark for asset_id, one in admitted.items() if one.mark is not None}
            store.write_marks(
                tx, {asset_id: mark for asset_id, mark in marks.items() if mark != markets[asset_id].mark}
            )
            store.write_steps(
                tx, {(a, side): moved for a, book in books.items() for side, moved in book.moved().items()}
            )
            store.write_oldest(
                tx, {(a, trail): upto for a, book in books.items() for trail, upto in book.oldest().items()}
            )
        return _Done(full, markets, admitted, hits, ticks, now)

    def _known(self, asset_id: str, markets: dict[str, Market]) -> list[Tick]:
        """List an asset's ticks, those that count last: the first of each sequence, and the mark before all."""
        mark = markets[asset_id].mark
        return [*reversed(self.ticks[asset_id]), *([mark] if mark else [])]

    async def _hits(self, tx: Transaction, books: dict[str, Book], now: datetime) -> tuple[list[Hit], bool]:
        """Find what fires, at most `round_max` rows by levels and as many by trails; tell whether there may be more."""
        most = self._round_max
        spans = {asset_id: span for asset_id, book in books.items() if (span := book.levels.span) is not None}
        probes = [(asset_id, trail, upto) for asset_id, book in books.items() for trail, upto in book.probes]
        points = {asset_id: books[asset_id].levels.extremes for asset_id in spans}
        by_level = await store.levels(tx, spans, points, now, most) if spans else []
        by_trail = await store.queues(tx, probes, now, most) if probes else []
        rows = {row.order_id: row for row in (*by_level, *by_trail)}
        hits = [hit for row in rows.values() if (hit := books[row.asset_id].judge(row)) is not None]
        return sorted(hits, key=lambda hit: hit.place), most in (len(by_level), len(by_trail))
