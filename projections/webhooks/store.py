"""The only SQL of this room, on the schema `webhooks`, by the database's time.

A delivery that is leased is due again when its lease ends, so whoever finds it then sends it once more. All leases of
an endpoint are one process's: who claims locks the endpoint's row, and takes nothing where others have leases. So its
bound on attempts at the same time holds for all processes together. Rows are locked by their key, in order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from contracts.codec import encode
from contracts.vocabulary import id_text
from contracts.webhooks import DisabledEndpoint, DisabledWebhook, EndpointKind, EndpointState, EventType, place_of
from projections.webhooks.deliveries import Delivery, Endpoint, Marked, NewDelivery, Subscription
from projections.webhooks.rules import KEPT_MAX, Health
from saga_kit.runtime.transactions import Transaction

LEASE_S: Final = 60.0
"""So long no other process sends a delivery. An attempt begins only while enough of it is left for its end."""
FORWARD_MAX: Final = 2_000
"""Deliveries that wait for their next try and are due at once when their endpoint answers again."""


TEXT_MAX: Final = 500
"""Characters that are kept of a reason, an error or an answer."""


class Due(NamedTuple):
    """An endpoint that has something to be sent: for how many seconds, and how often in a row it has failed."""

    endpoint_id: UUID
    overdue_s: float
    failures: int


class Want(NamedTuple):
    """How many deliveries of an endpoint to claim, and how many of it this process has leased already."""

    endpoint_id: UUID
    rows: int
    leased: int


class Standing(NamedTuple):
    """How an endpoint does, as of `now`; its row is locked."""

    endpoint: Endpoint
    health: Health
    active: bool
    now: datetime


class Alarm(NamedTuple):
    """What operators are to be told of: how many of what there are, and since when."""

    subject: str
    number: int
    since: datetime


async def alarms(tx: Transaction, pause: timedelta, again: timedelta) -> list[Alarm]:
    """Note what operators are to be told of now, and return it: what has grown, after a pause, or has long been told.

    Whoever is told of it by another process meanwhile gets nothing.
    """
    await tx.execute(_LESS_TROUBLE)
    return [Alarm(row[0], row[1], row[2].astimezone(UTC)) for row in await tx.fetch(_ALARMS, pause, again)]


async def changes(tx: Transaction) -> int:
    """Return the number that every change of an endpoint raises."""
    [row] = await tx.read("SELECT version FROM webhooks.changes")
    version: int = row[0]
    return version


async def subscriptions(tx: Transaction, user_ids: Collection[str]) -> dict[str, list[Subscription]]:
    """Return what the endpoints of these users want; every user is in the answer."""
    found: dict[str, list[Subscription]] = {user_id: [] for user_id in user_ids}
    for row in await tx.read(_SUBSCRIPTIONS, sorted(user_ids)):
        one = Subscription(row[0], row[1], EndpointKind(row[2]), frozenset(row[3]), *row[4:])
        found[one.user_id].append(one)
    return found


async def insert(tx: Transaction, deliveries: Sequence[NewDelivery]) -> None:
    """Store deliveries, each once, and mark older versions that they overtake.

    One whose endpoint is deleted meanwhile is left out. One that comes after a newer version (it is read again) is
    stored as SUPERSEDED. Raises `TimeoutError` when an endpoint stays locked: nobody repeats an event, and this process
    may not write one to its topic, so the batch waits. Only who deletes an endpoint locks it so, for a moment.
    """
    columns = [[getattr(one, name) for one in deliveries] for name in _NEW_COLUMNS]
    tx.write(_INSERT, *columns)
    if overtaking := [one for one in deliveries if one.overtakes and one.overtaken_by is None]:
        tx.write(
            _SUPERSEDE,
            [one.endpoint_id for one in overtaking],
            [one.order_id for one in overtaking],
            [one.version for one in overtaking],
        )
    try:
        await tx.flush()
    except asyncpg.LockNotAvailableError as error:
        raise TimeoutError("another transaction holds an endpoint locked") from error


async def due(tx: Transaction, kinds: Collection[EndpointKind]) -> list[Due]:
    """Return the endpoints that have something to be sent now."""
    return [Due(row[0], float(row[1]), row[2]) for row in await tx.read(_DUE, sorted(kinds))]


async def claim(tx: Transaction, wants: Sequence[Want]) -> list[tuple[Endpoint, list[Delivery]]]:
    """Lease deliveries that are due, the oldest first. An endpoint that others have leases of gives none."""
    found = await tx.fetch(_LOCK_ENDPOINTS, sorted(one.endpoint_id for one in wants))
    endpoints = {row[0]: _endpoint(row) for row in found}
    taken = [one for one in wants if one.endpoint_id in endpoints]
    if not taken:
        return []
    rows = await tx.fetch(_CLAIM, *(list(column) for column in zip(*taken, strict=True)), LEASE_S)
    claimed: dict[UUID, list[Delivery]] = {}
    for row in rows:
        claimed.setdefault(row[0], []).append(Delivery(*row))
    for several in claimed.values():
        several.sort(key=lambda one: one.due_at)
    return [(endpoints[endpoint_id], several) for endpoint_id, several in claimed.items()]


async def hand_back(tx: Transaction, deliveries: Sequence[Delivery]) -> None:
    """End the lease of deliveries that were not tried; they are due as before."""
    await tx.execute(
        _HAND_BACK,
        [one.endpoint_id for one in deliveries],
        [one.event_id for one in deliveries],
        [one.leased_until for one in deliveries],
        [one.due_at for one in deliveries],
    )


async def standings(tx: Transaction, endpoint_ids: Collection[UUID]) -> dict[UUID, Standing]:
    """Lock endpoints, and return how they do. One that is deleted is left out."""
    rows = await tx.fetch(_STANDINGS, sorted(endpoint_ids))
    return {row[0]: Standing(_endpoint(row), Health(row[6], row[5], row[7]), row[8], row[9]) for row in rows}


async def mark(tx: Transaction, marked: Sequence[Marked], now_s: float) -> None:
    """Store attempts, and what became of their deliveries; `now_s` by the clock of the attempts.

    A delivery that was leased by another process meanwhile stays that one's, unless this process has delivered it. One
    that is deleted is left out.
    """
    attempts = [one.attempt for one in marked]
    answers = [one.answer for one in attempts]
    await tx.execute(
        _MARK,
        [one.delivery.endpoint_id for one in attempts],
        [one.delivery.event_id for one in attempts],
        [one.delivery.attempts + 1 for one in attempts],
        [one.delivery.leased_until for one in attempts],
        [str(one.state) for one in marked],
        [one.delay_s for one in marked],
        [_storable(one.reason) for one in marked],
        [now_s - one.ended_s + one.answer.duration_s for one in attempts],
        [round(one.duration_s * 1000) for one in answers],
        [one.status for one in answers],
        [_storable(one.error) for one in answers],
        [_storable(one.text) for one in answers],
    )


async def bring_forward(tx: Transaction, endpoint_ids: Collection[UUID]) -> None:
    """Make deliveries due that wait for their next try: their endpoints answer again."""
    await tx.execute(_BRING_FORWARD, sorted(endpoint_ids), FORWARD_MAX)


def store_health(tx: Transaction, health: Mapping[UUID, Health]) -> None:
    """Have stored how endpoints do; one that is given up is DISABLED."""
    several = sorted(health.items())
    names = "failing_since", "failures_in_row", "paused_until", "given_up"
    columns = [[getattr(one, name) for _, one in several] for name in names]
    tx.write(_STORE_HEALTH, [endpoint_id for endpoint_id, _ in several], *columns)
    if any(one.given_up is not None for _, one in several):
        tx.write("UPDATE webhooks.changes SET version = version + 1")


async def tell_disabled(tx: Transaction, standing: Standing, reason: str) -> int:
    """Tell the other endpoints of its user that one is disabled; return how many there are."""
    endpoint = standing.endpoint
    data = DisabledEndpoint(endpoint.endpoint_id, place_of(endpoint.kind, endpoint.target), reason)
    body = encode(DisabledWebhook(EventType.WEBHOOK_DISABLED, standing.now, data))
    event_id = f"{id_text(endpoint.endpoint_id)}:disabled:{standing.now:%Y%m%dT%H%M%S}"
    return await tx.execute(
        _TELL_DISABLED, endpoint.endpoint_id, endpoint.user_id, event_id, EventType.WEBHOOK_DISABLED, body
    )


async def give_up_old(tx: Transaction, limit: int) -> int:
    """Give up deliveries that have waited for their endpoint for too long; return how many."""
    days = KEPT_MAX.days
    return await tx.execute(_GIVE_UP_OLD, limit, days, f"its endpoint took nothing for {days} days")


async def delete_ended(tx: Transaction, days: float, limit: int) -> int:
    """Delete deliveries, with their attempts, that ended so many days ago; return how many."""
    return await tx.execute(_DELETE_ENDED, limit, days)


async def forget_codes(tx: Transaction) -> None:
    """Forget how many codes addresses got before today."""
    await tx.execute("DELETE FROM webhooks.codes WHERE day < current_date")


async def count_endpoints(tx: Transaction) -> dict[tuple[EndpointKind, EndpointState], int]:
    """Count endpoints by kind and state; what is not there is left out."""
    rows = await tx.fetch("SELECT kind, state, count(*) FROM webhooks.endpoints GROUP BY kind, state")
    return {(EndpointKind(row[0]), EndpointState(row[1])): row[2] for row in rows}


def _storable(text: str | None) -> str | None:
    """Leave out what the database refuses (NUL, half a character): one text that it refuses would hold up all marks."""
    return None if text is None else "".join(one for one in text if one.isprintable())[:TEXT_MAX]


def _endpoint(row: Any) -> Endpoint:
    return Endpoint(row[0], row[1], EndpointKind(row[2]), row[3], row[4], row[5])


_NEW_COLUMNS: Final = (
    "endpoint_id", "event_id", "order_id", "version", "event_type", "body", "overtaken_by", "final", "skipped",
    "settle_s",
)  # fmt: skip
_TERMINAL: Final = ", ".join(f"'{one}'" for one in EventType if one.terminal)

_SUBSCRIPTIONS: Final = """
SELECT endpoint_id, user_id, kind, event_types, every_version, disabled_at, notional_min
FROM webhooks.endpoints
WHERE user_id = ANY($1::text[]) AND (state = 'ACTIVE' OR disabled_at IS NOT NULL)
    AND (kind <> 'email' OR confirmed_at IS NOT NULL)
ORDER BY endpoint_id"""

# The lock keeps an endpoint that is in the join from being deleted before the foreign key is checked.
_INSERT: Final = """
INSERT INTO webhooks.deliveries
    (endpoint_id, event_id, order_id, version, event_type, body, state, reason, ended_at, next_attempt_at)
SELECT endpoint_id, event_id, order_id, version, event_type, body,
    CASE WHEN skipped IS NOT NULL THEN 'SKIPPED' WHEN newer IS NULL THEN 'PENDING' ELSE 'SUPERSEDED' END,
    coalesce(skipped, 'version ' || newer || ' came'),
    CASE WHEN skipped IS NOT NULL OR newer IS NOT NULL THEN statement_timestamp() END,
    statement_timestamp() + make_interval(secs => settle_s)
FROM (
    SELECT new.*, coalesce(overtaken_by, CASE WHEN NOT final THEN (
        SELECT max(there.version) FROM webhooks.deliveries AS there
        WHERE there.order_id = new.order_id AND there.endpoint_id = new.endpoint_id AND there.version > new.version
            AND there.state <> 'SKIPPED'
    ) END) AS newer
    FROM unnest(
        $1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::text[], $6::bytea[], $7::bigint[], $8::bool[],
        $9::text[], $10::float8[]
    ) AS new(
        endpoint_id, event_id, order_id, version, event_type, body, overtaken_by, final, skipped, settle_s)
    JOIN webhooks.endpoints AS e USING (endpoint_id)
    FOR KEY SHARE OF e
) AS those
ON CONFLICT (endpoint_id, event_id) DO NOTHING"""

# What another transaction has locked is being claimed or marked: its mark sees the newer version.
_SUPERSEDE: Final = f"""
UPDATE webhooks.deliveries AS d
SET state = 'SUPERSEDED', reason = 'version ' || old.newer || ' came', ended_at = statement_timestamp()
FROM (
    SELECT w.endpoint_id, w.event_id, new.version AS newer
    FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS new(endpoint_id, order_id, version)
    JOIN webhooks.deliveries AS w ON w.order_id = new.order_id AND w.endpoint_id = new.endpoint_id
    WHERE w.state = 'PENDING' AND w.version < new.version AND w.event_type NOT IN ({_TERMINAL})
    ORDER BY w.endpoint_id, w.event_id FOR NO KEY UPDATE OF w SKIP LOCKED
) AS old
WHERE d.endpoint_id = old.endpoint_id AND d.event_id = old.event_id AND d.state = 'PENDING'"""  # noqa: S608 - our own

# Times of day of the user's own zone; hours that end before they begin are those of a night. A code to confirm an
# address is asked for by somebody who is awake.
_NOT_QUIET: Final = """(
        quiet_from IS NULL OR (kind = 'email' AND confirmed_at IS NULL) OR NOT CASE WHEN quiet_from < quiet_until
            THEN (statement_timestamp() AT TIME ZONE time_zone)::time >= quiet_from
                AND (statement_timestamp() AT TIME ZONE time_zone)::time < quiet_until
            ELSE (statement_timestamp() AT TIME ZONE time_zone)::time >= quiet_from
                OR (statement_timestamp() AT TIME ZONE time_zone)::time < quiet_until END)"""

# It jumps from endpoint to endpoint in the index, so that what waits for a dead one costs nothing.
_FIRST_OF_EACH: Final = """
WITH RECURSIVE first AS (
    (SELECT endpoint_id, next_attempt_at FROM webhooks.deliveries WHERE state = 'PENDING'
     ORDER BY endpoint_id, next_attempt_at LIMIT 1)
    UNION ALL
    SELECT next.endpoint_id, next.next_attempt_at
    FROM first CROSS JOIN LATERAL (
        SELECT d.endpoint_id, d.next_attempt_at FROM webhooks.deliveries AS d
        WHERE d.state = 'PENDING' AND d.endpoint_id > first.endpoint_id
        ORDER BY d.endpoint_id, d.next_attempt_at LIMIT 1
    ) AS next
)"""

_DUE: Final = f"""{_FIRST_OF_EACH}
SELECT endpoint_id, extract(epoch FROM statement_timestamp() - greatest(next_attempt_at, paused_until)),
    failures_in_row
FROM first JOIN webhooks.endpoints USING (endpoint_id)
WHERE state = 'ACTIVE' AND kind = ANY($1::text[])
    AND greatest(next_attempt_at, paused_until) <= statement_timestamp()
    AND {_NOT_QUIET}"""  # noqa: S608 - our own words

_LOCK_ENDPOINTS: Final = f"""
SELECT endpoint_id, user_id, kind, target, secrets, failures_in_row
FROM webhooks.endpoints
WHERE endpoint_id = ANY($1::uuid[]) AND state = 'ACTIVE'
    AND (paused_until IS NULL OR paused_until <= statement_timestamp())
    AND {_NOT_QUIET}
ORDER BY endpoint_id FOR NO KEY UPDATE SKIP LOCKED"""  # noqa: S608 - our own words

_CLAIM: Final = """
UPDATE webhooks.deliveries AS d
SET leased_until = statement_timestamp() + make_interval(secs => $4),
    next_attempt_at = statement_timestamp() + make_interval(secs => $4)
FROM (
    SELECT mine.endpoint_id, mine.event_id, mine.next_attempt_at AS due_at
    FROM unnest($1::uuid[], $2::int[], $3::int[]) AS want(endpoint_id, rows, leased)
    CROSS JOIN LATERAL (
        SELECT p.endpoint_id, p.event_id, p.next_attempt_at FROM webhooks.deliveries AS p
        WHERE p.endpoint_id = want.endpoint_id AND p.state = 'PENDING' AND p.next_attempt_at <= statement_timestamp()
        ORDER BY p.next_attempt_at LIMIT want.rows FOR NO KEY UPDATE SKIP LOCKED
    ) AS mine
    WHERE want.leased >= (
        SELECT count(*) FROM webhooks.deliveries AS l
        WHERE l.endpoint_id = want.endpoint_id AND l.state = 'PENDING' AND l.leased_until > statement_timestamp()
            AND l.next_attempt_at > statement_timestamp()
            AND l.next_attempt_at <= statement_timestamp() + make_interval(secs => $4)
    )
) AS chosen
WHERE d.endpoint_id = chosen.endpoint_id AND d.event_id = chosen.event_id
RETURNING d.endpoint_id, d.event_id, d.body, d.attempts, chosen.due_at, d.leased_until"""

_HAND_BACK: Final = """
UPDATE webhooks.deliveries AS d SET leased_until = NULL, next_attempt_at = mine.due_at
FROM (
    SELECT w.endpoint_id, w.event_id, given.due_at
    FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[])
        AS given(endpoint_id, event_id, leased_until, due_at)
    JOIN webhooks.deliveries AS w USING (endpoint_id, event_id)
    WHERE w.state = 'PENDING' AND w.leased_until = given.leased_until
    ORDER BY w.endpoint_id, w.event_id FOR NO KEY UPDATE OF w
) AS mine
WHERE d.endpoint_id = mine.endpoint_id AND d.event_id = mine.event_id"""

_STANDINGS: Final = """
SELECT endpoint_id, user_id, kind, target, secrets, failures_in_row, failing_since, paused_until, state = 'ACTIVE',
    clock_timestamp()
FROM webhooks.endpoints WHERE endpoint_id = ANY($1::uuid[])
ORDER BY endpoint_id FOR NO KEY UPDATE"""

# What failed is not tried again when a newer version of its order is there, though it was not to be seen before.
_MARK: Final = f"""
WITH given AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::int[], $4::timestamptz[], $5::text[], $6::float8[], $7::text[],
        $8::float8[], $9::int[], $10::int[], $11::text[], $12::text[]
    ) AS given(endpoint_id, event_id, number, lease, becomes, delay_s, why, ago_s, duration_ms, status, error, answer)
), locked AS (
    SELECT given.*, becomes = 'DELIVERED' OR (d.state = 'PENDING' AND d.leased_until = lease) AS counts,
        CASE WHEN becomes = 'PENDING' AND NOT e.every_version AND d.event_type NOT IN ({_TERMINAL}) THEN (
            SELECT max(n.version) FROM webhooks.deliveries AS n
            WHERE n.order_id = d.order_id AND n.endpoint_id = d.endpoint_id AND n.version > d.version
                AND n.state <> 'SKIPPED'
        ) END AS newer
    FROM given
    JOIN webhooks.deliveries AS d USING (endpoint_id, event_id)
    JOIN webhooks.endpoints AS e USING (endpoint_id)
    ORDER BY endpoint_id, event_id FOR NO KEY UPDATE OF d
), told AS (
    SELECT locked.*, CASE WHEN newer IS NULL THEN becomes ELSE 'SUPERSEDED' END AS state,
        CASE WHEN newer IS NULL THEN why ELSE 'version ' || newer || ' came' END AS reason
    FROM locked
), marked AS (
    UPDATE webhooks.deliveries AS d
    SET attempts = greatest(d.attempts, number),
        leased_until = CASE WHEN counts THEN NULL ELSE d.leased_until END,
        state = CASE WHEN counts THEN told.state ELSE d.state END,
        reason = CASE WHEN counts THEN told.reason ELSE d.reason END,
        next_attempt_at = CASE WHEN counts AND told.state = 'PENDING'
            THEN statement_timestamp() + make_interval(secs => delay_s) ELSE d.next_attempt_at END,
        ended_at = CASE WHEN NOT counts THEN d.ended_at
            WHEN told.state <> 'PENDING' THEN coalesce(d.ended_at, statement_timestamp()) END
    FROM told WHERE d.endpoint_id = told.endpoint_id AND d.event_id = told.event_id
    RETURNING told.endpoint_id, told.event_id, number, ago_s, duration_ms, status, error, answer
)
INSERT INTO webhooks.attempts (endpoint_id, event_id, number, at, duration_ms, status, error, answer)
SELECT endpoint_id, event_id, number, statement_timestamp() - make_interval(secs => ago_s), duration_ms, status, error,
    answer
FROM marked ON CONFLICT (endpoint_id, event_id, number) DO NOTHING"""  # noqa: S608 - our own words

_BRING_FORWARD: Final = """
UPDATE webhooks.deliveries AS d SET next_attempt_at = statement_timestamp()
FROM (
    SELECT w.endpoint_id, w.event_id FROM webhooks.deliveries AS w
    WHERE w.endpoint_id = ANY($1::uuid[]) AND w.state = 'PENDING' AND w.attempts > 0 AND w.leased_until IS NULL
        AND w.next_attempt_at > statement_timestamp()
    ORDER BY w.endpoint_id, w.event_id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
) AS waiting
WHERE d.endpoint_id = waiting.endpoint_id AND d.event_id = waiting.event_id"""

_STORE_HEALTH: Final = """
UPDATE webhooks.endpoints AS e
SET failing_since = new.failing_since, failures_in_row = new.failures_in_row, paused_until = new.paused_until,
    state = CASE WHEN given_up IS NULL THEN e.state ELSE 'DISABLED' END,
    disabled_reason = coalesce(given_up, e.disabled_reason),
    disabled_at = CASE WHEN given_up IS NULL THEN e.disabled_at ELSE statement_timestamp() END
FROM unnest($1::uuid[], $2::timestamptz[], $3::int[], $4::timestamptz[], $5::text[])
    AS new(endpoint_id, failing_since, failures_in_row, paused_until, given_up)
WHERE e.endpoint_id = new.endpoint_id"""

_TELL_DISABLED: Final = """
INSERT INTO webhooks.deliveries (endpoint_id, event_id, event_type, body)
SELECT endpoint_id, $3, $4, $5 FROM (
    SELECT endpoint_id FROM webhooks.endpoints
    WHERE user_id = $2 AND endpoint_id <> $1 AND state = 'ACTIVE'
        AND (event_types = '{}' OR $4 = ANY(event_types)) AND (kind <> 'email' OR confirmed_at IS NOT NULL)
    FOR KEY SHARE
) AS others
ON CONFLICT (endpoint_id, event_id) DO NOTHING"""

_GIVE_UP_OLD: Final = f"""{_FIRST_OF_EACH}
UPDATE webhooks.deliveries AS d SET state = 'FAILED', reason = $3, ended_at = statement_timestamp()
FROM (
    SELECT its.endpoint_id, its.event_id
    FROM first CROSS JOIN LATERAL (
        SELECT w.endpoint_id, w.event_id FROM webhooks.deliveries AS w
        WHERE w.endpoint_id = first.endpoint_id AND w.state = 'PENDING'
            AND w.next_attempt_at < statement_timestamp() - make_interval(days => $2)
        ORDER BY w.next_attempt_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
    ) AS its
    WHERE first.next_attempt_at < statement_timestamp() - make_interval(days => $2) LIMIT $1
) AS old
WHERE d.endpoint_id = old.endpoint_id AND d.event_id = old.event_id"""  # noqa: S608 - our own words

_LESS_TROUBLE: Final = """
UPDATE webhooks.alarms AS a SET number = t.number
FROM audit.trouble AS t WHERE a.subject = t.subject AND t.number < a.number"""

_ALARMS: Final = """
WITH trouble AS MATERIALIZED (
    SELECT * FROM audit.trouble WHERE number > 0
), told AS (
    INSERT INTO webhooks.alarms AS a (subject, number, told_at)
    SELECT subject, number, statement_timestamp() FROM trouble ORDER BY subject
    ON CONFLICT (subject) DO UPDATE SET number = excluded.number, told_at = excluded.told_at
    WHERE (excluded.number > a.number AND a.told_at <= statement_timestamp() - $1::interval)
        OR a.told_at <= statement_timestamp() - $2::interval
    RETURNING subject
)
SELECT subject, number, since FROM trouble JOIN told USING (subject) ORDER BY subject"""

_DELETE_ENDED: Final = """
DELETE FROM webhooks.deliveries AS d
USING (
    SELECT endpoint_id, event_id FROM webhooks.deliveries
    WHERE ended_at < statement_timestamp() - make_interval(secs => $2 * 86400)
    ORDER BY ended_at LIMIT $1 FOR UPDATE SKIP LOCKED
) AS old
WHERE d.endpoint_id = old.endpoint_id AND d.event_id = old.event_id"""
