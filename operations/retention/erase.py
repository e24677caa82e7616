"""Erase what could tell who a user is, in one transaction, and leave the ledger as it is.

The user id is a pseudonym and stays: orders, holds and the journal are the books, and the audit must still hold. What
goes is data about the person: addresses and token ids in the trail, the names and keys that the user gave to orders,
reasons that quote the user's input, traces, and the bytes of dead letters that name the user. `docs/privacy.md` lists
all of it.

Only the database's owner can do it: no service may change the trail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from operations.access import schemas
from operations.access.errors import Trouble
from saga_kit.runtime.database import PATIENTLY

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

SHOWN_MAX: Final = 20
"""Obstacles of each kind that are named."""

_ENDED: Final = "IN ('COMPLETED', 'CANCELLED', 'FAILED')"


class Erasure(NamedTuple):
    """How many rows were (or would be) erased, by table; or, in words, what is in the way, and nothing was erased."""

    rows: dict[str, int]
    in_the_way: list[str]


async def erase(engine: AsyncEngine, user_id: str, *, dry_run: bool = False) -> Erasure:
    """Erase everything or nothing: nothing while an order is open, an event unsent or a dead letter undecided.

    An order that comes meanwhile is left alone. Doing it twice changes nothing. Raises `Trouble` for a user whom no
    table knows, and what the driver raises.
    """
    async with engine.connect() as connection, connection.begin() as transaction:
        await connection.exec_driver_sql(PATIENTLY)  # a user's requests are found by reading the whole trail
        in_the_way = [words for sql in _IN_THE_WAY for words in await _column(connection, sql, user_id)]
        rows = {} if in_the_way else {table: await _count(connection, sql, user_id) for table, sql in _ERASE.items()}
        if dry_run:
            await transaction.rollback()
    if not in_the_way and not any(rows.values()) and not await _is_known(engine, user_id):
        raise Trouble(f"nobody knows a user {user_id}: no order, claim, request, hold, account or endpoint")
    return Erasure(rows, in_the_way)


async def _is_known(engine: AsyncEngine, user_id: str) -> bool:
    async with engine.connect() as connection:
        return bool((await connection.exec_driver_sql(_KNOWN, (user_id,))).scalar_one())


async def _column(connection: AsyncConnection, sql: str, user_id: str) -> list[str]:
    return list((await connection.exec_driver_sql(sql, (user_id, SHOWN_MAX))).scalars())


async def _count(connection: AsyncConnection, sql: str, user_id: str) -> int:
    return (await connection.exec_driver_sql(sql, (user_id,))).rowcount


_KNOWN: Final = " OR ".join(
    f"EXISTS (SELECT FROM {table} WHERE {column} = $1)"
    for table, column in (
        ("audit.orders", "user_id"),
        ("api.claims", "user_id"),
        ("api.requests", "caller"),
        ("api.mass_cancels", "user_id"),
        ("api.mass_cancels", "caller"),
        ("api.cancel_timers", "user_id"),
        ("api.cancel_timers", "caller"),
        ("api.holds", "user_id"),
        ("audit.service_holds", "user_id"),
        ("balances.accounts", "user_id"),
        ("webhooks.endpoints", "user_id"),
        ("webhooks.requests", "user_id"),
        ("webhooks.requests", "caller"),
    )
).join(("SELECT ", ""))

# What is in the way: $1 is the user, $2 the most rows -----------------------------------------------------------------

_OPEN_ORDERS: Final = f"""
    SELECT format('order %s is %s', order_id, status) FROM orders.orders
    WHERE user_id = $1 AND phase <> 'NEW' AND NOT status {_ENDED} LIMIT $2"""  # noqa: S608 - a constant of ours

_OPEN_CLAIMS: Final = """
    SELECT format('order %s is accepted and not yet begun', order_id) FROM api.claims c
    WHERE user_id = $1 AND NOT EXISTS (SELECT FROM api.orders o WHERE o.order_id = c.order_id) LIMIT $2"""

_OPEN_HOLDS: Final = """
    SELECT format('hold %s is %s', hold_id, status) FROM (
        SELECT hold_id, 'held until ' || expires_at AS status FROM audit.service_holds
        WHERE user_id = $1 AND ended IS NULL
        UNION ALL SELECT hold_id::text, status FROM api.holds WHERE user_id = $1 AND status = 'PENDING'
    ) AS open LIMIT $2"""

_UNSENT: Final = """
    SELECT format('event %s of order %s is not sent yet', e.version, e.order_id)
    FROM audit.events_unsent e JOIN api.orders o USING (order_id) WHERE o.user_id = $1 LIMIT $2"""

_NAMES_THE_USER: Final = """
    (key = convert_to('user:' || $1, 'UTF8') OR position(convert_to(to_json($1::text)::text, 'UTF8') IN value) > 0)"""
"""By its key, or by its body when that has the user's id in quotes: no more is known of unreadable bytes."""


def _open_dead_letters(schema: str) -> str:
    return f"""
        SELECT format('dead letter {schema}/%s names the user and is neither replayed nor discarded', dead_letter_id)
        FROM {schema}.dead_letters
        WHERE replayed_at IS NULL AND discarded_at IS NULL AND {_NAMES_THE_USER} LIMIT $2"""  # noqa: S608 - the same


_IN_THE_WAY: Final = (_OPEN_ORDERS, _OPEN_CLAIMS, _OPEN_HOLDS, _UNSENT, *map(_open_dead_letters, schemas.CONSUMERS))


# What is erased: $1 is the user; a row that has nothing to erase is not counted ---------------------------------------

_REQUESTS: Final = """
    UPDATE api.requests SET token_id = NULL, address = NULL, trace_id = NULL
    WHERE caller = $1 AND num_nonnulls(token_id, address, trace_id) > 0"""

# Where another caller's request came from, such as an operator's, is not the user's to have erased.
_MASS_CANCELS: Final = """
    UPDATE api.mass_cancels SET
        idempotency_key = CASE WHEN user_id <> $1 THEN idempotency_key END,
        token_id = CASE WHEN caller <> $1 THEN token_id END,
        address = CASE WHEN caller <> $1 THEN address END,
        trace_id = CASE WHEN caller <> $1 THEN trace_id END
    WHERE (user_id = $1 AND idempotency_key IS NOT NULL)
        OR (caller = $1 AND num_nonnulls(token_id, address, trace_id) > 0)"""
_CANCEL_TIMERS: Final = """
    UPDATE api.cancel_timers SET token_id = NULL, address = NULL, trace_id = NULL
    WHERE caller = $1 AND num_nonnulls(token_id, address, trace_id) > 0"""

# An order may have got a claim's id and another user; then the claim itself has ended.
_CLAIMS: Final = f"""
    UPDATE api.claims c SET idempotency_key = NULL, client_order_id = NULL, traceparent = NULL,
        intent = jsonb_set(intent::jsonb, '{{client_order_id}}', 'null')::text,
        request = convert_to(
            jsonb_set(convert_from(request, 'UTF8')::jsonb, '{{client_order_id}}', 'null')::text, 'UTF8')
    FROM api.orders o
    WHERE c.user_id = $1 AND o.order_id = c.order_id AND (o.user_id <> c.user_id OR o.status {_ENDED})
        AND num_nonnulls(c.idempotency_key, c.client_order_id, c.traceparent,
            convert_from(c.request, 'UTF8')::jsonb ->> 'client_order_id') > 0"""  # noqa: S608 - the same


# A service may have made its keys of what it knows about the user.
_HOLDS: Final = """
    UPDATE api.holds SET idempotency_key = NULL
    WHERE user_id = $1 AND status NOT IN ('PENDING', 'HELD') AND idempotency_key IS NOT NULL"""
_HOLD_REQUESTS: Final = """
    UPDATE api.hold_requests AS asked SET token_id = NULL, traceparent = NULL FROM api.holds AS h
    WHERE h.hold_id = asked.hold_id AND h.user_id = $1 AND h.status NOT IN ('PENDING', 'HELD')
        AND num_nonnulls(asked.token_id, asked.traceparent) > 0"""


# Where somebody is told names that person, and what was told is of that person's orders: all of it goes.
_DELIVERIES_OF_USER: Final = "endpoint_id IN (SELECT endpoint_id FROM webhooks.endpoints WHERE user_id = $1)"
_ATTEMPTS: Final = f"DELETE FROM webhooks.attempts WHERE {_DELIVERIES_OF_USER}"  # noqa: S608 - a constant of ours
_DELIVERIES: Final = f"DELETE FROM webhooks.deliveries WHERE {_DELIVERIES_OF_USER}"  # noqa: S608 - the same
_CODES: Final = r"""
    DELETE FROM webhooks.codes WHERE address_hash IN (
        SELECT sha256(convert_to(regexp_replace(lower(target), '\+[^@]*', ''), 'UTF8')) FROM webhooks.endpoints
        WHERE user_id = $1 AND kind = 'email'
        UNION ALL SELECT sha256(convert_to($1, 'UTF8')))"""
_ENDPOINTS: Final = """
    WITH told AS (
        UPDATE webhooks.changes SET version = version + 1
        WHERE EXISTS (SELECT FROM webhooks.endpoints WHERE user_id = $1)
    )
    DELETE FROM webhooks.endpoints WHERE user_id = $1"""

_WEBHOOK_REQUESTS: Final = """
    UPDATE webhooks.requests SET token_id = NULL, address = NULL, trace_id = NULL
    WHERE caller = $1 AND num_nonnulls(token_id, address, trace_id) > 0"""


def _orders(table: str, cast: str) -> str:
    # An INVALID_ORDER's reason quotes the user's input, and is stored in two columns.
    return f"""
        UPDATE {table} SET client_order_id = NULL, traceparent = NULL,
            reason = CASE WHEN reason_code = 'INVALID_ORDER' THEN 'erased' ELSE reason END,
            progress = CASE WHEN reason_code = 'INVALID_ORDER'
                THEN jsonb_set(progress::jsonb, '{{outcome,reason}}', '"erased"', false){cast} ELSE progress END
        WHERE user_id = $1 AND status {_ENDED}
            AND (num_nonnulls(client_order_id, traceparent) > 0
                OR (reason_code = 'INVALID_ORDER' AND reason <> 'erased'))"""  # noqa: S608 - the same


def _dead_letters(schema: str) -> str:
    return f"""
        UPDATE {schema}.dead_letters SET key = NULL, value = NULL, headers = '[]', reason = 'erased'
        WHERE (replayed_at IS NOT NULL OR discarded_at IS NOT NULL) AND {_NAMES_THE_USER}"""  # noqa: S608 - the same


_ERASE: Final = {
    "api.requests": _REQUESTS,
    "api.mass_cancels": _MASS_CANCELS,
    "api.cancel_timers": _CANCEL_TIMERS,
    "api.claims": _CLAIMS,
    "api.holds": _HOLDS,
    "api.hold_requests": _HOLD_REQUESTS,
    "webhooks.codes": _CODES,  # before the endpoints, which have the addresses
    "webhooks.attempts": _ATTEMPTS,
    "webhooks.deliveries": _DELIVERIES,
    "webhooks.endpoints": _ENDPOINTS,
    "webhooks.requests": _WEBHOOK_REQUESTS,
    "orders.orders": _orders("orders.orders", "::text"),
    "orders.archive": _orders("orders.archive", "::jsonb"),  # after the orders: so it finds what is archived meanwhile
    **{f"{schema}.dead_letters": _dead_letters(schema) for schema in schemas.CONSUMERS},
}
