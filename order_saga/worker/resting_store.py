"""The orchestrator's SQL on the tables of the market: gates, marks, and the rows by which orders wait for a price.

A row stands in `orders.resting` from an order's request until the order leaves its resting phases. Only whoever holds
the asset's gate touches it: a batch of orders shared, a batch of ticks exclusively. So a row that is read here neither
fires nor moves until the commit.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import structs

from contracts.decimals import Price, format_decimal
from contracts.vocabulary import OrderKind
from order_saga.core.gate import GATE, gate_key
from order_saga.core.levels import levels, limit_behind
from order_saga.core.phases import IDLE, MAX_TICK_AGE_S, RESTING
from order_saga.core.saga import Fire, Fired, Mark, Phase, Triggered
from order_saga.worker.tables import FIRED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from order_saga.core.fold import Folded
    from order_saga.core.saga import FromMarket, Saga
    from saga_kit.runtime.transactions import Transaction

_BEFORE_THE_FIRE: Final = frozenset({Phase.VALIDATING, Phase.RESERVING, *RESTING})
"""The phases in which a conditional order has a row."""

_SHARE: Final = "SELECT pg_advisory_xact_lock_shared($1::int, number) FROM unnest($2::int[]) AS number"
# Marks by asset, with whether each is live; the news of orders; from where orders rest, and their watermarks.
# The mark is a step too, with no row among the others.
_LOOK: Final = f"""
    SELECT asset_id, sequence, price::text, trading = 'OPEN'
            AND $2::timestamptz - least(appended_at, confirmed_at) <= interval '{MAX_TICK_AGE_S:g} s' AS is_live, as_of,
        NULL::uuid AS order_id, NULL::bigint AS fired_sequence, NULL::text AS fired_price, NULL::text AS fired_watermark
    FROM orders.marks WHERE asset_id = ANY($1::text[])
    UNION ALL
    SELECT NULL, triggered_sequence, triggered_price::text, told, fired_as_of,
        order_id, fired_sequence, fired_price::text, fired_watermark::text
    FROM orders.resting WHERE order_id = ANY($3::uuid[]) AND ({FIRED})
    UNION ALL
    SELECT waits.asset_id, from_sequence, CASE WHEN num_nonnulls(trail_amount, trail_bps) > 0 AND live THEN (
            SELECT price::text FROM (
                (SELECT upto, price FROM orders.peaks AS peak
                 WHERE peak.asset_id = waits.asset_id AND peak.side = waits.side AND peak.upto >= waits.from_sequence
                 ORDER BY peak.upto LIMIT 1)
                UNION ALL
                SELECT sequence, price FROM orders.marks AS mark
                WHERE mark.asset_id = waits.asset_id AND mark.sequence >= waits.from_sequence
            ) AS step ORDER BY upto LIMIT 1) END, NULL, NULL, order_id, NULL, NULL, NULL
    FROM orders.resting AS waits
    WHERE order_id = ANY($3::uuid[]) AND from_sequence IS NOT NULL AND fired_sequence IS NULL"""  # noqa: S608 - our own words
_INSERT: Final = """
    INSERT INTO orders.resting (order_id, asset_id, side, queued, trail_amount, trail_bps, expires_at, up_price,
        down_price, limit_price, from_sequence, entered_at, live, suspended, told, revision)
    SELECT order_id, asset_id, side, queued, trail_amount::numeric, trail_bps, expires_at, up_price::numeric,
        down_price::numeric, limit_price::numeric, from_sequence, entered_at, live, suspended, told, revision
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bool[], $5::text[], $6::int[], $7::timestamptz[], $8::text[],
            $9::text[], $10::text[], $11::bigint[], $12::timestamptz[], $13::bool[], $14::bool[], $15::bool[],
            $16::int[])
        AS new (order_id, asset_id, side, queued, trail_amount, trail_bps, expires_at, up_price, down_price,
            limit_price, from_sequence, entered_at, live, suspended, told, revision)"""
# What fires an order is written by ticks alone; what triggered it stays. So does the tick from which it counts, unless
# it rests anew: an operator may have reset the numbers of the feed meanwhile.
_UPDATE: Final = """
    UPDATE orders.resting AS old
    SET trail_amount = new.trail_amount::numeric, trail_bps = new.trail_bps, expires_at = new.expires_at,
        up_price = new.up_price::numeric, down_price = new.down_price::numeric, limit_price = new.limit_price::numeric,
        from_sequence = CASE WHEN new.rests_anew THEN new.from_sequence ELSE old.from_sequence END,
        entered_at = new.entered_at, live = new.live, suspended = new.suspended, told = new.told,
        revision = new.revision
    FROM unnest($1::uuid[], $2::text[], $3::int[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::bigint[],
            $9::timestamptz[], $10::bool[], $11::bool[], $12::bool[], $13::int[], $14::bool[])
        AS new (order_id, trail_amount, trail_bps, expires_at, up_price, down_price, limit_price, from_sequence,
            entered_at, live, suspended, told, revision, rests_anew)
    WHERE old.order_id = new.order_id"""
_DELETE: Final = "DELETE FROM orders.resting WHERE order_id = ANY($1::uuid[])"
# A trail that is known to be as old needs no write, so acceptances do not wait for each other here.
_TRAILS: Final = """
    INSERT INTO orders.trails AS old (asset_id, side, kind, trail, oldest)
    SELECT asset_id, side, kind, trail::numeric, oldest
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
        AS new (asset_id, side, kind, trail, oldest)
    WHERE NOT EXISTS (
        SELECT FROM orders.trails AS known
        WHERE known.asset_id = new.asset_id AND known.side = new.side AND known.kind = new.kind
            AND known.trail = new.trail::numeric AND known.oldest <= new.oldest)
    ON CONFLICT (asset_id, side, kind, trail) DO UPDATE SET oldest = least(old.oldest, excluded.oldest)"""
# A quote that is newer than the mark: its tick is still to come, or was lost, and the order's watermark starts there.
_PEAKS: Final = """
    INSERT INTO orders.peaks (asset_id, side, upto, price, set_by)
    SELECT asset_id, side, upto, price::numeric, upto
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS new (asset_id, side, upto, price)
    ON CONFLICT (asset_id, side, upto) DO NOTHING"""
_FIRED: Final = f"SELECT order_id FROM orders.resting WHERE {FIRED} ORDER BY fired_at, fired_rank LIMIT $1"  # noqa: S608
_EXPIRED: Final = """
    SELECT order_id FROM orders.resting
    WHERE expires_at <= statement_timestamp() AND expires_at IS NOT NULL AND fired_sequence IS NULL
        AND (live OR suspended)
    ORDER BY expires_at LIMIT $1"""
_OPEN: Final = """
    SELECT (SELECT count(*) FROM orders.orders AS open
            WHERE open.user_id = asked.user_id AND open.asset_id = asked.asset_id AND open.terms IS NOT NULL
                AND open.status IN ('PENDING', 'CONFIRMED', 'PROCESSING'))
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (user_id, asset_id, place) ORDER BY place"""
_COUNT_RESTING: Final = """
    SELECT count(*) FILTER (WHERE live), count(*) FILTER (WHERE NOT queued), count(*) FILTER (WHERE queued)
    FROM orders.resting WHERE (live OR suspended) AND fired_sequence IS NULL"""
_COUNT_CHANGING: Final = """
    SELECT count(*) FROM orders.orders WHERE due_at IS NOT NULL AND phase = ANY($1::text[]) AND parked_reason IS NULL"""
_COUNT_FIRED: Final = f"SELECT count(*) FROM orders.resting WHERE {FIRED}"  # noqa: S608 - our own words


class Market(NamedTuple):
    """What a batch must know of the market."""

    marks: Mapping[str, Mark]
    """By asset."""
    news: Mapping[UUID, Sequence[FromMarket]]
    """What ticks have done to orders of the batch that do not know it yet."""
    watermarks: Mapping[UUID, Price]
    """The best price since each trailing stop of the batch rests."""
    rests_from: Mapping[UUID, int]
    """The sequence that each resting order of the batch rests from."""


NO_MARKET: Final = Market(*[MappingProxyType[Any, Any]({})] * 4)


def has_row(saga: Saga) -> bool:
    """Tell whether an order has a row in `orders.resting`."""
    return saga.terms is not None and saga.phase in _BEFORE_THE_FIRE


async def share_gates(tx: Transaction, assets: Iterable[str]) -> None:
    """Share the gates of these assets until the transaction ends: in ascending order, as everybody takes them."""
    await tx.fetch(_SHARE, GATE, sorted({gate_key(asset_id) for asset_id in assets}))


async def look(tx: Transaction, order_ids: Sequence[UUID], assets: Iterable[str], now: datetime) -> Market:
    """Read the marks of assets, and what ticks have done to orders. The gates must be held.

    Whether a mark is live is judged at `now`, the time of the batch, like everything else that the batch decides.
    """
    marks: dict[str, Mark] = {}
    news: dict[UUID, list[FromMarket]] = {}
    watermarks: dict[UUID, Price] = {}
    rests_from: dict[UUID, int] = {}
    for asset_id, sequence, price, flag, as_of, order_id, *fired in await tx.fetch(
        _LOOK, list(assets), now, list(order_ids)
    ):
        if order_id is None:
            marks[asset_id] = Mark(sequence, Price.parse(price), as_of, live=flag)
        elif asset_id is None:
            news[order_id] = _news(order_id, sequence, price, flag, as_of, *fired)
        else:
            rests_from[order_id] = sequence
            if price is not None:
                watermarks[order_id] = Price.parse(price)
    return Market(marks, news, watermarks, rests_from)


def renumbered(saga: Saga, market: Market) -> Saga:
    """Give an order the sequence that its row rests from, after an operator has reset the numbers of its feed.

    Its quote has a number of before then, which must not pass for a newer price than the mark.
    """
    rest, quote, begins = saga.progress.rest, saga.progress.quote, market.rests_from.get(saga.order_id)
    if rest is None or quote is None or begins is None or begins >= rest.from_sequence:
        return saga
    progress = structs.replace(
        saga.progress,
        rest=structs.replace(rest, from_sequence=begins),
        quote=structs.replace(quote, sequence=min(quote.sequence, begins)),
    )
    return structs.replace(saga, progress=progress)


def save(tx: Transaction, known: Mapping[UUID, Saga], folded: Folded, market: Market) -> None:
    """Have the rows written of all orders of a batch that began, changed or ended to wait for a price."""
    now = [saga for saga in folded.sagas.values() if saga.terms is not None]
    if not now:
        return
    before = {order_id: saga for order_id, saga in known.items() if has_row(saga)}
    new = [saga for saga in now if has_row(saga) and saga.order_id not in before]
    kept = [saga for saga in now if has_row(saga) and saga.order_id in before]
    changed = [saga for saga in kept if _moving(saga) != _moving(before[saga.order_id])]
    gone = [saga.order_id for saga in now if not has_row(saga) and saga.order_id in before]
    if new:
        columns = map(list, zip(*((*_fixed(saga), *_moving(saga)) for saga in new), strict=True))
        otherwise = "another member stored one of these orders this instant"
        tx.write(_INSERT, *columns, rows=len(new), otherwise=otherwise)
    if changed:
        rows = ((one.order_id, *_moving(one), _rests_anew(before[one.order_id], one)) for one in changed)
        columns = map(list, zip(*rows, strict=True))
        tx.write(_UPDATE, *columns, rows=len(changed), otherwise="a resting order's row is gone")
    if gone:
        tx.write(_DELETE, gone, rows=len(gone), otherwise="a resting order's row is gone")
    _write_trails(tx, [saga for saga in (*new, *changed) if saga.phase in RESTING], market)


async def fired(tx: Transaction, most: int) -> list[UUID]:
    """List orders that a tick has fired or triggered and that do not know it yet, in the order of the fires."""
    return [row[0] for row in await tx.fetch(_FIRED, most)]


async def expired(tx: Transaction, most: int) -> list[UUID]:
    """List resting orders whose time has come, those first that waited longest."""
    return [row[0] for row in await tx.fetch(_EXPIRED, most)]


async def open_orders(tx: Transaction, pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Count the open conditional orders of each pair of user and asset."""
    users, assets = [user for user, _ in pairs], [asset for _, asset in pairs]
    return [row[0] for row in await tx.fetch(_OPEN, users, assets)]


async def count_resting(tx: Transaction) -> tuple[int, dict[Phase, int]]:
    """Count the orders that wait for a price or for an opening, and by phase those that ask nothing, on hold or not.

    It reads the whole table, maybe a million rows. An order that is asked about keeps its row, in a phase of its own.
    """
    [(waiting, resting, queued)] = await tx.fetch(_COUNT_RESTING)
    changing = int(await tx.fetchval(_COUNT_CHANGING, sorted(RESTING - IDLE)))
    return waiting, {Phase.WORKING: resting - changing, Phase.QUEUED: queued}


async def count_fired(tx: Transaction) -> int:
    """Count the orders that a tick has fired and that are not executed yet; by an index of these."""
    return int(await tx.fetchval(_COUNT_FIRED))


def _news(
    order_id: UUID,
    triggered_sequence: int | None,
    triggered_price: str | None,
    told: bool,  # noqa: FBT001 - a row's column
    fired_as_of: datetime,
    fired_sequence: int | None,
    fired_price: str | None,
    watermark: str | None,
) -> list[FromMarket]:
    """Say what a row tells: first that the order was triggered, then that it was fired."""
    news: list[FromMarket] = []
    if triggered_sequence is not None and triggered_price is not None and not told:
        news.append(Triggered(order_id, triggered_sequence, Price.parse(triggered_price)))
    if fired_sequence is not None and fired_price is not None:
        best = None if watermark is None else Price.parse(watermark)
        news.append(Fired(order_id, Fire(fired_sequence, Price.parse(fired_price), fired_as_of, best)))
    return news


def _fixed(saga: Saga) -> tuple[Any, ...]:
    """Give the columns of a row that no batch of orders changes."""
    queued = saga.order_type is not None and saga.order_type.kind is OrderKind.MARKET
    return saga.order_id, saga.asset_id, saga.side.value, queued


def _moving(saga: Saga) -> tuple[Any, ...]:
    """Give the columns of a row that follow the order: its terms, since when it waits, whether a tick may fire it."""
    terms, rest = saga.terms, saga.progress.rest
    assert terms is not None and saga.order_type is not None  # noqa: S101, PT018 - see `has_row`
    triggered = saga.progress.triggered
    waits_for = {level.is_up: level.price for level in levels(saga.order_type, terms, triggered=triggered)}
    up, down = waits_for.get(True), waits_for.get(False)
    limit = None if triggered else limit_behind(saga.order_type, terms)
    suspended = saga.progress.suspended is not None
    live = saga.phase in RESTING and saga.parked_reason is None and not suspended
    since = (None, None) if rest is None else (rest.from_sequence, rest.entered_at)
    trail = _text(terms.trail_amount), terms.trail_bps
    stands_at = _text(up), _text(down), _text(limit)
    suspended = suspended and saga.parked_reason is None
    return *trail, saga.expires_at, *stands_at, *since, live, suspended, triggered, saga.progress.revision


def _rests_anew(before: Saga, now: Saga) -> bool:
    return before.progress.rest != now.progress.rest


def _text(price: Price | None) -> str | None:
    return None if price is None else format_decimal(price)


def _write_trails(tx: Transaction, sagas: Sequence[Saga], market: Market) -> None:
    """Have batches of ticks know of the trails that orders begin to rest with, and of the prices they start from."""
    trails: dict[tuple[str, str, str, str], int] = {}
    peaks: dict[tuple[str, str, int], str] = {}
    for saga in sagas:
        terms, rest, asset_id = saga.terms, saga.progress.rest, saga.asset_id
        if terms is None or rest is None or rest.watermark is None or asset_id is None:
            continue
        side = saga.side.value
        amount = terms.trail_amount is not None
        trail = format_decimal(terms.trail_amount) if terms.trail_amount is not None else str(terms.trail_bps)
        key = (asset_id, side, "amount" if amount else "bps", trail)
        trails[key] = min(rest.from_sequence, trails.get(key, rest.from_sequence))
        mark = market.marks.get(asset_id)
        if mark is None or mark.sequence < rest.from_sequence:
            peaks[asset_id, side, rest.from_sequence] = format_decimal(rest.watermark)
    if trails:
        rows = sorted((*key, oldest) for key, oldest in trails.items())
        tx.write(_TRAILS, *map(list, zip(*rows, strict=True)))
    if peaks:
        steps = sorted((*key, price) for key, price in peaks.items())
        tx.write(_PEAKS, *map(list, zip(*steps, strict=True)))
