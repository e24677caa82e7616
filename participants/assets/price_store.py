"""The prices in the database: one row an asset, with one sequence for price and trading state.

What a person changes goes through the outbox, so it is published for certain. What a source changes, many times a
second, is returned to be published from memory: a price that comes seconds later is late and ignored anyway, and the
newest one is repeated. Times are the database's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import AssetPriceChanged, Trading
from contracts.codec import outgoing
from contracts.decimals import Price, format_decimal, is_multiple
from contracts.envelope import Outgoing
from participants.assets import tables
from participants.assets.simulator import Terms, check_terms, read_terms, write_terms
from participants.assets.store import Listing, listings
from saga_kit.messaging.outbox import AT_ONCE_S, Outbox, OutboxMessage
from saga_kit.runtime.transactions import Begins, Transaction, alone, begin

SOURCE: Final = "/assets"
REASON_LENGTH_MAX: Final = 500


class Source(StrEnum):
    """What moves and confirms a price.

    `FIXED` confirms it until it is changed, `DEAD` never does and sends nothing, `WALK` and `SCRIPT` move it by
    themselves, and `EXTERNAL` is set from outside only, by `set_prices`, which is also what confirms it.
    """

    FIXED = "fixed"
    DEAD = "dead"
    WALK = "walk"
    SCRIPT = "script"
    EXTERNAL = "external"


class Newest(NamedTuple):
    """An asset's newest price, as it was `now` by the database's clock.

    `elapsed_s` counts from the start of its walk or script.
    """

    asset_id: str
    sequence: int
    price: Price
    as_of: datetime
    confirmed_at: datetime | None
    trading: Trading
    reopens_at: datetime | None
    source: Source
    terms: Terms | None
    position: int
    elapsed_s: float
    now: datetime

    def event(self) -> AssetPriceChanged:
        """Make the message that says it; the confirmation is left out where it is as old as the price."""
        confirmed_at = None if self.confirmed_at == self.as_of else self.confirmed_at
        return AssetPriceChanged(
            self.asset_id, self.sequence, self.price, self.as_of, confirmed_at, self.trading, self.reopens_at
        )


class PriceChange(NamedTuple):
    """New prices of one asset, in their order.

    A walk or a script says the sequence that it went on from, how many steps the prices are, and whether it is over.
    """

    asset_id: str
    prices: Sequence[Price]
    sequence: int | None = None
    steps: int = 0
    over: bool = False


_NEWEST: Final = """
    price.asset_id, price.sequence, price.price, price.as_of, price.confirmed_at, price.trading, price.reopens_at,
    price.source, price.terms, price.position,
    coalesce(extract(epoch FROM clock_timestamp() - price.moves_since), 0)::float8, clock_timestamp()"""
_LOCK: Final = f"SELECT {_NEWEST} FROM assets.prices AS price WHERE asset_id = $1 FOR UPDATE"  # noqa: S608 - ours
_LATEST: Final = f"SELECT {_NEWEST} FROM assets.prices AS price ORDER BY asset_id"  # noqa: S608 - ours

# `same`: nothing that is published changes. A price that starts to move anew counts its steps from 0.
_CHANGE: Final = f"""
INSERT INTO assets.prices AS price (asset_id, sequence, price, as_of, confirmed_at, source, terms, trading, reopens_at,
    trading_reason, moves_since)
VALUES ($1, 1, $2::text::numeric, statement_timestamp(),
    CASE WHEN $3::text <> 'dead' THEN statement_timestamp() END, $3, $4, $5, $6, $7,
    CASE WHEN $4::text IS NOT NULL THEN statement_timestamp() END)
ON CONFLICT (asset_id) DO UPDATE SET
    sequence = price.sequence + ((price.price, price.trading, price.reopens_at)
        IS DISTINCT FROM (excluded.price, excluded.trading, excluded.reopens_at))::int,
    price = excluded.price,
    as_of = CASE WHEN price.price <> excluded.price THEN excluded.as_of ELSE price.as_of END,
    confirmed_at = CASE WHEN $8::bool THEN excluded.confirmed_at ELSE price.confirmed_at END,
    source = excluded.source,
    terms = excluded.terms,
    trading = excluded.trading,
    reopens_at = excluded.reopens_at,
    trading_reason = excluded.trading_reason,
    trading_changed_at = CASE WHEN price.trading <> excluded.trading THEN excluded.as_of
        ELSE price.trading_changed_at END,
    moves_since = CASE WHEN $9::bool THEN excluded.moves_since ELSE price.moves_since END,
    position = CASE WHEN $9::bool THEN 0 ELSE price.position END
RETURNING {_NEWEST}
"""  # noqa: S608 - ours

# The rows are locked in the order of their ids, so that two such statements never wait for each other in a circle.
_SET_PRICES: Final = f"""
WITH before AS (
    SELECT asset_id, sequence, clock_timestamp() AS at
    FROM assets.prices WHERE asset_id = ANY ($1::text[]) ORDER BY asset_id FOR UPDATE
)
UPDATE assets.prices AS price SET
    sequence = price.sequence +
        CASE new.number WHEN 1 THEN (price.price <> new.price::numeric)::int ELSE new.number END,
    price = new.price::numeric,
    as_of = CASE WHEN new.number > 1 OR price.price <> new.price::numeric THEN before.at ELSE price.as_of END,
    confirmed_at = before.at,
    position = price.position + new.steps,
    source = CASE WHEN new.over THEN 'fixed' ELSE price.source END,
    terms = CASE WHEN NOT new.over THEN price.terms END
FROM before JOIN unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bool[])
    AS new (asset_id, price, number, sequence, steps, over) USING (asset_id)
WHERE price.asset_id = before.asset_id AND CASE WHEN new.sequence IS NULL
    THEN price.source = 'external' AND (price.trading = 'OPEN' OR (new.number = 1 AND price.price = new.price::numeric))
    ELSE price.source IN ('walk', 'script') AND price.sequence = new.sequence AND price.leased_by = $7
        AND price.trading = 'OPEN' END
RETURNING before.sequence, {_NEWEST}
"""  # noqa: S608 - ours

# SKIP LOCKED: another instance is confirming or setting that price now, which is as good.
_CONFIRM: Final = f"""
UPDATE assets.prices AS price SET
    confirmed_at = CASE WHEN price.source IN ('dead', 'external') THEN price.confirmed_at ELSE clock_timestamp() END,
    leased_by = CASE WHEN free.mine THEN $1 ELSE price.leased_by END,
    leased_until = CASE WHEN free.mine THEN clock_timestamp() + make_interval(secs => $2) ELSE price.leased_until END
FROM (
    SELECT asset_id, leased_by IS NOT DISTINCT FROM $1 OR leased_until IS NULL OR leased_until < clock_timestamp()
        AS mine
    FROM assets.prices FOR UPDATE SKIP LOCKED
) AS free WHERE free.asset_id = price.asset_id
RETURNING free.mine, {_NEWEST}
"""  # noqa: S608 - ours
_RELEASE: Final = "UPDATE assets.prices SET leased_until = NULL WHERE leased_by = $1"


async def set_price(
    engine: AsyncEngine,
    asset_id: str,
    price: Price,
    source: Source = Source.FIXED,
    trading: Trading | None = None,
    terms: Terms | None = None,
) -> int:
    """Set an asset's price and its source, and publish it if it changed; return its sequence, which rises then.

    `trading`: what the asset's state is to be; None: as it is, which must be OPEN for another price. Raises
    `ValueError` for an unknown asset, a price that is not on its tick, terms that can't be, and an asset that does not
    trade.
    """
    async with begin(engine) as tx:
        changed = await change_price(tx, asset_id, price=price, source=source, trading=trading, terms=terms)
    return changed.sequence


async def set_source(engine: AsyncEngine, asset_id: str, source: Source, terms: Terms | None = None) -> Newest:
    """Give an asset's price another source; the price stays what it is until that moves it. Raises `ValueError`."""
    async with begin(engine) as tx:
        return await change_price(tx, asset_id, source=source, terms=terms)


async def set_trading(
    engine: AsyncEngine,
    asset_id: str,
    trading: Trading,
    *,
    reopens_at: datetime | None = None,
    reason: str | None = None,
    price: Price | None = None,
) -> Newest:
    """Halt, close or open an asset, with the opening price if that is another one; publish it if it changed.

    An asset that is closed without saying until when, and has sessions, is closed until the next one. Raises
    `ValueError` for an unknown asset, one without a price, and a price off its tick.
    """
    reason = reason[:REASON_LENGTH_MAX] if reason else None
    async with begin(engine) as tx:
        return await change_price(tx, asset_id, price=price, trading=trading, reopens_at=reopens_at, reason=reason)


async def set_prices(source: AsyncEngine | Begins, changes: Sequence[PriceChange], instance: str = "") -> list[Newest]:
    """Set many prices in one statement; return what must be published, an item for each message, in order.

    A change of an asset that does not trade, or that somebody else changed meanwhile, is left out. A price that is set
    again is confirmed, and nothing is published for it. Raises `ValueError` for a price from outside off its tick.
    """
    async with alone(source) as tx:
        await _check_ticks(tx, [change for change in changes if change.sequence is None])
        rows = await tx.fetch(
            _SET_PRICES,
            [change.asset_id for change in changes],
            [format_decimal(change.prices[-1]) for change in changes],
            [len(change.prices) for change in changes],
            [change.sequence for change in changes],
            [change.steps for change in changes],
            [change.over for change in changes],
            instance,
        )
    prices = {change.asset_id: change.prices for change in changes}
    published: list[Newest] = []
    for before, *row in rows:
        last = _newest(row)
        made = prices[last.asset_id][len(prices[last.asset_id]) - (last.sequence - before) :]
        steps = enumerate(made, before + 1)
        published += [last._replace(sequence=sequence, price=price) for sequence, price in steps]
    return published


async def confirm_prices(
    source: AsyncEngine | Begins, instance: str = "", lease_s: float = 0.0
) -> list[tuple[bool, Newest]]:
    """Confirm every price whose source is neither dead nor outside; return all, but those that are being changed now.

    The instance takes the lease of each price for `lease_s` seconds, unless another instance has it; True: it has it.
    """
    async with alone(source) as tx:
        return [(mine, _newest(row)) for mine, *row in await tx.fetch(_CONFIRM, instance, lease_s)]


async def release(source: AsyncEngine | Begins, instance: str) -> None:
    """Let other instances move and repeat the prices of this one at once."""
    async with alone(source) as tx:
        await tx.execute(_RELEASE, instance)


async def newest_prices(engine: AsyncEngine) -> list[Newest]:
    """List the newest price of every asset."""
    async with begin(engine) as tx:
        return [_newest(row) for row in await tx.read(_LATEST)]


def price_message(newest: Newest, *, repeats: bool = False) -> Outgoing:
    """Make the message of a price. A repetition has an id of its own, and the time of the confirmation."""
    message_id, time = f"{newest.asset_id}:price:{newest.sequence}", newest.as_of
    if newest.confirmed_at is not None:
        time = max(time, newest.confirmed_at)
    if repeats:
        message_id += f":{int(time.timestamp() * 1_000_000)}"
    return outgoing(newest.event(), message_id=message_id, source=SOURCE, time=time)


async def change_price(
    tx: Transaction,
    asset_id: str,
    *,
    price: Price | None = None,
    source: Source | None = None,
    terms: Terms | None = None,
    trading: Trading | None = None,
    reopens_at: datetime | None = None,
    reason: str | None = None,
) -> Newest:
    """Change an asset's price, its source or its trading state, and publish what changed; what is None stays.

    Raises `ValueError` as `set_price` and `set_trading` say.
    """
    listing = await _listing(tx, asset_id)
    tick = listing.asset.tick
    row = await tx.fetchrow(_LOCK, asset_id)
    before = None if row is None else _newest(row)
    confirms = price is not None or source is not None
    price = _checked_price(asset_id, tick, price, before, trading)
    if terms is not None:
        check_terms(terms, tick, price)
    moves_anew = source is not None
    if source is None and before is not None:
        source, terms = before.source, before.terms
    source = source or Source.FIXED
    if trading is None and before is not None:
        trading, reopens_at = before.trading, before.reopens_at
    elif trading is Trading.CLOSED and reopens_at is None and listing.stands is not None:
        reopens_at = listing.stands.opens_at
    confirms = confirms or source is not Source.EXTERNAL
    written = None if terms is None else write_terms(terms)
    values = (format_decimal(price), source.value, written, (trading or Trading.OPEN).value, reopens_at, reason)
    newest = _newest(await tx.fetchrow(_CHANGE, asset_id, *values, confirms, moves_anew))
    if source is not Source.DEAD and (before is None or newest.sequence != before.sequence):
        message = price_message(newest)
        Outbox(tables.SCHEMA).write(tx, [OutboxMessage(message.id, message, AT_ONCE_S)])
    return newest


async def _listing(tx: Transaction, asset_id: str) -> Listing:
    listing = (await listings(tx, [asset_id])).get(asset_id)
    if listing is None:
        raise ValueError(f"no asset {asset_id} is traded here")
    return listing


def _checked_price(
    asset_id: str, tick: Decimal, price: Price | None, before: Newest | None, trading: Trading | None
) -> Price:
    if price is None:
        if before is None:
            raise ValueError(f"{asset_id} has no price yet")
        return before.price
    if not is_multiple(price, tick):
        raise ValueError(f"{format_decimal(price)} is not a multiple of {format_decimal(tick)}")
    if trading is None and before is not None and before.trading is not Trading.OPEN and price != before.price:
        raise ValueError(f"{asset_id} is {before.trading}, so its price stands still until it opens")
    return price


async def _check_ticks(tx: Transaction, changes: Sequence[PriceChange]) -> None:
    if not changes:
        return
    known = await listings(tx, [change.asset_id for change in changes])
    for asset_id, prices, *_ in changes:
        if asset_id not in known:
            raise ValueError(f"no asset {asset_id} is traded here")
        tick = known[asset_id].asset.tick
        for price in prices:
            if not is_multiple(price, tick):
                wrong = f"{format_decimal(price)} is not a multiple of {format_decimal(tick)}"
                raise ValueError(f"{asset_id}: {wrong}")


def _newest(row: Sequence[Any]) -> Newest:
    asset_id, sequence, price, as_of, confirmed_at, trading, reopens_at, source, terms, position, elapsed_s, now = row
    state, kind = Trading(trading), Source(source)
    fixed = (asset_id, sequence, Price(price), as_of, confirmed_at, state, reopens_at, kind)
    return Newest(*fixed, read_terms(terms), position, elapsed_s, now)
