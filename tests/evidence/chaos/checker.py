"""Finds what was lost, doubled, or off by a cent, with code that shares nothing with the system.

It compares five sources: what was submitted and answered (`record`), what `orders.events` holds (`witness`), what
`assets.prices` holds (`prices`), what clients were told (`clients`), and the base tables (`books`). It is pure: it
reads no clock and no server. Every rule is one function, and every finding is one line that names the order.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Any, Final

from tests.evidence.chaos import changes, oracle, told
from tests.evidence.chaos.books import Books, Row
from tests.evidence.chaos.finding import Finding, Findings
from tests.evidence.chaos.oracle import FEE_RATE, Look, Tick, up
from tests.evidence.chaos.record import Record
from tests.evidence.chaos.story import Story, number, story_of, terms_of
from tests.evidence.chaos.watched import Watched
from tests.evidence.chaos.witness import Wire

ENDED: Final = frozenset({"COMPLETED", "CANCELLED", "FAILED"})
EXCUSED: Final = frozenset({"FAILED TIMED_OUT", "FAILED STALE_PRICE", "CANCELLED EXPIRED"})
"""How any order may end while services, servers and clocks fail."""
PRICES: Final = {"BTC": Fraction(50_000), "ETH": Fraction(2_500), "ACME": Fraction(20)}
AT: Final = "@price"
"""Under which name `judge` adds to an order's row the price that it is filled at, if it is."""
TERMS: Final = ("limit_price", "trigger_price", "trail_amount", "trail_bps")
MOVES: Final = {
    "": {"PENDING"},
    "PENDING": {"PENDING", "CONFIRMED", "CANCELLED", "FAILED"},
    "CONFIRMED": {"CONFIRMED", "PROCESSING", "CANCELLED", "FAILED"},
    "PROCESSING": {"COMPLETED", "FAILED"},
}
"""Which statuses may follow each one; the same status again means that a cancel was requested."""
SHOWN_AS_TEXT: Final = ("order_id", "user_id", "asset_id", "order_type", "client_order_id", "reason_code", "reason")
SHOWN_AS_NUMBER: Final = ("quantity", "price", "filled_quantity", "average_price", "fee", "slippage_bps")


def judge(
    record: Record,
    wire: Wire,
    books: Books,
    ticks: Mapping[str, Sequence[Tick]] | None = None,
    looks: Mapping[str, Sequence[Look]] | None = None,
    seen: Counter[str] | None = None,
    watched: Watched | None = None,
) -> list[Finding]:
    """Return all findings; none when all is well.

    `ticks`, `looks`: see `oracle`; `seen` counts what orders did; `watched`: what clients were told.
    """
    stories = {order_id: story_of(rows) for order_id, rows in books.history.items()}
    for order_id, order in books.orders.items():
        waits = bool(terms_of(order))
        order[AT] = stories.get(order_id, Story()).price if waits else PRICES.get(order["asset_id"])
    rules = (
        oracle.judge_all(books, stories, ticks or {}, looks or {}, Counter() if seen is None else seen),
        _lost(record, wire, books),
        _left_over(books),
        _one_order_each(record, books),
        _no_order_of_nobody(record, wire, books),
        _as_wanted(record, books, stories),
        _one_of_each_name(books),
        *(_history(order_id, order, books) for order_id, order in books.orders.items()),
        *(_told(order_id, order, wire, books) for order_id, order in books.orders.items()),
        *(_effects(order_id, order, books) for order_id, order in books.orders.items()),
        _accounts(record, books),
        _journal(books),
        _dead_letters(record, books),
        (Finding("wire", "orders.events", fault) for fault in wire.faults),
        changes.judge_all(record, wire, stories, Counter() if seen is None else seen),
        told.judge_all(watched or Watched(), wire, books),
    )
    return [finding for rule in rules for finding in rule]


# Accepted requests ----------------------------------------------------------------------------------------------------


def _lost(record: Record, wire: Wire, books: Books) -> Findings:
    """Expect that every accepted request became an order that ended, with every version published."""
    for placed in record.placed:
        claimed = placed.order_id in books.claims
        if not (placed.accepted or claimed):
            continue
        promise = "accepted" if placed.accepted else "claimed"
        order = books.orders.get(placed.order_id or "")
        if order is None:
            yield Finding(
                "lost", placed.name, f"it was {promise} (answers {placed.answers}), and there is no such order"
            )
    for order_id, order in books.orders.items():
        if order["status"] not in ENDED:
            yield Finding("lost", order_id, f"it never ended: {order['status']} in {order['phase']}, {_why(order)}")
    for order_id, claim in books.claims.items():
        if order_id not in books.orders:
            yield Finding("lost", order_id, f"{claim['user_id']} has its promise, and there is no such order")
    for order_id, order in books.orders.items():
        if missing := set(range(1, order["version"] + 1)) - set(wire.told.get(order_id, ())):
            yield Finding("lost", order_id, f"versions {sorted(missing)} of {order['version']} were never told")


def _why(order: Row) -> str:
    return f"parked: {order['parked_reason']}" if order["parked_reason"] else f"due {order['due_at']}"


def _left_over(books: Books) -> Findings:
    """Expect empty outboxes."""
    for outbox, rows in books.unsent.items():
        if rows:
            yield Finding("lost", f"{outbox}.outbox", f"{rows} rows were never sent")


def _one_order_each(record: Record, books: Books) -> Findings:
    """Expect one order for a request, none when every answer refused it, and at most one when no answer came."""
    of_key: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for order_id, claim in books.claims.items():
        of_key[claim["user_id"], claim["idempotency_key"]].append(order_id)
    for placed in record.placed:
        if len(placed.ids) > 1:
            yield Finding("doubled", placed.name, f"its answers name several orders: {placed.ids}")
        made = of_key.get((placed.user_id, placed.key), []) if placed.key else []
        if len(made) > 1:
            yield Finding("doubled", placed.name, f"its key made several orders: {sorted(made)}")
        if placed.ids and made and set(placed.ids) != set(made):
            yield Finding("doubled", placed.name, f"it was promised {placed.ids}, its key made {made}")
        if placed.refused and made:
            yield Finding("invented", placed.name, f"every answer refused it ({placed.answers}), its key made {made}")


def _no_order_of_nobody(record: Record, wire: Wire, books: Books) -> Findings:
    """Expect that every order was requested, and that every event belongs to an order."""
    keys = {(placed.user_id, placed.key) for placed in record.placed if placed.key}
    known = {placed.order_id for placed in record.placed}
    for order_id in books.orders:
        claim = books.claims.get(order_id)
        if order_id not in known and (claim is None or (claim["user_id"], claim["idempotency_key"]) not in keys):
            yield Finding("invented", order_id, "nobody wanted this order")
    for order_id, versions in wire.told.items():
        last = books.orders.get(order_id, {"version": 0})["version"]
        if surplus := [version for version in versions if not 1 <= version <= last]:
            yield Finding("invented", order_id, f"versions {surplus} were told, the order is at version {last}")
    accepted = {placed.order_id for placed in record.placed if placed.accepted}
    for order_id in books.stubs & accepted:
        yield Finding("lost", str(order_id), "of an accepted order only the cancel is known")


def _as_wanted(record: Record, books: Books, stories: Mapping[str, Story]) -> Findings:
    """Expect that an order has the content that was sent under its id or key, as amended, and a correct end."""
    by_key = {(claim["user_id"], claim["idempotency_key"]): order_id for order_id, claim in books.claims.items()}
    for placed in record.placed:
        order_id = placed.order_id or by_key.get((placed.user_id, placed.key), "")
        if (order := books.orders.get(order_id)) is None:
            continue
        end = " ".join(filter(None, (order["status"], order["reason_code"])))
        if order["status"] in ENDED and end not in {*placed.ends, *EXCUSED}:
            yield Finding(
                "outcome", order_id, f"a {placed.kind} order by {placed.channel} ended as {end}: {order['reason']}"
            )
        if placed.user_id != order["user_id"]:
            yield Finding("outcome", order_id, f"it was {placed.user_id}'s wish, and is {order['user_id']}'s order")
        if order["reason_code"] != "INVALID_ORDER" and not any(
            _same(order, changes.amended(body, stories.get(order_id, Story()))) for body in placed.bodies
        ):
            yield Finding("outcome", order_id, f"{placed.bodies} was wanted, the order says {_content(order)}")


def _same(order: Row, body: dict[str, Any]) -> bool:
    terms = terms_of(order)
    return (
        order["asset_id"] == body["asset_id"]
        and order["order_type"] == body["order_type"]
        and number(order["quantity"]) == number(body["quantity"])
        and number(order["price"]) == number(body.get("price"))
        and all(number(terms.get(name)) == number(body.get(name)) for name in TERMS)
        and terms.get("time_in_force", "GTC") == body.get("time_in_force", "GTC")
        and _instant(terms.get("expires_at")) == _instant(body.get("expires_at"))
    )


def _content(order: Row) -> dict[str, str]:
    return {name: str(order[name]) for name in ("asset_id", "order_type", "quantity", "price")} | terms_of(order)


def _instant(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def _one_of_each_name(books: Books) -> Findings:
    """Expect at most one order for a user's client order id."""
    names = Counter(
        (order["user_id"], order["client_order_id"])
        for order in books.orders.values()
        if order["client_order_id"] and order["reason_code"] not in {"DUPLICATE_CLIENT_ORDER_ID", "INVALID_ORDER"}
    )
    for (user_id, name), bearers in names.items():
        if bearers > 1:
            yield Finding("doubled", f"{user_id} {name}", f"{bearers} orders bear this client order id")


# The history of one order ---------------------------------------------------------------------------------------------


def _history(order_id: str, order: Row, books: Books) -> Findings:
    """Expect a legal history without a gap, whose moves and entries agree, and which ends at the order's status."""
    version, seq, status = 0, 1, ""
    for row in books.history.get(order_id, []):
        if row["version_from"] != version or row["version_to"] != version + len(row["moves"]):
            yield Finding("history", order_id, f"versions {row['version_from']}-{row['version_to']} follow {version}")
        if row["seq"] != seq:
            yield Finding("history", order_id, f"entry {row['seq']} comes where {seq} should")
        said = [
            f"{entry.get('version')} {entry.get('status')}" for entry in row["entries"] if entry["kind"] == "status"
        ]
        moved = [f"{row['version_from'] + n} {move.partition('>')[2]}" for n, move in enumerate(row["moves"], 1)]
        if said != moved:
            yield Finding("history", order_id, f"its entries say {said}, its moves {moved}")
        for move in row["moves"]:
            before, _, after = move.partition(">")
            if before != status or after not in MOVES.get(before, ()):
                yield Finding("history", order_id, f"{move} comes after {status or 'nothing'}")
            status = after
        version, seq = row["version_to"], row["seq"] + len(row["entries"])
    if (version, status) != (order["version"], order["status"]):
        text = f"its history ends with {status} at {version}, it is {order['status']} at {order['version']}"
        yield Finding("history", order_id, text)


def _told(order_id: str, order: Row, wire: Wire, books: Books) -> Findings:
    """Expect that every event of a version is the same, and as the tables have it."""
    moves = [(move, row["at"]) for row in books.history.get(order_id, []) for move in row["moves"]]
    for version, records in sorted(wire.told.get(order_id, {}).items()):
        if len(set(records)) > 1:
            yield Finding("wire", order_id, f"version {version} was told in {len(set(records))} ways")
        if (records[0].key, records[0].event_id) != (order_id, f"{order_id}:v{version}"):
            yield Finding("wire", order_id, f"version {version} has key {records[0].key}, id {records[0].event_id}")
        event = json.loads(records[0].value)
        if version <= len(moves):
            yield from _as_in_history(order_id, event, *moves[version - 1])
        if version == order["version"]:
            yield from _as_in_row(order_id, event, order)


def _as_in_history(order_id: str, event: dict[str, Any], move: str, at: datetime) -> Findings:
    before, _, after = move.partition(">")
    shown = event["order"]
    told = (event["previous_status"] or "", event["status"], shown["status"], shown["version"], event["order_id"])
    known = (before, after, after, event["version"], order_id)
    if told != known:
        yield Finding("wire", order_id, f"version {event['version']} told {told}, the history says {known}")
    if datetime.fromisoformat(event["occurred_at"]) != at:
        yield Finding("wire", order_id, f"version {event['version']} happened at {event['occurred_at']}, not at {at}")


def _as_in_row(order_id: str, event: dict[str, Any], order: Row) -> Findings:
    shown = event["order"]
    told: dict[str, Any] = {name: shown[name] for name in SHOWN_AS_TEXT} | {"cancelled": shown["cancel_requested"]}
    told |= {name: number(shown[name]) for name in SHOWN_AS_NUMBER}
    told |= {name: datetime.fromisoformat(shown[name]) for name in ("created_at", "updated_at")}
    known: dict[str, Any] = {name: order[name] for name in SHOWN_AS_TEXT} | {"cancelled": order["cancel_requested"]}
    known |= {name: number(order[name]) for name in SHOWN_AS_NUMBER}
    known |= {name: order[name] for name in ("created_at", "updated_at")}
    for name, value in told.items():
        if value != known[name]:
            yield Finding("wire", order_id, f"its last event tells {name} {value}, its row says {known[name]}")
    if event["reason_code"] != order["reason_code"]:
        yield Finding(
            "wire", order_id, f"its last event tells reason {event['reason_code']}, not {order['reason_code']}"
        )


# Money ----------------------------------------------------------------------------------------------------------------


def _effects(order_id: str, order: Row, books: Books) -> Findings:
    """Expect at most one hold, settled for exactly the order's cost or not at all, and one fill if it completed."""
    holds, fills = books.holds.get(order_id, []), books.fills.get(order_id, [])
    if len(holds) > 1:
        yield Finding("doubled", order_id, f"it has {len(holds)} holds")
    if len(fills) > 1:
        yield Finding("doubled", order_id, f"it has {len(fills)} fills")
    yield from (_paid if order["status"] == "COMPLETED" else _unpaid)(order_id, order, holds, fills)


def _unpaid(order_id: str, order: Row, holds: list[Row], fills: list[Row]) -> Findings:
    for hold in holds:
        if hold["state"] in {"HELD", "SETTLED"} or hold["captured"]:
            yield Finding("money", order_id, f"it is {order['status']}, its hold {hold['state']}")
    if any(not fill["busted"] for fill in fills) or order["filled_quantity"]:
        yield Finding("money", order_id, f"it is {order['status']} and has a fill")


def _paid(order_id: str, order: Row, holds: list[Row], fills: list[Row]) -> Findings:
    unit, cost = _cost(order)
    if [("SETTLED", unit, cost)] != [(hold["state"], hold["unit"], number(hold["captured"])) for hold in holds]:
        yield Finding("money", order_id, f"it cost {cost} {unit}, its holds are {holds}")
    if any(hold["amount"] != hold["captured"] + hold["refunded"] for hold in holds):
        yield Finding("money", order_id, f"its hold does not add up: {holds}")
    filled = (number(order["filled_quantity"]), order[AT], _fee(order), False)
    if [filled] != [(*(number(fill[n]) for n in ("quantity", "price", "fee")), fill["busted"]) for fill in fills]:
        yield Finding("money", order_id, f"it should be filled as {filled}, its fills are {fills}")
    shown = (number(order["filled_quantity"]), number(order["average_price"]), number(order["fee"]))
    if (number(order["quantity"]), *filled[1:3]) != shown:
        yield Finding("money", order_id, f"it shows {shown}, wanted were {order['quantity']} {order['asset_id']}")


def _gross(order: Row) -> Fraction:
    """Work out the order's value without the fee, to the cent: rounded up for a buy, down for a sale."""
    exact = Fraction(order["filled_quantity"]) * (order[AT] or Fraction(0))
    return up(exact) if order["order_type"].endswith("_BUY") else Fraction(math.floor(exact * 100), 100)


def _fee(order: Row) -> Fraction:
    return up(Fraction(order["filled_quantity"]) * (order[AT] or Fraction(0)) * FEE_RATE)


def _cost(order: Row) -> tuple[str, Fraction]:
    """Work out what an order takes from its hold: cash with the fee for a buy, the asset for a sale."""
    if order["order_type"].endswith("_BUY"):
        return "USD", _gross(order) + _fee(order)
    return order["asset_id"], Fraction(order["filled_quantity"])


def _legs(order: Row) -> dict[tuple[str, str], Fraction]:
    """Work out what a completed order moves, by account and asset."""
    quantity, gross, fee = Fraction(order["filled_quantity"]), _gross(order), _fee(order)
    sign = 1 if order["order_type"].endswith("_BUY") else -1
    legs = {
        (order["user_id"], order["asset_id"]): sign * quantity,
        ("@market", order["asset_id"]): -sign * quantity,
        (order["user_id"], "USD"): -sign * gross - fee,
        ("@market", "USD"): sign * gross,
        ("@fees", "USD"): fee,
    }
    return {key: amount for key, amount in legs.items() if amount}


def _accounts(record: Record, books: Books) -> Findings:
    """Expect in every account its deposits and what completed orders moved, to the last digit, and nothing held."""
    expected: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for key, amount in record.deposits.items():
        expected[key] += Fraction(amount)
    for order in books.orders.values():
        if order["status"] == "COMPLETED":
            for key, gain in _legs(order).items():
                expected[key] += gain
    actual = {(row["user_id"], row["asset_id"]): row for row in books.accounts}
    for key in sorted({*expected, *actual} - {key for key in expected if key[0].startswith("@")}):
        row = actual.get(key, {"available": 0, "held": 0})
        if row["held"]:
            yield Finding("money", " ".join(key), f"{row['held']} are held, and no order is open")
        elif Fraction(row["available"]) != expected[key]:
            off = Fraction(row["available"]) - expected[key]
            yield Finding("money", " ".join(key), f"{row['available']} are there, which is {float(off):+} off")


def _journal(books: Books) -> Findings:
    """Expect that the journal sums to zero per asset and per entry, with exactly the legs of each completed order."""
    sums: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    booked: dict[str, dict[str, dict[tuple[str, str], Fraction]]] = defaultdict(lambda: defaultdict(dict))
    for line in books.journal:
        amount = Fraction(line["amount"])
        sums["the journal", line["asset_id"]] += amount
        sums[line["entry_id"], line["asset_id"]] += amount
        if line["order_id"] is not None:
            booked[line["order_id"]][line["entry_id"]][line["account"], line["asset_id"]] = amount
    for (name, asset_id), rest in sums.items():
        if rest:
            yield Finding("money", name, f"it sums to {float(rest)} {asset_id}")
    for order_id, entries in booked.items():
        if len(entries) > 1:
            yield Finding("doubled", order_id, f"it was booked {len(entries)} times: {sorted(entries)}")
        if books.orders.get(order_id, {}).get("status") != "COMPLETED":
            yield Finding("money", order_id, f"it was booked, and is {books.orders.get(order_id, {}).get('status')}")
    for order_id, order in books.orders.items():
        if order["status"] == "COMPLETED" and _legs(order) not in booked[order_id].values():
            yield Finding("money", order_id, f"its legs are {_legs(order)}, booked are {dict(booked[order_id])}")


# Unreadable messages --------------------------------------------------------------------------------------------------


def _dead_letters(record: Record, books: Books) -> Findings:
    """Expect one dead letter for each unreadable message, with its bytes, and no other dead letter."""
    places = Counter((row["topic"], row["partition"], row["record_offset"]) for row in books.dead_letters)
    values = {(row["topic"], row["partition"], row["record_offset"]): row["value"] for row in books.dead_letters}
    for place, times in places.items():
        if times > 1:
            yield Finding("doubled", str(place), f"{times} dead letters")
    for one in record.unreadable:
        kept = values.get((one.topic, one.partition, one.offset))
        if kept != one.value:
            yield Finding("lost", f"{one.topic}/{one.partition}@{one.offset}", f"{one.value!r} is kept as {kept!r}")
    known = {one.value for one in record.unreadable} | set(record.unsure)
    for row in books.dead_letters:
        if row["value"] not in known:
            where = f"{row['topic']}/{row['partition']}@{row['record_offset']}"
            yield Finding("invented", where, f"a dead letter of {(row['value'] or b'')[:200]!r}: {row['reason']}")


def ends(books: Books) -> Counter[str]:
    """Count how the orders ended."""
    return Counter(" ".join(filter(None, (order["status"], order["reason_code"]))) for order in books.orders.values())


def types(books: Books) -> Counter[str]:
    """Count how the conditional orders of each type ended."""
    waiting = [order for order in books.orders.values() if terms_of(order)]
    return Counter(f"{order['order_type']} {order['status']}" for order in waiting)
