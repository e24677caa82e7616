"""Repeats the statements of simulated processes, one transaction after the other, on the simulation or on PostgreSQL.

Both get the same clock, so that every row must be the same.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from order_saga.worker import store, tables
from saga_kit.runtime.transactions import Transaction, begin
from tests.evidence.simulation.database import EPOCH, Database, Engine, Said, Step
from tests.evidence.simulation.loop import VirtualLoop
from tests.evidence.simulation.scenario import HOLDINGS, Scenario
from tests.evidence.simulation.statements import statements
from tests.evidence.simulation.statements.values import numeric
from tests.evidence.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

Seen = list[Any]
"""The answer to a statement: its rows, its row count, or its SQLSTATE."""

CLOCK: Final = """
    CREATE SCHEMA fake;
    CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
        AS $$ SELECT current_setting('fake.now')::timestamptz $$;
    CREATE FUNCTION fake.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
        AS $$ SELECT current_setting('fake.now')::timestamptz $$"""
"""A settable clock for PostgreSQL, for a session that has schema `fake` before `pg_catalog` in its search path."""
RULES: Final = (
    *(Decimal(text) for text in ("0.01", "0.00000001", "0.001")), None, Decimal(10), Decimal(10_000), 10, "USD", 2,
    True, None, None, None, 1,
)  # fmt: skip
PRICES: Final = {"BTC": 50_000, "WAVE": 100}
_RULE_NAMES: Final = """asset_id, tick, step, min_quantity, max_quantity, min_notional, max_notional, fee_bps,
    cash_asset_id, cash_scale, trading, available_quantity, answer_delay_s, max_deviation_bps, rules_version"""
_NUMBERS: Final = ", ".join(f"${number}" for number in range(1, 16))
_OF_HOLD: Final = (
    *("saga_id", "owner", "unit", "amount", "state", "captured", "refunded", "reason_code", "reason"),
    *("revision", "asked", "adjust_code", "adjust_reason"),
)
_DOCUMENTS: Final = frozenset({"history", "fills"})
"""Columns of JSON documents, which are compared with all their digits."""
TABLES: Final = {
    "orders": ("orders.orders", "order_id", tuple(column.name for column in store._ALL)),
    "history": ("orders.history", "order_id, seq", ("at", "version_from", "version_to", "moves", "entries")),
    "fills": ("orders.fills", "fill_id", ("order_id", "quantity", "price", "fee", "busted")),
    "archive": (
        "orders.archive",
        "order_id",
        (*(column.name for column in tables.archive.columns if column.name not in {"order_id", "archived_at"}),),
    ),
    "resting": (
        "orders.resting",
        "order_id",
        (*(column.name for column in tables.resting.columns if column.name != "order_id"),),
    ),
    "marks": (
        "orders.marks",
        "asset_id",
        ("sequence", "price", "as_of", "confirmed_at", "appended_at", "trading", "live"),
    ),
    "peaks": ("orders.peaks", "asset_id, side, upto", ("price", "set_by")),
    "trails": ("orders.trails", "asset_id, side, kind, trail", ("oldest",)),
    "pauses": ("orders.pauses", "participant", ("paused_by", "reason")),
    "accounts": ("balances.accounts", "user_id, asset_id", ("available", "held")),
    "journal": ("balances.journal", "entry_id", ("order_id", "accounts", "asset_ids", "amounts")),
    "holds": (
        "balances.holds",
        "hold_id",
        _OF_HOLD,
    ),
    "holds_archive": ("balances.holds_archive", "hold_id", _OF_HOLD),
} | {
    f"{schema}.outbox": (f"{schema}.outbox", "outbox_id", ("due_at", "available_at", "refs", "payload"))
    for schema in ("orders", "balances", "assets")
}
"""The simulated tables: for each its name in PostgreSQL, its sort key, and the columns that are compared."""


def record(scenario: Scenario) -> list[Said]:
    """Run a history and record the statements of its transactions, in the order of their commits."""

    async def live() -> list[Said]:
        world = World(scenario)
        world.database.said = []
        await world.live()
        return world.database.said

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(live())


async def on_simulation(said: Sequence[Said]) -> tuple[list[Seen], dict[str, list[Any]]]:
    """Run the statements on the simulated database; return the answers and the rows of the tables."""
    clock = [0.0]
    database = Database(statements(), lambda: clock[0])
    for account, amount in HOLDINGS.items():
        database.tables["accounts"][account] = {"available": numeric(amount), "held": numeric("0")}
    for asset_id, price in PRICES.items():
        database.tables["assets"][asset_id] = {"rules": RULES, "price": (Decimal(price), 1, EPOCH, EPOCH, "OPEN")}
    answers = []
    for one in said:
        clock[0] = (one.at - EPOCH).total_seconds()
        answers += await _say(Engine(database, Still()), one)
    held = {name: [_row(name, key, row) for key, row in database.tables[name].items()] for name in TABLES}
    return answers, {name: sorted(rows, key=repr) for name, rows in held.items()}


async def on_postgres(engine: AsyncEngine, said: Sequence[Said]) -> tuple[list[Seen], dict[str, list[Any]]]:
    """Run the statements on PostgreSQL; return the same."""
    async with engine.begin() as tx:
        for account, amount in HOLDINGS.items():
            await tx.exec_driver_sql(
                "INSERT INTO balances.accounts (user_id, asset_id, available, held) VALUES ($1, $2, $3, 0)",
                (*account, Decimal(amount)),
            )
        for asset_id, price in PRICES.items():
            await tx.exec_driver_sql(
                f"INSERT INTO assets.assets ({_RULE_NAMES}) VALUES ({_NUMBERS})", (asset_id, *RULES)
            )
            await tx.exec_driver_sql(
                "INSERT INTO assets.prices (asset_id, price, sequence, as_of, confirmed_at, source)"
                " VALUES ($1, $2, 1, $3, $3, 'fixed')",
                (asset_id, Decimal(price), EPOCH),
            )
    answers = []
    for one in said:
        answers += await _say(engine, one, f"SET LOCAL fake.now = '{one.at.isoformat()}'")
    held: dict[str, list[Any]] = {}
    async with engine.connect() as connection:
        for name, (table, key, columns) in TABLES.items():
            read = [f"{column}::text" if column in _DOCUMENTS else column for column in columns]
            rows = await connection.exec_driver_sql(f"SELECT {key}, {', '.join(read)} FROM {table}")
            held[name] = sorted((_plain(row) for row in rows), key=repr)
    return answers, held


async def _say(source: AsyncEngine | Engine, said: Said, before: str = "") -> list[Seen]:
    answers: list[Seen] = []
    with suppress(_RefusedError):
        async with begin(source) as tx:
            if before:
                await tx.execute(before)
            for step in said.steps:
                try:
                    answers.append(await _answer(tx, step))
                except asyncpg.PostgresError as error:
                    answers.append([error.sqlstate])
                    raise _RefusedError from error
    return answers


class _RefusedError(Exception):
    """Rolls back a transaction whose statement was refused."""


async def _answer(tx: Transaction, step: Step) -> Seen:
    first = step.writes[0]
    if step.reads:
        rows = [_plain(row) for row in await tx.fetch(first.sql, *first.args)]
        return rows if _is_in_order(first.sql) else sorted(rows, key=repr)
    if len(step.writes) == 1 and not first.returning:
        return [await tx.execute(first.sql, *first.args)]
    return [(number, returned) for number, returned in await tx._send(step.writes)]


def _is_in_order(sql: str) -> bool:
    """Tell whether a statement's own rows are ordered, and not only those of a part of it."""
    _, ordered, rest = sql.rpartition("ORDER BY")
    return bool(ordered) and rest.count("(") >= rest.count(")") and "SKIP LOCKED" not in sql


def _row(table: str, key: Any, row: dict[str, Any]) -> tuple[Any, ...]:
    keys = key if isinstance(key, tuple) else (key,)
    return _plain((*keys, *(row[column] for column in TABLES[table][2])))


def _plain(row: Sequence[Any]) -> tuple[Any, ...]:
    """Convert values to one form where PostgreSQL writes them differently."""
    return tuple(_value(value) for value in row)


def _value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}".rstrip("0").rstrip(".") if "." in f"{value:f}" else f"{value:f}"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and value.startswith(("[", "{")):
        return json.dumps(json.loads(value, parse_float=str, object_hook=_alike), sort_keys=True)
    if isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0] if value else None, dict)):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, list):
        return [_value(one) for one in value]
    return str(value) if value is not None else None


def _alike(document: dict[str, Any]) -> dict[str, Any]:
    """Convert times to one form, and leave out one that the simulation does not have."""
    if "at" in document:
        document["at"] = datetime.fromisoformat(document["at"]).isoformat()
    return {name: value for name, value in document.items() if name != "created_at"}


class Still:
    """A connection without delays and faults."""

    async def round_trip(self) -> None:
        """Take no time."""

    async def commits(self, apply: Callable[[], None]) -> None:
        """Commit."""
        apply()
