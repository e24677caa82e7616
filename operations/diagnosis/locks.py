"""Find the rows and the partitions of topics that others hold, so that our services wait: sessions, and producers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiokafka.errors import KafkaError

from contracts.topics import TOPICS
from operations.access import schemas
from operations.access.database import rows
from operations.access.words import time_of_day
from saga_kit.messaging.open_transactions import explain_held, find_open
from saga_kit.runtime.errors import describe

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from saga_kit.runtime.settings import KafkaSettings

LOOK_AGAIN_S: Final = 2.0
"""Our own transactions take milliseconds: a transaction that is open at both looks is not ours."""
BROKER_TIMEOUT_S: Final = 10.0

# Every login may see who holds which locks; only one with pg_read_all_stats sees when a transaction began.
_LOCKS: Final = """
    SELECT held.pid, held.virtualtransaction AS transaction, string_agg(DISTINCT held.name, ', ') AS tables,
        session.usename AS login, session.application_name AS application, session.xact_start AS since
    FROM (SELECT lock.pid, lock.virtualtransaction,
              class.relnamespace::regnamespace::text || '.' || class.relname AS name
          FROM pg_catalog.pg_locks AS lock JOIN pg_catalog.pg_class AS class ON class.oid = lock.relation
          WHERE lock.locktype = 'relation' AND lock.granted AND class.relkind IN ('r', 'p')
              AND lock.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
              AND class.relnamespace::regnamespace::text = ANY($1::text[])
              AND lock.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock')) AS held
    JOIN pg_catalog.pg_stat_activity AS session USING (pid)
    WHERE held.pid <> pg_backend_pid() GROUP BY 1, 2, 4, 5, 6 ORDER BY 1"""


class Holders(NamedTuple):
    """A line for each holder, in words; and why the broker could not be asked, if so."""

    lines: list[str]
    unasked: str = ""


async def held_rows(engine: AsyncEngine) -> Holders:
    """Name the sessions that hold rows or tables of ours for longer than a transaction of ours takes."""
    first = await rows(engine, _LOCKS, list(schemas.ALL))
    if not first:
        return Holders([])
    await asyncio.sleep(LOOK_AGAIN_S)
    second = {_transaction(row): row for row in await rows(engine, _LOCKS, list(schemas.ALL))}
    return Holders([_in_words(second[_transaction(row)]) for row in first if _transaction(row) in second])


async def held_partitions(settings: KafkaSettings) -> Holders:
    """Name the partitions of our topics that an open transaction holds."""
    try:
        async with asyncio.timeout(BROKER_TIMEOUT_S):
            found = await find_open(settings, [topic.name for topic in TOPICS])
    except (KafkaError, OSError) as error:
        where = settings.kafka_bootstrap_servers
        return Holders([], f"the broker at {where} can't be asked for open transactions: {describe(error)}")
    return Holders([explain_held(tp, offset) for tp, offset in found.items()])


def _transaction(row: dict[str, Any]) -> tuple[int, str]:
    return row["pid"], row["transaction"]


def _in_words(row: dict[str, Any]) -> str:
    since = f" since {time_of_day(row['since'])}" if row["since"] is not None else ""
    who = f"{row['application'] or 'a session'} ({row['login']}, pid {row['pid']})"
    return (
        f"{who} holds locks on {row['tables']} in a transaction that is open{since}: what it has locked waits for it;"
        f" 'SELECT pg_terminate_backend({row['pid']})' ends it"
    )
