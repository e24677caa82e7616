"""Run the checks: page by page, each look with a snapshot of its own, and repeated until looks agree.

So no transaction is long. What looks wrong is a finding only when a later look agrees; where it may be a message in
flight, only when it stays so for `settle_s`. Memory is bounded: only findings are stored, and their number is limited.

No database can show that an event without an outbox row is on the broker. The row is deleted only after the broker has
acknowledged the event, and tests compare the topic.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from operations.audit import checks
from operations.audit.ledger import find
from operations.audit.query import ONE, PAGE, AuditLook, Check, statement
from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

SETTLE_S: Final = 40.0
"""Longer than a message takes when its relay died: the lease of its outbox row."""
LOOK_S: Final = 0.5
PAGE_ORDERS: Final = 1_000_000
"""Whole tables are read for a page, so few large pages cost less than many small ones."""
FINDINGS_MAX: Final = 1_000
"""Findings of one check in one page, and in all."""
STATEMENT_TIMEOUT_S: Final = 600
WORK_MEM: Final = "16MB"
"""What one sort or hash of the server may take before it goes to temporary files."""


class Finding(NamedTuple):
    """An invariant that does not hold, the order (None: an account or an asset), what is wrong in words, the check."""

    invariant: str
    order_id: UUID | None
    what: str
    check: str


class Suspect(NamedTuple):
    """A row that met a check in one look."""

    look: AuditLook
    check: Check
    key: tuple[Any, ...]
    what: str

    @property
    def finding(self) -> Finding:
        """The row as a finding."""
        return Finding(self.check.invariant, self.key[0], self.what, self.check.name)


class Audited(NamedTuple):
    """What an audit found, how many orders it has looked at, and why it could not see the ledger, if so."""

    findings: list[Finding]
    orders: int
    hidden: str = ""


async def audit(
    database: str | AsyncEngine,
    *,
    settle_s: float = SETTLE_S,
    progress: Callable[[int], None] | None = None,
    ledger: str = "",
) -> list[Finding]:
    """Check a running system and return what is wrong, in the order of the invariants. The auditor's login will do.

    It takes up to `settle_s` longer when something seems to be wrong. `progress` is called with the number of orders so
    far. `ledger` says where the ledger's views are (`ledger.find`); without them, checks that need them are left out.
    Raises what SQLAlchemy and the driver raise.
    """
    async with connection_to(database) as connection:
        return (await audit_on(connection, settle_s=settle_s, progress=progress, ledger=ledger)).findings


async def audit_on(
    connection: AsyncConnection,
    *,
    settle_s: float = SETTLE_S,
    progress: Callable[[int], None] | None = None,
    ledger: str = "",
) -> Audited:
    """Check a running system on a connection of `connection_to`: see `audit`."""
    where = await find(connection, ledger)
    seen, suspects = await _first_look(connection, tuple(checks.looks(where.schema)), progress)
    give_up_at = time.monotonic() + settle_s
    while suspects:
        await asyncio.sleep(min(LOOK_S, settle_s))
        suspects = await _look_again(connection, suspects)
        if time.monotonic() >= give_up_at or not any(suspect.look.in_flight for suspect in suspects):
            break
    found = {suspect.finding for suspect in suspects}
    findings = sorted(found, key=lambda one: (int(one.invariant[1:]), str(one.order_id), one.what))
    return Audited(findings, seen, where.hidden)


@asynccontextmanager
async def connection_to(database: str | AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Connect with a time limit that suits sums over all rows, which a service's own engine has not."""
    url = database.url if isinstance(database, AsyncEngine) else parse_database_url(database)
    settings = {
        "default_transaction_read_only": "on",
        "plan_cache_mode": "force_custom_plan",  # one plan can't suit both a page and a single order
        "work_mem": WORK_MEM,
        "enable_nestloop": "off",  # a wrong guess of the planner's about a page must not cost its square
        "enable_parallel_hash": "off",  # it lives in shared memory, of which a container may have little
        "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    }
    engine = create_engine(
        url,
        application_name="order-saga audit",
        pool_size=0,
        command_timeout_s=STATEMENT_TIMEOUT_S + 60,
        settings=settings,
    )
    try:
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def _first_look(
    connection: AsyncConnection, looks: Sequence[AuditLook], progress: Callable[[int], None] | None
) -> tuple[int, list[Suspect]]:
    suspects: list[Suspect] = []
    seen = 0
    async for seen, page in _pages(connection):
        for look in (look for look in looks if look.by_order):
            suspects += await _look(connection, look, page)
        suspects = list(_bounded(suspects))
        if progress is not None:
            progress(seen)
    for look in (look for look in looks if not look.by_order):
        suspects += await _look(connection, look)
    return seen, suspects


async def _pages(connection: AsyncConnection) -> AsyncIterator[tuple[int, tuple[UUID, UUID]]]:
    """Cut all possible order ids into ranges that hold a page of orders each, and count the orders so far."""
    seen, first, end = 0, UUID(int=0), UUID(int=2**128 - 1)
    while True:
        page = (await connection.exec_driver_sql(_PAGE, (first, PAGE_ORDERS))).one()
        seen += page.orders
        if page.orders < PAGE_ORDERS or page.last == end:
            yield seen, (first, end)
            return
        yield seen, (first, page.last)
        first = UUID(int=page.last.int + 1)


async def _look(connection: AsyncConnection, look: AuditLook, ids: Sequence[UUID] = ()) -> list[Suspect]:
    """Look at all, at a page (its first and last id), or at one order."""
    sql = statement(look, ONE if len(ids) == 1 else PAGE, FINDINGS_MAX)
    rows: Any = await connection.exec_driver_sql(sql, tuple(ids))
    return [Suspect(look, look.checks[number - 1], tuple(key), what) for number, _nth, what, *key in rows]


def _bounded(suspects: Iterable[Suspect]) -> Iterable[Suspect]:
    """Drop findings beyond the limit of each check."""
    counts: Counter[Check] = Counter()
    for suspect in suspects:
        counts[suspect.check] += 1
        if counts[suspect.check] <= FINDINGS_MAX:
            yield suspect


async def _look_again(connection: AsyncConnection, suspects: Sequence[Suspect]) -> list[Suspect]:
    """Return the suspects that this look sees too, in its words."""
    again: list[Suspect] = []
    for look in dict.fromkeys(suspect.look for suspect in suspects):
        if look.by_order:
            for order_id in dict.fromkeys(suspect.key[0] for suspect in suspects if suspect.look is look):
                again += await _look(connection, look, [order_id])
        else:
            again += await _look(connection, look)
    before = {(suspect.check, suspect.key) for suspect in suspects}
    return [suspect for suspect in again if (suspect.check, suspect.key) in before]


_PAGE: Final = """
    SELECT count(*) AS orders, (array_agg(order_id))[count(*)] AS last FROM (
        SELECT order_id FROM audit.orders WHERE order_id >= $1 ORDER BY order_id LIMIT $2) AS page"""
