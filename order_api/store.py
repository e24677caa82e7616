"""The only SQL of this room. Each call is one statement in a transaction of its own; the clock is the database's.

It writes `api.claims` and `api.cancels`, and reads the views `api.orders` and `api.history`, where the orchestrator's
work shows. Statements go to the driver as they stand ($1 ..).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.decimals import Exact, Money, Price, Quantity
from contracts.orders import Order
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode
from order_api.messages import Cancel, Claim, Claimed

GRACE_S: Final = 5.0
"""The sweeper leaves a new claim or cancel alone for this long: its request is publishing it."""
PAUSE_MAX_S: Final = 300.0
"""After that, the pauses between two looks at one claim or cancel double, up to this."""
RETRY_S: Final = 2.0
HISTORY_PAGE: Final = 200

_CLAIM: Final = Claim.__struct_fields__
_ORDER: Final = Order.__struct_fields__


class Found(msgspec.Struct, frozen=True):
    """What is known of an order: our claim, the orchestrator's row, or both."""

    claimed: Claimed | None
    order: Order | None


class Entry(msgspec.Struct, frozen=True):
    """One thing that happened to an order. `status` and `version` stand with those that the public saw."""

    seq: int
    at: datetime
    kind: str
    name: str
    status: OrderStatus | None
    version: int | None
    detail: msgspec.Raw


class Store:
    """Reads and writes the schema `api`. Raises what SQLAlchemy and the driver raise."""

    def __init__(self, engine: AsyncEngine, *, grace_s: float = GRACE_S) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._grace_s = grace_s

    async def claim(self, claims: Sequence[Claim]) -> list[datetime | None]:
        """Commit those claims whose keys are free; return the time of each, None for one whose keys are taken.

        Of twins, in one call or two or in two processes, exactly one gets its keys: `ON CONFLICT` waits for the other.
        """
        columns = [[getattr(claim, name) for claim in claims] for name in _CLAIM]
        times = {row[0]: row[1] for row in await self._run(_INSERT_CLAIMS, *columns, self._grace_s)}
        return [times.get(claim.order_id) for claim in claims]

    async def holders(self, claim: Claim) -> list[Found]:
        """Return what holds the keys of a claim: nothing, one order, or two."""
        rows = await self._run(_SELECT_HOLDERS, claim.user_id, claim.idempotency_key, claim.client_order_id)
        return [_found(row) for row in rows]

    async def find(self, order_id: UUID) -> Found:
        """Return what is known of an order."""
        [row] = await self._run(_SELECT_ORDER, order_id)
        return _found(row)

    async def history(self, order_id: UUID, after: int) -> tuple[list[Entry], bool]:
        """Return a page of the history after that `seq`, and whether there is more."""
        rows = await self._run(_SELECT_HISTORY, order_id, after, HISTORY_PAGE + 1)
        return [_entry(row) for row in rows[:HISTORY_PAGE]], len(rows) > HISTORY_PAGE

    async def cancel(self, order_id: UUID, user_id: str, requested_by: str) -> Cancel:
        """Commit a cancel. Of several for one order the last stands; the same one again keeps its time."""
        [row] = await self._run(_UPSERT_CANCEL, order_id, user_id, requested_by, self._grace_s)
        return Cancel(*row)

    async def due_claims(self, limit: int) -> tuple[int, list[Claimed]]:
        """Lease claims that are due; return how many there were, and those whose order's row does not exist yet."""
        rows = await self._run(_SWEEP_CLAIMS, limit, self._grace_s, PAUSE_MAX_S)
        return len(rows), [_claimed(row) for row in rows if not row.settled]

    async def due_cancels(self, limit: int) -> tuple[int, list[Cancel]]:
        """Lease cancels that are due; return how many there were, and those that the order does not show yet."""
        rows = await self._run(_SWEEP_CANCELS, limit, self._grace_s, PAUSE_MAX_S)
        return len(rows), [Cancel(*row[:-1]) for row in rows if not row.settled]

    async def hand_back(self, table: str, order_ids: Sequence[UUID]) -> None:
        """End the lease of what could not be published: it is due again soon."""
        await self._run(_HAND_BACK[table], order_ids, RETRY_S)

    async def _run(self, statement: str, *values: Any) -> list[Any]:
        async with self._engine.connect() as connection:
            result = await connection.exec_driver_sql(statement, values)
            return list(result) if result.returns_rows else []


def _found(row: Any) -> Found:
    claim, order = row[: len(_CLAIM) + 1], row[len(_CLAIM) + 1 :]
    return Found(_claimed(claim) if claim[0] else None, _order(*order) if order[0] else None)


def _claimed(row: Any) -> Claimed:
    return Claimed(Claim(*row[: len(_CLAIM)]), row[len(_CLAIM)])


def _entry(row: Any) -> Entry:
    return Entry(row.seq, row.at, row.kind, row.name, row.status, row.version, msgspec.Raw(row.detail.encode()))


def _order(*row: Any) -> Order:
    values = dict(zip(_ORDER, row, strict=True))
    for name, kind in _KINDS.items():
        if values[name] is not None:
            values[name] = kind(values[name])
    return Order(**values)


_KINDS: Final[dict[str, type]] = {
    "order_type": OrderType,
    "status": OrderStatus,
    "quantity": Quantity,
    "price": Price,
    "filled_quantity": Money,
    "average_price": Exact,
    "fee": Money,
    "reason_code": ReasonCode,
}


def _columns(alias: str, names: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)


_BOTH: Final = f"{_columns('c', _CLAIM)}, c.created_at, {_columns('o', _ORDER)}"

_INSERT_CLAIMS: Final = f"""
    INSERT INTO api.claims ({", ".join(_CLAIM)}, next_publish_at)
    SELECT {_columns("n", _CLAIM)}, now() + make_interval(secs => $8)
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::text[])
        AS n({", ".join(_CLAIM)})
    ORDER BY n.user_id, n.idempotency_key, n.client_order_id
    ON CONFLICT DO NOTHING
    RETURNING order_id, created_at"""  # noqa: S608 - column names are the program's own; the order: all lock alike

_SELECT_HOLDERS: Final = f"""
    SELECT {_BOTH} FROM api.claims c LEFT JOIN api.orders o USING (order_id)
    WHERE c.user_id = $1 AND (c.idempotency_key = $2 OR c.client_order_id = $3)"""  # noqa: S608 - the same

_SELECT_ORDER: Final = f"""
    SELECT {_BOTH} FROM (VALUES ($1::uuid)) AS wanted(order_id)
    LEFT JOIN api.claims c USING (order_id) LEFT JOIN api.orders o USING (order_id)"""  # noqa: S608 - the same

_SELECT_HISTORY: Final = """
    SELECT seq, at, kind, name, status, version, detail::text FROM api.history
    WHERE order_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"""

_UPSERT_CANCEL: Final = """
    INSERT INTO api.cancels AS c (order_id, user_id, requested_by, next_publish_at)
    VALUES ($1, $2, $3, now() + make_interval(secs => $4))
    ON CONFLICT (order_id) DO UPDATE SET
        user_id = excluded.user_id, requested_by = excluded.requested_by, settled = false,
        next_publish_at = excluded.next_publish_at,
        created_at = CASE WHEN (c.user_id, c.requested_by) = (excluded.user_id, excluded.requested_by)
                     THEN c.created_at ELSE excluded.created_at END
    RETURNING order_id, user_id, requested_by, created_at"""


def _sweep(table: str, columns: str, settled: str) -> str:
    """Lease what is due: settled for good, or due again after as long as it has existed (so the pauses double)."""
    return f"""
        WITH due AS (
            SELECT order_id FROM api.{table} WHERE NOT settled AND next_publish_at <= statement_timestamp()
            ORDER BY next_publish_at LIMIT $1 FOR UPDATE SKIP LOCKED)
        UPDATE api.{table} AS c SET
            settled = EXISTS (SELECT FROM api.orders o WHERE o.order_id = c.order_id AND {settled}),
            next_publish_at = now()
                + least(greatest(now() - c.created_at, make_interval(secs => $2)), make_interval(secs => $3))
        FROM due WHERE c.order_id = due.order_id
        RETURNING {columns}, c.created_at, c.settled"""  # noqa: S608 - names are the program's own


_SWEEP_CLAIMS: Final = _sweep("claims", _columns("c", _CLAIM), "true")
_SWEEP_CANCELS: Final = _sweep(
    "cancels",
    "c.order_id, c.user_id, c.requested_by",
    # Past these statuses nothing can be cancelled; the row of another user's order is not what was to be cancelled.
    "(o.cancel_requested OR o.status NOT IN ('PENDING', 'CONFIRMED') OR o.user_id <> c.user_id)",
)
_HAND_BACK: Final = {
    table: f"""
        UPDATE api.{table} SET next_publish_at = now() + make_interval(secs => $2)
        WHERE order_id = ANY($1::uuid[]) AND NOT settled"""  # noqa: S608 - names are the program's own
    for table in ("claims", "cancels")
}
