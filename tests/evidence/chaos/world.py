"""A small world without faults: rows, events and submissions of four orders. The checker's tests plant faults in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from tests.evidence.chaos.record import Placed, Record, Unreadable
from tests.evidence.chaos.watched import Hooked, Watch, Watched, Way
from tests.evidence.chaos.witness import Told, Wire
from tests.support.journal import insert_lines

AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
BOUGHT, SOLD, REFUSED, CANCELLED = (f"0000000{number}-0000-4000-8000-000000000000" for number in range(1, 5))
FILLED: Final = ("PENDING>CONFIRMED", "CONFIRMED>PROCESSING", "PROCESSING>COMPLETED")


@dataclass(frozen=True)
class Sample:
    """An order that has ended; `moves` leaves out the first one, which every order makes."""

    order_id: str
    order_type: str
    asset_id: str
    quantity: str
    moves: tuple[str, ...]
    reason_code: str | None = None
    average_price: str | None = None
    fee: str = "0"

    @property
    def path(self) -> tuple[str, ...]:
        """All moves, one a version."""
        return (">PENDING", *self.moves)

    @property
    def status(self) -> str:
        """Where it ended."""
        return self.moves[-1].partition(">")[2]

    @property
    def filled(self) -> str:
        """How much of it was traded."""
        return self.quantity if self.average_price else "0"


SAMPLES: Final = (
    Sample(BOUGHT, "MARKET_BUY", "BTC", "0.0100001", FILLED, None, "50000", "0.51"),
    Sample(SOLD, "MARKET_SELL", "ACME", "10", FILLED, None, "20", "0.2"),
    Sample(REFUSED, "MARKET_BUY", "BTC", "1", ("PENDING>FAILED",), "INSUFFICIENT_BALANCE"),
    Sample(CANCELLED, "MARKET_BUY", "ACME", "3", ("PENDING>PENDING", "PENDING>CANCELLED"), "USER_REQUESTED"),
)
HOLDS: Final = (
    (BOUGHT, "USD", "505", "500.52", "4.48", "SETTLED"),
    (SOLD, "ACME", "10", "10", "0", "SETTLED"),
    (REFUSED, "USD", "50050", "0", "0", "REFUSED"),
    (CANCELLED, "USD", "60.06", "0", "60.06", "REFUNDED"),
)
JOURNAL: Final = (
    (f"{BOUGHT}:settle", BOUGHT, "alice", "USD", "-500.52"),
    (f"{BOUGHT}:settle", BOUGHT, "@market", "USD", "500.01"),
    (f"{BOUGHT}:settle", BOUGHT, "@fees", "USD", "0.51"),
    (f"{BOUGHT}:settle", BOUGHT, "alice", "BTC", "0.0100001"),
    (f"{BOUGHT}:settle", BOUGHT, "@market", "BTC", "-0.0100001"),
    (f"{SOLD}:settle", SOLD, "alice", "ACME", "-10"),
    (f"{SOLD}:settle", SOLD, "@market", "ACME", "10"),
    (f"{SOLD}:settle", SOLD, "alice", "USD", "199.8"),
    (f"{SOLD}:settle", SOLD, "@market", "USD", "-200"),
    (f"{SOLD}:settle", SOLD, "@fees", "USD", "0.2"),
    ("deposit:1", None, "alice", "USD", "1000"),
    ("deposit:1", None, "@external", "USD", "-1000"),
    ("deposit:2", None, "alice", "ACME", "100"),
    ("deposit:2", None, "@external", "ACME", "-100"),
)
ACCOUNTS: Final = (("USD", "699.28"), ("ACME", "90"), ("BTC", "0.0100001"))
UNREADABLE: Final = Unreadable("orders.requests", 3, 77, b"{broken")


async def insert(owner: asyncpg.Connection) -> None:
    """Put the world's rows into an empty, migrated database."""
    for sample in SAMPLES:
        await owner.execute(
            _ORDER,
            *(sample.order_id, sample.asset_id, sample.order_type, sample.quantity, sample.status, len(sample.path)),
            *(sample.reason_code, sample.filled, sample.average_price, sample.fee, AT),
            sample.reason_code == "USER_REQUESTED",
        )
        for first in range(0, len(sample.path), 2):
            moves = sample.path[first : first + 2]
            entries = [
                {"kind": "status", "name": status, "status": status, "version": version}
                for version, status in enumerate((move.partition(">")[2] for move in moves), first + 1)
            ]
            row = (sample.order_id, first + 1, AT, first, first + len(moves), moves, json.dumps(entries))
            await owner.execute(_HISTORY, *row)
        if sample.average_price:
            await owner.execute(_FILL, sample.order_id, sample.quantity, sample.average_price, sample.fee)
    await owner.executemany(_HOLD, HOLDS)
    await insert_lines(owner, JOURNAL)
    await owner.executemany(_ACCOUNT, ACCOUNTS)
    await owner.execute(_CLAIM, BOUGHT, "k1")
    await owner.execute(_CLAIM, REFUSED, "k2")
    await owner.execute(_DEAD_LETTER, UNREADABLE.topic, UNREADABLE.partition, UNREADABLE.offset, UNREADABLE.value)


def record() -> Record:
    """Return what was submitted: two orders by REST, two by Kafka, one that REST refused, one unreadable message."""
    record = Record(
        deposits={("alice", "USD"): "1000", ("alice", "ACME"): "100"},
        unreadable=[UNREADABLE],
    )
    for number, sample in enumerate(SAMPLES):
        rest = sample.order_id in {BOUGHT, REFUSED}
        end = " ".join(filter(None, (sample.status, sample.reason_code)))
        body = {"order_type": sample.order_type, "asset_id": sample.asset_id, "quantity": sample.quantity}
        placed = Placed(number, "plain", "rest" if rest else "kafka", "alice", [body], [end], 0.0)
        placed.order_id = sample.order_id
        if rest:
            placed.key, placed.answers, placed.ids = f"k{1 + number // 2}", [503, 202], [sample.order_id]
        else:
            placed.stored = True
        record.placed.append(placed)
    body = {"order_type": "MARKET_BUY", "asset_id": "BTC", "quantity": "-1"}
    record.placed.append(Placed(4, "invalid", "rest", "alice", [body], [], 0.0, key="k9", answers=[422]))
    return record


def wire() -> Wire:
    """Return the events: every version once, the last one twice."""
    told: dict[str, dict[int, list[Told]]] = {}
    for sample in SAMPLES:
        for version, move in enumerate(sample.path, 1):
            value = json.dumps(_event(sample, version, move)).encode()
            known = told.setdefault(sample.order_id, {}).setdefault(version, [])
            one = Told(sample.order_id, f"{sample.order_id}:v{version}", value)
            known += [one, one] if version == len(sample.path) else [one]
    return Wire(told, [])


def watched() -> Watched:
    """Return what alice was told by two clients, one of which came back later, and at her endpoint."""
    watched = Watched(watches=[Watch("alice", by, streams=2) for by in ("SSE", "WebSocket")], hooks={"alice"})
    for told in (versions[version][0] for versions in wire().told.values() for version in versions):
        event = json.loads(told.value)
        watched.watches[0].note(event["order"], Way.LIVE)
        body = {"timestamp": event["occurred_at"], "data": event["order"]}
        body["type"] = f"order.{event['status'].lower()}"
        if event["status"] == event["previous_status"]:
            body["type"] = "order.updated"
        watched.hooked += [Hooked("alice", told.event_id, json.dumps(body).encode())] * 2
    for versions in wire().told.values():
        watched.watches[1].note(json.loads(versions[max(versions)][0].value)["order"], Way.FIRST)
    return watched


def _event(sample: Sample, version: int, move: str) -> dict[str, Any]:
    before, _, status = move.partition(">")
    last = version == len(sample.path)
    reason_code = sample.reason_code if last else None
    return {
        "order_id": sample.order_id,
        "version": version,
        "status": status,
        "previous_status": before or None,
        "reason_code": reason_code,
        "occurred_at": AT.isoformat(),
        "order": {
            "order_id": sample.order_id,
            "client_order_id": None,
            "user_id": "alice",
            "asset_id": sample.asset_id,
            "order_type": sample.order_type,
            "status": status,
            "quantity": sample.quantity,
            "price": None,
            "slippage_bps": 100,
            "filled_quantity": sample.filled if last else "0",
            "average_price": sample.average_price if last else None,
            "fee": sample.fee if last else "0",
            "reason_code": reason_code,
            "reason": None,
            "cancel_requested": sample.reason_code == "USER_REQUESTED",
            "version": version,
            "created_at": AT.isoformat(),
            "updated_at": AT.isoformat(),
        },
    }


_ORDER = """
    INSERT INTO orders.orders (order_id, user_id, asset_id, order_type, quantity, slippage_bps, phase, status, version,
        reason_code, cancel_requested, filled_quantity, average_price, fee, progress, history_seq, created_at,
        updated_at)
    VALUES ($1::text::uuid, 'alice', $2, $3, $4::text::numeric, 100, $5, $5, $6, $7, $12, $8::text::numeric,
        $9::text::numeric, $10::text::numeric, '{}', $6, $11, $11)"""
_HISTORY = """
    INSERT INTO orders.history (order_id, seq, at, version_from, version_to, moves, entries)
    VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7)"""
_FILL = """
    INSERT INTO orders.fills (fill_id, order_id, quantity, price, fee, busted)
    VALUES ($1 || ':fill', $1::text::uuid, $2::text::numeric, $3::text::numeric, $4::text::numeric, false)"""
_HOLD = """
    INSERT INTO balances.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state, reason_code)
    VALUES ($1 || ':reserve', $1, 'alice', $2, $3::text::numeric, $4::text::numeric, $5::text::numeric, $6, 'SOME')"""
_ACCOUNT = "INSERT INTO balances.accounts VALUES ('alice', $1, $2::text::numeric, 0)"
_CLAIM = """
    INSERT INTO api.claims (order_id, user_id, idempotency_key, intent, request, next_publish_at)
    VALUES ($1::text::uuid, 'alice', $2, '', '', now())"""
_DEAD_LETTER = """
    INSERT INTO orders.dead_letters (topic, partition, record_offset, record_timestamp, headers, value, reason)
    VALUES ($1, $2, $3, 0, '[]', $4, 'it is broken')"""
