"""The trigger engine's only SQL: the gates, what a batch of ticks must know, the rows that it reaches, what it decided.

One statement for all assets of a batch, arrays in. Queries repeat the predicates of the partial indexes literally, so
that generic plans use them. Nothing here decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from contracts.assets import Trading
from contracts.decimals import exact_text
from contracts.vocabulary import Side
from order_saga.core.gate import GATE, gate_key
from order_saga.triggers.book import Hit, Row, Span
from order_saga.triggers.feed import Point, Tick
from order_saga.triggers.path import Moved, Step, Trail

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal

    from saga_kit.runtime.transactions import Transaction

WAITS: Final = "live AND NOT queued AND fired_sequence IS NULL"
"""A tick may fire the row: as the partial indexes have it."""
_SIDES: Final = {side.value: side for side in Side}
_SAME: Final = (None, None, None)
"""The new levels of a row that keeps those that it has."""
_START: Final = "greatest(from_sequence, triggered_sequence)"
_NOT_EXPIRED: Final = "(expires_at IS NULL OR expires_at > $1)"
_ROW: Final = f"""order_id, revision, asset_id, side, queued, up_price, down_price, limit_price, trail_amount,
    trail_bps, {_START} AS start, entered_at"""

_TRY: Final = "SELECT key FROM unnest($2::int[]) AS key WHERE pg_try_advisory_xact_lock($1, key)"
_WAIT: Final = "SELECT pg_advisory_xact_lock($1, $2)"
_MARKET: Final = """
    SELECT 'now' AS what, NULL AS asset_id, NULL AS side, NULL AS kind, NULL::bigint AS number, NULL::numeric AS price,
        NULL::bigint AS set_by, clock_timestamp() AS as_of, NULL::timestamptz AS confirmed_at,
        NULL::timestamptz AS appended_at, NULL AS trading, NULL::bool AS live
    UNION ALL
    SELECT 'mark', asset_id, NULL, NULL, sequence, price, NULL, as_of, confirmed_at, appended_at, trading, live
    FROM orders.marks WHERE asset_id = ANY($1::text[])
    UNION ALL
    SELECT 'step', asset_id, side, NULL, upto, price, set_by, NULL, NULL, NULL, NULL, NULL
    FROM orders.peaks WHERE asset_id = ANY($1::text[])
    UNION ALL
    SELECT 'trail', asset_id, side, kind, oldest, trail, NULL, NULL, NULL, NULL, NULL, NULL
    FROM orders.trails WHERE asset_id = ANY($1::text[])"""


def _level(column: str, reached: str, order: str) -> str:
    """Select the rows of an asset whose level in `column` is reached by a point after their start."""
    compared = f"{column} {reached} point.price::numeric"
    extreme = "p.high" if reached == "<=" else "p.low"
    return f"""
        (SELECT {_ROW} FROM orders.resting
         WHERE asset_id = p.asset_id AND {column} {reached} {extreme}::numeric AND {WAITS} AND {_NOT_EXPIRED}
            AND ({_START} < p.first OR ({_START} < p.last AND EXISTS (
                SELECT FROM unnest($8::text[], $9::bigint[], $10::text[]) AS point (asset_id, sequence, price)
                WHERE point.asset_id = p.asset_id AND point.sequence > {_START} AND {compared})))
         ORDER BY {order}, entered_at LIMIT $2)"""  # noqa: S608 - our own names


LEVELS: Final = f"""
    SELECT found.*
    FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[]) AS p (asset_id, low, high, first, last)
    CROSS JOIN LATERAL ({_level("up_price", "<=", "up_price")}
        UNION ALL {_level("down_price", ">=", "down_price DESC")}
        UNION ALL
        (SELECT {_ROW} FROM orders.resting
         WHERE asset_id = p.asset_id AND live AND queued AND fired_sequence IS NULL AND {_NOT_EXPIRED}
            AND from_sequence < p.last
         ORDER BY entered_at, order_id LIMIT $2)) AS found
    LIMIT $2"""  # noqa: S608 - our own names


def _queue(column: str, trail: str) -> str:
    return f"""
        (SELECT {_ROW} FROM orders.resting
         WHERE asset_id = p.asset_id AND side = p.side AND {column} = {trail} AND from_sequence <= p.upto
            AND {WAITS} AND {_NOT_EXPIRED}
         ORDER BY from_sequence LIMIT $2)"""  # noqa: S608 - our own names


TRAILS: Final = f"""
    SELECT found.*
    FROM unnest($3::text[], $4::text[], $5::text[], $6::int[], $7::bigint[]) AS p (asset_id, side, amount, bps, upto)
    CROSS JOIN LATERAL ({_queue("trail_amount", "p.amount::numeric")}
        UNION ALL {_queue("trail_bps", "p.bps")}) AS found
    LIMIT $2"""  # noqa: S608 - our own names
_HIT: Final = """
    UPDATE orders.resting AS old
    SET fired_sequence = new.fired_sequence, fired_price = new.fired_price::numeric, fired_as_of = new.fired_as_of,
        fired_at = $12, fired_rank = new.place,
        triggered_sequence = coalesce(new.triggered_sequence, old.triggered_sequence),
        triggered_price = coalesce(new.triggered_price::numeric, old.triggered_price),
        told = old.told AND new.triggered_sequence IS NULL,
        up_price = CASE WHEN new.triggered_sequence IS NULL THEN old.up_price ELSE new.up_price::numeric END,
        down_price = CASE WHEN new.triggered_sequence IS NULL THEN old.down_price ELSE new.down_price::numeric END,
        limit_price = CASE WHEN new.triggered_sequence IS NULL THEN old.limit_price ELSE new.limit_price::numeric END,
        fired_watermark = new.watermark::numeric
    FROM unnest($1::uuid[], $2::int[], $3::int[], $4::bigint[], $5::text[], $6::timestamptz[], $7::bigint[], $8::text[],
            $9::text[], $10::text[], $11::text[], $13::text[])
        AS new (order_id, place, revision, fired_sequence, fired_price, fired_as_of, triggered_sequence,
            triggered_price, up_price, down_price, limit_price, watermark)
    WHERE old.order_id = new.order_id AND old.revision = new.revision AND old.live AND old.fired_sequence IS NULL"""
_MARK: Final = """
    INSERT INTO orders.marks (asset_id, sequence, price, as_of, confirmed_at, appended_at, trading, live)
    SELECT asset_id, sequence, price::numeric, as_of, confirmed_at, appended_at, trading, live
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
            $7::text[], $8::bool[])
        AS new (asset_id, sequence, price, as_of, confirmed_at, appended_at, trading, live)
    ON CONFLICT (asset_id) DO UPDATE SET sequence = excluded.sequence, price = excluded.price, as_of = excluded.as_of,
        confirmed_at = excluded.confirmed_at, appended_at = excluded.appended_at, trading = excluded.trading,
        live = excluded.live"""
_DROP_STEPS: Final = """
    DELETE FROM orders.peaks AS old USING unnest($1::text[], $2::text[], $3::bigint[]) AS gone (asset_id, side, upto)
    WHERE old.asset_id = gone.asset_id AND old.side = gone.side AND old.upto = gone.upto"""
_PUT_STEPS: Final = """
    INSERT INTO orders.peaks (asset_id, side, upto, price, set_by)
    SELECT asset_id, side, upto, price::numeric, set_by
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[])
        AS new (asset_id, side, upto, price, set_by)
    ON CONFLICT (asset_id, side, upto) DO UPDATE SET price = excluded.price, set_by = excluded.set_by"""
_RAISE: Final = """
    UPDATE orders.trails AS old SET oldest = new.oldest
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
        AS new (asset_id, side, kind, trail, oldest)
    WHERE old.asset_id = new.asset_id AND old.side = new.side AND old.kind = new.kind
        AND old.trail = new.trail::numeric AND old.oldest < new.oldest"""
_RESTS: Final = f"""
    SELECT FROM orders.resting WHERE asset_id = trail.asset_id AND side = trail.side AND {WAITS}"""
_HAS_TRAILS: Final = "SELECT DISTINCT asset_id FROM orders.trails UNION SELECT DISTINCT asset_id FROM orders.peaks"
_DROP_TRAILS: Final = f"""
    DELETE FROM orders.trails AS trail
    WHERE asset_id = ANY($1::text[])
        AND NOT EXISTS ({_RESTS} AND kind = 'amount' AND trail_amount = trail.trail)
        AND NOT EXISTS ({_RESTS} AND kind = 'bps' AND trail_bps = trail.trail::int)"""  # noqa: S608 - our own names
_DROP_UNUSED_STEPS: Final = f"""
    DELETE FROM orders.peaks AS old
    USING (SELECT asset_id, side, upto, lag(upto, 1, -1::bigint) OVER (PARTITION BY asset_id, side ORDER BY upto) AS low
           FROM orders.peaks WHERE asset_id = ANY($1::text[])) AS step
    WHERE old.asset_id = step.asset_id AND old.side = step.side AND old.upto = step.upto
        AND old.upto <= (SELECT sequence FROM orders.marks WHERE marks.asset_id = old.asset_id)
        AND NOT EXISTS (
            SELECT FROM orders.trails AS trail
            WHERE trail.asset_id = old.asset_id AND trail.side = old.side AND (
                EXISTS ({_RESTS} AND kind = 'amount' AND trail_amount = trail.trail
                        AND from_sequence > step.low AND from_sequence <= old.upto)
                OR EXISTS ({_RESTS} AND kind = 'bps' AND trail_bps = trail.trail::int
                        AND from_sequence > step.low AND from_sequence <= old.upto)))"""  # noqa: S608 - our own names
_OF_MARK: Final = "SELECT FROM orders.resting WHERE resting.asset_id = marks.asset_id"
_AGES: Final = f"""
    SELECT asset_id, extract(epoch FROM clock_timestamp() - least(confirmed_at, appended_at)) FROM orders.marks
    WHERE EXISTS ({_OF_MARK} AND up_price IS NOT NULL AND {WAITS})
        OR EXISTS ({_OF_MARK} AND down_price IS NOT NULL AND {WAITS})
        OR EXISTS ({_OF_MARK} AND trail_amount IS NOT NULL AND {WAITS})
        OR EXISTS ({_OF_MARK} AND trail_bps IS NOT NULL AND {WAITS})
        OR EXISTS ({_OF_MARK} AND live AND queued AND fired_sequence IS NULL)"""  # noqa: S608 - our own names


class Market(NamedTuple):
    """What the tables hold of one asset."""

    mark: Tick | None
    steps: dict[Side, list[Step]]
    trails: dict[Trail, int]


async def try_gates(tx: Transaction, asset_ids: Collection[str]) -> set[str]:
    """Take the gates that are free, exclusively, until the transaction ends; return the assets whose gate it has."""
    keys = {asset_id: gate_key(asset_id) for asset_id in asset_ids}
    taken = {row[0] for row in await tx.fetch(_TRY, GATE, sorted(set(keys.values())))}
    return {asset_id for asset_id, key in keys.items() if key in taken}


async def wait_for_gate(tx: Transaction, asset_id: str) -> None:
    """Take the gate of one asset, exclusively, when those before in its queue are done."""
    await tx.fetch(_WAIT, GATE, gate_key(asset_id))


async def read_market(tx: Transaction, asset_ids: Collection[str]) -> tuple[dict[str, Market], datetime]:
    """Read what the tables hold of assets whose gates are taken, and the clock after that."""
    markets = {asset_id: Market(None, {side: [] for side in Side}, {}) for asset_id in asset_ids}
    first, *rows = await tx.fetch(_MARKET, list(asset_ids))
    now: datetime = first["as_of"]
    for what, asset_id, side, kind, number, price, set_by, *of_mark in rows:
        market = markets[asset_id]
        if what == "mark":
            as_of, confirmed_at, appended_at, trading, live = of_mark
            mark = Tick(number, price, as_of, confirmed_at, appended_at, Trading(trading), live)
            markets[asset_id] = market._replace(mark=mark)
        elif what == "step":
            market.steps[Side(side)].append(Step(number, price, set_by))
        else:
            market.trails[_trail(side, kind, price)] = number
    for market in markets.values():
        for steps in market.steps.values():
            steps.sort()
    return markets, now


def _trail(side: str, kind: str, trail: Decimal) -> Trail:
    return Trail(Side(side), trail, None) if kind == "amount" else Trail(Side(side), None, int(trail))


async def levels(
    tx: Transaction, spans: Mapping[str, Span], points: Mapping[str, Sequence[Point]], now: datetime, most: int
) -> list[Row]:
    """Find at most `most` rows that the points of their assets fire or trigger, by a level or by an opening."""
    every = [(asset_id, point) for asset_id in spans for point in points[asset_id]]
    rows = await tx.fetch(
        LEVELS,
        now,
        most,
        list(spans),
        [exact_text(span.low) for span in spans.values()],
        [exact_text(span.high) for span in spans.values()],
        [span.first for span in spans.values()],
        [span.last for span in spans.values()],
        [asset_id for asset_id, _ in every],
        [point.sequence for _, point in every],
        [exact_text(point.price) for _, point in every],
    )
    return [_row(row) for row in rows]


async def queues(tx: Transaction, probes: Sequence[tuple[str, Trail, int]], now: datetime, most: int) -> list[Row]:
    """Find at most `most` trailing orders: of each asset and trail, those that rest from a sequence or before."""
    rows = await tx.fetch(
        TRAILS,
        now,
        most,
        [asset_id for asset_id, _, _ in probes],
        [trail.side.value for _, trail, _ in probes],
        [_text(trail.amount) for _, trail, _ in probes],
        [trail.bps for _, trail, _ in probes],
        [upto for _, _, upto in probes],
    )
    return [_row(row) for row in rows]


def _row(row: Sequence[Any]) -> Row:
    order_id, revision, asset_id, side, *rest = row
    return Row(order_id, revision, asset_id, _SIDES[side], *rest)


def _text(price: Decimal | None) -> str | None:
    return None if price is None else exact_text(price)


def write_hits(tx: Transaction, hits: Sequence[Hit], as_of: Mapping[tuple[str, int], datetime], now: datetime) -> None:
    """Have the hits written, in their order. The flush raises `Contention` if a row has changed since it was read.

    `as_of`: of each asset and sequence.
    """
    if not hits:
        return
    fired = [(hit.row.asset_id, hit.fired) for hit in hits]
    triggered = [hit.triggered for hit in hits]
    new_levels = [_SAME if hit.triggered is None else hit.levels for hit in hits]
    points = {point for hit in hits for point in (hit.fired, hit.triggered) if point is not None}
    prices = {point: exact_text(point.price) for point in points}
    tx.write(
        _HIT,
        [hit.row.order_id for hit in hits],
        list(range(len(hits))),
        [hit.row.revision for hit in hits],
        [point and point.sequence for _, point in fired],
        [point and prices[point] for _, point in fired],
        [None if point is None else as_of[asset_id, point.sequence] for asset_id, point in fired],
        [point and point.sequence for point in triggered],
        [point and prices[point] for point in triggered],
        [_text(up) for up, _, _ in new_levels],
        [_text(down) for _, down, _ in new_levels],
        [_text(limit) for _, _, limit in new_levels],
        now,
        [_text(hit.watermark) for hit in hits],
        rows=len(hits),
        otherwise="a resting order changed although its asset's gate was taken",
    )


def write_marks(tx: Transaction, marks: Mapping[str, Tick]) -> None:
    """Have the marks of assets moved."""
    if not marks:
        return
    ticks = marks.values()
    tx.write(
        _MARK,
        list(marks),
        [tick.sequence for tick in ticks],
        [exact_text(tick.price) for tick in ticks],
        [tick.as_of for tick in ticks],
        [tick.confirmed_at for tick in ticks],
        [tick.appended_at for tick in ticks],
        [tick.trading.value for tick in ticks],
        [tick.live for tick in ticks],
    )


def write_steps(tx: Transaction, moved: Mapping[tuple[str, Side], Moved]) -> None:
    """Have the steps of watermarks changed, by asset and side."""
    gone = [(*key, upto) for key, change in moved.items() for upto in change.gone]
    if gone:
        tx.write(_DROP_STEPS, *_columns(gone))
    put = [
        (*key, step.upto, exact_text(step.price), step.set_by) for key, change in moved.items() for step in change.put
    ]
    if put:
        tx.write(_PUT_STEPS, *_columns(put))


def write_oldest(tx: Transaction, oldest: Mapping[tuple[str, Trail], int]) -> None:
    """Have the bounds of queues raised, by asset and trail."""
    rows = []
    for (asset_id, trail), sequence in oldest.items():
        kind, value = ("bps", str(trail.bps)) if trail.amount is None else ("amount", exact_text(trail.amount))
        rows.append((asset_id, trail.side.value, kind, value, sequence))
    if rows:
        tx.write(_RAISE, *_columns(rows))


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


async def with_trails(tx: Transaction) -> list[str]:
    """List the assets that have trails or steps."""
    return [row[0] for row in await tx.fetch(_HAS_TRAILS)]


async def tidy(tx: Transaction, asset_ids: Collection[str]) -> int:
    """Delete trails without orders, and steps in whose interval no order begins; their gates are taken. Returns both.

    Quotes beyond the mark stay: the path has yet to pass them.
    """
    trails = await tx.execute(_DROP_TRAILS, list(asset_ids))
    return trails + await tx.execute(_DROP_UNUSED_STEPS, list(asset_ids))


async def feed_ages(tx: Transaction) -> dict[str, float]:
    """Measure how long ago the price of each asset with resting orders was last confirmed, in seconds."""
    return {row[0]: float(row[1]) for row in await tx.fetch(_AGES)}
