"""The chaos checker finds nothing where all is well, and finds each fault that is planted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import asyncpg
import pytest

from tests.evidence.chaos import books, world
from tests.evidence.chaos.checker import judge, types
from tests.evidence.chaos.oracle import Look, Tick
from tests.evidence.chaos.record import Record
from tests.evidence.chaos.witness import Told, Wire
from tests.evidence.chaos.world import BOUGHT, CANCELLED, REFUSED, SOLD
from tests.support.infrastructure import Database
from tests.support.journal import WITHOUT_CHECK


class Plant(NamedTuple):
    """A fault in the tables (by SQL), in the events or in the submissions, and the finding that must come of it."""

    name: str
    kind: str
    words: str
    sql: tuple[str, ...] = ()
    spoil: Callable[[Record, Wire], Any] = lambda _record, _wire: None


def _without(table: str, constraint: str) -> str:
    return f"ALTER TABLE {table} DROP CONSTRAINT {constraint}"


def _retold(order_id: str, version: int, **changes: Any) -> Callable[[Record, Wire], Any]:
    """Change one version in all of its events."""

    def spoil(_record: Record, wire: Wire) -> None:
        told = wire.told[order_id][version][0]
        body = json.loads(told.value)
        wire.told[order_id][version] = [told._replace(value=json.dumps(body | changes).encode())]

    return spoil


PLANTS = (
    # Lost
    Plant("an event is gone", "lost", "versions [2] of 4 were never told", (), lambda _, w: w.told[BOUGHT].pop(2)),
    Plant("all its events are gone", "lost", "versions [1, 2] of 2 were never", (), lambda _, w: w.told.pop(REFUSED)),
    Plant("an order is gone", "lost", "it was accepted", (f"DELETE FROM orders.orders WHERE order_id = '{SOLD}'",)),
    Plant(
        "a claim without an order", "lost", "alice has its promise",
        (f"UPDATE api.claims SET order_id = '{BOUGHT[:-1]}9' WHERE idempotency_key = 'k1'",),
    ),
    Plant(
        "it never ended", "lost", "it never ended: PENDING in RESERVING",
        ((f"UPDATE orders.orders SET phase = 'RESERVING', status = 'PENDING', due_at = now(), reason_code = NULL"
         f" WHERE order_id = '{REFUSED}'"),),
    ),
    Plant(
        "only its cancel is known", "lost", "only the cancel is known",
        ((f"UPDATE orders.orders SET phase = 'NEW', status = NULL, version = 0, reason_code = NULL"
         f" WHERE order_id = '{CANCELLED}'"),),
    ),
    Plant(
        "an unsent reply", "lost", "balances.outbox: 1 rows were never sent",
        ("INSERT INTO balances.outbox (due_at, available_at, refs, payload) VALUES (now(), now(), '{}', '')",),
    ),
    Plant("a changed byte of a dead letter", "lost", "is kept as", ("UPDATE orders.dead_letters SET value = 'other'",)),
    # Doubled
    Plant(
        "one key, two orders", "doubled", "its key made several orders",
        ("DROP INDEX api.claims_idempotency_key", "UPDATE api.claims SET idempotency_key = 'k1'"),
    ),
    Plant("two answers", "doubled", "name several orders", (), lambda r, _: r.placed[0].ids.append(SOLD)),
    Plant(
        "a second hold", "doubled", "it has 2 holds",
        ((f"INSERT INTO balances.holds SELECT 'again', saga_id, owner, unit, amount, captured, refunded, state FROM"
         f" balances.holds WHERE saga_id = '{SOLD}'"),),
    ),
    Plant(
        "a second fill", "doubled", "it has 2 fills",
        ((f"INSERT INTO orders.fills SELECT 'again', order_id, quantity, price, fee, true FROM orders.fills"
         f" WHERE order_id = '{SOLD}'"),),
    ),
    Plant(
        "a doubled journal entry", "doubled", "it was booked 2 times",
        ((f"INSERT INTO balances.journal SELECT 'again', order_id, accounts, asset_ids, amounts FROM balances.journal"
         f" WHERE order_id = '{SOLD}'"),),
    ),
    Plant(
        "one name, two orders", "doubled", "4 orders bear this client order id",
        ("DROP INDEX orders.orders_client_order_id", "UPDATE orders.orders SET client_order_id = 'mine'"),
    ),
    # Money
    Plant(
        "a cent is moved", "money", "alice USD: 699.290000000000000000 are there, which is +0.01 off",
        ("UPDATE balances.accounts SET available = available + 0.01 WHERE asset_id = 'USD'",),
    ),
    Plant(
        "a cent stays held", "money", "are held, and no order is open",
        ("UPDATE balances.accounts SET held = 0.01, available = available - 0.01 WHERE asset_id = 'USD'",),
    ),
    Plant(
        "a cent of the journal", "money", "sums to 0.01 USD",
        (WITHOUT_CHECK, "UPDATE balances.journal SET amounts = array_replace(amounts, 0.51, 0.52)"),
    ),
    Plant(
        "a cent from fee to market", "money", "its legs are",
        (("UPDATE balances.journal"
          " SET amounts = array_replace(array_replace(amounts, 0.51, 0.50), 500.01, 500.02)"),),
    ),
    Plant(
        "no entry of a completed order", "money", "booked are {}",
        (f"DELETE FROM balances.journal WHERE order_id = '{SOLD}'",),
    ),
    Plant(
        "a hold left open", "money", "it is CANCELLED, its hold HELD",
        (f"UPDATE balances.holds SET state = 'HELD', refunded = 0 WHERE saga_id = '{CANCELLED}'",),
    ),
    Plant(
        "a hold captured too dear", "money", "its holds are",
        (f"UPDATE balances.holds SET captured = 500.53, refunded = 4.47 WHERE saga_id = '{BOUGHT}'",),
    ),
    Plant(
        "a wrong fee", "money", "it should be filled as",
        (f"UPDATE orders.fills SET fee = 0.5 WHERE order_id = '{BOUGHT}'",),
    ),
    Plant("no hold", "money", "its holds are []", (f"DELETE FROM balances.holds WHERE saga_id = '{SOLD}'",)),
    # The wire
    Plant(
        "a repeat that differs", "wire", "version 4 was told in 2 ways", (),
        lambda _, w: w.told[BOUGHT][4].append(w.told[BOUGHT][4][0]._replace(value=w.told[BOUGHT][3][0].value)),
    ),
    Plant("another status", "wire", "the history says", (), _retold(BOUGHT, 2, status="FAILED")),
    Plant("another time", "wire", "not at", (), _retold(SOLD, 1, occurred_at="2026-01-02T03:04:05.678902+00:00")),
    Plant("another reason", "wire", "tells reason OPERATOR", (), _retold(REFUSED, 2, reason_code="OPERATOR")),
    Plant(
        "a row that says otherwise", "wire", "tells fee 1/5",
        (f"UPDATE orders.orders SET fee = 0.3 WHERE order_id = '{SOLD}'",),
    ),
    Plant(
        "another key", "wire", "has key somebody", (),
        lambda _, w: w.told[SOLD].update({1: [w.told[SOLD][1][0]._replace(key="somebody")]}),
    ),
    Plant("a gap of offsets", "wire", "offset 7 follows 5", (), lambda _, w: w.faults.append("offset 7 follows 5")),
    # The history
    Plant(
        "a missing row of history", "history", "follow 0",
        (f"DELETE FROM orders.history WHERE order_id = '{BOUGHT}' AND seq = 1",),
    ),
    Plant(
        "an illegal move", "history", "comes after",
        (_without("orders.history", "history_legal_moves"),
         f"UPDATE orders.history SET moves[2] = 'PENDING>COMPLETED' WHERE order_id = '{REFUSED}'"),
    ),
    Plant(
        "entries that differ", "history", "its entries say",
        (f"UPDATE orders.history SET entries = '[]' WHERE order_id = '{REFUSED}'",),
    ),
    Plant("a higher version", "history", "it is FAILED at 3",
          (f"UPDATE orders.orders SET version = 3 WHERE order_id = '{REFUSED}'",)),
    # Ends, and orders of nobody
    Plant("another end", "outcome", "ended as COMPLETED", (), lambda r, _: r.placed[1].ends.clear()),
    Plant(
        "another content", "outcome", "was wanted, the order says", (),
        lambda r, _: r.placed[1].bodies[0].update(quantity="11"),
    ),
    Plant("another user's", "outcome", "is alice's order", (), lambda r, _: setattr(r.placed[1], "user_id", "bob")),
    Plant("nobody's order", "invented", "nobody wanted this order", (), lambda r, _: r.placed.pop(1)),
    Plant(
        "an order that was refused", "invented", "every answer refused it", (),
        lambda r, _: setattr(r.placed[0], "answers", [422]),
    ),
    Plant(
        "an event too many", "invented", "versions [5] were told", (),
        lambda _, w: w.told[BOUGHT].update({5: [Told(BOUGHT, f"{BOUGHT}:v5", b"{}")]}),
    ),
    Plant("a dead letter of no message", "invented", "a dead letter of", (), lambda r, _: r.unreadable.clear()),
)  # fmt: skip


@pytest.fixture
async def owner(database: Database) -> Any:
    """Fill a database of its own with a world without faults."""
    connection = await asyncpg.connect(database.url)
    await world.insert(connection)
    yield connection
    await connection.close()


async def test_where_all_is_well_nothing_is_found(database: Database, owner: asyncpg.Connection) -> None:
    """Four orders, a refusal and an unreadable message give no finding, even though some answers were lost."""
    assert not owner.is_closed()
    rows = await books.read(database.url)
    assert [] == judge(world.record(), world.wire(), rows, watched=world.watched())


async def test_nothing_is_under_way_there(database: Database, owner: asyncpg.Connection) -> None:
    """Nothing is unfinished in this world; an accepted order that is missing counts as unfinished."""
    promised = [sample.order_id for sample in world.SAMPLES]
    assert {"orders": 0, "promises": 0, "claims": 0, "unsent": 0} == await books.unfinished(database.url, promised)
    await owner.execute(f"DELETE FROM orders.orders WHERE order_id = '{BOUGHT}'")
    assert {"orders": 0, "promises": 1, "claims": 1, "unsent": 0} == await books.unfinished(database.url, promised)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "-"))
async def test_each_planted_fault_is_found(database: Database, owner: asyncpg.Connection, plant: Plant) -> None:
    """The finding has the right kind and the right words."""
    for statement in plant.sql:
        await owner.execute(statement)
    record, wire = world.record(), world.wire()
    plant.spoil(record, wire)
    found = judge(record, wire, await books.read(database.url))
    assert [] != [one for one in found if one.kind == plant.kind and plant.words in str(one)], list(map(str, found))


WAITED = f"{BOUGHT[:-1]}7"
WAITS = """
    INSERT INTO orders.orders (order_id, user_id, asset_id, order_type, quantity, phase, status, version, terms,
        cancel_requested, filled_quantity, average_price, fee, progress, history_seq, created_at, updated_at)
    VALUES ($1::text::uuid, 'alice', 'WAVE', 'LIMIT_BUY', 1, 'COMPLETED', 'COMPLETED', 1, $2, false, 1, 98.5, 0.1, '{}',
        3, now(), now())"""
STORY = """
    INSERT INTO orders.history (order_id, seq, at, version_from, version_to, moves, entries)
    VALUES ($1::text::uuid, 1, $2, 0, 0, '{}', $3)"""


@pytest.mark.parametrize(("limit", "found"), [("98.5", False), ("98.9", False), ("99", True), ("98", True)])
async def test_a_conditional_order_is_judged_by_its_rows(
    database: Database, owner: asyncpg.Connection, limit: str, *, found: bool
) -> None:
    """The oracle reads terms and history as the tables have them: 98.5 fires a limit below 99 that is no lower."""
    ticks = [Tick(1, Fraction(100), "OPEN", world.AT, world.AT), Tick(2, Fraction(99), "OPEN", world.AT, world.AT)]
    ticks.append(Tick(3, Fraction("98.5"), "OPEN", world.AT, world.AT))
    told = [
        {"kind": "answered", "name": "AssetApproved", "detail": {"sequence": 1, "price": "100"}},
        {"kind": "rests", "name": "Rests", "detail": {"from_sequence": 1, "level": limit}},
        {"kind": "fired", "name": "Fired", "detail": {"sequence": 3, "price": "98.5"}},
    ]
    await owner.execute(WAITS, WAITED, json.dumps({"limit_price": limit}))
    await owner.execute(STORY, WAITED, world.AT, json.dumps(told))
    seen: Counter[str] = Counter()
    rows = await books.read(database.url)
    judged = judge(world.record(), world.wire(), rows, {"WAVE": ticks}, {"WAVE": [Look(3, world.AT, world.AT)]}, seen)
    assert found is any(one.kind == "trigger" for one in judged), list(map(str, judged))
    assert ("LIMIT_BUY COMPLETED", 1) in types(rows).items()
