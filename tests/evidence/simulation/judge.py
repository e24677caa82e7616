"""Judges whether I1 to I13 hold, after every commit and at the end, by rules that share no code with the saga.

It compares the events with the tables, the tables with each other, and every cent with the orders that were published
as COMPLETED, computed in fractions.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from tests.evidence.simulation.change_judge import ChangeJudge
from tests.evidence.simulation.database import EPOCH
from tests.evidence.simulation.market_judge import MarketJudge
from tests.evidence.simulation.scenario import HOLDINGS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contracts.orders import OrderStatusChanged
    from tests.evidence.simulation.database import Key, Row, Transaction
    from tests.evidence.simulation.world import World

ENDED: Final = frozenset({"COMPLETED", "CANCELLED", "FAILED"})
LEGAL: Final = {
    None: {"PENDING"},
    "PENDING": {"PENDING", "CONFIRMED", "CANCELLED", "FAILED"},
    "CONFIRMED": {"PROCESSING", "CONFIRMED", "CANCELLED", "FAILED"},
    "PROCESSING": {"COMPLETED", "FAILED"},
}
"""Which statuses may follow each one; the same status again means that a cancel was requested."""
FEE: Final = Fraction(10, 10_000)
QUOTE_AGE_S: Final = 30.1
"""How old an order's price may be at its fill: `max_quote_age` and a little more."""
CLOCKS: Final = {Kind.CLOCK_JUMP, Kind.BROKER_CLOCK}


class Judge:
    """Gets every event and every commit, and gives the final verdict."""

    def __init__(self, world: World) -> None:
        self.told: dict[Any, dict[int, OrderStatusChanged]] = defaultdict(dict)
        """The published events of each order, by version."""
        self._world = world
        self._faults: list[str] = world.broken
        self._tables = world.database.tables
        self.market = MarketJudge(world)
        self._changes = ChangeJudge(world)
        self._shown: dict[Any, tuple[str | None, int]] = {}
        self._clocks_agree = not CLOCKS & {fault.kind for fault in world.scenario.faults}

    def hear(self, event: OrderStatusChanged) -> None:
        """Take an event; a repeat must be identical."""
        known = self.told[event.order_id].setdefault(event.version, event)
        if known != event:
            self._faults.append(f"I9: version {event.version} of {event.order_id} was told in two ways")

    def after_commit(self, tx: Transaction) -> None:
        """Check every order that a commit has changed, together with its present hold."""
        writes = tx.writes
        self._faults.extend(self.market.after_commit(tx))
        self._faults.extend(self._changes.after_commit(tx))
        for order_id, order in writes.get("orders", {}).items():
            if order is not None:
                self._faults.extend(self._step_faults(order_id, order))
        for hold_id, hold in writes.get("holds", {}).items():
            self._faults.extend(self._hold_faults(hold_id, hold))
        for live, past in (("orders", "archive"), ("holds", "holds_archive")):
            twice = self._tables[live].keys() & self._tables[past].keys()
            self._faults.extend(f"I2: {key} was archived and is there again" for key in twice)

    def _step_faults(self, order_id: Any, order: Row) -> Iterator[str]:
        status, version = self._shown.get(order_id, (None, 0))
        if status in ENDED and (order["status"], order["version"]) != (status, version):
            yield f"I7: {order_id} went on after {status}"
        if order["version"] < version:
            yield f"I7: {order_id} went back to version {order['version']}"
        at_the_quote = order["average_price"] is not None and '"fire":' not in order["progress"]
        if status in {None, "PENDING"} and at_the_quote and self._clocks_agree:
            yield from self._price_faults(order_id, order)
        self._shown[order_id] = (order["status"], order["version"])
        hold = self._every("holds").get(f"{order_id}:reserve")
        state = hold["state"] if hold is not None else None
        if order["status"] in {"CANCELLED", "FAILED"} and state in {"HELD", "SETTLED"}:
            yield f"I3: {order_id} is {order['status']} while its hold is {state}"
        if order["status"] == "COMPLETED" and state != "SETTLED":
            yield f"I4: {order_id} is COMPLETED while its hold is {state}"
        rests = order["phase"] in {"QUEUED", "WORKING"}
        waits = order["due_at"] is not None or order["parked_reason"] is not None or rests
        if order["status"] not in {None, *ENDED} and not waits:
            yield f"I6: {order_id} will never wake"

    def _price_faults(self, order_id: Any, order: Row) -> Iterator[str]:
        """Expect that the price of a fill was the asset's price shortly before, even if a process stood still."""
        decided_s = (order["updated_at"] - EPOCH).total_seconds()
        known = self._world.prices.known[order["asset_id"]]
        ends = [*(began_s for began_s, _ in known[1:]), math.inf]
        fresh = [
            price
            for (began_s, price), ended_s in zip(known, ends, strict=True)
            if began_s <= decided_s <= ended_s + QUOTE_AGE_S
        ]
        if float(order["average_price"]) not in fresh:
            yield f"price: {order_id} was filled at {order['average_price']} when {fresh} was the price"

    def _hold_faults(self, hold_id: str, hold: Row | None) -> Iterator[str]:
        order = next((o for key, o in self._every("orders").items() if f"{key}:reserve" == hold_id), None)
        if hold is not None and hold["state"] == "HELD" and (order is None or order["status"] in ENDED):
            yield f"I8: {hold_id} became active, its order is {order and order['status']}"

    def _every(self, table: str) -> dict[Key, Row]:
        """Return the rows of a table and its archive's."""
        return {**self._tables[{"orders": "archive", "holds": "holds_archive"}[table]], **self._tables[table]}

    # The end ----------------------------------------------------------------------------------------------------------

    def final(self) -> list[str]:
        """List what is wrong after everything has ended."""
        faults = [*self._money(), *self._dead_letters()]
        for plan in self._world.scenario.orders:
            order = self._every("orders").get(plan.order_id)
            if order is None:
                faults.append(f"I11: {plan.order_id} was requested and never became an order")
            elif order["status"] not in ENDED:
                faults.append(
                    f"liveness: {plan.order_id} is {order['status']} in phase {order['phase']}: {_why(order)}"
                )
            else:
                faults += [*self._wire(order), *self._ends(order), *self._history(order)]
        faults += [*self._clients(), *self.market.final(self._every("orders"), self._every("holds"))]
        faults += self._changes.final(self.told)
        return [
            *faults,
            *(f"outbox: {name} is not empty" for name, rows in self._tables.items() if "outbox" in name and rows),
        ]

    def _wire(self, order: Row) -> Iterator[str]:
        """I7 and I9: every version was published, by legal moves, and the last one is as in the table."""
        order_id, told = order["order_id"], self.told[order["order_id"]]
        if sorted(told) != list(range(1, order["version"] + 1)):
            yield f"I9: {order_id} is at version {order['version']}, told were {sorted(told)}"
            return
        before: str | None = None
        for version in sorted(told):
            event = told[version]
            if event.status not in LEGAL.get(before, set()) or event.previous_status != before:
                yield f"I7: {order_id} was told as {event.status} after {before}"
            before = event.status
        last = told[order["version"]].order
        shown = (last.status, last.reason_code, last.filled_quantity, last.average_price, last.fee)
        stored = tuple(order[name] for name in ("status", "reason_code", "filled_quantity", "average_price", "fee"))
        if shown != stored:
            yield f"I9: {order_id} was told as {shown} and is {stored}"

    def _ends(self, order: Row) -> Iterator[str]:
        """I2, I3, I4, I5: the hold, the fill and the journal of an order that has ended."""
        order_id = order["order_id"]
        hold = self._every("holds").get(f"{order_id}:reserve")
        state = hold["state"] if hold is not None else None
        every = [fill for fill in self._tables["fills"].values() if fill["order_id"] == order_id]
        fills = [fill for fill in (*every, *json.loads(order.get("fills", "[]"))) if not fill["busted"]]
        moved = [key for key, entry in self._tables["journal"].items() if entry["order_id"] == str(order_id)]
        completed = order["status"] == "COMPLETED"
        if completed != (state == "SETTLED") or (not completed and state == "HELD"):
            yield f"I3, I4: {order_id} is {order['status']}, its hold {state}"
        if len(fills) != completed:
            yield f"I4: {order_id} is {order['status']} with {len(fills)} fills"
        if bool(moved) != completed:
            yield f"I2: {order_id} is {order['status']}, the journal has {moved}"
        if hold is not None and hold["captured"] + hold["refunded"] != (
            hold["amount"] if state in {"SETTLED", "REFUNDED"} else 0
        ):
            yield f"I5: the hold of {order_id} is {hold}"

    def _history(self, order: Row) -> Iterator[str]:
        """I7: the history has no gap, neither in its lines nor in its versions."""
        rows = sorted((key[1], row) for key, row in self._tables["history"].items() if key[0] == order["order_id"])
        if "history" in order:
            rows += [
                (row["seq"], {**row, "entries": json.dumps(row["entries"])}) for row in json.loads(order["history"])
            ]
        seq, version = 1, 0
        for first, row in rows:
            if (first, row["version_from"]) != (seq, version):
                yield f"I7: the history of {order['order_id']} goes from line {seq} to {first}, version {version}"
            seq, version = first + len(json.loads(row["entries"])), row["version_to"]
        if (seq - 1, version) != (order["history_seq"], order["version"]):
            yield f"I7: the history of {order['order_id']} ends at line {seq - 1}, version {version}"

    def _clients(self) -> Iterator[str]:
        """I10: one client order id, one order."""
        holders: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for order_id, order in self._every("orders").items():
            if order["client_order_id"] is not None and order["reason_code"] != "DUPLICATE_CLIENT_ORDER_ID":
                holders[order["user_id"], order["client_order_id"]].append(order_id)
        yield from (f"I10: {key} names {ids}" for key, ids in holders.items() if len(ids) > 1)

    def _dead_letters(self) -> Iterator[str]:
        """Only poisoned messages and broken requests are dead letters, and only poisoned orders are parked."""
        if any(fault.kind is Kind.POISON for fault in self._world.scenario.faults):
            return
        for place, letter in self._tables["dead_letters"].items():
            if place in self._changes.too_early:
                continue
            yield f"a dead letter nobody planned: {place} {letter['reason']}"
        for order_id, order in self._tables["orders"].items():
            if order["parked_reason"] is not None:
                yield f"{order_id} is parked: {order['parked_reason']}"

    def _money(self) -> Iterator[str]:
        """I1 and I2: the journal balances, and every account has its deposits plus what completed orders moved."""
        sums: dict[str, Fraction] = defaultdict(Fraction)
        for entry in self._tables["journal"].values():
            for asset, amount in zip(entry["asset_ids"], entry["amounts"], strict=True):
                sums[asset] += Fraction(amount)
        yield from (f"I1: the journal of {asset} sums to {total}" for asset, total in sums.items() if total)
        expected = defaultdict(Fraction, {account: Fraction(amount) for account, amount in HOLDINGS.items()})
        for told in self.told.values():
            last = told[max(told)].order
            if last.status == "COMPLETED":
                for asset, amount in _effect(last).items():
                    expected[last.user_id, asset] += amount
        accounts = self._tables["accounts"]
        yield from (
            f"I1: {key} must have {expected[key]}, and there is no account" for key in expected.keys() - accounts
        )
        for key, account in accounts.items():
            active = [
                h for h in self._tables["holds"].values() if h["state"] == "HELD" and (h["owner"], h["unit"]) == key
            ]
            if account["held"] != sum(hold["amount"] for hold in active):
                yield f"I1: {key} has {account['held']} held, its active holds are {active}"
            total, due = Fraction(account["available"] + account["held"]), expected[key]
            if total != due:
                yield f"I1: {key} has {account['available']} and {account['held']} held, must have {due}"


def _effect(order: Any) -> dict[str, Fraction]:
    """Work out what a completed order does to its user's accounts: to the cent, debits rounded up, credits down."""
    quantity = Fraction(order.filled_quantity)
    gross = quantity * Fraction(order.average_price)
    fee = Fraction(math.ceil(gross * FEE * 100), 100)
    if order.order_type.endswith("_BUY"):
        return {order.asset_id: quantity, "USD": -Fraction(math.ceil(gross * 100), 100) - fee}
    return {order.asset_id: -quantity, "USD": Fraction(math.floor(gross * 100), 100) - fee}


def _why(order: Row) -> str:
    return f"due at {order['due_at']}, parked: {order['parked_reason']}, {order['progress']}"
