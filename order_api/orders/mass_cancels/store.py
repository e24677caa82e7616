"""The SQL of mass cancels and of cancel timers. Times are the database's.

It writes `api.mass_cancels`, `api.cancel_timers`, and with each page of a mass cancel `api.cancels` and `api.requests`;
it reads claims and the view `api.orders`. Statements go to the driver unchanged ($1 ..).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.vocabulary import OrderType, Side
from order_api.orders.audit_trail import ACCEPTED, Action, Origin
from order_api.orders.publication.messages import Cancel
from order_api.orders.publication.unread import GRACE_S
from saga_kit.runtime.transactions import Begins, Transaction, alone, begin

PAGE: Final = 500
"""Orders that one transaction cancels: a user may have any number of them open."""
TIMERS_MAX: Final = 500
"""Timers that fire in one transaction."""

_ORIGIN: Final = ", ".join(Origin.__struct_fields__)


class Filter(msgspec.Struct, frozen=True):
    """Which of a user's open orders; None lets everything through."""

    asset_id: str | None = None
    side: Side | None = None
    order_type: OrderType | None = None


class MassCancel(msgspec.Struct, frozen=True):
    """A cancel of all of a user's open orders, and how far it is."""

    mass_cancel_id: UUID
    user_id: str
    requested_by: str
    filter: Filter
    created_at: datetime
    orders: int
    completed_at: datetime | None


class Timer(msgspec.Struct, frozen=True):
    """A user's cancel timer. `now` is the database's time."""

    timeout_s: int
    set_at: datetime
    fires_at: datetime | None
    fired_at: datetime | None
    orders: int | None
    completed_at: datetime | None
    now: datetime


class MassCancelStore:
    """Reads and writes mass cancels and timers. Raises what the driver does."""

    def __init__(self, source: AsyncEngine | Begins, *, grace_s: float = GRACE_S) -> None:
        """`grace_s`: for so long whoever has made a mass cancel works on it undisturbed."""
        self._source = source
        self._grace_s = grace_s

    async def add(
        self, mass_cancel_id: UUID, user_id: str, requested_by: str, key: str | None, wanted: Filter, origin: Origin
    ) -> MassCancel | None:
        """Commit a mass cancel; None when its idempotency key is taken."""
        chosen = msgspec.structs.astuple(wanted)
        who = msgspec.structs.astuple(origin)
        rows = await self._run(_INSERT, self._grace_s, mass_cancel_id, user_id, requested_by, key, *chosen, *who)
        return _read(rows[0]) if rows else None

    async def release_key(self, user_id: str, requested_by: str, key: str, kept_days: int) -> bool:
        """Take an idempotency key from a mass cancel that has held it for `kept_days`; return whether one had."""
        return bool(await self._run(_RELEASE_KEY, user_id, requested_by, key, kept_days))

    async def holder(self, user_id: str, requested_by: str, key: str) -> MassCancel | None:
        """Return the mass cancel that has a key. The user's keys, and each operator's, are apart."""
        rows = await self._run(_SELECT_HOLDER, user_id, requested_by, key)
        return _read(rows[0]) if rows else None

    async def lease(self) -> MassCancel | None:
        """Take the mass cancel that has been due longest, and leave it alone for the grace that a new one has.

        So one that fails again and again is not the first one again. None: none is due, or all are in others' work.
        """
        rows = await self._run(_LEASE, self._grace_s)
        return _read(rows[0]) if rows else None

    async def go_on(self, mass_cancel_id: UUID) -> tuple[MassCancel, list[Cancel]] | None:
        """Cancel the next page of a mass cancel's orders; return how far it is now, and the cancels to publish.

        One that is in somebody else's work is waited for. None: there is no such one.
        """
        async with begin(self._source) as tx:
            taken = await tx.fetch(_TAKE, mass_cancel_id)
            if not taken:
                return None
            [row] = taken
            mass_cancel = _read(row)
            if mass_cancel.completed_at is not None:
                return mass_cancel, []
            cancels = await self._cancel_page(tx, row, mass_cancel)
            [row] = await tx.fetch(_SELECT, mass_cancel.mass_cancel_id)
            return _read(row), cancels

    async def _cancel_page(self, tx: Transaction, row: Any, one: MassCancel) -> list[Cancel]:
        rows = await tx.fetch(
            _CANCEL_PAGE,
            *(one.mass_cancel_id, one.user_id, one.requested_by, self._grace_s, PAGE),
            *(row["after_created_at"], row["after_order_id"], one.filter.asset_id, _types_of(one.filter)),
        )
        return [Cancel(*found) for found in rows if found[0] is not None]

    async def set_timer(self, user_id: str, timeout_s: int, origin: Origin) -> Timer:
        """Set a user's timer; one whose time has come fires first, so only the database's clock decides."""
        async with begin(self._source) as tx:
            await tx.fetch(_FIRE_OF_USER, user_id)
            await tx.fetch(_SET_TIMER, user_id, timeout_s, *msgspec.structs.astuple(origin))
            [row] = await tx.fetch(_SELECT_TIMER, user_id)
            return Timer(*row)

    async def timer(self, user_id: str) -> Timer | None:
        """Return a user's timer, or None if it was never set."""
        rows = await self._run(_SELECT_TIMER, user_id)
        return Timer(*rows[0]) if rows else None

    async def fire(self) -> int:
        """Fire the timers whose time has come; return how many. Each fires once, whoever calls this."""
        return len(await self._run(_FIRE_DUE, TIMERS_MAX))

    async def _run(self, statement: str, *values: Any) -> Sequence[Any]:
        async with alone(self._source) as tx:
            return await tx.fetch(statement, *values)


def _read(row: Any) -> MassCancel:
    chosen = Filter(
        row["asset_id"],
        None if row["side"] is None else Side(row["side"]),
        None if row["order_type"] is None else OrderType(row["order_type"]),
    )
    return MassCancel(
        *(row["mass_cancel_id"], row["user_id"], row["requested_by"], chosen),
        *(row["created_at"], row["orders"], row["completed_at"]),
    )


def _types_of(wanted: Filter) -> list[str]:
    """List the order types that a filter lets through."""
    return [one for one in OrderType if wanted.side in {None, one.side} and wanted.order_type in {None, one}]


_COLUMNS: Final = (
    "mass_cancel_id, user_id, requested_by, asset_id, side, order_type, created_at, orders, completed_at,"
    " after_created_at, after_order_id"
)
_INSERT: Final = f"""
    INSERT INTO api.mass_cancels
        (next_run_at, mass_cancel_id, user_id, requested_by, idempotency_key, asset_id, side, order_type, {_ORIGIN})
    VALUES (now() + make_interval(secs => $1), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT DO NOTHING RETURNING {_COLUMNS}"""  # noqa: S608 - names are the program's own
_RELEASE_KEY: Final = """
    UPDATE api.mass_cancels SET idempotency_key = NULL
    WHERE (user_id, requested_by, idempotency_key) = ($1, $2, $3) AND created_at < now() - make_interval(days => $4)
    RETURNING mass_cancel_id"""
_SELECT_HOLDER: Final = f"""
    SELECT {_COLUMNS} FROM api.mass_cancels WHERE (user_id, requested_by, idempotency_key) = ($1, $2, $3)"""  # noqa: S608 - the same
_SELECT: Final = f"SELECT {_COLUMNS} FROM api.mass_cancels WHERE mass_cancel_id = $1"  # noqa: S608 - the same
_TAKE: Final = f"{_SELECT} FOR UPDATE"
_LEASE: Final = f"""
    UPDATE api.mass_cancels SET next_run_at = now() + make_interval(secs => $1)
    WHERE mass_cancel_id = (
        SELECT mass_cancel_id FROM api.mass_cancels WHERE completed_at IS NULL AND next_run_at <= now()
        ORDER BY next_run_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING {_COLUMNS}"""  # noqa: S608 - the same

# An order that ends, or is filled, meanwhile is left to the saga, which judges each cancel. A claim that is no order
# yet has its fields in its request; one whose id another user's order took is none of ours.
# Whoever asks again and again makes no further cancels: those that are stored are published until the orders show them.
_NOT_ASKED: Final = """NOT EXISTS (
                        SELECT FROM api.cancels AS asked_before WHERE asked_before.order_id = o.order_id
                            AND NOT settled AND (asked_before.user_id, requested_by) = ($2, $3) OFFSET 0)"""
_CANCEL_PAGE: Final = f"""
    WITH page AS (
        SELECT order_id, created_at FROM (
            (
                SELECT o.order_id, o.created_at FROM api.orders AS o
                WHERE user_id = $2 AND status IN ('PENDING', 'CONFIRMED') AND NOT cancel_requested
                    AND (created_at, order_id) < ($6, $7) AND {_NOT_ASKED}
                    AND ($8::text IS NULL OR asset_id = $8) AND order_type = ANY ($9::text[])
                ORDER BY created_at DESC, order_id DESC LIMIT $5
            ) UNION ALL (
                SELECT order_id, created_at FROM (
                    SELECT claim.order_id, claim.created_at, convert_from(claim.request, 'UTF8')::jsonb AS asked
                    FROM api.claims claim LEFT JOIN LATERAL (
                        SELECT order_id FROM api.orders WHERE order_id = claim.order_id OFFSET 0
                    ) AS taker ON true
                    WHERE claim.user_id = $2 AND NOT claim.settled AND taker.order_id IS NULL
                ) AS o
                WHERE (created_at, order_id) < ($6, $7) AND {_NOT_ASKED}
                    AND ($8::text IS NULL OR asked ->> 'asset_id' = $8) AND asked ->> 'order_type' = ANY ($9::text[])
                ORDER BY created_at DESC, order_id DESC LIMIT $5
            )
        ) AS every ORDER BY created_at DESC, order_id DESC LIMIT $5
    ), cancelled AS (
        INSERT INTO api.cancels AS c (order_id, user_id, requested_by, next_publish_at)
        SELECT order_id, $2, $3, now() + make_interval(secs => $4) FROM page ORDER BY order_id
        ON CONFLICT (order_id) DO UPDATE SET
            user_id = excluded.user_id, requested_by = excluded.requested_by, settled = false,
            next_publish_at = excluded.next_publish_at,
            created_at = CASE WHEN (c.user_id, c.requested_by) = (excluded.user_id, excluded.requested_by)
                         THEN c.created_at ELSE excluded.created_at END
        RETURNING order_id, user_id, requested_by, created_at
    ), noted AS (
        INSERT INTO api.requests (order_id, action, outcome, {_ORIGIN})
        SELECT order_id, '{Action.CANCEL}', '{ACCEPTED}', {_ORIGIN} FROM page, api.mass_cancels
        WHERE mass_cancel_id = $1
    ), moved AS (
        UPDATE api.mass_cancels AS m SET
            orders = m.orders + (SELECT count(*) FROM page),
            (after_created_at, after_order_id) = (
                SELECT created_at, order_id FROM page
                UNION ALL SELECT $6, $7 WHERE NOT EXISTS (SELECT FROM page)
                ORDER BY 1, 2 LIMIT 1),
            completed_at = CASE WHEN (SELECT count(*) FROM page) < $5 THEN now() END,
            next_run_at = now() + make_interval(secs => $4)
        WHERE m.mass_cancel_id = $1
    )
    SELECT order_id, user_id, requested_by, created_at FROM cancelled"""  # noqa: S608 - the same


def _fire(which: str, locked: str) -> str:
    """Fire timers, and ask for the mass cancel of each in the same statement."""
    return f"""
    WITH due AS (
        SELECT user_id FROM api.cancel_timers WHERE fires_at <= now() AND {which} {locked}
    ), fired AS (
        UPDATE api.cancel_timers AS t SET fires_at = NULL, fired_at = now(), mass_cancel_id = gen_random_uuid()
        FROM due WHERE t.user_id = due.user_id
        RETURNING t.mass_cancel_id, t.user_id, t.caller, t.token_id, t.address, t.trace_id
    )
    INSERT INTO api.mass_cancels (next_run_at, requested_by, mass_cancel_id, user_id, {_ORIGIN})
    SELECT now(), user_id, mass_cancel_id, user_id, {_ORIGIN} FROM fired
    RETURNING mass_cancel_id"""  # noqa: S608 - the same


_FIRE_DUE: Final = _fire("true", "ORDER BY fires_at LIMIT $1 FOR UPDATE SKIP LOCKED")
_FIRE_OF_USER: Final = _fire("user_id = $1", "FOR UPDATE")
_SET_TIMER: Final = f"""
    INSERT INTO api.cancel_timers AS t (user_id, timeout_s, fires_at, {_ORIGIN})
    VALUES ($1, $2, CASE WHEN $2 > 0 THEN now() + make_interval(secs => $2) END, $3, $4, $5, $6)
    ON CONFLICT (user_id) DO UPDATE SET
        timeout_s = excluded.timeout_s, set_at = excluded.set_at, fires_at = excluded.fires_at,
        {", ".join(f"{name} = excluded.{name}" for name in Origin.__struct_fields__)}"""  # noqa: S608 - the same
_SELECT_TIMER: Final = """
    SELECT t.timeout_s, t.set_at, t.fires_at, t.fired_at, m.orders, m.completed_at, now()
    FROM api.cancel_timers AS t LEFT JOIN api.mass_cancels AS m USING (mass_cancel_id) WHERE t.user_id = $1"""
