"""Set prices and their sources, and list them. Each change is noted in the trail of repairs, with who made it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from contracts.decimals import EXACT, Price, add, format_decimal, multiply, subtract
from operations.access.errors import Trouble, WrongRequest
from operations.access.words import check_name
from order_saga.worker.store import note_repair
from participants.assets import price_store
from participants.assets.price_store import Newest, Source, newest_prices
from participants.assets.session_store import calendars
from participants.assets.simulator import Walk, read_script
from participants.assets.store import listings
from saga_kit.runtime.transactions import begin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

    from contracts.assets import Trading
    from operations.repair.runs import Run
    from participants.assets.simulator import Script

WALK_RANGE: Final = Decimal("0.1")
"""How far a walk goes from where it began, when it is not told, as a share of the price."""

_RESTING: Final = """
    SELECT asset_id, count(*), count(*) FILTER (WHERE trail_amount IS NOT NULL OR trail_bps IS NOT NULL),
        min(up_price), max(down_price)
    FROM orders.resting WHERE live AND fired_sequence IS NULL GROUP BY asset_id"""
_RESTS: Final = ("resting", "trailing", "next_above", "next_below")
_NOTHING_RESTS: Final = (0, 0, None, None)


def read_price(what: str, text: str) -> Price:
    """Read a price. Raises `WrongRequest`."""
    try:
        return Price.parse(text)
    except ValueError as error:
        raise WrongRequest(f"{what} {error}") from None


def read_prices(lines: list[str]) -> Script:
    """Read a script of prices. Raises `WrongRequest` that names the line."""
    try:
        return read_script(lines)
    except ValueError as error:
        raise WrongRequest(f"the script: {error}") from None


async def set_price(engine: AsyncEngine, asset_id: str, price: Price, run: Run, *, external: bool = False) -> int:
    """Set a price, which then stands still; return its sequence. Raises `Trouble` for one that can't be."""
    check_name("ASSET", asset_id)
    source = Source.EXTERNAL if external else Source.FIXED
    try:
        sequence = await price_store.set_price(engine, asset_id, price, source)
    except ValueError as error:
        raise await _wrong(engine, asset_id, error) from None
    await note(engine, run, "price", asset_id, f"{format_decimal(price)}, {source}, sequence {sequence}")
    return sequence


async def begin_walk(
    engine: AsyncEngine,
    asset_id: str,
    run: Run,
    *,
    seed: int,
    per_second: float,
    step: int,
    floor: Price | None = None,
    ceiling: Price | None = None,
) -> Walk:
    """Let a price walk from where it is; by default within a tenth of it. Raises `Trouble`."""
    now = await known_price(engine, asset_id)
    tick = await _tick(engine, asset_id)
    reach = multiply(now.price, WALK_RANGE)
    steps_min = multiply(tick, Decimal(2 * step))
    low = floor or Price(_on_tick(subtract(now.price, reach), tick) or tick)
    high = ceiling or Price(max(_on_tick(add(now.price, reach), tick), add(low, steps_min)))
    terms = Walk(seed, per_second, step, low, high, Price(tick))
    try:
        await price_store.set_source(engine, asset_id, Source.WALK, terms)
    except ValueError as error:
        raise await _wrong(engine, asset_id, error) from None
    words = f"seed {seed}, {per_second:g} a second, {format_decimal(low)} to {format_decimal(high)}"
    await note(engine, run, "price walk", asset_id, words)
    return terms


async def begin_script(engine: AsyncEngine, asset_id: str, script: Script, run: Run) -> None:
    """Play prices from now on. Raises `Trouble` for one off the tick, and times that fall."""
    await known_price(engine, asset_id)
    try:
        await price_store.set_source(engine, asset_id, Source.SCRIPT, script)
    except ValueError as error:
        raise await _wrong(engine, asset_id, error) from None
    await note(engine, run, "price script", asset_id, f"{len(script.prices)} prices")


async def set_trading(
    engine: AsyncEngine,
    asset_id: str,
    trading: Trading,
    run: Run,
    *,
    reopens_at: datetime | None = None,
    reason: str = "",
    price: Price | None = None,
) -> Newest:
    """Halt, close or open an asset, with an opening price if there is one. Raises `Trouble`."""
    await known_price(engine, asset_id)
    try:
        now = await price_store.set_trading(
            engine, asset_id, trading, reopens_at=reopens_at, reason=reason or None, price=price
        )
    except ValueError as error:
        raise await _wrong(engine, asset_id, error) from None
    words = f"at {format_decimal(now.price)}, sequence {now.sequence}" + (f": {reason}" if reason else "")
    await note(engine, run, f"market {trading.lower()}", asset_id, words)
    return now


async def prices(engine: AsyncEngine) -> list[dict[str, Any]]:
    """List the newest price of each asset, and what rests there.

    `age_s` is how long ago its source stood by it, null: never. `next_above` and `next_below` are the nearest prices at
    which orders of a fixed level fire; the level of a trailing stop moves with the price, so that it is not among them.
    `session_ends_at` is null for an asset without sessions.
    """
    known = await calendars(engine)
    ends = {asset_id: one.stands.ends_at for asset_id, one in known.items() if one.stands is not None}
    async with begin(engine) as tx:
        waiting = {row[0]: row[1:] for row in await tx.fetch(_RESTING)}
    return [
        {
            "asset_id": one.asset_id,
            "price": one.price,
            "sequence": one.sequence,
            "age_s": None if one.confirmed_at is None else round((one.now - one.confirmed_at).total_seconds(), 1),
            "trading": one.trading.value,
            "reopens_at": one.reopens_at,
            "session_ends_at": ends.get(one.asset_id),
            "source": one.source.value,
            "as_of": one.as_of,
            **dict(zip(_RESTS, waiting.get(one.asset_id, _NOTHING_RESTS), strict=True)),
        }
        for one in await newest_prices(engine)
    ]


async def known_price(engine: AsyncEngine, asset_id: str) -> Newest:
    """Read an asset's price. Raises `Trouble` for one without."""
    check_name("ASSET", asset_id)
    found = await newest_prices(engine)
    for one in found:
        if one.asset_id == asset_id:
            return one
    raise Trouble(f"{asset_id} has no price here; known are {_names(found)}")


async def _tick(engine: AsyncEngine, asset_id: str) -> Decimal:
    async with begin(engine) as tx:
        found = (await listings(tx, [asset_id])).get(asset_id)
    if found is None:
        raise Trouble(f"{asset_id} has a price and no rules")
    return found.asset.tick


async def _wrong(engine: AsyncEngine, asset_id: str, error: ValueError) -> Trouble:
    words = str(error)
    if words.startswith("no asset"):
        return Trouble(f"{words}; known are {_names(await newest_prices(engine))}")
    if "stands still" in words:
        words += f": 'order-saga market open {asset_id} --price ...' opens it with another one"
    elif "not a multiple of" in words:
        words += f", the tick of {asset_id}"
    return WrongRequest(words)


def _names(found: Sequence[Newest]) -> str:
    return ", ".join(one.asset_id for one in found) or "none"


def _on_tick(price: Decimal, tick: Decimal) -> Decimal:
    return subtract(price, EXACT.remainder(price, tick))


async def note(engine: AsyncEngine, run: Run, action: str, asset_id: str, words: str) -> None:
    """Note a change of an asset in the trail."""
    async with begin(engine) as tx:
        await note_repair(tx, run.run_id, action, asset_id, run.by, words)
