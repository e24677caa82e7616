"""Judges a system that was restored: nothing that anybody was told may have become untrue, and every cent is there.

It is pure. Its sources: the events that were ever told (those included that a broker has lost), what the topic says
now, the base tables, and what was paid in. It shares no arithmetic with the system: see `checker`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Final, NamedTuple

from tests.e2e.checker import LEGAL, Effect, effect_of, fee_of
from tests.e2e.trader import ENDED
from tests.evidence.chaos.books import Books, Row
from tests.evidence.chaos.finding import Finding, Findings

Told = dict[str, dict[int, list[Any]]]
"""Per order and version, each body that was seen on `orders.events`, in the order of reading."""

RESTING: Final = frozenset({"WORKING"})
"""The phases in which an order may stay for as long as its price does not come."""
FILL: Final = ("filled_quantity", "average_price", "fee")
_WHEN: Final = frozenset({"occurred_at", "updated_at"})
"""When something happened may be said anew: a settlement of the first life may be one of the second."""


class Facts(NamedTuple):
    """What is judged."""

    told: Told
    """What was told in any life of the system."""
    now: Told
    """What the topic says to somebody who reads it from its beginning."""
    accepted: frozenset[str]
    """The orders that a client was promised, or whose request the broker has stored."""
    books: Books
    paid_in: Effect
    """What every account got besides orders: deposits, less captured holds of services."""


def judge(facts: Facts) -> list[Finding]:
    """Return all findings; none when all is well."""
    rules = (_kept, _one_story, _told_now, _there, _quiet, _booked, _accounts, _holds)
    return [finding for rule in rules for finding in rule(facts)]


def merged(*lives: Told) -> Told:
    """Join what was read in several lives."""
    joined: dict[str, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for life in lives:
        for order_id, versions in life.items():
            for version, bodies in versions.items():
                joined[order_id][version] += bodies
    return joined


# What was told stays true ---------------------------------------------------------------------------------------------


def _kept(facts: Facts) -> Findings:
    """Expect every order at the version that was told at least, and an end as it was told, with its fill."""
    for order_id, versions in facts.told.items():
        newest, row = max(versions), facts.books.orders.get(order_id)
        if row is None:
            yield Finding("lost", order_id, f"it was told up to version {newest}, and there is no such order")
            continue
        if row["version"] < newest:
            yield Finding("lost", order_id, f"it was told up to version {newest}, and is at {row['version']}")
        for version in sorted(versions):
            first = versions[version][0]
            if first["status"] in ENDED and (end := _end(first, version)) != (is_now := _end_of(row)):
                yield Finding("outcome", order_id, f"it was told as {end}, and is {is_now}")


def _end(event: Any, version: int) -> tuple[Any, ...]:
    order = event["order"]
    return event["status"], version, event["reason_code"], *(_number(order[name]) for name in FILL)


def _end_of(row: Row) -> tuple[Any, ...]:
    return row["status"], row["version"], row["reason_code"], *(_number(row[name]) for name in FILL)


def _number(value: Any) -> Fraction | None:
    return None if value is None else Fraction(value)


def _one_story(facts: Facts) -> Findings:
    """Expect that each version was told in one way, that statuses follow each other, and nothing follows an end."""
    for order_id, versions in facts.told.items():
        before: tuple[str, ...] = ()
        for version in sorted(versions):
            first, *others = versions[version]
            if any(_said(other) != _said(first) for other in others):
                yield Finding("wire", order_id, f"version {version} was told in several ways")
            if (version == 1 or before) and first["status"] not in LEGAL.get(before, set()):
                yield Finding("wire", order_id, f"version {version} is {first['status']} after {before}")
            before = (first["status"],)


def _said(event: Any) -> Any:
    order = {name: value for name, value in event["order"].items() if name not in _WHEN}
    return {name: value for name, value in event.items() if name not in _WHEN} | {"order": order}


def _told_now(facts: Facts) -> Findings:
    """Expect that whoever reads the topic from its beginning learns the newest version of every order."""
    for order_id, row in facts.books.orders.items():
        versions = facts.now.get(order_id, {})
        if not versions or max(versions) != row["version"]:
            yield Finding("lost", order_id, f"it is at version {row['version']}, the topic has {sorted(versions)}")
        elif (said := versions[row["version"]][-1]["status"]) != row["status"]:
            yield Finding("wire", order_id, f"it is {row['status']}, the topic says {said}")


# Every order ----------------------------------------------------------------------------------------------------------


def _there(facts: Facts) -> Findings:
    """Expect that every accepted request is an order."""
    for order_id in sorted(facts.accepted - facts.books.orders.keys()):
        yield Finding("lost", order_id, "it was accepted, and there is no such order")


def _quiet(facts: Facts) -> Findings:
    """Expect that every order has ended or rests, and that nothing waits to be told."""
    for order_id, row in facts.books.orders.items():
        if row["status"] not in ENDED and row["phase"] not in RESTING:
            yield Finding("lost", order_id, f"it never ended: {row['status']} in {row['phase']}")
    for outbox, rows in facts.books.unsent.items():
        if rows:
            yield Finding("lost", f"{outbox}.outbox", f"{rows} rows were never sent")


# Money ----------------------------------------------------------------------------------------------------------------


def _booked(facts: Facts) -> Findings:
    """Expect that the journal balances, and has exactly one entry for each order told as completed, to the cent."""
    sums: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    entries: dict[str, set[str]] = defaultdict(set)
    legs: dict[str, Effect] = defaultdict(lambda: defaultdict(Fraction))
    for line in facts.books.journal:
        amount = Fraction(line["amount"])
        sums["the journal", line["asset_id"]] += amount
        sums[line["entry_id"], line["asset_id"]] += amount
        if line["order_id"] is not None:
            entries[line["order_id"]].add(line["entry_id"])
            legs[line["order_id"]][line["account"], line["asset_id"]] += amount
    for (name, asset_id), rest in sums.items():
        if rest:
            yield Finding("money", name, f"it sums to {float(rest)} {asset_id}")
    completed = _completed(facts)
    for order_id in sorted(completed.keys() | entries.keys()):
        if len(entries[order_id]) != (order_id in completed):
            yield Finding("money", order_id, f"it has {len(entries[order_id])} entries in the journal")
        elif wrong := _wrong_legs(completed[order_id], legs[order_id]):
            yield Finding("money", order_id, f"its legs should be {wrong}, booked are {dict(legs[order_id])}")


def _completed(facts: Facts) -> dict[str, Any]:
    """Return the first event that told each order as completed."""
    return {
        order_id: versions[version][0]["order"]
        for order_id, versions in facts.told.items()
        for version in versions
        if versions[version][0]["status"] == "COMPLETED"
    }


def _wrong_legs(order: Any, booked: Effect) -> Effect | None:
    """Return what the legs of a completed order should be, if they are not."""
    wanted = {key: amount for key, amount in effect_of(order).items() if amount}
    fee = fee_of(order)
    of_user = {key: amount for key, amount in booked.items() if not key[0].startswith("@")}
    return None if (of_user, booked.get(("@fees", "USD"), 0)) == (wanted, fee) else wanted


def _accounts(facts: Facts) -> Findings:
    """Expect in every account what was paid in and what orders told as completed moved."""
    expected: Effect = defaultdict(Fraction, facts.paid_in)
    for order in _completed(facts).values():
        for key, amount in effect_of(order).items():
            expected[key] += amount
    held: Effect = defaultdict(Fraction)
    for hold in _active(facts.books):
        held[hold["owner"], hold["unit"]] += Fraction(hold["amount"])
    actual = {(row["user_id"], row["asset_id"]): row for row in facts.books.accounts}
    for key in sorted({*expected, *actual}):
        row = actual.get(key, {"available": 0, "held": 0})
        if Fraction(row["held"]) != held[key]:
            yield Finding("money", " ".join(key), f"{row['held']} are held, its holds sum to {float(held[key])}")
        if (there := Fraction(row["available"]) + Fraction(row["held"])) != expected[key]:
            yield Finding("money", " ".join(key), f"{float(there)} are there, it should be {float(expected[key])}")


def _holds(facts: Facts) -> Findings:
    """Expect that an order holds money as long as it is open, and that a completed one has a settled hold."""
    active = {hold["order_id"] for hold in _active(facts.books)}
    for order_id, row in facts.books.orders.items():
        if (order_id in active) != (row["status"] not in ENDED):
            yield Finding(
                "money", order_id, f"it is {row['status']}, and {'a' if order_id in active else 'no'} hold is"
            )
        states = [hold["state"] for hold in facts.books.holds.get(order_id, [])]
        if ("SETTLED" in states) != (row["status"] == "COMPLETED"):
            yield Finding("money", order_id, f"it is {row['status']}, its holds are {states}")


def _active(books: Books) -> Iterable[Row]:
    return (hold for holds in books.holds.values() for hold in holds if hold["state"] == "HELD")
