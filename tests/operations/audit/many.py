"""A database with any number of orders, as after some time of work, and without any fault.

Made by the database itself, so that a million orders take two minutes: every kind of end, ids of version 7,
histories and holds and journal of the size of real ones, claims for every other order, some orders in flight. A part
at a time, so that what PostgreSQL sorts beside the tables stays small, however many orders there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import asyncpg

USERS: Final = 10_000
PER_S: Final = 400
"""Orders a second: how many were in flight at once and so are near each other in the tables."""


PART: Final = 500_000
"""Orders that are made at once."""
DEPOSIT_MIN: Final = 10_000_000
DEPOSIT_FOR_AN_ORDER: Final = 20
"""What every user gets of each asset for each order: enough for a user who only buys, too."""


async def fill(
    owner: asyncpg.Connection, orders: int, *, open_max: int = 2000, done: Callable[[], None] = lambda: None
) -> None:
    """Put so many orders into an empty database; the last hundredth of them, at most `open_max`, has not ended.

    `done` is called after each of the `parts(orders)`.
    """
    for first in range(1, orders + 1, PART):
        async with owner.transaction():
            await owner.execute("SET LOCAL synchronous_commit = off")
            await owner.execute("SET LOCAL work_mem = '64MB'")
            await owner.execute(
                _MADE, orders, min(orders // 100, open_max), USERS, PER_S, first, min(first + PART - 1, orders)
            )
            for statement in (_ORDERS, _HISTORY, _FILLS, _HOLDS, _JOURNAL, _CLAIMS):
                await owner.execute(statement)
            await owner.execute("DROP TABLE made")
        done()
    await owner.execute(_DEPOSITS, min(orders, USERS), USERS, max(DEPOSIT_MIN, orders * DEPOSIT_FOR_AN_ORDER))
    await owner.execute(_ACCOUNTS)
    await owner.execute("SET maintenance_work_mem = '256MB'")
    await owner.execute("VACUUM ANALYZE")


def parts(orders: int) -> int:
    """Return how many transactions `fill` needs."""
    return -(-orders // PART)


_PATHS: Final = """(VALUES
    ('bought', 'COMPLETED', NULL, ARRAY['>PENDING', '', 'PENDING>CONFIRMED,CONFIRMED>PROCESSING',
        'PROCESSING>COMPLETED'], 'SETTLED'),
    ('sold', 'COMPLETED', NULL, ARRAY['>PENDING', '', 'PENDING>CONFIRMED,CONFIRMED>PROCESSING',
        'PROCESSING>COMPLETED'], 'SETTLED'),
    ('poor', 'FAILED', 'INSUFFICIENT_BALANCE', ARRAY['>PENDING', '', 'PENDING>FAILED'], 'REFUSED'),
    ('halted', 'FAILED', 'ASSET_NOT_TRADABLE', ARRAY['>PENDING', 'PENDING>FAILED'], NULL),
    ('cancelled', 'CANCELLED', 'USER_REQUESTED', ARRAY['>PENDING,PENDING>PENDING', '', 'PENDING>CANCELLED'],
        'REFUNDED'),
    ('late', 'FAILED', 'TIMED_OUT', ARRAY['>PENDING', 'PENDING>FAILED'], 'TOMBSTONE'),
    ('busted', 'FAILED', 'EXECUTION_FAILED', ARRAY['>PENDING', 'PENDING>CONFIRMED,CONFIRMED>PROCESSING',
        'PROCESSING>FAILED'], 'REFUNDED'),
    ('reserving', 'RESERVING', NULL, ARRAY['>PENDING', ''], 'HELD'),
    ('settling', 'SETTLING', NULL, ARRAY['>PENDING', '', 'PENDING>CONFIRMED,CONFIRMED>PROCESSING'], 'HELD')
) AS path (kind, phase, reason_code, chapters, hold_state)"""

_UUID7: Final = """(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
        || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid"""
"""RFC 9562, 5.7: milliseconds since 1970, the version, and chance, with the variant where version 4 has it, too."""

_MADE: Final = f"""
    CREATE TEMPORARY TABLE made AS
    SELECT n, {_UUID7} AS order_id, 'user-' || n * 7919 % $3::bigint AS user_id, path.*,
        CASE WHEN path.kind IN ('sold') THEN 'MARKET_SELL' ELSE 'MARKET_BUY' END AS order_type,
        (ARRAY['BTC', 'ETH', 'ACME'])[n % 3 + 1] AS asset_id, (ARRAY[50000, 2500, 20])[n % 3 + 1]::numeric AS price,
        1 + n % 9 AS quantity, at
    FROM generate_series($5::bigint, $6::bigint) AS n
    CROSS JOIN LATERAL (SELECT now() - make_interval(secs => ($1::bigint - n)::float / $4::bigint + 60) AS at) AS moment
    JOIN {_PATHS} ON path.kind = CASE
        WHEN n > $1::bigint - $2::bigint THEN (ARRAY['reserving', 'settling'])[n % 2 + 1]
        ELSE (ARRAY['bought', 'sold', 'bought', 'sold', 'bought', 'poor', 'bought', 'sold', 'cancelled', 'bought',
            'sold', 'halted', 'bought', 'sold', 'late', 'bought', 'sold', 'cancelled', 'bought',
            'busted'])[n % 20 + 1] END
    ORDER BY n"""
_FILLED: Final = "kind IN ('bought', 'sold', 'settling', 'busted')"
_SHOWN: Final = "kind IN ('bought', 'sold', 'settling')"
_COST: Final = "price * quantity"
_FEE: Final = "price * quantity / 1000"
_HELD: Final = f"CASE WHEN kind = 'sold' THEN quantity ELSE {_COST} + {_FEE} END"
_HELD_IN: Final = "CASE WHEN kind = 'sold' THEN asset_id ELSE 'USD' END"

_ORDERS: Final = f"""
    INSERT INTO orders.orders (order_id, user_id, asset_id, order_type, quantity, slippage_bps, client_order_id, phase,
        status, version, reason_code, cancel_requested, filled_quantity, average_price, fee, progress, due_at,
        history_seq, created_at, updated_at)
    SELECT order_id, user_id, asset_id, order_type, quantity, 100, CASE WHEN n % 4 = 0 THEN 'mine-' || n END, phase,
        regexp_replace(array_to_string(chapters, ''), '.*>', ''),
        length(regexp_replace(array_to_string(chapters, ''), '[^>]', '', 'g')), reason_code, kind = 'cancelled',
        CASE WHEN {_SHOWN} THEN quantity ELSE 0 END, CASE WHEN {_SHOWN} THEN price END,
        CASE WHEN {_SHOWN} THEN {_FEE} ELSE 0 END, jsonb_build_object('hold_state', hold_state,
            'questions', jsonb_build_array(
                jsonb_build_object('step', 'check', 'answer', 'YES', 'due_at', at, 'asked_at', at),
                jsonb_build_object('step', 'reserve', 'answer', 'YES', 'due_at', at, 'asked_at', at),
                jsonb_build_object('step', 'settle', 'answer', 'YES', 'due_at', at, 'asked_at', at)),
            'quote', jsonb_build_object('step', '0.00000001', 'tick', '0.01', 'as_of', at, 'price', price::text,
                'fee_bps', 10, 'sequence', 1, 'cash_scale', 2, 'received_at', at, 'cash_asset_id', 'USD',
                'rules_version', 1)),
        CASE WHEN phase IN ('RESERVING', 'SETTLING') THEN now() + interval '1 hour' END,
        cardinality(chapters) * 3, at, at + interval '0.7 s'
    FROM made ORDER BY n"""

# Rows as long as real ones, in their order: what a long one leaves free at the end of a page, short ones fill. With
# rows of one length such gaps stay, and for a while each short row of a measurement goes to another old page.
_HISTORY: Final = """
    INSERT INTO orders.history (order_id, seq, at, version_from, version_to, moves, entries)
    SELECT order_id, chapter * 3 - 2, at + chapter * interval '0.2 s', versions - cardinality(moves), versions, moves,
        jsonb_build_array(
            jsonb_build_object('kind', 'asked', 'name', 'settle'), jsonb_build_object('kind', 'asked', 'name', 'check'),
            CASE
                WHEN path = '' THEN jsonb_build_object('kind', 'asked', 'name', rpad('reserve', 30))
                WHEN path LIKE '>%' THEN jsonb_build_object('kind', 'received', 'name', rpad('OrderRequested', 62))
                WHEN path LIKE '%PROCESSING' THEN jsonb_build_object('kind', 'answered', 'name', rpad('Reserved', 227))
                ELSE jsonb_build_object('kind', 'answered', 'name', rpad('BalanceSettled', 110))
            END)
    FROM (
        SELECT made.*, path, chapter, coalesce(string_to_array(nullif(path, ''), ','), '{}') AS moves,
            sum(length(regexp_replace(path, '[^>]', '', 'g'))) OVER (PARTITION BY n ORDER BY chapter) AS versions
        FROM made CROSS JOIN unnest(chapters) WITH ORDINALITY AS one (path, chapter)) AS chapters
    ORDER BY at + chapter * interval '0.2 s'"""

_FILLS: Final = f"""
    INSERT INTO orders.fills (fill_id, order_id, quantity, price, fee, busted, created_at)
    SELECT order_id || ':fill', order_id, quantity, price, {_FEE}, kind = 'busted', at + interval '0.6 s'
    FROM made WHERE {_FILLED} ORDER BY n"""

_HOLDS: Final = f"""
    INSERT INTO balances.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state, reason_code,
        created_at, updated_at)
    SELECT order_id || ':reserve', order_id, user_id, {_HELD_IN},
        CASE WHEN kind = 'poor' THEN 10 ^ 9 ELSE {_HELD} END, CASE hold_state WHEN 'SETTLED' THEN {_HELD} ELSE 0 END,
        CASE hold_state WHEN 'REFUNDED' THEN {_HELD} ELSE 0 END, hold_state,
        CASE hold_state WHEN 'REFUSED' THEN 'INSUFFICIENT_BALANCE' END, at + interval '0.4 s', at + interval '0.6 s'
    FROM made WHERE hold_state IS NOT NULL ORDER BY n"""

_DEPOSITS: Final = """
    INSERT INTO balances.journal (entry_id, accounts, asset_ids, amounts)
    SELECT 'deposit:' || user_id || asset_id, ARRAY['@external', user_id], ARRAY[asset_id, asset_id],
        ARRAY[-$3::bigint, $3::bigint]
    FROM (SELECT 'user-' || n * 7919 % $2::bigint AS user_id FROM generate_series(1, $1::bigint) AS n) AS users
    CROSS JOIN (VALUES ('USD'), ('BTC'), ('ETH'), ('ACME')) AS asset (asset_id)"""

_JOURNAL: Final = f"""
    INSERT INTO balances.journal (entry_id, order_id, accounts, asset_ids, amounts, created_at)
    SELECT order_id || ':settle', order_id, ARRAY['@market', user_id, '@fees', '@market', user_id],
        ARRAY[asset_id, asset_id, 'USD', 'USD', 'USD'],
        ARRAY[-sign * quantity, sign * quantity, {_FEE}, sign * {_COST}, -sign * {_COST} - {_FEE}],
        at + interval '0.7 s'
    FROM made CROSS JOIN LATERAL (SELECT CASE kind WHEN 'sold' THEN -1 ELSE 1 END) AS side (sign)
    WHERE kind IN ('bought', 'sold') ORDER BY n"""

_ACCOUNTS: Final = """
    INSERT INTO balances.accounts (user_id, asset_id, available, held)
    SELECT account, asset_id, sum(amount) - coalesce(held, 0), coalesce(held, 0)
    FROM balances.journal_lines LEFT JOIN (
        SELECT owner, unit, sum(amount) AS held FROM balances.holds WHERE state = 'HELD' GROUP BY owner, unit) AS holds
        ON (owner, unit) = (account, asset_id)
    WHERE account NOT LIKE '@%' GROUP BY account, asset_id, held"""

_CLAIMS: Final = """
    INSERT INTO api.claims (order_id, user_id, idempotency_key, client_order_id, intent, request, created_at,
        next_publish_at, settled)
    SELECT order_id, user_id, gen_random_uuid(), CASE WHEN n % 4 = 0 THEN 'mine-' || n END,
        format('{"asset_id":"%s","order_type":"%s","quantity":"%s"}', asset_id, order_type, quantity),
        convert_to(format('{"order_id":"%s","user_id":"%s","asset_id":"%s","order_type":"%s","quantity":"%s",'
            '"price":null,"slippage_bps":100,"client_order_id":null,"requested_at":null}', order_id, user_id, asset_id,
            order_type, quantity), 'UTF8'), at, at, true
    FROM made WHERE n % 2 = 0 ORDER BY n"""
