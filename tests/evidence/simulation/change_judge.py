"""Judges amends, suspensions and releases: after every commit by the rows, and at the end by what was published.

What is held always pays for the terms in force. Terms change only by an amend that is shown as applied, one revision
after the other; every amend ends. What an operator has suspended only an operator releases.
"""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from contracts.amends import CHANGES, changes_of
from tests.evidence.simulation.market_judge import RESTING, most_it_costs
from tests.evidence.simulation.scenario import What

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from contracts.orders import Order, OrderStatusChanged
    from tests.evidence.simulation.database import Row, Transaction
    from tests.evidence.simulation.scenario import Change
    from tests.evidence.simulation.world import World

OPERATOR: Final = "@operator:"
CHANGES_SENT: Final = frozenset({"OrderAmendRequested", "OrderHoldRequested", "OrderReleaseRequested"})
BATCH_S: Final = 20.0
"""A batch that began before an order was there commits within this time."""
SHOWN: Final = {"held": "is suspended", "released": "is released"}


class ChangeJudge:
    """Gets every commit, and gives the verdict on everything that changes a resting order."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tables = world.database.tables
        self._in_force: dict[Any, tuple[Any, ...]] = {}
        """The revision of each order, and its terms, as the last commit left them."""
        self._suspended_by: dict[Any, str | None] = {}
        """Who suspended an order, by the lines of its history."""
        self._plans = {plan.order_id: plan for plan in world.scenario.orders}
        self._began_at: dict[str, float] = {}
        """When each order was there first, in seconds."""
        self.too_early: set[Any] = set()
        """Places of changes that came before their order was there."""

    def after_commit(self, tx: Transaction) -> Iterator[str]:
        """Judge a commit of orders or of holds."""
        self._note_what_came_too_early(tx)
        for (order_id, _), row in tx.writes.get("history", {}).items():
            if row is not None:
                yield from self._line_faults(order_id, json.loads(row["entries"]))
        written = {order_id for order_id, row in tx.writes.get("orders", {}).items() if row is not None}
        held = {UUID(hold_id.partition(":")[0]) for hold_id in tx.writes.get("holds", {})}
        for order_id in written | held:
            order = self._tables["orders"].get(order_id)
            if order is None or order["terms"] is None:
                continue
            progress = json.loads(order["progress"])
            yield from self._cover_faults(order, progress)
            if order_id in written:
                yield from self._revision_faults(order, progress)

    def _note_what_came_too_early(self, tx: Transaction) -> None:
        now = self._world.loop.time()
        for order_id in tx.writes.get("orders", {}):
            self._began_at.setdefault(str(order_id), now)
        for place, letter in tx.writes.get("dead_letters", {}).items():
            order_id = str((letter or {}).get("reason", "")).rpartition(" ")[2]
            if place[0] == "orders.changes" and now - self._began_at.get(order_id, now) < BATCH_S:
                self.too_early.add(place)
                self._world.seen["change before its order"] += 1

    # Money ------------------------------------------------------------------------------------------------------------

    def _cover_faults(self, order: Row, progress: Mapping[str, Any]) -> Iterator[str]:
        """Expect that what is held pays for the terms in force at their worst price, and is no more than they need."""
        order_id = order["order_id"]
        hold = self._tables["holds"].get(f"{order_id}:reserve")
        held = None if hold is None or hold["state"] != "HELD" else Fraction(hold["amount"])
        if order["phase"] == "SETTLING":
            capture = Fraction(progress["settlement"]["capture"])
            if held is not None and held < capture:
                yield f"cover: {order_id} holds {float(held)}, and captures {float(capture)}"
        elif order["phase"] in RESTING:
            buys = order["order_type"].endswith("_BUY")
            needs = most_it_costs(order, progress) if buys else Fraction(order["quantity"])
            if held is None or held < needs:
                yield f"cover: {order_id} rests in {order['phase']} and needs {float(needs)}, its hold is {hold}"
            elif held > needs and order["phase"] == "WORKING":
                yield f"cover: {order_id} rests and needs {float(needs)}, it holds {float(held)}"
            elif hold is not None and hold["revision"] > progress.get("adjustments", 0):
                yield f"cover: {order_id} has asked for fewer adjustments than there are: {hold}"

    def _revision_faults(self, order: Row, progress: Mapping[str, Any]) -> Iterator[str]:
        """Expect that terms in force have one number, and are changed only by the next one."""
        order_id, revision = order["order_id"], progress.get("revision", 1)
        terms = (order["quantity"], order["slippage_bps"], order["terms"])
        before = self._in_force.get(order_id, (revision, terms))
        if revision < before[0] or (revision == before[0] and terms != before[1]):
            yield f"revision: {order_id} goes from {before} to {revision}, {terms}"
        self._in_force[order_id] = (revision, terms)
        if order["phase"] in {"RAISING", "LOWERING"}:
            self._world.seen[f"order is {order['phase']}"] += 1
        suspended_by = (progress.get("suspended") or {}).get("requested_by")
        if order["phase"] in RESTING and suspended_by != self._suspended_by.get(order_id):
            yield f"suspension: {order_id} is suspended by {suspended_by}, not {self._suspended_by.get(order_id)}"

    # What the history says --------------------------------------------------------------------------------------------

    def _line_faults(self, order_id: Any, entries: list[dict[str, Any]]) -> Iterator[str]:
        """Follow who suspends and releases, and count what becomes of changes."""
        fires = {entry["kind"] for entry in entries} & {"fired"}
        for entry in entries:
            kind, detail = entry["kind"], entry.get("detail", {})
            if kind == "ignored" and entry["name"] in CHANGES_SENT:
                self._world.seen[f"change ignored {detail['why']}"] += 1
            if kind in {"amended", "released"} and fires:
                self._world.seen[f"order fires when {kind}"] += 1
            if kind not in SHOWN:
                continue
            self._world.seen[f"order {SHOWN[kind]}"] += 1
            by, before = detail["requested_by"], self._suspended_by.get(order_id)
            what = What.HOLD if kind == "held" else What.RELEASE
            if not any(change.what is what for change in self._allowed(order_id, by)):
                yield f"suspension: {order_id} is {kind} by {by}, who did not ask for it"
            if is_operator(before) and not is_operator(by):
                yield f"suspension: {order_id} is {kind} by {by} while {before} has suspended it"
            if kind == "released" and before is None:
                yield f"suspension: {order_id} is released and was not suspended"
            self._suspended_by[order_id] = by if kind == "held" else None

    def _allowed(self, order_id: Any, by: str | None = None) -> list[Change]:
        """List the changes of an order that its user or an operator asks for."""
        plan = self._plans[order_id]
        names = {"user": plan.user_id, "operator": "@operator:olga"}
        return [one for one in plan.changes if one.by in names and by in {None, names[one.by]}]

    # The end ----------------------------------------------------------------------------------------------------------

    def final(self, told: Mapping[Any, Mapping[int, OrderStatusChanged]]) -> Iterator[str]:
        """Judge what was published of each order."""
        for order_id, events in told.items():
            versions = [events[version].order for version in sorted(events)]
            if order_id in self._plans and self._plans[order_id].terms is not None:
                yield from self._version_faults(order_id, versions)
                yield from self._amend_faults(order_id, versions)

    def _version_faults(self, order_id: Any, versions: list[Order]) -> Iterator[str]:
        """Expect that terms change only with a revision, by what its amend asks for; and that they are filled whole."""
        for before, order in pairwise(versions):
            # When it ends may be fixed as it begins to rest.
            begins = before.revision is None and before.expires_at is None
            fixed = {"expires_at": order.expires_at} if begins else {}
            same = _fields(before, fixed) == _fields(order, {})
            if before.revision is None or order.revision == before.revision:
                if not same:
                    yield f"revision: {order_id} has other terms in version {order.version}, and is not revised"
                continue
            amend = order.amend
            if order.revision != before.revision + 1 or amend is None or amend.state != "APPLIED":
                yield f"revision: {order_id} goes to revision {order.revision} by {amend}"
            elif _fields(before, changes_of(amend)) != _fields(order, {}):
                yield f"revision: {order_id} is {_fields(order, {})} by {amend}, and was {_fields(before, {})}"
        last = versions[-1]
        if last.status == "COMPLETED" and Fraction(last.filled_quantity) != Fraction(last.quantity or 0):
            yield f"fill: {order_id} fills {last.filled_quantity} of {last.quantity}"
        if any(order.on_hold for order in versions if order.status in {"PROCESSING", "COMPLETED"}):
            yield f"suspension: {order_id} is on hold and fires"

    def _amend_faults(self, order_id: Any, versions: list[Order]) -> Iterator[str]:
        """Expect that each amend was asked for by who may, and is shown to end, once."""
        shown: dict[str, list[Any]] = {}
        for order in versions:
            amend = order.amend
            if amend is not None and amend not in (states := shown.setdefault(amend.amend_id, [])):
                states.append(amend)
        for amend_id, states in shown.items():
            ends = [amend for amend in states if amend.state != "PENDING"]
            if len(ends) != 1 or states[-1] is not ends[0] or len(states) > 2:
                yield f"amend: {amend_id} of {order_id} is shown as {states}"
            asked = [self._world.changed_fields(one) for one in self._allowed(order_id) if one.amend_id == amend_id]
            if any(changes_of(amend) not in asked for amend in states):
                yield f"amend: {amend_id} of {order_id} is shown as {states}, and nobody asked for it"
            for amend in ends:
                self._world.seen[f"amend {amend.state} {amend.reason_code or ''}".rstrip()] += 1
                self._world.seen["amend that is asked about ends"] += len(states) == 2


def is_operator(name: str | None) -> bool:
    """Tell whether a requester is an operator."""
    return name is not None and name.startswith(OPERATOR)


def _fields(order: Order, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Give an order's terms, with changes. GTC drops what GTD had; where a trailing stop stands is no term."""
    fields = {name: getattr(order, name) for name in CHANGES} | dict(changes)
    if changes.get("time_in_force") == "GTC" and "expires_at" not in changes:
        fields["expires_at"] = None
    if order.trail_amount is not None or order.trail_bps is not None:
        del fields["trigger_price"]
    return fields
