"""The only SQL of this room. Each call is one statement in a transaction of its own; times are the database's.

It writes `api.claims`, `api.cancels` and `api.requests`, and reads the views `api.orders` and `api.history`, which show
the orchestrator's work. Statements go to the driver unchanged ($1 ..).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts import codec
from contracts.amends import OrderAmendment
from contracts.decimals import Exact, Money, Price, Quantity
from contracts.orders import Order
from contracts.terms import EXPIRES_WITHIN
from contracts.vocabulary import Instant, OrderStatus, OrderType, ReasonCode, TimeInForce
from order_api.orders.audit_trail import ACCEPTED, Action, Origin
from order_api.orders.listing import Wanted
from order_api.orders.publication.messages import Cancel, Claim, Claimed, expires_at
from order_api.orders.publication.unread import GRACE_S, Unread, order_exists
from saga_kit.runtime.transactions import Begins, alone

DEADLOCKS_MAX: Final = 3
HISTORY_PAGE: Final = 200

_CLAIM: Final = Claim.__struct_fields__
_ORIGIN: Final = Origin.__struct_fields__
ORDER_COLUMNS: Final = Order.__struct_fields__


class Found(msgspec.Struct, frozen=True):
    """What is known of an order: its claim, the orchestrator's row, or both."""

    claimed: Claimed | None
    order: Order | None


class Entry(msgspec.Struct, frozen=True):
    """One entry of an order's history. `status` and `version` are given where it led to a new version."""

    seq: int
    at: Instant
    kind: str
    name: str
    status: OrderStatus | None
    version: int | None
    detail: msgspec.Raw


class OutOfTime(msgspec.Struct, frozen=True):
    """A claim is not committed because of its `expires_at`. `now`: the database's time."""

    now: datetime


class Store:
    """Reads and writes the schema `api`. Raises what the driver does, and `TimeoutError` when no connection is free."""

    def __init__(self, source: AsyncEngine | Begins, *, grace_s: float = GRACE_S) -> None:
        self._source = source
        self._grace_s = grace_s
        self.unread_claims: Unread[Claimed] = Unread(
            *(source, "claims", _claimed, _CLAIM),
            settled=order_exists("true"),
            shown=order_exists("o.user_id = c.user_id"),
            also=f"taken = {order_exists('o.user_id <> c.user_id')},",
            grace_s=grace_s,
        )
        self.unread_cancels: Unread[Cancel] = Unread(
            *(source, "cancels", lambda row: Cancel(*row), Cancel.__struct_fields__[:-1]),
            settled=order_exists(_PAST_CANCELLING),
            shown=order_exists("o.cancel_requested"),
            grace_s=grace_s,
        )

    async def now(self) -> datetime:
        """Return the database's time."""
        [row] = await self._run("SELECT now()")
        at: datetime = row[0]
        return at

    async def claim(self, asked: Sequence[tuple[Claim, Origin]]) -> list[datetime | OutOfTime | None]:
        """Commit those claims whose keys are free; return the time of each, None for one whose keys are taken.

        One whose `expires_at` is not ahead, or too far ahead, is not committed either, whatever its keys.
        Of twins, in one call or two or in two processes, exactly one gets its keys: `ON CONFLICT` waits for the other.
        """
        claims = [[getattr(claim, name) for claim, _ in asked] for name in _CLAIM]
        origins = [[getattr(origin, name) for _, origin in asked] for name in _ORIGIN]
        ends = [expires_at(claim) for claim, _ in asked]
        rows = await self._run_again(
            _INSERT_CLAIMS, self._grace_s, *claims, *origins, ends, EXPIRES_WITHIN.total_seconds()
        )
        times = {order_id: at if in_time else OutOfTime(at) for order_id, at, in_time in rows}
        return [times.get(claim.order_id) for claim, _ in asked]

    async def release_key(self, claim: Claim, kept_days: int) -> bool:
        """Take a claim's idempotency key from an order that has held it for `kept_days`; return whether one had."""
        return bool(await self._run(_RELEASE_KEY, claim.user_id, claim.idempotency_key, kept_days))

    async def holders(self, claim: Claim) -> list[Found]:
        """Return what holds the keys of a claim: nothing, one order, or two."""
        rows = await self._run(_SELECT_HOLDERS, claim.user_id, claim.idempotency_key, claim.client_order_id)
        return [_found(row) for row in rows]

    async def find(self, order_ids: Sequence[UUID]) -> list[Found]:
        """Return what is known of each of these orders."""
        return [_found(row) for row in await self._run(_SELECT_ORDERS, order_ids)]

    async def find_named(self, user_id: str, client_order_id: str) -> Found | None:
        """Return the order to which a user gave this name; of several, the one that was not refused as a duplicate."""
        rows = await self._run(_SELECT_NAMED, user_id, client_order_id)
        return _found(rows[0]) if rows else None

    async def page(self, user_id: str, wanted: Wanted) -> list[Found]:
        """Return a user's orders, newest first, one more than `wanted.limit` when there are more."""
        rows = await self._run(
            _LIST[wanted.open],
            *(user_id, wanted.after.created_at, wanted.after.order_id, wanted.limit + 1),
            *(wanted.created_from, wanted.created_to, wanted.statuses, wanted.asset_id, wanted.order_type),
        )
        return [_found(row) for row in rows]

    async def history(self, order_id: UUID, after: int) -> tuple[list[Entry], bool]:
        """Return a page of the history after that `seq`, and whether there is more."""
        rows = await self._run(_SELECT_HISTORY, order_id, after, HISTORY_PAGE + 1)
        return [_entry(row) for row in rows[:HISTORY_PAGE]], len(rows) > HISTORY_PAGE

    async def cancel(self, order_id: UUID, user_id: str, requested_by: str, origin: Origin) -> Cancel:
        """Commit a cancel. Of several for one order the last stands; the same one again keeps its time."""
        asked = (order_id, user_id, requested_by, *msgspec.structs.astuple(origin))
        [row] = await self._run(_UPSERT_CANCEL, self._grace_s, *asked)
        return Cancel(*row)

    async def note(self, order_id: UUID, action: Action, outcome: str, origin: Origin) -> None:
        """Add a request that changed nothing to the trail."""
        await self._run(_INSERT_REQUEST, order_id, action, outcome, *msgspec.structs.astuple(origin))

    async def _run_again(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement again that lost a deadlock: two may claim keys of two indexes in different orders."""
        for _ in range(DEADLOCKS_MAX):
            try:
                return await self._run(statement, *values)
            except asyncpg.DeadlockDetectedError:
                continue
        return await self._run(statement, *values)

    async def _run(self, statement: str, *values: Any) -> list[Any]:
        async with alone(self._source) as tx:
            return await tx.fetch(statement, *values)


def _found(row: Any) -> Found:
    claim, order = row[: len(_CLAIM) + 1], row[len(_CLAIM) + 1 :]
    return Found(_claimed(claim) if claim[0] else None, read_order(*order) if order[0] else None)


def _claimed(row: Any) -> Claimed:
    return Claimed(Claim(*row[: len(_CLAIM)]), row[len(_CLAIM)])


def _entry(row: Any) -> Entry:
    seq, at, kind, name, status, version, detail = row
    return Entry(seq, at, kind, name, status, version, msgspec.Raw(detail.encode()))


def read_order(*row: Any) -> Order:
    """Make an order of the values of `ORDER_COLUMNS`."""
    values = dict(zip(ORDER_COLUMNS, row, strict=True))
    for name, kind in _KINDS.items():
        if values[name] is not None:
            values[name] = kind(values[name])
    return Order(**values)


def _amendment(document: Any) -> OrderAmendment:
    """Read the last amend of an order. The driver may have read the document as JSON already."""
    return _read_amendment(document if isinstance(document, str) else msgspec.json.encode(document))


_read_amendment: Final = codec.decoder(OrderAmendment).decode
_KINDS: Final[dict[str, Callable[[Any], Any]]] = {
    "order_type": OrderType,
    "status": OrderStatus,
    "quantity": Quantity,
    "price": Price,
    "filled_quantity": Money,
    "average_price": Exact,
    "fee": Money,
    "reason_code": ReasonCode,
    **dict.fromkeys(("limit_price", "trigger_price", "trail_amount", "watermark"), Price),
    "time_in_force": TimeInForce,
    "held_amount": Money,
    "release_refused": ReasonCode,
    "amend": _amendment,
}


def _columns(alias: str, names: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)


_BOTH: Final = f"{_columns('c', _CLAIM)}, c.created_at, {_columns('o', ORDER_COLUMNS)}"
_WITH_BOTH: Final = "LEFT JOIN api.claims c USING (order_id) LEFT JOIN api.orders o USING (order_id)"
NOTED: Final = f"INSERT INTO api.requests (order_id, action, outcome, {', '.join(_ORIGIN)})"
"""Adds a line to the trail, with the values behind it."""

_IN_TIME: Final = (
    "n.expires_at IS NULL OR (n.expires_at > now() AND n.expires_at <= now() + make_interval(secs => $14))"
)
_INSERT_CLAIMS: Final = f"""
    WITH n AS (
        SELECT * FROM unnest(
            $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[],
            $9::text[], $10::text[], $11::text[], $12::text[], $13::text[]::timestamptz[]
        ) AS asked ({", ".join(_CLAIM)}, {", ".join(_ORIGIN)}, expires_at)
    ), claimed AS (
        INSERT INTO api.claims ({", ".join(_CLAIM)}, next_publish_at)
        SELECT {_columns("n", _CLAIM)}, now() + make_interval(secs => $1) FROM n WHERE {_IN_TIME}
        ORDER BY n.user_id, n.idempotency_key, n.client_order_id
        ON CONFLICT DO NOTHING
        RETURNING order_id, created_at
    ), noted AS (
        {NOTED} SELECT n.order_id, '{Action.SUBMIT}', '{ACCEPTED}', {_columns("n", _ORIGIN)}
        FROM n JOIN claimed USING (order_id)
    )
    SELECT order_id, created_at, true FROM claimed
    UNION ALL SELECT order_id, now(), false FROM n WHERE NOT ({_IN_TIME})"""  # noqa: S608 - names are the program's own; the order: all lock alike

_RELEASE_KEY: Final = """
    UPDATE api.claims SET idempotency_key = NULL
    WHERE user_id = $1 AND idempotency_key = $2 AND created_at < now() - make_interval(days => $3)
    RETURNING order_id"""

_SELECT_HOLDERS: Final = f"""
    SELECT {_BOTH} FROM api.claims c LEFT JOIN api.orders o USING (order_id)
    WHERE c.user_id = $1 AND (c.idempotency_key = $2 OR c.client_order_id = $3)"""  # noqa: S608 - the same

_SELECT_ORDERS: Final = f"""
    SELECT {_BOTH} FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (order_id, place) {_WITH_BOTH}
    ORDER BY wanted.place"""  # noqa: S608 - the same

# An order that came by Kafka may have the name of a claim: the claim's order will then end as a duplicate.
_SELECT_NAMED: Final = f"""
    SELECT {_BOTH} FROM (
        SELECT order_id, 0 AS rank FROM api.orders
        WHERE user_id = $1 AND client_order_id = $2 AND reason_code IS DISTINCT FROM 'DUPLICATE_CLIENT_ORDER_ID'
        UNION ALL SELECT order_id, 1 FROM api.claims WHERE user_id = $1 AND client_order_id = $2
        ORDER BY rank LIMIT 1
    ) AS named {_WITH_BOTH}"""  # noqa: S608 - the same


def _list(only: str) -> str:
    """Take a page of the orders that are there, one of the claims that are not orders yet, and of both the newest.

    A claim shows as PENDING, or as FAILED when its id was taken: `order_api.orders.views` says so with the same rule.
    `OFFSET 0` has the order of each claim looked up: the planner would rather read all orders, for few claims.
    """
    return f"""
        SELECT {_BOTH} FROM (
            (
                SELECT order_id, created_at FROM api.orders
                WHERE user_id = $1 AND (created_at, order_id) < ($2, $3) AND {only}
                    AND ($5::timestamptz IS NULL OR created_at >= $5)
                    AND ($6::timestamptz IS NULL OR created_at < $6)
                    AND ($7::text[] IS NULL OR status = ANY ($7))
                    AND ($8::text IS NULL OR asset_id = $8) AND ($9::text IS NULL OR order_type = $9)
                ORDER BY created_at DESC, order_id DESC LIMIT $4
            ) UNION ALL (
                SELECT order_id, created_at FROM (
                    SELECT claim.order_id, claim.created_at, convert_from(claim.request, 'UTF8')::jsonb AS asked,
                        CASE WHEN taker.order_id IS NULL THEN 'PENDING' ELSE 'FAILED' END AS status
                    FROM api.claims claim LEFT JOIN LATERAL (
                        SELECT order_id, user_id FROM api.orders WHERE order_id = claim.order_id OFFSET 0
                    ) AS taker ON true
                    WHERE claim.user_id = $1 AND (NOT claim.settled OR claim.taken)
                        AND taker.user_id IS DISTINCT FROM $1
                ) AS waiting
                WHERE (created_at, order_id) < ($2, $3) AND {only}
                    AND ($5::timestamptz IS NULL OR created_at >= $5)
                    AND ($6::timestamptz IS NULL OR created_at < $6)
                    AND ($7::text[] IS NULL OR status = ANY ($7))
                    AND ($8::text IS NULL OR asked ->> 'asset_id' = $8)
                    AND ($9::text IS NULL OR asked ->> 'order_type' = $9)
                ORDER BY created_at DESC, order_id DESC LIMIT $4
            )
        ) AS page {_WITH_BOTH}
        ORDER BY page.created_at DESC, page.order_id DESC LIMIT $4"""  # noqa: S608 - the same


_OPEN: Final = "status IN ('PENDING', 'CONFIRMED', 'PROCESSING')"  # as the index of open orders has it
_LIST: Final = {None: _list("true"), True: _list(_OPEN), False: _list(f"NOT ({_OPEN})")}

_SELECT_HISTORY: Final = """
    SELECT seq, at, kind, name, status, version, detail::text FROM api.history
    WHERE order_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"""

_UPSERT_CANCEL: Final = f"""
    WITH noted AS ({NOTED} VALUES ($2, '{Action.CANCEL}', '{ACCEPTED}', $5, $6, $7, $8))
    INSERT INTO api.cancels AS c (order_id, user_id, requested_by, next_publish_at)
    VALUES ($2, $3, $4, now() + make_interval(secs => $1))
    ON CONFLICT (order_id) DO UPDATE SET
        user_id = excluded.user_id, requested_by = excluded.requested_by, settled = false,
        next_publish_at = excluded.next_publish_at,
        created_at = CASE WHEN (c.user_id, c.requested_by) = (excluded.user_id, excluded.requested_by)
                     THEN c.created_at ELSE excluded.created_at END
    RETURNING order_id, user_id, requested_by, created_at"""  # noqa: S608 - the same

_INSERT_REQUEST: Final = f"{NOTED} VALUES ($1, $2, $3, $4, $5, $6, $7)"
# Past these statuses nothing can be cancelled; the row of another user's order is not what was to be cancelled.
_PAST_CANCELLING: Final = "(o.cancel_requested OR o.status NOT IN ('PENDING', 'CONFIRMED') OR o.user_id <> c.user_id)"
