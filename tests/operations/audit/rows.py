"""A small system as rows, with every kind of order in it and without any fault."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from tests.support.journal import insert_lines

BUY, SELL, REFUSED, CANCELLED, LIVE, BUSTED, PARKED, STUB, DUPLICATE, EARLY, WORKS, FIRED, WAITS = (
    UUID(int=number * 10**30) for number in range(1, 14)
)
FILLED: Final = (">PENDING", "PENDING>CONFIRMED", "CONFIRMED>PROCESSING")
COMPLETED: Final = (*FILLED, "PROCESSING>COMPLETED")
REJECTED: Final = (">PENDING", "PENDING>FAILED")
WITHDRAWN: Final = (">PENDING", "PENDING>PENDING", "PENDING>CANCELLED")
LIMIT: Final = '{"limit_price":"100"}'
RESTS: Final = '{"rest":{"from_sequence":7,"entered_at":"2026-01-02T00:00:00Z"}}'
HAS_FIRED: Final = RESTS[:-1] + ',"fire":{"sequence":8,"price":"100","as_of":"2026-01-02T00:00:00Z"}}'


@dataclass(frozen=True)
class Order:
    """An order and the moves of its versions; amounts as text."""

    order_id: UUID
    phase: str
    moves: tuple[str, ...]
    reason_code: str | None = None
    filled: str = "0"
    price: str | None = None
    fee: str = "0"
    asset_id: str = "BTC"
    order_type: str = "MARKET_BUY"
    parked_reason: str | None = None
    client_order_id: str | None = None
    terms: str | None = None
    progress: str = "{}"


YOUNG_S: Final = -600.0
"""An age at which things are still on their way, however long a test takes to look: they are yet to come."""
ORDERS: Final = (
    Order(BUY, "COMPLETED", COMPLETED, None, "0.01", "50000", "0.5", client_order_id="mine"),
    Order(SELL, "COMPLETED", COMPLETED, None, "10", "20", "0.2", "ACME", "MARKET_SELL"),
    Order(REFUSED, "FAILED", REJECTED, "INSUFFICIENT_BALANCE"),
    Order(CANCELLED, "CANCELLED", WITHDRAWN, "USER_REQUESTED"),
    Order(LIVE, "RESERVING", (">PENDING",)),
    Order(BUSTED, "FAILED", (*FILLED, "PROCESSING>FAILED"), "EXECUTION_FAILED"),
    Order(PARKED, "SETTLING", FILLED, None, "1", "20", "0.02", parked_reason="a poisonous reply"),
    Order(STUB, "NEW", ()),  # a cancel whose request has not come
    Order(DUPLICATE, "FAILED", REJECTED, "DUPLICATE_CLIENT_ORDER_ID", client_order_id="mine"),
    Order(EARLY, "CANCELLED", WITHDRAWN, "OPERATOR"),  # its refund overtook its reservation
    Order(
        *(WORKS, "WORKING", (">PENDING", "PENDING>CONFIRMED"), None, "0", None, "0", "BTC", "LIMIT_BUY"),
        terms=LIMIT,
        progress=RESTS,
    ),
    Order(
        *(FIRED, "SETTLING", FILLED, None, "0.01", "100", "0.01", "BTC", "LIMIT_BUY"),
        terms=LIMIT,
        progress=HAS_FIRED,
    ),
    Order(WAITS, "RESERVING", (">PENDING",), order_type="LIMIT_BUY", terms=LIMIT),
)
FILLS: Final = (
    (BUY, "0.01", "50000", "0.5", False),
    (SELL, "10", "20", "0.2", False),
    (BUSTED, "1", "20", "0.02", True),
    (PARKED, "1", "20", "0.02", False),
    (FIRED, "0.01", "100", "0.01", False),
)
HOLDS: Final = (
    (BUY, "USD", "500.5", "500.5", "0", "SETTLED"),
    (SELL, "ACME", "10", "10", "0", "SETTLED"),
    (REFUSED, "USD", "900000", "0", "0", "REFUSED"),
    (CANCELLED, "USD", "7", "0", "7", "REFUNDED"),
    (LIVE, "USD", "25.02", "0", "0", "HELD"),
    (BUSTED, "USD", "20.02", "0", "20.02", "REFUNDED"),
    (PARKED, "USD", "20.02", "0", "0", "HELD"),
    (EARLY, "USD", "3", "0", "0", "TOMBSTONE"),
)
ACCOUNTS: Final = (("USD", "654.26", "45.04"), ("BTC", "0.01", "0"), ("ACME", "90", "0"))
JOURNAL: Final = (
    ("deposit:1", None, "alice", "USD", "1000"),
    ("deposit:1", None, "@external", "USD", "-1000"),
    ("deposit:2", None, "alice", "ACME", "100"),
    ("deposit:2", None, "@external", "ACME", "-100"),
    (f"{BUY}:settle", BUY, "alice", "USD", "-500.5"),
    (f"{BUY}:settle", BUY, "@market", "USD", "500"),
    (f"{BUY}:settle", BUY, "@fees", "USD", "0.5"),
    (f"{BUY}:settle", BUY, "alice", "BTC", "0.01"),
    (f"{BUY}:settle", BUY, "@market", "BTC", "-0.01"),
    (f"{SELL}:settle", SELL, "alice", "ACME", "-10"),
    (f"{SELL}:settle", SELL, "@market", "ACME", "10"),
    (f"{SELL}:settle", SELL, "alice", "USD", "199.8"),
    (f"{SELL}:settle", SELL, "@market", "USD", "-200"),
    (f"{SELL}:settle", SELL, "@fees", "USD", "0.2"),
)

# What services hold: of carol, so that alice's sums are those of her orders.
HELD_FOR_SERVICE, CAPTURED, RELEASED, EXPIRED, DENIED, BURIED = (UUID(int=number) for number in range(21, 27))
SERVICE_HOLDS: Final = (
    (HELD_FOR_SERVICE, "50", "0", "0", "HELD", None, None),
    (CAPTURED, "100", "95", "5", "SETTLED", "CAPTURED", "@external"),
    (RELEASED, "20", "0", "20", "REFUNDED", "RELEASED", None),
    (EXPIRED, "30", "0", "30", "REFUNDED", "EXPIRED", None),
    (DENIED, "900", "0", "0", "REFUSED", "REFUSED", None),
    (BURIED, "1", "0", "0", "TOMBSTONE", "BURIED", None),
)
SERVICE_JOURNAL: Final = (
    ("deposit:9", None, "carol", "USD", "300"),
    ("deposit:9", None, "@external", "USD", "-300"),
    (f"hold:{CAPTURED}:capture", None, "carol", "USD", "-95"),
    (f"hold:{CAPTURED}:capture", None, "@external", "USD", "95"),
)


async def insert(owner: asyncpg.Connection) -> None:
    """Put the whole system into an empty database."""
    for order in ORDERS:
        await insert_order(owner, order)
    await owner.executemany(_FILL, FILLS)
    await insert_holds(owner)
    await owner.executemany(_ACCOUNT, ACCOUNTS)
    await insert_lines(owner, (*JOURNAL, *SERVICE_JOURNAL))
    await insert_service_holds(owner)
    await insert_claim(owner, BUY, key="k1", client="mine", age_s=60)
    await insert_claim(owner, SELL, key="k2", age_s=60)
    await insert_claim(owner, UUID(int=7), key="k3", age_s=YOUNG_S)  # accepted, and still on its way
    await insert_event(owner, LIVE, version=1, age_s=YOUNG_S)
    await insert_resting(owner, WORKS, live=True)
    await insert_resting(owner, WAITS, live=False)


async def insert_holds(owner: asyncpg.Connection) -> None:
    """Insert the holds of all orders."""
    await owner.executemany(_HOLD, HOLDS)


async def insert_service_holds(owner: asyncpg.Connection) -> None:
    """Insert what services hold of carol, and his account."""
    await owner.executemany(_SERVICE_HOLD, SERVICE_HOLDS)
    await owner.execute("INSERT INTO balances.accounts VALUES ('carol', 'USD', 155, 50)")


async def insert_order(owner: asyncpg.Connection, order: Order) -> None:
    """Insert an order with its history, two versions a transaction."""
    moves = order.moves
    await owner.execute(
        _ORDER,
        *(
            order.order_id,
            order.asset_id,
            order.order_type,
            order.phase,
            moves[-1].partition(">")[2] if moves else None,
        ),
        *(
            len(moves),
            order.reason_code,
            order.filled,
            order.price,
            order.fee,
            order.parked_reason,
            order.client_order_id,
            order.terms,
            order.progress,
        ),
    )
    for first in range(0, max(len(moves), 1), 2):
        some = moves[first : first + 2]
        lines = [{"kind": "status", "name": move.partition(">")[2]} for move in some]
        if "fire" in order.progress and first > 0:
            lines.append({"kind": "fired", "name": "Fired"})
        entries = json.dumps(lines)
        await owner.execute(_HISTORY, order.order_id, first + 1, first, first + len(some), some, entries)


async def insert_claim(
    owner: asyncpg.Connection, order_id: UUID, *, key: str | None = None, client: str | None = None, age_s: float
) -> None:
    """Insert a claim."""
    await owner.execute(_CLAIM, order_id, key, client, age_s)


async def insert_resting(owner: asyncpg.Connection, order_id: UUID, *, live: bool) -> None:
    """Insert the row by which ticks find an order."""
    await owner.execute(_RESTING, order_id, live)


async def insert_event(owner: asyncpg.Connection, order_id: UUID, *, version: int, age_s: float) -> None:
    """Insert an event that waits to be sent."""
    await owner.execute(_EVENT, f"{order_id}:v{version}", age_s)


_ORDER = """
    INSERT INTO orders.orders (order_id, user_id, asset_id, order_type, quantity, phase, status, version, reason_code,
        cancel_requested, filled_quantity, average_price, fee, progress, due_at, parked_reason, history_seq,
        client_order_id, terms, created_at, updated_at)
    VALUES ($1, 'alice', $2, $3, 1, $4, $5, $6, $7, false, $8::text::numeric, $9::text::numeric, $10::text::numeric,
        $14, CASE WHEN $4 IN ('RESERVING', 'SETTLING') AND $11::text IS NULL THEN now() END, $11, $6, $12, $13,
        now(), now())"""
_HISTORY = """
    INSERT INTO orders.history (order_id, seq, at, version_from, version_to, moves, entries)
    VALUES ($1, $2, now(), $3, $4, $5, $6)"""
_FILL = """
    INSERT INTO orders.fills (fill_id, order_id, quantity, price, fee, busted)
    VALUES ($1::uuid || ':fill', $1, $2::text::numeric, $3::text::numeric, $4::text::numeric, $5)"""
_SERVICE_HOLD = """
    WITH own AS (
        INSERT INTO balances.service_holds (hold_id, expires_at, ended, captured_to)
        VALUES ('hold:' || $1::uuid, CASE $6::text WHEN 'BURIED' THEN NULL ELSE now() + interval '1 hour' END, $6, $7))
    INSERT INTO balances.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state, reason_code)
    VALUES ('hold:' || $1::uuid, $1, 'carol', 'USD', $2::text::numeric, $3::text::numeric, $4::text::numeric, $5,
        CASE $5 WHEN 'REFUSED' THEN 'INSUFFICIENT_BALANCE' END)"""
_HOLD = """
    INSERT INTO balances.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state, reason_code)
    VALUES ($1::uuid || ':reserve', $1, 'alice', $2, $3::text::numeric, $4::text::numeric, $5::text::numeric, $6,
        'SOME')"""
_ACCOUNT = """
    INSERT INTO balances.accounts (user_id, asset_id, available, held)
    VALUES ('alice', $1, $2::text::numeric, $3::text::numeric)"""
_CLAIM = """
    INSERT INTO api.claims (order_id, user_id, idempotency_key, client_order_id, intent, request, next_publish_at,
        created_at)
    VALUES ($1, 'alice', $2, $3, '', '', now() - make_interval(secs => $4), now() - make_interval(secs => $4))"""
_EVENT = """
    INSERT INTO orders.outbox (created_at, due_at, available_at, refs, payload)
    SELECT at, at, at, ARRAY[$1], '' FROM (SELECT now() - make_interval(secs => $2)) AS sent (at)"""
_RESTING: Final = """
    INSERT INTO orders.resting (order_id, asset_id, side, revision, live, queued, told, down_price, from_sequence,
        entered_at)
    VALUES ($1, 'BTC', 'BUY', 1, $2, false, false, 100, CASE WHEN $2 THEN 7 END, CASE WHEN $2 THEN now() END)"""
