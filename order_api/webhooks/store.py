"""The only SQL of this room, on the schema `webhooks`, by the database's time. It sends nothing: a process does.

Each change of an endpoint raises `webhooks.changes`, by which that process learns of it, and leaves a line in the
trail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.orders import Order
from contracts.vocabulary import OrderStatus
from contracts.webhooks import (
    ENDPOINTS_MAX,
    DeliveryState,
    EndpointState,
    EventType,
    StoredSecret,
    secrets_from,
    secrets_to,
)
from order_api.orders.audit_trail import Origin
from order_api.orders.store import ORDER_COLUMNS, read_order
from order_api.webhooks.endpoints import WebhookAttempt, WebhookDelivery, WebhookEndpoint, rotated
from saga_kit.runtime.transactions import Begins, Transaction, alone, begin

WAITING_MAX: Final = 1_000
"""Deliveries that wait are counted up to this."""
ATTEMPTS_SHOWN: Final = 20
RECOVERED_MAX: Final = 1_000
"""Orders that one recovery tells of."""
SCANNED_MAX: Final = 10_000
"""A user's newest orders, among which those are looked for that have changed."""
FORWARD_MAX: Final = 2_000
"""Deliveries that wait for their next try and are due at once when their endpoint is enabled."""
DELETED_MAX: Final = 5_000
"""Deliveries that one statement deletes."""
_LOCK: Final = 0x77686B73
"""The class of the advisory locks by which a user's endpoints are counted one after the other."""


class Action(StrEnum):
    """What was asked for, in the trail."""

    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"
    ROTATE = "rotate"
    PING = "ping"
    REDELIVER = "redeliver"
    RECOVER = "recover"


class NewEndpoint(NamedTuple):
    """An endpoint to be made; `asked` is what its user asked for, as text."""

    endpoint_id: UUID
    user_id: str
    url: str
    description: str
    event_types: list[str]
    every_version: bool
    secrets: str
    key: str | None
    asked: str


class Stored(NamedTuple):
    """An endpoint with what no answer shows, and the database's time."""

    webhook: WebhookEndpoint
    secrets: list[StoredSecret]
    asked: str | None
    now: datetime


class Changed(NamedTuple):
    """An order that has changed, and the version before it; None: it had none, or that is not known."""

    order: Order
    previous: OrderStatus | None
    at: datetime


class Told(NamedTuple):
    """A delivery to be made: of an order's version, or of nothing but a text of ours."""

    event_id: str
    order_id: UUID | None
    version: int | None
    event_type: EventType
    body: bytes


class Store:
    """Reads and writes endpoints and deliveries. Raises what the driver does, and `TimeoutError` without a connection.

    What is not there is answered with None, or with False.
    """

    def __init__(self, source: AsyncEngine | Begins) -> None:
        self._source = source

    async def create(self, new: NewEndpoint, origin: Origin, *, keys_kept_days: int) -> tuple[Stored | None, bool]:
        """Make an endpoint; return it, and whether it is new. None: its user has as many as is allowed.

        One that has the same key is returned as it is, unless it has had the key for `keys_kept_days`.
        """
        async with begin(self._source) as tx:
            await tx.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK, new.user_id)
            if new.key is not None:
                await tx.execute(_RELEASE_KEY, new.user_id, new.key, keys_kept_days)
                if there := await tx.fetch(_select("e.user_id = $1 AND e.idempotency_key = $2"), new.user_id, new.key):
                    return _stored(there[0]), False
            if await tx.fetchval(_COUNT, new.user_id) >= ENDPOINTS_MAX:
                return None, False
            await tx.execute(_INSERT, *new)
            await _note(tx, new.endpoint_id, Action.CREATE, origin)
            [row] = await tx.fetch(_select("e.endpoint_id = $1"), new.endpoint_id)
        return _stored(row), True

    async def find(self, endpoint_id: UUID) -> Stored | None:
        """Return an endpoint."""
        rows = await self._run(_select("e.endpoint_id = $1"), endpoint_id)
        return _stored(rows[0]) if rows else None

    async def of_user(self, user_id: str) -> list[WebhookEndpoint]:
        """Return a user's endpoints, oldest first."""
        rows = await self._run(_select("e.user_id = $1") + " ORDER BY e.created_at, e.endpoint_id", user_id)
        return [_stored(row).webhook for row in rows]

    async def change(self, endpoint_id: UUID, changes: Mapping[str, Any], origin: Origin) -> WebhookEndpoint | None:
        """Change what is named; ACTIVE and another URL forget the failures, and ACTIVE makes due what waits."""
        names = ("url", "description", "event_types", "every_version", "state")
        active = changes.get("state") == EndpointState.ACTIVE
        async with begin(self._source) as tx:
            if not await tx.execute(_CHANGE, endpoint_id, *(changes.get(name) for name in names)):
                return None
            if active:
                await tx.execute(_BRING_FORWARD, endpoint_id, FORWARD_MAX)
            await _note(tx, endpoint_id, Action.CHANGE, origin)
            [row] = await tx.fetch(_select("e.endpoint_id = $1"), endpoint_id)
        return _stored(row).webhook

    async def rotate(self, endpoint_id: UUID, sealed: str, origin: Origin) -> Stored | None:
        """Give an endpoint a new secret; the one before signs for a while."""
        async with begin(self._source) as tx:
            found = await tx.fetchrow(_LOCK_SECRETS, endpoint_id)
            if found is None:
                return None
            secrets = rotated(secrets_from(found[0]), sealed, found[1])
            await tx.execute(_SET_SECRETS, endpoint_id, secrets_to(secrets))
            await _note(tx, endpoint_id, Action.ROTATE, origin)
            [row] = await tx.fetch(_select("e.endpoint_id = $1"), endpoint_id)
        return _stored(row)

    async def delete(self, endpoint_id: UUID, origin: Origin) -> None:
        """Delete an endpoint, and all that was sent to it.

        It is told nothing from the beginning, and then deleted in pages: one that takes too long goes on where it was
        when it is asked for again.
        """
        async with begin(self._source) as tx:
            await tx.execute(CLOSE, [endpoint_id])
            tx.write(_TOLD)
        await empty(self._source, endpoint_id)
        async with begin(self._source) as tx:
            await _note(tx, endpoint_id, Action.DELETE, origin)
            await tx.execute("DELETE FROM webhooks.endpoints WHERE endpoint_id = $1", endpoint_id)

    async def deliveries(
        self, endpoint_id: UUID, status: DeliveryState | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[WebhookDelivery]:
        """Return what was sent, newest first, from behind a place on, with the last attempts at each."""
        at, event_id = after or (None, None)
        async with alone(self._source) as tx:
            rows = await tx.fetch(_DELIVERIES[status], endpoint_id, at, event_id, limit)
            return await _with_attempts(tx, endpoint_id, rows)

    async def delivery(self, endpoint_id: UUID, event_id: str) -> WebhookDelivery | None:
        """Return one delivery."""
        async with alone(self._source) as tx:
            rows = await tx.fetch(_DELIVERY, endpoint_id, event_id)
            found = await _with_attempts(tx, endpoint_id, rows)
        return found[0] if found else None

    async def ping(self, endpoint_id: UUID, told: Told, origin: Origin) -> str:
        """Have a ping sent; return its id. While one is to be sent, it is that one."""
        async with begin(self._source) as tx:
            await tx.execute("SELECT FROM webhooks.endpoints WHERE endpoint_id = $1 FOR NO KEY UPDATE", endpoint_id)
            if rows := await tx.fetch(_PING_WAITS, endpoint_id):
                return str(rows[0][0])
            await tx.execute(_TELL, endpoint_id, *([value] for value in told))
            await _note(tx, endpoint_id, Action.PING, origin)
        return told.event_id

    async def redeliver(self, endpoint_id: UUID, event_id: str, origin: Origin) -> bool:
        """Make a delivery due, whatever became of it; return whether it is there. One that is being sent stays so."""
        async with begin(self._source) as tx:
            if not await tx.execute(_REDELIVER, endpoint_id, event_id):
                return False
            await _note(tx, endpoint_id, Action.REDELIVER, origin)
        return True

    async def changed(self, user_id: str, since: datetime) -> list[Changed]:
        """Return a user's orders that have changed since then, as they are: one more than `RECOVERED_MAX` at most."""
        async with alone(self._source) as tx:
            rows = await tx.fetch(_CHANGED, user_id, since, SCANNED_MAX, RECOVERED_MAX + 1)
        width = len(ORDER_COLUMNS)
        return [
            Changed(read_order(*row[:width]), OrderStatus(row[width]) if row[width] else None, row[width + 1])
            for row in rows
        ]

    async def recover(
        self, endpoint_id: UUID, told: Sequence[Told], every_since: datetime | None, origin: Origin
    ) -> tuple[int, datetime | None]:
        """Have these told, unless they were delivered or are to be sent; return how many are, and how far it came.

        With `every_since`, older versions that were left out or given up since then are sent again, too: the time that
        is returned is that of the last, when there may be more.
        """
        async with begin(self._source) as tx:
            columns = list(zip(*told, strict=True)) or [()] * len(Told._fields)
            number = await tx.execute(_TELL, endpoint_id, *map(list, columns))
            further = None
            if every_since is not None:
                rows = await tx.fetch(_TELL_AGAIN, endpoint_id, every_since, RECOVERED_MAX)
                number += len(rows)
                further = max(row[0] for row in rows) if len(rows) == RECOVERED_MAX else None
            await _note(tx, endpoint_id, Action.RECOVER, origin)
        return number, further

    async def _run(self, statement: str, *values: Any) -> list[Any]:
        async with alone(self._source) as tx:
            return await tx.fetch(statement, *values)


async def empty(source: AsyncEngine | Begins, endpoint_id: UUID) -> None:
    """Delete all that was sent to an endpoint, in pages: whoever marks deliveries waits for one page at most."""
    deleted = DELETED_MAX
    while deleted == DELETED_MAX:
        async with alone(source) as tx:
            deleted = len(await tx.fetch(_DELETE_DELIVERIES, endpoint_id, DELETED_MAX))


async def _note(tx: Transaction, endpoint_id: UUID, action: Action, origin: Origin) -> None:
    """Add a line to the trail, and have the process read the endpoint again if it is changed."""
    await tx.execute(_NOTE, endpoint_id, action, *msgspec.structs.astuple(origin))
    if action in _CHANGES:
        await tx.execute(_TOLD)


async def _with_attempts(tx: Transaction, endpoint_id: UUID, rows: Sequence[Any]) -> list[WebhookDelivery]:
    attempts: dict[str, list[WebhookAttempt]] = {row[0]: [] for row in rows}
    if attempts:
        for row in await tx.fetch(_ATTEMPTS, endpoint_id, list(attempts), ATTEMPTS_SHOWN):
            attempts[row[0]].append(WebhookAttempt(*row[1:]))
    return [_delivery(row, attempts[row[0]]) for row in rows]


def _delivery(row: Any, last_attempts: list[WebhookAttempt]) -> WebhookDelivery:
    values = dict(zip(WebhookDelivery.__struct_fields__, row, strict=False))
    values["event_type"] = EventType(values["event_type"])
    values["status"] = DeliveryState(values["status"])
    return WebhookDelivery(**values, last_attempts=last_attempts)


def _stored(row: Any) -> Stored:
    values = dict(zip(WebhookEndpoint.__struct_fields__, row, strict=False))
    values["event_types"] = [EventType(one) for one in values["event_types"]]
    values["state"] = EndpointState(values["state"])
    secrets, asked, now = row[len(values) :]
    return Stored(WebhookEndpoint(**values), secrets_from(secrets), asked, now)


_CHANGES: Final = frozenset({Action.CREATE, Action.CHANGE, Action.DELETE, Action.ROTATE})


def _select(which: str) -> str:
    return f"""
    SELECT e.endpoint_id, e.user_id, e.target, e.description, e.event_types, e.every_version, e.state,
        e.disabled_reason, e.failing_since, e.failures_in_row, (
            SELECT count(*) FROM (
                SELECT FROM webhooks.deliveries AS d
                WHERE d.endpoint_id = e.endpoint_id AND d.state = 'PENDING' LIMIT {WAITING_MAX}
            ) AS waiting
        ), e.created_at, e.updated_at, e.revision, e.secrets, e.asked, now()
    FROM webhooks.endpoints AS e WHERE e.kind = 'webhook' AND {which}"""  # noqa: S608 - conditions are the program's own


_TOLD: Final = "UPDATE webhooks.changes SET version = version + 1"
_NOTE: Final = """
    INSERT INTO webhooks.requests (endpoint_id, user_id, action, caller, token_id, address, trace_id)
    SELECT endpoint_id, user_id, $2, $3, $4, $5, $6 FROM webhooks.endpoints WHERE endpoint_id = $1"""
_RELEASE_KEY: Final = """
    UPDATE webhooks.endpoints SET idempotency_key = NULL
    WHERE user_id = $1 AND idempotency_key = $2 AND created_at < now() - make_interval(days => $3)"""
_COUNT: Final = "SELECT count(*) FROM webhooks.endpoints WHERE user_id = $1"
_INSERT: Final = """
    INSERT INTO webhooks.endpoints (endpoint_id, user_id, kind, target, description, event_types, every_version,
        secrets, idempotency_key, asked)
    VALUES ($1, $2, 'webhook', $3, $4, $5, $6, $7, $8, $9)"""

_CHANGE: Final = """
    UPDATE webhooks.endpoints SET
        target = coalesce($2, target), description = coalesce($3, description),
        event_types = coalesce($4::text[], event_types), every_version = coalesce($5::boolean, every_version),
        state = coalesce($6, state), disabled_at = CASE WHEN $6 IS NULL THEN disabled_at END,
        disabled_reason = CASE
            WHEN $6 IS NULL THEN disabled_reason WHEN $6 = 'DISABLED' THEN 'disabled by its user' END,
        failing_since = CASE WHEN $6 = 'ACTIVE' OR $2 <> target THEN NULL ELSE failing_since END,
        failures_in_row = CASE WHEN $6 = 'ACTIVE' OR $2 <> target THEN 0 ELSE failures_in_row END,
        paused_until = CASE WHEN $6 = 'ACTIVE' OR $2 <> target THEN NULL ELSE paused_until END,
        updated_at = now(), revision = revision + 1
    WHERE endpoint_id = $1 AND kind = 'webhook'"""
_BRING_FORWARD: Final = """
    UPDATE webhooks.deliveries AS d SET next_attempt_at = now()
    FROM (
        SELECT event_id FROM webhooks.deliveries
        WHERE endpoint_id = $1 AND state = 'PENDING' AND leased_until IS NULL AND next_attempt_at > now()
        ORDER BY event_id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
    ) AS waiting
    WHERE d.endpoint_id = $1 AND d.event_id = waiting.event_id"""

_LOCK_SECRETS: Final = """
    SELECT secrets, now() FROM webhooks.endpoints WHERE endpoint_id = $1 AND kind = 'webhook' FOR NO KEY UPDATE"""
_SET_SECRETS: Final = """
    UPDATE webhooks.endpoints SET secrets = $2, updated_at = now(), revision = revision + 1 WHERE endpoint_id = $1"""

CLOSED: Final = "is being deleted"
CLOSE: Final = f"""
    UPDATE webhooks.endpoints SET state = 'DISABLED', disabled_reason = '{CLOSED}', disabled_at = NULL
    WHERE endpoint_id = ANY($1::uuid[])"""  # noqa: S608 - our own words
"""Has endpoints told nothing any more, because they are to be deleted."""
_DELETE_DELIVERIES: Final = """
    DELETE FROM webhooks.deliveries AS d
    USING (
        SELECT event_id FROM webhooks.deliveries WHERE endpoint_id = $1 ORDER BY event_id LIMIT $2 FOR UPDATE
    ) AS page
    WHERE d.endpoint_id = $1 AND d.event_id = page.event_id RETURNING 1"""

_SHOWN: Final = """event_id, order_id, version, event_type, state, reason, created_at,
    CASE WHEN state = 'PENDING' THEN next_attempt_at END, ended_at, attempts"""
# A statement for each state, which is then a constant: a plan for any state could not use the indexes of some.
_DELIVERIES: Final = {
    state: f"""
    SELECT {_SHOWN} FROM webhooks.deliveries
    WHERE endpoint_id = $1 {"" if state is None else f"AND state = '{state}'"}
        AND ($2::timestamptz IS NULL OR (created_at <= $2 AND (created_at, event_id) < ($2, $3)))
    ORDER BY created_at DESC, event_id DESC LIMIT $4"""  # noqa: S608 - names are the program's own
    for state in (None, *DeliveryState)
}
_DELIVERY: Final = f"""
    SELECT {_SHOWN} FROM webhooks.deliveries WHERE endpoint_id = $1 AND event_id = $2"""  # noqa: S608 - the same
_ATTEMPTS: Final = """
    SELECT asked.event_id, a.number, a.at, a.duration_ms, a.status, a.error, a.answer
    FROM unnest($2::text[]) AS asked (event_id)
    CROSS JOIN LATERAL (
        SELECT * FROM webhooks.attempts AS its WHERE its.endpoint_id = $1 AND its.event_id = asked.event_id
        ORDER BY number DESC LIMIT $3
    ) AS a"""

_PING_WAITS: Final = f"""
    SELECT event_id FROM webhooks.deliveries
    WHERE endpoint_id = $1 AND state = 'PENDING' AND event_type = '{EventType.WEBHOOK_PING}' LIMIT 1"""  # noqa: S608
_TELL: Final = """
    INSERT INTO webhooks.deliveries AS d (endpoint_id, event_id, order_id, version, event_type, body)
    SELECT $1, event_id, order_id, version, event_type, body
    FROM unnest($2::text[], $3::uuid[], $4::bigint[], $5::text[], $6::bytea[])
        AS new (event_id, order_id, version, event_type, body)
    ORDER BY event_id
    ON CONFLICT (endpoint_id, event_id) DO UPDATE SET
        state = 'PENDING', reason = NULL, ended_at = NULL, next_attempt_at = now()
    WHERE d.state NOT IN ('PENDING', 'DELIVERED', 'SKIPPED')"""
_TELL_AGAIN: Final = """
    UPDATE webhooks.deliveries AS d SET state = 'PENDING', reason = NULL, ended_at = NULL, next_attempt_at = now()
    FROM (
        SELECT event_id FROM webhooks.deliveries
        WHERE endpoint_id = $1 AND created_at >= $2 AND state IN ('FAILED', 'SUPERSEDED')
        ORDER BY created_at, event_id LIMIT $3 FOR NO KEY UPDATE
    ) AS lost
    WHERE d.endpoint_id = $1 AND d.event_id = lost.event_id RETURNING d.created_at"""
_REDELIVER: Final = """
    UPDATE webhooks.deliveries SET
        state = 'PENDING', reason = NULL, ended_at = NULL,
        next_attempt_at = CASE WHEN leased_until > now() THEN next_attempt_at ELSE now() END
    WHERE endpoint_id = $1 AND event_id = $2"""

_CHANGED: Final = f"""
    WITH newest AS (
        SELECT order_id, updated_at FROM api.orders WHERE user_id = $1
        ORDER BY created_at DESC, order_id DESC LIMIT $3
    ), changed AS (
        SELECT order_id FROM newest WHERE updated_at >= $2 ORDER BY updated_at, order_id LIMIT $4
    )
    SELECT {", ".join(f"o.{name}" for name in ORDER_COLUMNS)}, v.previous_status, coalesce(v.at, o.updated_at)
    FROM changed CROSS JOIN LATERAL (SELECT * FROM api.orders AS its WHERE its.order_id = changed.order_id) AS o
    LEFT JOIN LATERAL (
        SELECT previous_status, at FROM api.versions AS its
        WHERE its.order_id = o.order_id AND its.version = o.version LIMIT 1
    ) AS v ON true
    WHERE o.version > 0 ORDER BY o.updated_at, o.order_id"""  # noqa: S608 - the same
