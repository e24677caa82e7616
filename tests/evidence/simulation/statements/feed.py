"""The trigger engine's statements: gates, what is known of a market, which rows ticks reach, what was decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, cast

from order_saga.triggers import store as triggers
from tests.evidence.simulation.database import Result, Row, Statement, Transaction
from tests.evidence.simulation.statements.resting import check_resting
from tests.evidence.simulation.statements.values import columns, numeric

_FIELDS: Final = (
    "what", "asset_id", "side", "kind", "number", "price", "set_by", "as_of", "confirmed_at", "appended_at", "trading",
    "live",
)  # fmt: skip
_OF_MARK: Final = ("as_of", "confirmed_at", "appended_at", "trading", "live")
_ROW: Final = (
    "revision", "asset_id", "side", "queued", "up_price", "down_price", "limit_price", "trail_amount", "trail_bps",
)  # fmt: skip


def feed_statements() -> dict[str, Statement]:
    """Map the text of every statement to what it does."""
    return {
        triggers._TRY: try_gates,
        triggers._WAIT: wait_for_gate,
        triggers._MARKET: read_market,
        triggers.LEVELS: find_by_level,
        triggers.TRAILS: find_by_trail,
        triggers._HIT: write_hits,
        triggers._MARK: write_marks,
        triggers._DROP_STEPS: drop_steps,
        triggers._PUT_STEPS: put_steps,
        triggers._RAISE: raise_bounds,
        triggers._HAS_TRAILS: with_trails,
        triggers._DROP_TRAILS: drop_trails,
        triggers._DROP_UNUSED_STEPS: drop_unused_steps,
    }


class _Named(tuple[Any, ...]):
    """A row whose columns are found by number and by name."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(_FIELDS.index(key) if isinstance(key, str) else key)


async def try_gates(tx: Transaction, gate: int, numbers: list[int]) -> Result:
    """Take exclusively, of these locks by number, those that are free."""
    return Result([(number,) for number in numbers if tx.try_number((gate, number))])


async def wait_for_gate(tx: Transaction, gate: int, number: int) -> Result:
    """Take a lock by number exclusively."""
    await tx.take_number((gate, number), exclusive=True)
    return Result([(None,)])


async def read_market(tx: Transaction, asset_ids: list[str]) -> Result:
    """Read the clock, the marks, steps and trails of assets."""
    now = tx.database.now()
    tx.looked_at = (tuple(asset_ids), now)
    rows = [_named("now", as_of=now)]
    for asset_id, mark in tx.rows("marks"):
        if asset_id in asset_ids:
            fields = {name: mark[name] for name in _OF_MARK}
            rows.append(_named("mark", asset_id=asset_id, number=mark["sequence"], price=mark["price"], **fields))
    for (asset_id, side, upto), step in tx.rows("peaks"):
        if asset_id in asset_ids:
            fields = {"number": upto, "price": step["price"], "set_by": step["set_by"]}
            rows.append(_named("step", asset_id=asset_id, side=side, **fields))
    for (asset_id, side, kind, trail), row in tx.rows("trails"):
        if asset_id in asset_ids:
            fields = {"kind": kind, "number": row["oldest"], "price": trail}
            rows.append(_named("trail", asset_id=asset_id, side=side, **fields))
    return Result(rows)


def _named(what: str, **fields: Any) -> _Named:
    return _Named(what if name == "what" else fields.get(name) for name in _FIELDS)


def _waits(row: Row, now: datetime) -> bool:
    not_expired = row["expires_at"] is None or row["expires_at"] > now
    return row["live"] and row["fired_sequence"] is None and not_expired


def _start(row: Row) -> int:
    """Work out `greatest`, which leaves out what is null."""
    known = (row["from_sequence"], row["triggered_sequence"])
    return max((sequence for sequence in known if sequence is not None), default=0)


def _as_read(order_id: Any, row: Row) -> tuple[Any, ...]:
    return (order_id, *(row[name] for name in _ROW), _start(row), row["entered_at"])


async def find_by_level(tx: Transaction, now: datetime, most: int, *arrays: list[Any]) -> Result:
    """Find rows whose level is reached by a point after their start, and those that wait for an opening."""
    points = [(asset_id, sequence, Decimal(price)) for asset_id, sequence, price in columns(*arrays[5:])]
    found: list[tuple[Any, ...]] = []
    for asset_id, low, high, first, last in columns(*arrays[:5]):
        waiting = [
            (order_id, row) for order_id, row in tx.rows("resting") if row["asset_id"] == asset_id and _waits(row, now)
        ]
        calm = [(order_id, row) for order_id, row in waiting if not row["queued"]]
        later = [(sequence, price) for asset, sequence, price in points if asset == asset_id]
        up = [
            (row["up_price"], row["entered_at"], order_id, row)
            for order_id, row in calm
            if row["up_price"] is not None
            and row["up_price"] <= Decimal(high)
            and _is_reached(_start(row), first, last, later, lambda price, row=row: row["up_price"] <= price)
        ]
        down = [
            (-row["down_price"], row["entered_at"], order_id, row)
            for order_id, row in calm
            if row["down_price"] is not None
            and row["down_price"] >= Decimal(low)
            and _is_reached(_start(row), first, last, later, lambda price, row=row: row["down_price"] >= price)
        ]
        queued = [
            (row["entered_at"], order_id, row)
            for order_id, row in waiting
            if row["queued"] and row["from_sequence"] < last
        ]
        for part in (up, down, queued):
            found += [_as_read(*one[-2:]) for one in sorted(part, key=lambda one: one[:-1])[:most]]
    return Result(found[:most])


def _is_reached(start: int, first: int, last: int, points: Sequence[tuple[int, Decimal]], reached: Any) -> bool:
    return start < first or (start < last and any(at > start and reached(price) for at, price in points))


async def find_by_trail(tx: Transaction, now: datetime, most: int, *arrays: list[Any]) -> Result:
    """Find the oldest rows of queues."""
    found: list[tuple[Any, ...]] = []
    for asset_id, side, amount, bps, upto in columns(*arrays):
        queue = [
            (row["from_sequence"], order_id, row)
            for order_id, row in tx.rows("resting")
            if (row["asset_id"], row["side"]) == (asset_id, side)
            and (
                (amount is not None and row["trail_amount"] == numeric(amount))
                or (bps is not None and row["trail_bps"] == bps)
            )
            and not row["queued"]
            and _waits(row, now)
            and row["from_sequence"] <= upto
        ]
        found += [_as_read(order_id, row) for _, order_id, row in sorted(queue, key=lambda one: one[:2])[:most]]
    return Result(found[:most])


async def write_hits(tx: Transaction, *arguments: Any) -> Result:
    """Bind rows to ticks, or note that a tick triggered them."""
    *arrays, now, watermarks = arguments
    written = 0
    for *values, watermark in columns(*arrays, watermarks):
        order_id, place, revision, sequence, price, as_of, triggered, triggered_price, up, down, limit = values
        old = tx.get("resting", order_id) and await tx.lock("resting", order_id)
        if not old or old["revision"] != revision or not old["live"] or old["fired_sequence"] is not None:
            continue
        row = {
            **old,
            "fired_sequence": sequence,
            "fired_price": numeric(price),
            "fired_as_of": as_of,
            "fired_at": now,
            "fired_rank": place,
            "told": old["told"] and triggered is None,
            "fired_watermark": numeric(watermark),
        }
        if triggered is not None:
            row |= {"triggered_sequence": triggered, "triggered_price": numeric(triggered_price)}
            row |= {"up_price": numeric(up), "down_price": numeric(down), "limit_price": numeric(limit)}
        check_resting(order_id, row)
        tx.put("resting", order_id, row)
        written += 1
    return Result(written=written)


async def write_marks(tx: Transaction, *arrays: list[Any]) -> Result:
    """Insert marks, or move them."""
    names = ("sequence", "price", *_OF_MARK)
    for asset_id, sequence, price, *of_mark in columns(*arrays):
        row = dict(zip(names, (sequence, numeric(price), *of_mark), strict=True))
        await _upsert(tx, "marks", asset_id, row)
    return Result(written=len(arrays[0]))


async def _upsert(tx: Transaction, table: str, key: Any, row: Row) -> None:
    if not await tx.insert(table, key, row):
        await tx.lock(table, key)
        tx.put(table, key, row)


async def drop_steps(tx: Transaction, *arrays: list[Any]) -> Result:
    """Delete steps."""
    return await _delete(tx, "peaks", columns(*arrays))


async def _delete(tx: Transaction, table: str, keys: Iterable[Any]) -> Result:
    written = 0
    for key in keys:
        if tx.get(table, key) is not None and await tx.lock(table, key) is not None:
            tx.put(table, key, None)
            written += 1
    return Result(written=written)


async def put_steps(tx: Transaction, *arrays: list[Any]) -> Result:
    """Insert steps, or change them."""
    for asset_id, side, upto, price, set_by in columns(*arrays):
        await _upsert(tx, "peaks", (asset_id, side, upto), {"price": numeric(price), "set_by": set_by})
    return Result(written=len(arrays[0]))


async def raise_bounds(tx: Transaction, *arrays: list[Any]) -> Result:
    """Raise the bounds of queues."""
    written = 0
    for asset_id, side, kind, trail, oldest in columns(*arrays):
        key = (asset_id, side, kind, numeric(trail))
        if tx.get("trails", key) is None:
            continue
        row = cast("Row", await tx.lock("trails", key))
        if row["oldest"] < oldest:
            tx.put("trails", key, {"oldest": oldest})
            written += 1
    return Result(written=written)


async def with_trails(tx: Transaction) -> Result:
    """List the assets that have trails or steps."""
    found = {key[0] for table in ("trails", "peaks") for key, _ in tx.rows(table)}
    return Result([(asset_id,) for asset_id in sorted(found)])


async def drop_trails(tx: Transaction, asset_ids: list[str]) -> Result:
    """Delete trails that no waiting order has."""
    gone = [key for key, _ in tx.rows("trails") if key[0] in asset_ids and not _with_trail(tx, key)]
    return await _delete(tx, "trails", gone)


def _with_trail(tx: Transaction, key: Any) -> list[Row]:
    """List the rows that wait with a trail."""
    asset_id, side, kind, trail = key
    return [
        row
        for _, row in tx.rows("resting")
        if (row["asset_id"], row["side"], row[f"trail_{kind}"]) == (asset_id, side, trail)
        and row["live"]
        and not row["queued"]
        and row["fired_sequence"] is None
    ]


async def drop_unused_steps(tx: Transaction, asset_ids: list[str]) -> Result:
    """Delete steps up to the mark in whose interval no waiting order begins."""
    gone: list[Any] = []
    before: dict[Any, int] = {}
    for key, _ in sorted(tx.rows("peaks"), key=lambda one: one[0]):
        asset_id, side, upto = key
        low = before.get((asset_id, side), -1)
        before[asset_id, side] = upto
        mark = tx.get("marks", asset_id)
        trails = [trail for trail, _ in tx.rows("trails") if trail[:2] == (asset_id, side)]
        used = any(low < row["from_sequence"] <= upto for trail in trails for row in _with_trail(tx, trail))
        if asset_id in asset_ids and mark is not None and upto <= mark["sequence"] and not used:
            gone.append(key)
    return await _delete(tx, "peaks", gone)
