"""Judges what ticks do to resting orders: after every commit by the oracle, and at the end by the orders themselves.

Everything is told from outside: what the trigger engine received and when it read the clock, the rows of the tables,
and the orders. I12: an order rests where its row says it does. I13: whoever fired has one tick, and nothing else ended
it.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

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
RESTING: Final = frozenset({"QUEUED", "WORKING"})
BEFORE_THE_FIRE: Final = RESTING | {"VALIDATING", "RESERVING"}
REFUSED_AT_THE_FIRE: Final = frozenset({"SLIPPAGE_EXCEEDED", "NOTIONAL_OUT_OF_RANGE"})


class MarketJudge:
    """Gets every commit, and gives the verdict on everything that waits for a price."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tables = world.database.tables
        self._markets = markets()
        self._rows: dict[Key, Row] = {}
        self._hits: dict[Any, Hit] = {}
        """What ticks have done to each order."""

    def after_commit(self, tx: Transaction) -> Iterator[str]:
        """Judge a commit: of ticks or of orders."""
        if tx.looked_at[0]:
            yield from self._ticks(tx)
        else:
            yield from self._orders(tx.writes.get("resting", {}))
        self._rows.update({key: row for key, row in tx.writes.get("resting", {}).items() if row is not None})
        for key, row in tx.writes.get("resting", {}).items():
            if row is None:
                self._rows.pop(key, None)
        for order_id in tx.writes.get("orders", {}).keys() | tx.writes.get("resting", {}).keys():
            yield from self._row_faults(order_id)

    def _row_faults(self, order_id: Any) -> Iterator[str]:
        """I12: every order that may rest has its row, and every row its order."""
        order, row = self._tables["orders"].get(order_id), self._tables["resting"].get(order_id)
        may_rest = order is not None and order["terms"] is not None and order["phase"] in BEFORE_THE_FIRE
        if may_rest != (row is not None):
            yield f"I12: {order_id} is {order and order['phase']} with the row {row}"
        if order is None or row is None:
            return
        waits = order["phase"] in RESTING and order["parked_reason"] is None
        if row["live"] != waits or row["asset_id"] != order["asset_id"] or row["revision"] != 1:
            yield f"I12: {order_id} is in phase {order['phase']}, its row says {row}"

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
        kinds["is triggered"] = hit.triggered and not _hit(before).triggered
        kinds["trailing stop fires"] = hit.watermark
        self._world.seen.update(f"order {what}" for what, there in kinds.items() if there)
        self._world.seen["full round of ticks"] += full

    def _mark_faults(self, asset_id: str, mark: Seen | None) -> Iterator[str]:
        row = self._tables["marks"].get(asset_id)
        stored = row and (row["sequence"], Fraction(row["price"]), row["trading"], row["live"])
        if stored != (mark and (mark.sequence, mark.price, mark.trading, mark.live)):
            yield f"oracle: the mark of {asset_id} is {stored}, and must be {mark}"

    # Orders -----------------------------------------------------------------------------------------------------------

    def _orders(self, written: Mapping[Key, Row | None]) -> Iterator[str]:
        for order_id, row in written.items():
            before = self._rows.get(order_id)
            asset_id = (row or before or {}).get("asset_id", "")
            market = self._markets[asset_id]
            if row is None or not row["live"]:
                market.waiting.pop(order_id, None)
                continue
            if row["fired_sequence"] is not None:
                continue
            known, since = market.waiting.get(order_id), (row["from_sequence"], row["entered_at"])
            if known is None or known.since != since:
                progress = json.loads(self._tables["orders"][order_id]["progress"])
                yield from self._entry_faults(order_id, row, progress, market.mark)
                market.rest(order_id, _waiting(row, progress))

    def _entry_faults(self, order_id: Any, row: Row, progress: Mapping[str, Any], mark: Seen | None) -> Iterator[str]:
        """Expect that an order rests from the newer of mark and quote, and only if that does not fire it."""
        quote, now = progress["quote"], row["entered_at"]
        if mark is not None and mark.sequence >= quote["sequence"]:
            confirmed, price, sequence, is_open = mark.confirmed, mark.price, mark.sequence, mark.trading == "OPEN"
        else:
            confirmed, price = datetime.fromisoformat(quote["received_at"]), Fraction(quote["price"])
            sequence, is_open = quote["sequence"], quote.get("is_open", True)
        age_s = (now - confirmed).total_seconds()
        if abs(age_s - FRESH_S) < UNSURE_S and is_open:
            return
        live, is_trail = is_open and age_s <= FRESH_S, row["trail_amount"] is not None or row["trail_bps"] is not None
        start = sequence if live or is_trail else max(0, sequence - 1)
        if row["from_sequence"] != start:
            yield f"oracle: {order_id} rests from {row['from_sequence']}, and must from {start}"
        waiting = _waiting(row, progress)
        if live and not is_trail and waiting.is_met(price) and waiting.accepts(price):
            yield f"oracle: {order_id} rests although {float(price)} of sequence {sequence} fires it"

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
            worst = _worst(order, progress)
            most = _rounded_up(Fraction(order["quantity"]) * worst)
            most += _rounded_up(Fraction(order["quantity"]) * worst / 1_000)
            if Fraction(hold["amount"]) != most or hold["captured"] > hold["amount"]:
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
        cap = _cap(order, progress, None if hit is None else hit.watermark)
        over = cap is not None and price > cap
        if over != (order["reason_code"] == "SLIPPAGE_EXCEEDED"):
            yield f"cap: {order_id} fired at {float(price)}, its cap is {cap and float(cap)}: {order['status']}"


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
        since=since,
    )


def _fraction(value: Any) -> Fraction | None:
    return None if value is None else Fraction(value)


# The worst price, by the words of the design ------------------------------------------------------------------------


def _worst(order: Row, progress: Mapping[str, Any]) -> Fraction:
    """Return the highest price that a BUY can ever pay."""
    terms = _terms(order)
    if "limit_price" in terms:
        return Fraction(terms["limit_price"])
    if "trigger_price" in terms:
        start = Fraction(terms["trigger_price"])
        return start if order["order_type"].startswith("TAKE_PROFIT") else _slipped(order, start)
    return _slipped(order, _trail_level(terms, Fraction(progress["quote"]["price"])))


def _cap(order: Row, progress: Mapping[str, Any], watermark: Fraction | None) -> Fraction | None:
    """Return the most that a BUY without a limit pays when it fires."""
    terms = _terms(order)
    if not order["order_type"].endswith("_BUY") or "limit_price" in terms:
        return None
    worst = _worst(order, progress)
    return worst if watermark is None else min(worst, _slipped(order, _trail_level(terms, watermark)))


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


def _rounded_up(cash: Fraction) -> Fraction:
    return Fraction(math.ceil(cash * 100), 100)
