"""The only SQL of this room: on `api.holds` and `api.hold_requests`, a transaction a call, by the database's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.decimals import Money, Quantity, exact_text
from contracts.holds import HELD_AT_MOST, HoldRefusal, HoldRequested
from order_api.holds.holds import Action, Answer, Asked, Change, HoldStatus, News, ServiceHold
from saga_kit.runtime.lookback import LookBack
from saga_kit.runtime.transactions import Begins, alone, begin

GRACE_S: Final = 5.0
"""The sweeper does not look at a new request for this long: it is being published."""
PAUSE_MAX_S: Final = 300.0
"""The longest pause between two looks at one request: each pause is as long as it has existed."""
RETRY_S: Final = 2.0
"""The pause before the next look at one that could not be published."""
UNHEARD_S: Final = 60.0
"""How long after its `expires_at` a hold that still shows HELD has its end asked for: the event was missed."""


class Origin(msgspec.Struct, frozen=True):
    """Who asks: the token that was used, and the trace."""

    token_id: str | None
    traceparent: str | None


class Store:
    """Reads and writes holds. Raises what the driver does, and `TimeoutError` when no connection is free."""

    def __init__(self, source: AsyncEngine | Begins, *, grace_s: float = GRACE_S) -> None:
        self._source = source
        self._grace_s = grace_s
        self._lookback = LookBack()

    async def claim(
        self, service: str, key: str | None, request: HoldRequested, message: bytes, origin: Origin
    ) -> datetime | None:
        """Commit a new hold and its request; None when its key is taken or its `expires_at` is not in time."""
        terms = (request.hold_id, service, key, request.user_id, request.asset_id, exact_text(request.amount))
        rows = await self._run(
            _CLAIM, *terms, request.expires_at, HELD_AT_MOST.total_seconds(), message, *_origin(origin), self._grace_s
        )
        return rows[0][0] if rows else None

    async def release_key(self, service: str, key: str | None, kept_days: int) -> bool:
        """Take an idempotency key from a hold that has had it for `kept_days`; return whether one had."""
        return bool(await self._run(_RELEASE_KEY, service, key, kept_days))

    async def holder(self, service: str, key: str | None) -> ServiceHold | None:
        """Return the hold that has this key."""
        rows = await self._run(_SELECT.format(which="h.service = $1 AND h.idempotency_key = $2"), service, key)
        return _hold(rows[0]) if rows else None

    async def find(self, service: str, hold_id: UUID) -> ServiceHold | None:
        """Return a hold that this service asked for."""
        rows = await self._run(_SELECT.format(which="h.service = $1 AND h.hold_id = $2"), service, hold_id)
        return _hold(rows[0]) if rows else None

    async def ask(self, hold: ServiceHold, action: Action, message: bytes, origin: Origin) -> Asked | None:
        """Commit a request on a hold; None when another capture is under way.

        One that waits for its answer is the same message when it is asked for again: it keeps its time and its trace.
        """
        rows = await self._run(_ASK, hold.hold_id, action, message, *_origin(origin), self._grace_s)
        if not rows:
            return None
        created_at, traceparent = rows[0]
        return Asked(hold.hold_id, action, hold.user_id, message, traceparent, created_at)

    async def learn(self, news: News) -> None:
        """Write what events have told. The same again changes nothing."""
        async with begin(self._source) as tx:
            if news.changes:
                changes = sorted(news.changes, key=lambda one: one.hold_id)
                await tx.execute(_CHANGE, *_columns(changes, Change))
            if news.answers:
                answers = sorted(news.answers, key=lambda one: (one.hold_id, one.action))
                await tx.execute(_ANSWER, *_columns(answers, Answer))

    async def due(self, limit: int) -> list[Asked]:
        """Lease requests that no event has answered yet and that are due to be published again."""
        with self._lookback.look() as look:
            rows = await self._run(_DUE, limit, self._grace_s, PAUSE_MAX_S, look.back_s)
            look.saw_all = len(rows) < limit
        return [Asked(row[0], Action(row[1]), *row[2:]) for row in rows]

    async def hand_back(self, asked: Sequence[Asked]) -> None:
        """End the lease of requests that were not published: they are due again soon."""
        await self._run(_HAND_BACK, [one.hold_id for one in asked], [one.action for one in asked], RETRY_S)

    async def unheard(self, limit: int) -> list[ServiceHold]:
        """Find holds that still show HELD although their time is over and nobody has asked for their release."""
        return [_hold(row) for row in await self._run(_UNHEARD, UNHEARD_S, limit)]

    async def ask_releases(self, messages: Mapping[UUID, bytes]) -> None:
        """Commit the releases of holds, due at once; one that somebody has asked for meanwhile stays as it is."""
        await self._run(_ASK_RELEASES, list(messages.keys()), list(messages.values()))

    async def _run(self, statement: str, *values: Any) -> list[Any]:
        async with alone(self._source) as tx:
            return await tx.fetch(statement, *values)


def _origin(origin: Origin) -> tuple[str | None, str | None]:
    return origin.token_id, origin.traceparent


def _hold(row: Any) -> ServiceHold:
    values = dict(zip(ServiceHold.__struct_fields__, row, strict=True))
    for name, kind in _KINDS.items():
        if values[name] is not None:
            values[name] = kind(values[name])
    return ServiceHold(**values)


_KINDS: Final[dict[str, type]] = {
    "amount": Quantity,
    "captured": Money,
    "returned": Money,
    "status": HoldStatus,
    "reason_code": HoldRefusal,
}


def _columns(rows: Sequence[msgspec.Struct], kind: type[msgspec.Struct]) -> list[list[Any]]:
    return [[_value(getattr(row, name)) for row in rows] for name in kind.__struct_fields__]


def _value(value: Any) -> Any:
    return exact_text(value) if isinstance(value, Money | Quantity) else value


_SHOWN: Final = """h.hold_id, h.user_id, h.asset_id, trim_scale(h.amount), h.expires_at, h.status,
    trim_scale(h.captured), h.captured_to, trim_scale(h.returned),
    coalesce(h.reason_code, c.reason_code, r.reason_code), coalesce(h.reason, c.reason, r.reason),
    coalesce(NOT c.settled, false), coalesce(NOT r.settled, false), h.created_at, h.updated_at"""
_FROM: Final = """api.holds h
    LEFT JOIN api.hold_requests c ON (c.hold_id, c.action) = (h.hold_id, 'capture')
    LEFT JOIN api.hold_requests r ON (r.hold_id, r.action) = (h.hold_id, 'release')"""
_SELECT: Final = f"SELECT {_SHOWN} FROM {_FROM} WHERE {{which}}"  # noqa: S608 - names are the program's own

_CLAIM: Final = """
    WITH claimed AS (
        INSERT INTO api.holds (hold_id, service, idempotency_key, user_id, asset_id, amount, expires_at)
        SELECT $1::uuid, $2::text, $3::text, $4::text, $5::text, $6::text::numeric, $7::timestamptz
        WHERE $7::timestamptz > now() AND $7::timestamptz <= now() + make_interval(secs => $8)
        ON CONFLICT DO NOTHING
        RETURNING hold_id, created_at
    ), asked AS (
        INSERT INTO api.hold_requests (hold_id, action, request, token_id, traceparent, next_publish_at)
        SELECT hold_id, 'place', $9::bytea, $10::text, $11::text, now() + make_interval(secs => $12) FROM claimed
    )
    SELECT created_at FROM claimed"""

_RELEASE_KEY: Final = """
    UPDATE api.holds SET idempotency_key = NULL
    WHERE service = $1 AND idempotency_key = $2 AND created_at < now() - make_interval(days => $3)
    RETURNING hold_id"""

# A request that was refused makes room for another one; one that waits for its answer is only asked for again.
_ASK: Final = """
    INSERT INTO api.hold_requests AS asked (hold_id, action, request, token_id, traceparent, next_publish_at)
    VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
    ON CONFLICT (hold_id, action) DO UPDATE SET
        request = excluded.request, token_id = excluded.token_id, settled = false, reason_code = NULL, reason = NULL,
        next_publish_at = excluded.next_publish_at,
        traceparent = CASE WHEN asked.settled THEN excluded.traceparent ELSE asked.traceparent END,
        created_at = CASE WHEN asked.settled THEN excluded.created_at ELSE asked.created_at END
    WHERE asked.request = excluded.request OR asked.settled
    RETURNING created_at, traceparent"""

# As `_follows` in `holds` has it.
_CHANGE: Final = """
    UPDATE api.holds AS h SET
        status = n.status, captured = n.captured::numeric, captured_to = n.captured_to, returned = n.returned::numeric,
        reason_code = n.reason_code, reason = n.reason, updated_at = now()
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::text[], $10::text[]) AS n (hold_id, user_id, asset_id, amount, status, captured, captured_to, returned,
        reason_code, reason)
    WHERE h.hold_id = n.hold_id AND (h.user_id, h.asset_id, h.amount) = (n.user_id, n.asset_id, n.amount::numeric)
        AND (h.status = 'PENDING' OR (h.status IN ('HELD', 'REFUSED') AND n.status NOT IN ('HELD', 'REFUSED'))
            OR (h.status = 'CAPTURED' AND h.captured IS NULL AND n.captured IS NOT NULL))"""

_ANSWER: Final = """
    UPDATE api.hold_requests AS asked SET settled = true, reason_code = n.reason_code, reason = n.reason
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::text[]) AS n (hold_id, user_id, asset_id, amount, action, reason_code, reason, capture, paid_to)
    JOIN api.holds AS h
        ON h.hold_id = n.hold_id AND (h.user_id, h.asset_id, h.amount) = (n.user_id, n.asset_id, n.amount::numeric)
    CROSS JOIN LATERAL (
        SELECT convert_from(request, 'UTF8')::jsonb AS body FROM api.hold_requests AS its
        WHERE (its.hold_id, its.action) = (n.hold_id, n.action)) AS request
    WHERE (asked.hold_id, asked.action) = (n.hold_id, n.action) AND NOT asked.settled
        AND (n.capture IS NULL OR (body ->> 'capture', body ->> 'to') = (n.capture, n.paid_to))"""

_DUE: Final = """
    WITH due AS (
        SELECT hold_id, action FROM api.hold_requests WHERE NOT settled AND next_publish_at <= statement_timestamp()
            AND next_publish_at > statement_timestamp() - make_interval(secs => $4)
        ORDER BY next_publish_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    UPDATE api.hold_requests AS asked SET next_publish_at = now()
        + least(greatest(now() - asked.created_at, make_interval(secs => $2)), make_interval(secs => $3))
    FROM due JOIN api.holds AS h USING (hold_id) WHERE (asked.hold_id, asked.action) = (due.hold_id, due.action)
    RETURNING asked.hold_id, asked.action, h.user_id, asked.request, asked.traceparent, asked.created_at"""

_HAND_BACK: Final = """
    UPDATE api.hold_requests AS asked SET next_publish_at = now() + make_interval(secs => $3)
    FROM unnest($1::uuid[], $2::text[]) AS n (hold_id, action)
    WHERE (asked.hold_id, asked.action) = (n.hold_id, n.action) AND NOT asked.settled"""

_UNHEARD: Final = f"""
    SELECT {_SHOWN} FROM {_FROM}
    WHERE h.status = 'HELD' AND h.expires_at < now() - make_interval(secs => $1) AND r.hold_id IS NULL
    ORDER BY h.expires_at LIMIT $2"""  # noqa: S608 - the same

# The order: all lock alike.
_ASK_RELEASES: Final = """
    INSERT INTO api.hold_requests (hold_id, action, request, next_publish_at)
    SELECT hold_id, 'release', request, now() FROM unnest($1::uuid[], $2::bytea[]) AS n (hold_id, request)
    ORDER BY hold_id
    ON CONFLICT DO NOTHING"""
