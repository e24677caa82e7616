"""The only SQL of this room, on the schema `webhooks`, by the database's time. It sends nothing: a process does.

A user's channels of all rooms are counted and changed one after the other, by the lock that `/webhooks` takes, too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, time, timedelta
from hashlib import sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine
from uuid_utils.compat import uuid7

from contracts.codec import encode
from contracts.decimals import Money
from contracts.webhooks import (
    ENDPOINTS_MAX,
    DeliveryState,
    EndpointKind,
    EndpointState,
    EventType,
    PingWebhook,
    PushSubscription,
    StoredSecret,
    secrets_from,
    secrets_to,
)
from order_api.notifications.preferences import Notification, NotificationChannel, QuietHours, Wanted
from order_api.orders.audit_trail import Origin
from order_api.webhooks.store import CLOSE, CLOSED, empty
from saga_kit.runtime.transactions import Begins, Transaction, alone, begin

CODE_VALID: Final = timedelta(days=1)
CODES_MAX: Final = 3
"""Codes that a mailbox gets in a day, whoever asks for them. What is behind a plus leads to the same mailbox."""
CODES_OF_USER_MAX: Final = 10
"""Codes that a user asks for in a day, for whatever addresses."""
_LOCK: Final = 0x77686B73


class TooManyChannelsError(Exception):
    """A user would have more endpoints than one may have."""


class TooManyCodesError(Exception):
    """An address has had its codes for today."""


class Unconfirmed(NamedTuple):
    """An e-mail address that has not sent its code back, and the sealed codes that count."""

    endpoint_id: UUID
    sealed: list[str]


class Store:
    """Reads and writes preferences and the log. Raises what the driver does, and `TimeoutError`."""

    def __init__(self, source: AsyncEngine | Begins) -> None:
        self._source = source

    async def unknown_zones(self, zones: Collection[str]) -> set[str]:
        """Return those that are no time zones of the database."""
        async with alone(self._source) as tx:
            known = await tx.fetch("SELECT name FROM pg_timezone_names WHERE name = ANY($1::text[])", sorted(zones))
        return set(zones) - {row[0] for row in known}

    async def channels(self, user_id: str) -> list[NotificationChannel]:
        """Return all channels of a user."""
        async with alone(self._source) as tx:
            return [_channel(row) for row in await tx.fetch(_CHANNELS, user_id)]

    async def replace(
        self,
        user_id: str,
        wanted: Sequence[Wanted],
        webhooks: tuple[QuietHours | None, Money | None],
        sealed: str,
        origin: Origin,
    ) -> None:
        """Make a user's channels what is wanted; `sealed` is the code for an address that is new.

        Raises `TooManyChannelsError` and `TooManyCodesError`, and then nothing is changed. What is switched off is told
        nothing from the beginning, and deleted afterwards: what a crash leaves of that goes with the next change.
        """
        async with begin(self._source) as tx:
            await tx.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK, user_id)
            there = {(row[1], row[2]): row for row in await tx.fetch(_OF_PEOPLE, user_id)}
            kept = {(one.kind.value, one.target) for one in wanted}
            gone = [row[0] for key, row in there.items() if key not in kept]
            await tx.execute(CLOSE, gone)
            for one in wanted:
                await self._set(tx, user_id, one, there.get((one.kind.value, one.target)), sealed, origin)
            if await tx.fetchval(_COUNT, user_id, gone) > ENDPOINTS_MAX:
                raise TooManyChannelsError
            await tx.execute(_SET_WEBHOOKS, user_id, *_hours(webhooks[0]), webhooks[1])
            for endpoint_id in gone:
                await _note(tx, endpoint_id, user_id, origin)
            await tx.execute("UPDATE webhooks.changes SET version = version + 1")
        for endpoint_id in gone:
            await empty(self._source, endpoint_id)
        if gone:
            async with alone(self._source) as tx:
                await tx.execute(_DELETE, gone, CLOSED)

    async def _set(
        self, tx: Transaction, user_id: str, one: Wanted, there: Any | None, sealed: str, origin: Origin
    ) -> None:
        """Make a channel, or change it; an address without a code that counts gets one."""
        preferences = (one.event_types, *_hours(one.quiet), one.notional_min)
        if there is None:
            endpoint_id = uuid7()
            await tx.execute(_INSERT, endpoint_id, user_id, one.kind, one.target, *preferences)
        else:
            endpoint_id = there[0]
            await tx.execute(_UPDATE, endpoint_id, *preferences)
        needs_code = one.kind is EndpointKind.EMAIL and (
            there is None or not (there[3] or _counting(there[4], there[5]))
        )
        if needs_code:
            await self._send_code(tx, endpoint_id, user_id, one.target, sealed)
        await _note(tx, endpoint_id, user_id, origin)

    async def _send_code(self, tx: Transaction, endpoint_id: UUID, user_id: str, address: str, sealed: str) -> None:
        mailbox, _, domain = address.lower().rpartition("@")
        for counted, most in (
            (f"{mailbox.partition('+')[0]}@{domain}", CODES_MAX),
            (f"user:{user_id}", CODES_OF_USER_MAX),
        ):
            if not await tx.fetch(_COUNT_CODE, sha256(counted.encode()).digest(), most):
                raise TooManyCodesError
        now = await tx.fetchval("SELECT now()")
        secrets = secrets_to([StoredSecret(sealed, now + CODE_VALID)])
        await tx.execute("UPDATE webhooks.endpoints SET secrets = $2 WHERE endpoint_id = $1", endpoint_id, secrets)
        body = encode(PingWebhook(EventType.NOTIFICATION_CONFIRM, now))
        await tx.execute(_TELL, [endpoint_id], EventType.NOTIFICATION_CONFIRM, body, "confirm", str(uuid7()))

    async def unconfirmed(self, user_id: str) -> list[Unconfirmed]:
        """Return the addresses of a user that have a code which counts."""
        async with alone(self._source) as tx:
            rows = await tx.fetch(_UNCONFIRMED, user_id)
        return [Unconfirmed(row[0], _counting(row[1], row[2])) for row in rows]

    async def confirm(self, endpoint_id: UUID, user_id: str, origin: Origin) -> None:
        """Note that the owner of an address has sent its code back."""
        async with begin(self._source) as tx:
            await tx.execute(_CONFIRM, endpoint_id)
            await _note(tx, endpoint_id, user_id, origin)
            await tx.execute("UPDATE webhooks.changes SET version = version + 1")

    async def test(self, user_id: str, origin: Origin) -> int:
        """Have a test sent to each channel of a person; return to how many. While one waits, there is no other."""
        async with begin(self._source) as tx:
            ids = [row[0] for row in await tx.fetch(_TESTABLE, user_id)]
            now = await tx.fetchval("SELECT now()")
            body = encode(PingWebhook(EventType.WEBHOOK_PING, now))
            await tx.execute(_TELL, ids, EventType.WEBHOOK_PING, body, "test", str(uuid7()))
            for endpoint_id in ids:
                await _note(tx, endpoint_id, user_id, origin)
        return len(ids)

    async def log(self, user_id: str, after: tuple[datetime, UUID, str] | None, limit: int) -> list[Notification]:
        """Return what was told to a user, newest first, from behind a place on."""
        async with alone(self._source) as tx:
            rows = await tx.fetch(_LOG, user_id, limit, *(after or (None, None, None)))
        return [_notification(row) for row in rows]


def _notification(row: Any) -> Notification:
    values = dict(zip(Notification.__struct_fields__, row, strict=True))
    kinds = {"channel": EndpointKind, "event_type": EventType, "status": DeliveryState}
    return Notification(**values | {name: kind(values[name]) for name, kind in kinds.items()})


def _counting(secrets: str, now: datetime) -> list[str]:
    return [one.sealed for one in secrets_from(secrets) if one.valid_until is not None and one.valid_until > now]


def _hours(quiet: QuietHours | None) -> tuple[time | None, time | None, str | None]:
    if quiet is None:
        return None, None, None
    return time.fromisoformat(quiet.begin), time.fromisoformat(quiet.end), quiet.time_zone


def _channel(row: Any) -> NotificationChannel:
    kind, quiet = EndpointKind(row[1]), None
    if row[5] is not None:
        quiet = QuietHours(f"{row[5]:%H:%M}", f"{row[6]:%H:%M}", row[7])
    target = row[2] if kind is not EndpointKind.PUSH else msgspec.json.decode(row[2], type=PushSubscription).endpoint
    types = [EventType(one) for one in row[4]]
    notional = None if row[8] is None else Money(row[8])
    return NotificationChannel(row[0], kind, target, row[3], types, quiet, notional, EndpointState(row[9]), row[10])


async def _note(tx: Transaction, endpoint_id: UUID, user_id: str, origin: Origin) -> None:
    await tx.execute(_NOTE, endpoint_id, user_id, *msgspec.structs.astuple(origin))


_CHANNELS: Final = """
    SELECT endpoint_id, kind, target, kind <> 'email' OR confirmed_at IS NOT NULL, event_types, quiet_from,
        quiet_until, time_zone, notional_min, state, disabled_reason
    FROM webhooks.endpoints WHERE user_id = $1 ORDER BY created_at, endpoint_id"""
_OF_PEOPLE: Final = """
    SELECT endpoint_id, kind, target, confirmed_at IS NOT NULL, secrets, now()
    FROM webhooks.endpoints WHERE user_id = $1 AND kind <> 'webhook' ORDER BY endpoint_id FOR UPDATE"""
_COUNT: Final = """
    SELECT count(*) FROM webhooks.endpoints WHERE user_id = $1 AND NOT endpoint_id = ANY($2::uuid[])"""
_DELETE: Final = """
    DELETE FROM webhooks.endpoints WHERE endpoint_id = ANY($1::uuid[]) AND disabled_reason = $2"""
_INSERT: Final = """
    INSERT INTO webhooks.endpoints (
        endpoint_id, user_id, kind, target, event_types, quiet_from, quiet_until, time_zone, notional_min, secrets)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '[]')"""
_UPDATE: Final = """
    UPDATE webhooks.endpoints SET
        event_types = $2, quiet_from = $3, quiet_until = $4, time_zone = $5, notional_min = $6,
        failing_since = CASE WHEN state = 'ACTIVE' THEN failing_since END,
        failures_in_row = CASE WHEN state = 'ACTIVE' THEN failures_in_row ELSE 0 END,
        paused_until = CASE WHEN state = 'ACTIVE' THEN paused_until END,
        state = 'ACTIVE', disabled_reason = NULL, disabled_at = NULL, updated_at = now(), revision = revision + 1
    WHERE endpoint_id = $1"""
_SET_WEBHOOKS: Final = """
    UPDATE webhooks.endpoints SET
        quiet_from = $2, quiet_until = $3, time_zone = $4, notional_min = $5, updated_at = now(),
        revision = revision + 1
    WHERE user_id = $1 AND kind = 'webhook'
        AND (quiet_from, quiet_until, time_zone, notional_min) IS DISTINCT FROM ($2::time, $3::time, $4::text, $5)"""
_COUNT_CODE: Final = """
    INSERT INTO webhooks.codes AS c (address_hash, day, sent) VALUES ($1, current_date, 1)
    ON CONFLICT (address_hash, day) DO UPDATE SET sent = c.sent + 1 WHERE c.sent < $2 RETURNING sent"""
_UNCONFIRMED: Final = """
    SELECT endpoint_id, secrets, now() FROM webhooks.endpoints
    WHERE user_id = $1 AND kind = 'email' AND confirmed_at IS NULL"""
_CONFIRM: Final = """
    UPDATE webhooks.endpoints SET confirmed_at = now(), secrets = '[]', updated_at = now(), revision = revision + 1
    WHERE endpoint_id = $1"""
_TESTABLE: Final = f"""
    SELECT endpoint_id FROM webhooks.endpoints AS e
    WHERE user_id = $1 AND kind <> 'webhook' AND state = 'ACTIVE' AND (kind <> 'email' OR confirmed_at IS NOT NULL)
        AND NOT EXISTS (
            SELECT FROM webhooks.deliveries AS d WHERE d.endpoint_id = e.endpoint_id AND d.state = 'PENDING'
                AND d.event_type = '{EventType.WEBHOOK_PING}')
    ORDER BY endpoint_id FOR NO KEY UPDATE"""  # noqa: S608 - our own words
_TELL: Final = """
    INSERT INTO webhooks.deliveries (endpoint_id, event_id, event_type, body)
    SELECT endpoint_id, endpoint_id || ':' || $4::text || ':' || $5::text, $2, $3
    FROM unnest($1::uuid[]) AS those (endpoint_id)"""
_NOTE: Final = """
    INSERT INTO webhooks.requests (endpoint_id, user_id, action, caller, token_id, address, trace_id)
    VALUES ($1, $2, 'notify', $3, $4, $5, $6)"""
_LOG: Final = """
    SELECT e.endpoint_id, e.kind, d.event_id, d.order_id, d.version, d.event_type, d.state, d.reason, d.attempts,
        d.created_at, d.ended_at
    FROM webhooks.endpoints AS e
    CROSS JOIN LATERAL (
        SELECT * FROM webhooks.deliveries AS its
        WHERE its.endpoint_id = e.endpoint_id AND ($3::timestamptz IS NULL OR (
            its.created_at <= $3 AND (its.created_at, its.endpoint_id, its.event_id) < ($3, $4::uuid, $5::text)))
        ORDER BY its.created_at DESC, its.event_id DESC LIMIT $2
    ) AS d
    WHERE e.user_id = $1
    ORDER BY d.created_at DESC, e.endpoint_id DESC, d.event_id DESC LIMIT $2"""
