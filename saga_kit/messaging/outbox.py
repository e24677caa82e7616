"""Stores messages in the transaction that decides to send them, and keeps each until the broker has it.

A row holds the messages of one transaction. Usually the process that wrote it publishes it from memory, and deletes the
row with its next batch. The relay sends what a crash, or a broker that was away, left behind. It claims rows by a
lease; a cursor over ids would skip rows, since ids do not commit in order. Messages are sent at least once, so
consumers must tolerate repeats.
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
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.envelope import Outgoing
from saga_kit.messaging.publisher import check_sizes
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.crash_points import CrashPoint, reached
from saga_kit.runtime.lookback import LookBack
from saga_kit.runtime.transactions import Begins, Transaction, alone, begin

GRACE_S: Final = 5.0
"""The relay leaves a new row alone for so long: the process that wrote it is publishing it."""
LEASE_S: Final = 30.0
"""No other relay takes a claimed row for so long; a publish takes less."""
RETRY_S: Final = 5.0
AT_ONCE_S: Final = 0.001
"""The `delay_s` of a message that no process publishes from memory: the relay sends it with its next round."""
UNREADABLE_S: Final = 600.0
"""A row that can't be decoded is tried again after this time; `outbox_oldest_unsent_seconds` shows it meanwhile."""
CLAIM_ROWS_MAX: Final = 20
"""Rows that one claim takes. After a failure each is claimed alone, so that one that can't be sent repeats no other."""
POLL_S: Final = 0.5
QUEUE_STORAGE: Final = {
    "autovacuum_vacuum_scale_factor": 0.0,
    "autovacuum_vacuum_threshold": 1000,
    "autovacuum_vacuum_cost_delay": 0,
    "autovacuum_analyze_scale_factor": 0.0,
    "autovacuum_analyze_threshold": 10000,
}
"""Storage parameters of queue-like tables. Their rows live for a moment, so vacuum by count, not by share."""

log = structlog.get_logger(__name__)


class OutboxMessage(msgspec.Struct, frozen=True):
    """A message that must reach the broker.

    `ref` is what an audit finds it by: the id of an event or a command. With `delay_s` > 0 the relay sends it, so many
    seconds after the transaction or later. Otherwise it is published from memory right after the commit.
    """

    ref: str
    outgoing: Outgoing
    delay_s: float = 0.0


class Publishes(Protocol):
    """What the outbox and the batch need of a publisher."""

    async def publish(self, messages: Sequence[Outgoing]) -> bool:
        """Publish all; return True only when the broker has stored all of them."""


def outbox_table(metadata: MetaData, schema: str) -> Table:
    """Describe `<schema>.outbox`. Alarms read `due_at`, which never changes; each claim moves `available_at` on."""
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
    """The outbox of one schema. It remembers which rows this process has published and not deleted yet."""

    def __init__(self, schema: str, *, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._sent: set[int] = set()
        self._insert_sql = f"""
            INSERT INTO {schema}.outbox (due_at, available_at, refs, payload)
            SELECT now + make_interval(secs => $1), now + make_interval(secs => $2), $3, $4
            FROM clock_timestamp() AS now"""  # noqa: S608 - the schema's name is the program's own
        # A locked row is left to the relay, which sends it once more: no batch waits for it.
        self._delete_sql = f"""
            DELETE FROM {schema}.outbox WHERE outbox_id = ANY(ARRAY(
                SELECT outbox_id FROM {schema}.outbox
                WHERE outbox_id = ANY($1::bigint[]) FOR UPDATE SKIP LOCKED))"""  # noqa: S608 - the same

    @property
    def sent(self) -> list[int]:
        """The ids of rows that the broker has and the table still holds."""
        return sorted(self._sent)

    def write(self, tx: Transaction, messages: Sequence[OutboxMessage], sent_ids: Sequence[int] = ()) -> list[int]:
        """Have messages stored, and rows deleted that were sent, with the other writes of the transaction.

        Return a list that their flush fills with the ids of the rows to publish from memory. Raises `OversizeMessage`.
        """
        check_sizes(one.outgoing for one in messages)
        groups: dict[float, list[OutboxMessage]] = defaultdict(list)
        for one in messages:
            groups[one.delay_s].append(one)
        if sent_ids:
            self.delete(tx, sent_ids)
        to_publish: list[int] = []
        for delay_s, group in sorted(groups.items()):
            values = (
                delay_s,
                delay_s or self._grace_s,
                [one.ref for one in group],
                msgspec.msgpack.encode([one.outgoing for one in group]),
            )
            stored = tx.write(self._insert_sql, *values, returning="outbox_id")
            if not delay_s:
                to_publish = stored
        return to_publish

    def delete(self, tx: Transaction, ids: Sequence[int]) -> None:
        """Have rows deleted with the other writes; an id without a row does no harm."""
        tx.write(self._delete_sql, ids)

    def remember(self, ids: Iterable[int]) -> None:
        """Remember rows that the broker has."""
        self._sent.update(ids)

    def forget(self, ids: Iterable[int]) -> None:
        """Forget rows whose deletion is committed."""
        self._sent.difference_update(ids)


class Relay:
    """Sends rows that no process has sent, and deletes acknowledged rows when no batch does.

    Any number of relays may run: `SKIP LOCKED` and a lease give a row to one of them at a time.
    """

    def __init__(
        self,
        source: AsyncEngine | Begins,
        schema: str,
        outbox: Outbox,
        publisher: Publishes,
        *,
        lease_s: float = LEASE_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._source = source
        self._outbox = outbox
        self._publisher = publisher
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._claim_rows = CLAIM_ROWS_MAX
        self._seen_before: set[int] = set()
        self._lookback = LookBack()
        # statement_timestamp(), unlike clock_timestamp(), can be looked up in the index. ARRAY(...) is computed before
        # the update looks up rows; with a join, a plan made while the table was empty reads the whole table.
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
        """Relay until `stopping`; after a failure the rows wait for the next round."""

        async def one_round() -> int:
            await self.sweep()
            return await self.relay_once()

        await keep_doing("relay", one_round, stopping, every_s=self._poll_s)

    async def relay_once(self) -> int:
        """Claim due rows, publish and delete them; return how many were sent."""
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
        async with begin(self._source) as tx:
            if sent:
                self._outbox.delete(tx, ids)
            else:
                await tx.execute(self._release_sql, RETRY_S, ids)
            if unreadable:
                log.error(
                    "outbox rows can't be read; they wait for a person, and nothing waits for them", rows=unreadable
                )
                await tx.execute(self._release_sql, UNREADABLE_S, unreadable)
        reached(CrashPoint.RELAY_DELETED, messages)
        return len(ids) if sent else 0

    async def sweep(self, *, everything: bool = False) -> None:
        """Delete acknowledged rows that no batch has deleted since the last sweep; all of them with `everything`."""
        sent = set(self._outbox.sent)
        ids, self._seen_before = sorted(sent if everything else sent & self._seen_before), sent
        if ids:
            async with begin(self._source) as tx:
                self._outbox.delete(tx, ids)
                await tx.flush()
                reached(CrashPoint.SWEPT, ids)
            self._outbox.forget(ids)

    async def _claim(self) -> list[tuple[int, bytes]]:
        with self._lookback.look() as look:
            async with alone(self._source) as tx:
                found = await tx.fetch(self._claim_sql, self._lease_s, self._claim_rows, look.back_s)
                rows = sorted((outbox_id, payload) for outbox_id, payload in found)
            look.saw_all = len(rows) < self._claim_rows
        return rows


def _read(rows: Sequence[tuple[int, bytes]]) -> tuple[list[Outgoing], list[int], list[int]]:
    """Decode claimed rows; return the messages, the ids of the rows that can be decoded, and those of the others."""
    messages: list[Outgoing] = []
    readable, unreadable = [], []
    for outbox_id, payload in rows:
        try:
            messages += msgspec.msgpack.decode(payload, type=list[Outgoing])
            readable.append(outbox_id)
        except msgspec.DecodeError:  # written by another version, or by hand
            unreadable.append(outbox_id)
    return messages, readable, unreadable
