"""Judges what ticks do to resting orders: after every commit by the oracle, and at the end by the orders themselves.

Everything is told from outside: what the trigger engine received and when it read the clock, the rows of the tables,
and the orders. I12: an order rests where its row says it does. I13: whoever fired has one tick, and nothing else ended
it. An order that is changed or released counts no tick from before that, unless it keeps its place.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.evidence.simulation.oracle import Hit, Market, Seen, Waiting, markets, seen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.evidence.simulation.database import Key, Row, Transaction
    from tests.evidence.simulation.world import World

TICK: Final = Fraction(1, 100)
SLIPPAGE_BPS: Final = 100
FRESH_S: Final = 30.0
UNSURE_S: Final = 12.0
"""So near the age at which a price grows old, the judge does not say whether it was fresh: statements may be slow."""
RESTING: Final = frozenset({"QUEUED", "WORKING", "AMENDING", "RAISING", "LOWERING"})
BEFORE_THE_FIRE: Final = frozenset({"VALIDATING", "RESERVING"}) | RESTING
REFUSED_AT_THE_FIRE: Final = frozenset({"SLIPPAGE_EXCEEDED", "NOTIONAL_OUT_OF_RANGE"})


class Newest(NamedTuple):
    """The newest that is known of an order's market: its mark, or its quote."""

    sequence: int
    price: Fraction
    live: bool | None
    """Whether it can fire an order; None: too near the age at which it can't."""

    def start(self, *, is_trail: bool) -> int:
        """Return from where an order counts that begins to rest here: one that could not fire may come again."""
        return self.sequence if self.live or is_trail else max(0, self.sequence - 1)


class MarketJudge:
    """Gets every commit, and gives the verdict on everything that waits for a price."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tables = world.database.tables
        self._markets = markets()
        self._rows: dict[Key, Row] = {}
        self._orders_before: dict[Key, Row] = {}
        """Conditional orders as the last commits left them."""
        self._hits: dict[Any, Hit] = {}
        """What ticks have done to each order."""

    def after_commit(self, tx: Transaction) -> Iterator[str]:
        """Judge a commit: of ticks or of orders."""
        if tx.looked_at[0]:
            yield from self._ticks(tx)
        else:
            yield from self._orders(tx)
        self._rows.update({key: row for key, row in tx.writes.get("resting", {}).items() if row is not None})
        for key, row in tx.writes.get("resting", {}).items():
            if row is None:
                self._rows.pop(key, None)
        for order_id in tx.writes.get("orders", {}).keys() | tx.writes.get("resting", {}).keys():
            yield from self._row_faults(order_id)
            if (order := self._tables["orders"].get(order_id)) is not None and order["terms"] is not None:
                self._orders_before[order_id] = order

    def _row_faults(self, order_id: Any) -> Iterator[str]:
        """I12: every order that may rest has its row, and every row its order."""
        order, row = self._tables["orders"].get(order_id), self._tables["resting"].get(order_id)
        may_rest = order is not None and order["terms"] is not None and order["phase"] in BEFORE_THE_FIRE
        if may_rest != (row is not None):
            yield f"I12: {order_id} is {order and order['phase']} with the row {row}"
        if order is None or row is None:
            return
        progress = json.loads(order["progress"])
        waits = order["phase"] in RESTING and order["parked_reason"] is None
        suspended = "suspended" in progress and order["parked_reason"] is None
        said = (row["live"], row["suspended"], row["asset_id"], row["revision"])
        if said != (waits and not suspended, suspended, order["asset_id"], progress.get("revision", 1)):
            yield f"I12: {order_id} is in phase {order['phase']}, its row says {row}"
        triggered = progress.get("triggered", False) or row["triggered_sequence"] is not None
        names = ("up_price", "down_price", "limit_price", "trail_amount")
        said = (*(_fraction(row[name]) for name in names), row["trail_bps"], row["expires_at"])
        if said != (wanted := (*_levels(order, triggered=triggered), *_trail_and_time(order))):
            yield f"I12: {order_id} waits for {wanted}, its row says {said}"

    # Ticks ------------------------------------------------------------------------------------------------------------

    def _ticks(self, tx: Transaction) -> Iterator[str]:
        assets, now = tx.looked_at
        batch = tx.node.batch
        written, marks = tx.writes.get("resting", {}), tx.writes.get("marks", {})
        before = [self._markets[asset_id].mark for asset_id in assets]
        for asset_id in assets:
            read_at = batch.read_at.setdefault(asset_id, now)
            ticks = [seen(tick, read_at) for tick in batch.prices[asset_id]]
            own = {key: row for key, row in written.items() if row is not None and row["asset_id"] == asset_id}
            yield from self._judge(asset_id, ticks, now, own, moved=asset_id in marks)
        if not written and not marks and before != [self._markets[asset_id].mark for asset_id in assets]:
            yield f"oracle: a round moved neither the marks of {assets} nor any order"

    def _judge(
        self, asset_id: str, ticks: list[Seen], now: datetime, written: Mapping[Key, Row], *, moved: bool
    ) -> Iterator[str]:
        market = self._markets[asset_id]
        after = market.copy()
        expected = after.judge(ticks, now)
        for order_id, row in written.items():
            hit, before = _hit(row), self._rows[order_id]
            wanted = expected.get(order_id)
            known = wanted and wanted._replace(triggered=wanted.triggered or _hit(before).triggered)
            if hit != known:
                yield f"oracle: {order_id} {_words(hit)}, and must {_words(known)}: {market.waiting.get(order_id)}"
            if self._hits.get(order_id, hit).fired not in {None, hit.fired}:
                yield f"I13: {order_id} fired twice"
            self._hits[order_id] = hit
            self._count(hit, before, full=after.mark != market.mark and not moved)
        if after.mark == market.mark or moved:
            yield from (
                f"oracle: {order_id} must {_words(hit)} and did nothing: {market.waiting.get(order_id)}"
                for order_id, hit in expected.items()
                if order_id not in written
            )
            self._markets[asset_id] = after
            yield from self._mark_faults(asset_id, after.mark)
        else:  # a full round: the rest comes with the same ticks
            for order_id, row in written.items():
                _apply(market, order_id, row)

    def _count(self, hit: Hit, before: Row, *, full: bool) -> None:
        """Note what was seen, so that a test may expect it of many histories."""
        kinds: dict[str, object] = {
            "fires at a tick": hit.fired,
            "fires after its trigger": hit.fired and hit.triggered,
        }
        if hit.fired and before["up_price"] is not None and before["down_price"] is not None:
            kinds[f"bracket fires {'up' if hit.fired[1] >= before['up_price'] else 'down'}"] = True
        kinds["is triggered"] = hit.triggered and not _hit(before).triggered
        kinds["trailing stop fires"] = hit.watermark
        kinds["fires at the opening"] = hit.fired and before["queued"]
        self._world.seen.update(f"order {what}" for what, there in kinds.items() if there)
        self._world.seen["full round of ticks"] += full

    def _mark_faults(self, asset_id: str, mark: Seen | None) -> Iterator[str]:
        row = self._tables["marks"].get(asset_id)
        stored = row and (row["sequence"], Fraction(row["price"]), row["trading"], row["live"])
        if stored != (mark and (mark.sequence, mark.price, mark.trading, mark.live)):
            yield f"oracle: the mark of {asset_id} is {stored}, and must be {mark}"

    # Orders -----------------------------------------------------------------------------------------------------------

    def _orders(self, tx: Transaction) -> Iterator[str]:
        for order_id, row in tx.writes.get("resting", {}).items():
            before = self._rows.get(order_id)
            market = self._markets[(row or before or {}).get("asset_id", "")]
            if row is None or not row["live"]:
                market.waiting.pop(order_id, None)
                if row is None and before is not None and before["fired_sequence"] is None:
                    yield from self._fire_at_once_faults(order_id, market.mark)
                continue
            if row["fired_sequence"] is not None:
                continue
            progress = json.loads(self._tables["orders"][order_id]["progress"])
            known, since, kinds = market.waiting.get(order_id), (row["from_sequence"], row["entered_at"]), kinds_of(tx)
            if known is None or kinds[order_id] & {"released", "resumed"}:
                yield from self._entry_faults(order_id, row, progress, market.mark)
                market.rest(order_id, _waiting(row, progress))
            elif "amended" in kinds[order_id]:
                yield from self._amend_faults(order_id, row, progress, market)
            elif known.since != since:
                yield f"oracle: {order_id} rests from {since} for no reason, and did from {known.since}"

    def _newest(self, progress: Mapping[str, Any], mark: Seen | None, now: datetime) -> Newest:
        quote = progress["quote"]
        if mark is not None and mark.sequence >= quote["sequence"]:
            confirmed, price, sequence, is_open = mark.confirmed, mark.price, mark.sequence, mark.trading == "OPEN"
        else:
            confirmed, price = datetime.fromisoformat(quote["received_at"]), Fraction(quote["price"])
            sequence, is_open = quote["sequence"], quote.get("is_open", True)
        age_s = (now - confirmed).total_seconds()
        unsure = abs(age_s - FRESH_S) < UNSURE_S and is_open
        return Newest(sequence, price, None if unsure else is_open and age_s <= FRESH_S)

    def _entry_faults(self, order_id: Any, row: Row, progress: Mapping[str, Any], mark: Seen | None) -> Iterator[str]:
        """Expect that an order rests from the newer of mark and quote, and only if that does not fire it."""
        newest = self._newest(progress, mark, row["entered_at"])
        if newest.live is None:
            return
        is_trail = row["trail_amount"] is not None or row["trail_bps"] is not None
        if row["from_sequence"] != (start := newest.start(is_trail=is_trail)):
            yield f"oracle: {order_id} rests from {row['from_sequence']}, and must from {start}"
        if is_trail and Fraction(progress["rest"]["watermark"]) != newest.price:
            yield f"oracle: {order_id} trails from {progress['rest']['watermark']}, and must from {float(newest.price)}"
        waiting = _waiting(row, progress)
        if newest.live and not is_trail and waiting.is_met(newest.price) and waiting.accepts(newest.price):
            yield f"oracle: {order_id} rests although {float(newest.price)} of sequence {newest.sequence} fires it"

    def _amend_faults(self, order_id: Any, row: Row, progress: Mapping[str, Any], market: Market) -> Iterator[str]:
        """Expect that new terms count from the mark on, unless the order keeps its place, and that it does not meet."""
        known, waiting = market.waiting[order_id], _waiting(row, progress)
        before, order = self._orders_before[order_id], self._tables["orders"][order_id]
        newest = self._newest(progress, market.mark, order["updated_at"])
        is_trail, same = known.watermark is not None, _prices(before) == _prices(order)
        if is_trail:
            waiting = replace(waiting, watermark=known.watermark)
        if is_trail or (same and _asks_no_more(before, order)):
            if waiting.since != known.since:
                yield f"oracle: {order_id} keeps its place, and rests from {waiting.since}, not {known.since}"
            market.waiting[order_id] = waiting
        else:
            if newest.live is not None and row["from_sequence"] != (start := newest.start(is_trail=False)):
                yield f"oracle: {order_id} is revised and rests from {row['from_sequence']}, and must from {start}"
            market.rest(order_id, waiting)
        fills = order["order_type"].startswith("LIMIT") or progress.get("triggered", False)
        moved = waiting.after(newest.price) if is_trail else waiting
        if not same and moved.is_met(newest.price) and (newest.live or (newest.live is False and not fills)):
            yield f"oracle: {order_id} is revised into {float(newest.price)} of sequence {newest.sequence}, and rests"
        if is_trail and not same and not known.is_sell and Fraction(progress["trails_from"]) < (known.watermark or 0):
            yield f"worst price: {order_id} trails from {float(known.watermark or 0)}, its worst price from less"

    def _fire_at_once_faults(self, order_id: Any, mark: Seen | None) -> Iterator[str]:
        """Expect that who fires on entry, on an amend or on a release does so by the newest price, and by no other."""
        order = self._tables["orders"].get(order_id)
        progress = {} if order is None else json.loads(order["progress"])
        if order is None or (fire := progress.get("fire")) is None:
            return
        newest, price = self._newest(progress, mark, order["updated_at"]), Fraction(fire["price"])
        if (fire["sequence"], price) != newest[:2] or newest.live is False:
            yield f"oracle: {order_id} fires at once at {fire}, the newest is {newest}"
        up, down, *_ = _levels(order, triggered=progress.get("triggered", False))
        queued = order["order_type"].startswith("MARKET")
        if not queued and not ((up is not None and price >= up) or (down is not None and price <= down)):
            yield f"oracle: {order_id} fires at once at {float(price)}, and waits for {up} or {down}"

    # The end ----------------------------------------------------------------------------------------------------------

    def still(self) -> list[str]:
        """List what is wrong when nothing has happened for long but heartbeats: who fired and was left, whose mark."""
        faults = [
            f"liveness: {order_id} fired and is not executed"
            for order_id, row in self._tables["resting"].items()
            if row["fired_sequence"] is not None and self._tables["orders"][order_id]["parked_reason"] is None
        ]
        for asset_id, mark in self._tables["marks"].items():
            newest = self._world.prices.moments[asset_id][-1].sequence
            if mark["sequence"] != newest:
                faults.append(f"liveness: the mark of {asset_id} is {mark['sequence']}, the newest tick is {newest}")
        return faults

    def final(self, orders: Mapping[Key, Row], holds: Mapping[Any, Row]) -> Iterator[str]:
        """I13, and that nobody paid more than was held at the worst price of the order."""
        for plan in self._world.scenario.orders:
            order = orders.get(plan.order_id)
            if order is not None and order["terms"] is not None:
                yield from self._end_faults(order, holds.get(f"{plan.order_id}:reserve"))
        if self._world.database.deadlocks:
            yield f"locks: {self._world.database.deadlocks} deadlocks"
        yield from (f"I12: {key} has a row and has ended" for key in self._tables["resting"])

    def _end_faults(self, order: Row, hold: Row | None) -> Iterator[str]:
        order_id = order["order_id"]
        progress = order["progress"] if isinstance(order["progress"], dict) else json.loads(order["progress"])
        fire, hit = progress.get("fire"), self._hits.get(order_id)
        fired = hit.fired if hit is not None else None
        if fired is not None and (fire is None or (fire["sequence"], Fraction(fire["price"])) != fired):
            yield f"I13: {order_id} was fired by {fired}, and was told {fire}"
        if fire is not None:
            yield from self._fire_faults(order, progress, fire, hit)
        if hold is not None and order["order_type"].endswith("_BUY"):
            most, amount = most_it_costs(order, progress), Fraction(hold["amount"])
            # New terms that need less and fire at once are settled from the old hold, and the rest comes back.
            changed = hold["revision"] > 0 or progress.get("revision", 1) > 1
            if amount < most or (amount > most and not changed) or hold["captured"] > hold["amount"]:
                yield f"worst price: {order_id} holds {hold['amount']}, captures {hold['captured']}, of {float(most)}"

    def _fire_faults(self, order: Row, progress: Mapping[str, Any], fire: Any, hit: Hit | None) -> Iterator[str]:
        order_id, price = order["order_id"], Fraction(fire["price"])
        if hit is None or hit.fired is None:
            self._world.seen["order fires on entry"] += 1
        tick = self._world.prices.moments[order["asset_id"]][fire["sequence"] - 1]
        if Fraction(str(tick.price)) != price:
            yield f"I13: {order_id} fired at {float(price)}, tick {fire['sequence']} was {tick.price}"
        if order["status"] == "COMPLETED":
            if Fraction(order["average_price"]) != price:
                yield f"I13: {order_id} fired at {float(price)} and was filled at {order['average_price']}"
        elif order["status"] != "FAILED" or order["reason_code"] not in REFUSED_AT_THE_FIRE:
            yield f"I13: {order_id} fired and is {order['status']} {order['reason_code']}"
        cap, floor = _cap(order, progress, None if hit is None else hit.watermark), _floor(order)
        over = (cap is not None and price > cap) or (floor is not None and price < floor)
        if over != (order["reason_code"] == "SLIPPAGE_EXCEEDED"):
            bound = cap if floor is None else floor
            yield f"cap: {order_id} fired at {float(price)}, its bound is {bound and float(bound)}: {order['status']}"


def _hit(row: Row) -> Hit:
    """Read from a row what ticks have done to it."""
    fired, triggered, watermark = row["fired_sequence"], row["triggered_sequence"], row["fired_watermark"]
    return Hit(
        None if fired is None else (fired, Fraction(row["fired_price"])),
        None if triggered is None else (triggered, Fraction(row["triggered_price"])),
        None if watermark is None else Fraction(watermark),
    )


def _words(hit: Hit | None) -> str:
    if hit is None:
        return "rest"
    parts = (("be triggered by", hit.triggered), ("fire at", hit.fired))
    return " and ".join(f"{what} {at[0]}, {float(at[1])}" for what, at in parts if at is not None) + (
        "" if hit.watermark is None else f", watermark {float(hit.watermark)}"
    )


def _apply(market: Market, order_id: Any, row: Row) -> None:
    """Do what a full round did to an order."""
    if row["fired_sequence"] is not None:
        market.waiting.pop(order_id, None)
    elif order_id in market.waiting:
        market.waiting[order_id] = market.waiting[order_id].triggered(row["triggered_sequence"])


def _waiting(row: Row, progress: Mapping[str, Any]) -> Waiting:
    since = (row["from_sequence"], row["entered_at"])
    prices = {name: _fraction(row[name]) for name in ("up_price", "down_price", "limit_price", "trail_amount")}
    is_trail = row["trail_amount"] is not None or row["trail_bps"] is not None
    return Waiting(
        asset_id=row["asset_id"],
        is_sell=row["side"] == "SELL",
        start=max(row["from_sequence"], row["triggered_sequence"] or 0),
        up=prices["up_price"],
        down=prices["down_price"],
        limit=prices["limit_price"],
        amount=prices["trail_amount"],
        bps=row["trail_bps"],
        watermark=Fraction(progress["rest"]["watermark"]) if is_trail else None,
        expires_at=row["expires_at"],
        queued=row["queued"],
        since=since,
    )


def _fraction(value: Any) -> Fraction | None:
    return None if value is None else Fraction(value)


def kinds_of(tx: Transaction) -> dict[Any, set[str]]:
    """Map each order of a commit to the kinds of the lines that it adds to the order's history."""
    kinds: dict[Any, set[str]] = defaultdict(set)
    for (order_id, _), row in tx.writes.get("history", {}).items():
        kinds[order_id] |= {entry["kind"] for entry in json.loads((row or {}).get("entries", "[]"))}
    return kinds


def _levels(order: Row, *, triggered: bool) -> tuple[Fraction | None, ...]:
    """Return what an order waits for by its terms: a price from below, one from above, and the limit behind them."""
    terms, (kind, _, side) = _terms(order), order["order_type"].rpartition("_")
    limit, trigger = (_fraction(terms.get(name)) for name in ("limit_price", "trigger_price"))
    if kind in {"TRAILING_STOP", "MARKET"}:
        return None, None, None
    if kind == "BRACKET" and limit is not None and trigger is not None:
        return max(limit, trigger), min(limit, trigger), None
    at_limit = kind == "LIMIT" or triggered
    is_up = (side == "SELL") is (at_limit or kind == "TAKE_PROFIT")
    price = limit if at_limit else trigger
    return price if is_up else None, None if is_up else price, None if at_limit else limit


def _trail_and_time(order: Row) -> tuple[Any, ...]:
    terms, progress = _terms(order), json.loads(order["progress"])
    ends_at = terms.get("expires_at") or progress.get("ends_at")
    ends = None if ends_at is None else datetime.fromisoformat(ends_at)
    return _fraction(terms.get("trail_amount")), terms.get("trail_bps"), ends


def _prices(order: Row) -> tuple[Any, ...]:
    terms = _terms(order)
    return tuple(_fraction(terms.get(name)) for name in ("limit_price", "trigger_price", "trail_amount", "trail_bps"))


def _asks_no_more(before: Row, order: Row) -> bool:
    """Tell whether only the quantity falls, or nothing but the time changes."""
    return bool(order["quantity"] <= before["quantity"] and order["slippage_bps"] == before["slippage_bps"])


# The worst price, by the words of the design ------------------------------------------------------------------------


def _worst(order: Row, progress: Mapping[str, Any]) -> Fraction:
    """Return the highest price that a BUY can ever pay. One that found its asset open fills at its quote, or not."""
    terms = _terms(order)
    if order["order_type"].startswith("MARKET"):
        was_open = progress["quote"].get("is_open", True)
        return Fraction(progress["quote"]["price"]) if was_open else _slipped(order, Fraction(order["price"]))
    if "limit_price" in terms and not order["order_type"].startswith("BRACKET"):
        return Fraction(terms["limit_price"])
    if "trigger_price" in terms:
        start = Fraction(terms["trigger_price"])
        return start if order["order_type"].startswith("TAKE_PROFIT") else _slipped(order, start)
    return _slipped(order, _trail_level(terms, Fraction(progress.get("trails_from") or progress["quote"]["price"])))


def _cap(order: Row, progress: Mapping[str, Any], watermark: Fraction | None) -> Fraction | None:
    """Return the most that a BUY pays when it fires, if no limit bounds it already."""
    terms, bracket = _terms(order), order["order_type"].startswith("BRACKET")
    if not order["order_type"].endswith("_BUY") or ("limit_price" in terms and not bracket):
        return None
    worst = _worst(order, progress)
    return worst if watermark is None else min(worst, _slipped(order, _trail_level(terms, watermark)))


def _floor(order: Row) -> Fraction | None:
    """Return the least that a SELL takes which waited for the opening; every other one exits at any price."""
    if order["order_type"] != "MARKET_SELL":
        return None
    bps = SLIPPAGE_BPS if order["slippage_bps"] is None else order["slippage_bps"]
    return Fraction(order["price"]) * (1 - Fraction(bps, 10_000))


def _terms(order: Row) -> dict[str, Any]:
    terms = order["terms"]
    return dict(json.loads(terms) if isinstance(terms, str) else terms)


def _trail_level(terms: Mapping[str, Any], watermark: Fraction) -> Fraction:
    """Return where a trailing BUY fires: rounded up to the tick."""
    trail = terms.get("trail_amount")
    exact = watermark + (Fraction(trail) if trail is not None else watermark * Fraction(terms["trail_bps"], 10_000))
    return math.ceil(exact / TICK) * TICK


def _slipped(order: Row, price: Fraction) -> Fraction:
    bps = SLIPPAGE_BPS if order["slippage_bps"] is None else order["slippage_bps"]
    return max(price, math.floor(price * (1 + Fraction(bps, 10_000)) / TICK) * TICK)


def most_it_costs(order: Row, progress: Mapping[str, Any]) -> Fraction:
    """Return what a BUY costs at most by its terms in force, its fee included."""
    gross = Fraction(order["quantity"]) * _worst(order, progress)
    return _rounded_up(gross) + _rounded_up(gross / 1_000)


def _rounded_up(cash: Fraction) -> Fraction:
    return Fraction(math.ceil(cash * 100), 100)
