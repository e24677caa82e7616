"""Messages that must reach the broker are stored with the decision that sends them, and stay until it has them.

A row holds what one transaction keeps. Usually its own process publishes it from memory and deletes the row with its
next batch; the relay sends what was left behind (a crash, a broker that was away). Rows are claimed by a lease, never
read by a cursor over ids: ids do not commit in order. At least once, so consumers must tolerate repeats.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec
import structlog
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, LargeBinary, MetaData, Table, Text, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.envelope import Outgoing
from saga_kit.messaging.publisher import check_sizes
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.crash_points import CrashPoint, reached
from saga_kit.runtime.lookback import LookBack

GRACE_S: Final = 5.0
"""The relay leaves a row alone for this long: its own process is publishing it."""
LEASE_S: Final = 30.0
"""Nobody else takes a claimed row for this long; longer than a publish can take."""
RETRY_S: Final = 5.0
AT_ONCE_S: Final = 0.001
"""The `delay_s` of a message that no process publishes from memory: the relay sends it with its next round."""
UNREADABLE_S: Final = 600.0
"""A row that can't be read is looked at again after this; `outbox_oldest_unsent_seconds` tells of it meanwhile."""
CLAIM_ROWS_MAX: Final = 20
"""Rows a claim takes; after a failure one by one until none is due: a row that can't be sent must not repeat others."""
POLL_S: Final = 0.5
QUEUE_STORAGE: Final = {
    "autovacuum_vacuum_scale_factor": 0.0,
    "autovacuum_vacuum_threshold": 1000,
    "autovacuum_vacuum_cost_delay": 0,
    "autovacuum_analyze_scale_factor": 0.0,
    "autovacuum_analyze_threshold": 10000,
}
"""Storage parameters of queue-like tables: their rows die young, so vacuum by count and not by share."""

log = structlog.get_logger(__name__)


class OutboxMessage(msgspec.Struct, frozen=True):
    """A message that must reach the broker.

    `ref` is what an audit finds it by (an event's or a command's id). With `delay_s` > 0 the relay sends it, not before
    that long after the transaction; otherwise it is published from memory right after the commit.
    """

    ref: str
    outgoing: Outgoing
    delay_s: float = 0.0


class Publishes(Protocol):
    """What the outbox and the batch need of a publisher."""

    async def publish(self, messages: Sequence[Outgoing]) -> bool:
        """Publish all; True only when all are stored."""


def outbox_table(metadata: MetaData, schema: str) -> Table:
    """Describe `<schema>.outbox`. `due_at` never moves (alarms look at it); `available_at` moves with every claim."""
    return Table(
        "outbox",
        metadata,
        Column("outbox_id", BigInteger, Identity(always=True), primary_key=True),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("due_at", DateTime(timezone=True), nullable=False),
        Column("available_at", DateTime(timezone=True), nullable=False),
        Column("refs", ARRAY(Text), nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Index("outbox_available_at", "available_at"),
        schema=schema,
        postgresql_with=QUEUE_STORAGE,
    )


class Outbox:
    """The outbox of one schema, and the memory of what its process has published but not yet deleted."""

    def __init__(self, schema: str, *, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._sent: set[int] = set()
        insert = f"""
            INSERT INTO {schema}.outbox (due_at, available_at, refs, payload)
            SELECT now + make_interval(secs => $1), now + make_interval(secs => $2), $3, $4
            FROM clock_timestamp() AS now
            RETURNING outbox_id"""  # noqa: S608 - the schema's name is the program's own
        # What somebody holds locked is left to the relay, which sends it once more: no batch waits for it.
        delete = f"""
            DELETE FROM {schema}.outbox WHERE outbox_id = ANY(ARRAY(
                SELECT outbox_id FROM {schema}.outbox
                WHERE outbox_id = ANY({{ids}}::bigint[]) FOR UPDATE SKIP LOCKED))"""  # noqa: S608 - the same
        self._delete_sql = delete.format(ids="$1")
        self._insert_sql = insert
        self._replace_sql = f"WITH sent AS ({delete.format(ids='$5')}) {insert}"

    @property
    def sent(self) -> list[int]:
        """Ids of rows that the broker has and the table still shows."""
        return sorted(self._sent)

    async def write(
        self, tx: AsyncConnection, messages: Sequence[OutboxMessage], sent_ids: Sequence[int] = ()
    ) -> list[int]:
        """Store messages and delete rows that were sent; return the ids of the rows to publish from memory now.

        One statement for messages without a delay and the deletion together. Raises `OversizeMessage`.
        """
        check_sizes(one.outgoing for one in messages)
        groups: dict[float, list[OutboxMessage]] = defaultdict(list)
        for one in messages:
            groups[one.delay_s].append(one)
        to_publish = []
        for delay_s, group in sorted(groups.items()):
            values = (
                delay_s,
                delay_s or self._grace_s,
                [one.ref for one in group],
                msgspec.msgpack.encode([one.outgoing for one in group]),
            )
            if sent_ids:
                row = await tx.exec_driver_sql(self._replace_sql, (*values, sent_ids))
                sent_ids = ()
            else:
                row = await tx.exec_driver_sql(self._insert_sql, values)
            if not delay_s:
                to_publish.append(row.scalar_one())
        if sent_ids:
            await self.delete(tx, sent_ids)
        return to_publish

    async def delete(self, tx: AsyncConnection, ids: Sequence[int]) -> None:
        """Delete rows; ids that are gone already do no harm."""
        await tx.exec_driver_sql(self._delete_sql, (ids,))

    def remember(self, ids: Iterable[int]) -> None:
        """Note rows that the broker has."""
        self._sent.update(ids)

    def forget(self, ids: Iterable[int]) -> None:
        """Note that the deletion of these rows is committed."""
        self._sent.difference_update(ids)


class Relay:
    """Sends what was left behind, and deletes acknowledged rows when no batch comes to do it.

    Any number of relays may run: a row is claimed by one at a time (`SKIP LOCKED` and a lease).
    """

    def __init__(
        self,
        engine: AsyncEngine,
        schema: str,
        outbox: Outbox,
        publisher: Publishes,
        *,
        lease_s: float = LEASE_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._publisher = publisher
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._claim_rows = CLAIM_ROWS_MAX
        self._lingering: set[int] = set()
        self._lookback = LookBack()
        # statement_timestamp(), unlike clock_timestamp(), may be looked up in the index. The array is made before rows
        # are looked up; by a join, a plan that was made while the table was empty walks all of it instead.
        self._claim_sql = f"""
            UPDATE {schema}.outbox SET available_at = clock_timestamp() + make_interval(secs => $1)
            WHERE outbox_id = ANY(ARRAY(
                SELECT outbox_id FROM {schema}.outbox WHERE available_at <= statement_timestamp()
                    AND available_at > statement_timestamp() - make_interval(secs => $3)
                ORDER BY available_at, outbox_id LIMIT $2 FOR UPDATE SKIP LOCKED))
            RETURNING outbox_id, payload"""  # noqa: S608 - the schema's name is the program's own
        self._release_sql = f"""
            UPDATE {schema}.outbox SET available_at = clock_timestamp() + make_interval(secs => $1)
            WHERE outbox_id = ANY($2::bigint[])"""  # noqa: S608 - the same

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until `stopping`; what fails is tried again: the rows wait."""

        async def one_round() -> int:
            await self.sweep()
            return await self.relay_once()

        await keep_doing("relay", one_round, stopping, every_s=self._poll_s)

    async def relay_once(self) -> int:
        """Claim due rows, publish and delete them; return how many rows left."""
        rows = await self._claim()
        if not rows:
            self._claim_rows = CLAIM_ROWS_MAX
            return 0
        messages, ids, unreadable = _read(rows)
        log.debug("relaying", rows=len(rows), messages=len(messages))
        reached(CrashPoint.RELAY_CLAIMED, messages)
        sent = await self._publisher.publish(messages)
        reached(CrashPoint.RELAY_PUBLISHED, messages)
        if not sent:
            self._claim_rows = 1
        async with self._engine.begin() as tx:
            if sent:
                await self._outbox.delete(tx, ids)
            else:
                await tx.exec_driver_sql(self._release_sql, (RETRY_S, ids))
            if unreadable:
                log.error(
                    "outbox rows can't be read; they wait for a person, and nothing waits for them", rows=unreadable
                )
                await tx.exec_driver_sql(self._release_sql, (UNREADABLE_S, unreadable))
        reached(CrashPoint.RELAY_DELETED, messages)
        return len(ids) if sent else 0

    async def sweep(self, *, everything: bool = False) -> None:
        """Delete acknowledged rows that no batch has deleted since the last sweep, or all of them."""
        sent = set(self._outbox.sent)
        ids, self._lingering = sorted(sent if everything else sent & self._lingering), sent
        if ids:
            async with self._engine.begin() as tx:
                await self._outbox.delete(tx, ids)
                reached(CrashPoint.SWEPT, ids)
            self._outbox.forget(ids)

    async def _claim(self) -> list[tuple[int, bytes]]:
        with self._lookback.look() as look:
            async with self._engine.begin() as tx:
                result = await tx.exec_driver_sql(self._claim_sql, (self._lease_s, self._claim_rows, look.back_s))
                rows = sorted((row.outbox_id, row.payload) for row in result)
            look.saw_all = len(rows) < self._claim_rows
        return rows


def _read(rows: Sequence[tuple[int, bytes]]) -> tuple[list[Outgoing], list[int], list[int]]:
    """Return the messages of claimed rows, the ids of the rows that could be read, and of those that could not."""
    messages: list[Outgoing] = []
    readable, unreadable = [], []
    for outbox_id, payload in rows:
        try:
            messages += msgspec.msgpack.decode(payload, type=list[Outgoing])
            readable.append(outbox_id)
        except msgspec.DecodeError:  # by another version, or by somebody's hand
            unreadable.append(outbox_id)
    return messages, readable, unreadable
