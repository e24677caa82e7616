"""The audit: do the invariants I1 to I11 hold on the live system? It reads the auditors' views and nothing else.

A check is one query that says in words what is wrong, and answers nothing when all is well; the database does the sums.
Orders are gone through in pages, each query with a snapshot of its own, so that nothing is held up for long. What looks
wrong is a finding only when later looks agree; what may be a message in flight, only when it stays so for `settle_s`.

What no database can tell: that an event whose outbox row is gone is on the broker. The row is deleted only after the
broker has acknowledged it, and tests compare the topic.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from order_saga.tables import legal_moves
from saga_kit.settings import parse_database_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

SETTLE_S: Final = 40.0
"""Longer than a message can take although nothing is lost: the lease of an outbox row whose relay died."""
LOOK_S: Final = 0.5
PAGE_ORDERS: Final = 50_000
FINDINGS_MAX: Final = 1_000
"""Of one check."""
STATEMENT_TIMEOUT_S: Final = 600


class Finding(NamedTuple):
    """An invariant that does not hold, the order (None: an account or an asset), and what is wrong, in words."""

    invariant: str
    order_id: UUID | None
    what: str


class Check(NamedTuple):
    """A query for what breaks an invariant: order id or null, further columns that tell rows apart, and the words last.

    With a `page`, $1 and $2 are the first and the last order id to look at.
    """

    invariant: str
    sql: str
    page: bool = True
    in_flight: bool = False
    """A message on its way looks the same."""


class Suspect(NamedTuple):
    """What one look saw."""

    check: Check
    key: tuple[Any, ...]
    what: str


async def audit(
    database: str | AsyncEngine, *, settle_s: float = SETTLE_S, progress: Callable[[int], None] | None = None
) -> list[Finding]:
    """Check a running system and return what is wrong, in the order of the invariants. The auditor's login will do.

    It takes up to `settle_s` longer when something seems to be wrong. `progress` hears how many orders were looked at.
    Raises what SQLAlchemy and the driver raise.
    """
    async with _connection(database) as connection:
        suspects = await _first_look(connection, progress)
        give_up_at = time.monotonic() + settle_s
        while suspects:
            await asyncio.sleep(min(LOOK_S, settle_s))
            suspects = await _look_again(connection, suspects)
            if time.monotonic() >= give_up_at or not any(suspect.check.in_flight for suspect in suspects):
                break
    found = [Finding(suspect.check.invariant, suspect.key[0], suspect.what) for suspect in suspects]
    return sorted(found, key=lambda finding: (int(finding.invariant[1:]), str(finding.order_id), finding.what))


@asynccontextmanager
async def _connection(database: str | AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Connect with time enough for sums over all rows, which a service's own engine would not give."""
    url = database.url if isinstance(database, AsyncEngine) else parse_database_url(database)
    settings = {
        "application_name": "order-saga audit",
        "default_transaction_read_only": "on",
        "jit": "off",
        "plan_cache_mode": "force_custom_plan",  # one plan can't suit both a page and a single order
        "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    }
    engine = create_async_engine(
        url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args={"server_settings": settings}
    )
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def _first_look(connection: AsyncConnection, progress: Callable[[int], None] | None) -> list[Suspect]:
    suspects: list[Suspect] = []
    async for seen, page in _pages(connection):
        suspects += await _look(connection, (check for check in CHECKS if check.page), page, suspects)
        if progress is not None:
            progress(seen)
    return suspects + await _look(connection, (check for check in CHECKS if not check.page))


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


async def _look(
    connection: AsyncConnection, checks: Iterable[Check], page: Sequence[UUID] = (), known: Sequence[Suspect] = ()
) -> list[Suspect]:
    """Run checks; a check that has found enough already finds no more."""
    found: list[Suspect] = []
    counts = Counter(suspect.check for suspect in known)
    for check in checks:
        statement = f"{check.sql} LIMIT {FINDINGS_MAX - counts[check]}"
        rows = await connection.exec_driver_sql(statement, tuple(page) if check.page else ())
        found += [Suspect(check, tuple(row[:-1]), row[-1]) for row in rows]
    return found


async def _look_again(connection: AsyncConnection, suspects: Sequence[Suspect]) -> list[Suspect]:
    """Return those that are still there, in the words of this look."""
    again: list[Suspect] = []
    for check in dict.fromkeys(suspect.check for suspect in suspects):
        if check.page:
            for order_id in dict.fromkeys(suspect.key[0] for suspect in suspects if suspect.check is check):
                again += await _look(connection, [check], (order_id, order_id))
        else:
            again += await _look(connection, [check])
    before = {(suspect.check, suspect.key) for suspect in suspects}
    return [suspect for suspect in again if (suspect.check, suspect.key) in before]


_PAGE: Final = """
    SELECT count(*) AS orders, (array_agg(order_id))[count(*)] AS last FROM (
        SELECT order_id FROM audit.orders WHERE order_id >= $1 ORDER BY order_id LIMIT $2) AS page"""


# The checks -----------------------------------------------------------------------------------------------------------
# One statement is one snapshot, so an order and its hold are seen as of one moment. The balance service commits before
# it answers, and the saga only after the answer: what an order shows, its hold has done already.
# An order's hold is <order id>:reserve and its journal entry <order id>:settle, both first in a primary key.

_JOURNAL_BALANCED: Final = """
    SELECT o.order_id, j.asset_id,
        format('its journal entry sums to %s %s, not to 0', trim_scale(sum(j.amount)), j.asset_id)
    FROM audit.orders o JOIN audit.journal j ON j.entry_id = o.order_id || ':settle'
    WHERE o.order_id BETWEEN $1 AND $2
    GROUP BY o.order_id, j.asset_id HAVING sum(j.amount) <> 0"""

_ASSET_BALANCED: Final = """
    SELECT NULL::uuid, asset_id, format('the journal of %s sums to %s, not to 0', asset_id, trim_scale(sum(amount)))
    FROM audit.journal GROUP BY asset_id HAVING sum(amount) <> 0"""

_ACCOUNT_IS_JOURNAL: Final = """
    SELECT NULL::uuid, user_id, asset_id, format(
        '%s has %s %s available and %s held, the journal says %s in all', user_id, trim_scale(coalesce(a.available, 0)),
        asset_id, trim_scale(coalesce(a.held, 0)), trim_scale(coalesce(j.amount, 0)))
    FROM audit.accounts a FULL JOIN (
        SELECT account AS user_id, asset_id, sum(amount) AS amount FROM audit.journal
        WHERE account NOT IN ('@market', '@fees', '@external')
        GROUP BY account, asset_id) AS j USING (user_id, asset_id)
    WHERE coalesce(a.available + a.held, 0) <> coalesce(j.amount, 0)"""

_HELD_IS_HOLDS: Final = """
    SELECT NULL::uuid, user_id, asset_id, format(
        '%s has %s %s held, the active holds sum to %s', user_id, trim_scale(coalesce(a.held, 0)), asset_id,
        trim_scale(coalesce(h.amount, 0)))
    FROM audit.accounts a FULL JOIN (
        SELECT user_id, asset_id, sum(amount) AS amount FROM audit.holds
        WHERE state = 'HELD' GROUP BY user_id, asset_id) AS h USING (user_id, asset_id)
    WHERE coalesce(a.held, 0) <> coalesce(h.amount, 0)"""

_CAPTURED_ONCE: Final = """
    SELECT o.order_id, format(
        'its hold is %s with %s %s captured, the journal took %s from %s', h.state, trim_scale(h.captured), h.asset_id,
        trim_scale(coalesce(-j.amount, 0)), h.user_id)
    FROM audit.orders o
    JOIN audit.holds h ON h.hold_id = o.order_id || ':reserve'
    LEFT JOIN audit.journal j
        ON j.entry_id = o.order_id || ':settle' AND j.account = h.user_id AND j.asset_id = h.asset_id
    WHERE o.order_id BETWEEN $1 AND $2 AND coalesce(-j.amount, 0) <> h.captured"""

_JOURNAL_IS_FILL: Final = """
    SELECT o.order_id, format(
        'it shows %s %s filled with a fee of %s, the journal gave %s %s %s and charged %s',
        trim_scale(o.filled_quantity), o.asset_id, trim_scale(o.fee), o.user_id, trim_scale(coalesce(j.gained, 0)),
        o.asset_id, trim_scale(j.fee))
    FROM audit.orders o CROSS JOIN LATERAL (
        SELECT sum(amount) FILTER (WHERE account = o.user_id AND asset_id = o.asset_id) AS gained,
            coalesce(sum(amount) FILTER (WHERE account = '@fees'), 0) AS fee
        FROM audit.journal WHERE entry_id = o.order_id || ':settle') AS j
    WHERE o.order_id BETWEEN $1 AND $2 AND o.status = 'COMPLETED' AND (j.fee <> o.fee OR j.gained IS DISTINCT FROM
        CASE WHEN o.order_type LIKE '%BUY' THEN o.filled_quantity ELSE -o.filled_quantity END)"""

_ONE_FILL: Final = """
    SELECT order_id, format('it has %s fills', count(*)) FROM audit.fills
    WHERE order_id BETWEEN $1 AND $2 GROUP BY order_id HAVING count(*) > 1"""

_ONE_HOLD: Final = """
    SELECT order_id, hold_id, format('it has a hold of its own name, %s, besides the one that it asked for', hold_id)
    FROM audit.holds WHERE hold_id <> order_id || ':reserve'"""

_ONE_ENTRY: Final = """
    SELECT order_id, entry_id, account, asset_id, format(
        'the journal entry %s moved %s %s for it, besides its settlement', entry_id, trim_scale(amount), asset_id)
    FROM audit.journal WHERE order_id IS NOT NULL AND entry_id <> order_id || ':settle'"""

_NOTHING_HELD_AT_THE_END: Final = """
    SELECT o.order_id, format('it is %s, its hold of %s %s is %s', o.status, trim_scale(h.amount), h.asset_id, h.state)
    FROM audit.orders o JOIN audit.holds h ON h.hold_id = o.order_id || ':reserve'
    WHERE o.order_id BETWEEN $1 AND $2 AND o.status IN ('CANCELLED', 'FAILED') AND h.state IN ('HELD', 'SETTLED')"""

_SETTLED_WHEN_COMPLETED: Final = """
    SELECT o.order_id, format('it is COMPLETED, its hold is %s', coalesce(h.state, 'missing'))
    FROM audit.orders o LEFT JOIN audit.holds h ON h.hold_id = o.order_id || ':reserve'
    WHERE o.order_id BETWEEN $1 AND $2 AND o.status = 'COMPLETED' AND h.state IS DISTINCT FROM 'SETTLED'"""

_FILL_IS_SHOWN: Final = """
    SELECT o.order_id, format(
        'it is %s and shows %s filled at %s with a fee of %s, %s', o.status, trim_scale(o.filled_quantity),
        coalesce(trim_scale(o.average_price)::text, 'no price'), trim_scale(o.fee),
        CASE WHEN f.fill_id IS NULL THEN 'and there is no fill that stands' ELSE format(
            'its fill is %s at %s with a fee of %s', trim_scale(f.quantity), trim_scale(f.price),
            trim_scale(f.fee)) END)
    FROM audit.orders o LEFT JOIN audit.fills f ON f.order_id = o.order_id AND NOT f.busted
    WHERE o.order_id BETWEEN $1 AND $2 AND (
        (o.filled_quantity, o.average_price, o.fee)
            IS DISTINCT FROM (coalesce(f.quantity, 0), f.price, coalesce(f.fee, 0))
        OR (o.status IN ('PROCESSING', 'COMPLETED')) <> (f.fill_id IS NOT NULL))"""

_HOLD_ENDS_ONCE: Final = """
    SELECT order_id, hold_id, format(
        'its hold of %s %s is %s with %s captured and %s refunded', trim_scale(amount), asset_id, state,
        trim_scale(captured), trim_scale(refunded))
    FROM audit.holds WHERE CASE state
        WHEN 'SETTLED' THEN captured + refunded <> amount
        WHEN 'REFUNDED' THEN captured <> 0 OR refunded <> amount
        ELSE captured <> 0 OR refunded <> 0 END"""

_SETTLED_XOR_REFUNDED: Final = """
    SELECT DISTINCT o.order_id, format('its settlement is in the journal, its hold is %s', coalesce(h.state, 'missing'))
    FROM audit.orders o
    JOIN audit.journal j ON j.entry_id = o.order_id || ':settle'
    LEFT JOIN audit.holds h ON h.hold_id = o.order_id || ':reserve'
    WHERE o.order_id BETWEEN $1 AND $2 AND h.state IS DISTINCT FROM 'SETTLED'"""

_WAKEABLE: Final = """
    SELECT order_id, format('it is %s in phase %s, neither due nor parked: nothing will ever wake it', status, phase)
    FROM audit.orders
    WHERE order_id BETWEEN $1 AND $2 AND status NOT IN ('COMPLETED', 'CANCELLED', 'FAILED')
        AND due_at IS NULL AND parked_reason IS NULL"""

_LEGAL_PATH: Final = f"""
    SELECT order_id, v.version, CASE
        WHEN v.order_id IS NULL THEN format('it is %s at version %s and has no history', o.status, o.version)
        WHEN broken.gap THEN format('version %s follows version %s', v.version, v.version_before)
        WHEN broken.move THEN format('version %s goes from %s to %s, after version %s was %s', v.version,
            coalesce(v.previous_status, 'nothing'), v.status, v.version_before, coalesce(v.status_before, 'nothing'))
        WHEN o.order_id IS NULL THEN format('its history has %s versions, and there is no such order', v.version)
        ELSE format('it is %s at version %s, its history ends with %s at version %s', o.status, o.version, v.status,
            v.version) END
    FROM (
        SELECT *, lag(version, 1, 0) OVER path AS version_before, lag(status) OVER path AS status_before,
            lead(version) OVER path IS NULL AS is_last
        FROM audit.versions WHERE order_id BETWEEN $1 AND $2
        WINDOW path AS (PARTITION BY order_id ORDER BY version)) AS v
    FULL JOIN (SELECT * FROM audit.orders WHERE order_id BETWEEN $1 AND $2) AS o USING (order_id)
    CROSS JOIN LATERAL (SELECT
        v.version <> v.version_before + 1 AS gap,
        v.previous_status IS DISTINCT FROM v.status_before
            OR concat(v.previous_status, '>', v.status) <> ALL (ARRAY['{"', '".join(legal_moves())}']) AS move,
        v.is_last AND (o.version, o.status) IS DISTINCT FROM (v.version, v.status) AS here) AS broken
    WHERE v.order_id IS NULL OR broken.gap OR broken.move OR broken.here"""  # noqa: S608 - the moves are our own

_HOLD_HAS_A_SAGA: Final = """
    SELECT h.order_id, h.hold_id, format(
        '%s %s of %s are %s for it, and %s', trim_scale(h.amount), h.asset_id, h.user_id, h.state,
        coalesce('it is ' || o.status, 'there is no such order'))
    FROM audit.holds h LEFT JOIN audit.orders o ON o.order_id = h.order_id
    WHERE (h.state = 'HELD' AND coalesce(o.status, 'FAILED') IN ('COMPLETED', 'CANCELLED', 'FAILED'))
        OR (h.state = 'SETTLED' AND o.order_id IS NULL)"""

_EVENT_SENT: Final = """
    SELECT order_id, version, format('the event of version %s waits in the outbox since %s', version, created_at)
    FROM audit.events_unsent WHERE created_at < statement_timestamp() - interval '5 s' ORDER BY created_at"""

_EVENT_OF_A_VERSION: Final = """
    SELECT e.order_id, e.version, format('the outbox holds an event of version %s, %s', e.version,
        coalesce('the order is at version ' || o.version, 'and there is no such order'))
    FROM audit.events_unsent e LEFT JOIN audit.orders o ON o.order_id = e.order_id
    WHERE e.version NOT BETWEEN 1 AND coalesce(o.version, 0)"""

_ONE_ORDER_A_KEY: Final = """
    SELECT order_id, format('its idempotency key %s of %s made another order too', idempotency_key, user_id)
    FROM audit.claims WHERE (user_id, idempotency_key) IN (
        SELECT user_id, idempotency_key FROM audit.claims WHERE idempotency_key IS NOT NULL
        GROUP BY user_id, idempotency_key HAVING count(*) > 1)"""

_ONE_CLAIM_A_CLIENT_ID: Final = """
    SELECT order_id, format('its client order id %s of %s was claimed for another order too', client_order_id, user_id)
    FROM audit.claims WHERE (user_id, client_order_id) IN (
        SELECT user_id, client_order_id FROM audit.claims WHERE client_order_id IS NOT NULL
        GROUP BY user_id, client_order_id HAVING count(*) > 1)"""

_ONE_ORDER_A_CLIENT_ID: Final = """
    WITH named AS (
        SELECT order_id, user_id, client_order_id FROM audit.orders
        WHERE client_order_id IS NOT NULL AND reason_code IS DISTINCT FROM 'DUPLICATE_CLIENT_ORDER_ID')
    SELECT order_id, format('its client order id %s of %s is on another order too', client_order_id, user_id)
    FROM named WHERE (user_id, client_order_id) IN (
        SELECT user_id, client_order_id FROM named GROUP BY user_id, client_order_id HAVING count(*) > 1)"""

_CLAIM_BECOMES_AN_ORDER: Final = """
    SELECT c.order_id, format('%s was promised it at %s, and there is no such order', c.user_id, c.created_at)
    FROM audit.claims c
    WHERE c.order_id BETWEEN $1 AND $2 AND c.created_at < statement_timestamp() - interval '5 s'
        AND NOT EXISTS (SELECT FROM audit.orders o WHERE o.order_id = c.order_id)"""

CHECKS: Final = (
    Check("I1", _JOURNAL_BALANCED),
    Check("I1", _ASSET_BALANCED, page=False),
    Check("I1", _ACCOUNT_IS_JOURNAL, page=False),
    Check("I1", _HELD_IS_HOLDS, page=False),
    Check("I2", _CAPTURED_ONCE),
    Check("I2", _JOURNAL_IS_FILL),
    Check("I2", _ONE_FILL),
    Check("I2", _ONE_HOLD, page=False),
    Check("I2", _ONE_ENTRY, page=False),
    Check("I3", _NOTHING_HELD_AT_THE_END),
    Check("I4", _SETTLED_WHEN_COMPLETED),
    Check("I4", _FILL_IS_SHOWN),
    Check("I5", _HOLD_ENDS_ONCE, page=False),
    Check("I5", _SETTLED_XOR_REFUNDED),
    Check("I6", _WAKEABLE),
    Check("I7", _LEGAL_PATH),
    Check("I8", _HOLD_HAS_A_SAGA, page=False),
    Check("I9", _EVENT_SENT, page=False, in_flight=True),
    Check("I9", _EVENT_OF_A_VERSION, page=False),
    Check("I10", _ONE_ORDER_A_KEY, page=False),
    Check("I10", _ONE_CLAIM_A_CLIENT_ID, page=False),
    Check("I10", _ONE_ORDER_A_CLIENT_ID, page=False),
    Check("I11", _CLAIM_BECOMES_AN_ORDER, in_flight=True),
)
