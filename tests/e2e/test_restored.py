"""The judge of a restored system finds every fault that is planted, and none in a system that is well."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from tests.e2e.restored import Facts, judge, merged
from tests.evidence.chaos.books import Books

BOUGHT, FAILED, RESTS = "a-buy", "a-failed-one", "one-that-rests"


def well() -> Facts:
    """Make a small system that is well: an order of each kind, each version told, the last one twice."""
    told = {
        BOUGHT: _versions(BOUGHT, "PENDING", "CONFIRMED", "PROCESSING", "COMPLETED"),
        FAILED: _versions(FAILED, "PENDING", "FAILED"),
        RESTS: _versions(RESTS, "PENDING", "CONFIRMED"),
    }
    orders = {order_id: _row(versions) for order_id, versions in told.items()}
    holds = {BOUGHT: [_hold(BOUGHT, "SETTLED")], FAILED: [_hold(FAILED, "REFUNDED")], RESTS: [_hold(RESTS, "HELD")]}
    accounts = [_account("USD", "949.45", "50.05"), _account("ACME", "5", "0")]
    legs = [
        ("ann", "ACME", 2),
        ("@market", "ACME", -2),
        ("ann", "USD", "-40.04"),
        ("@market", "USD", 40),
        ("@fees", "USD", "0.04"),
    ]
    journal = [_line(f"{BOUGHT}:settle", BOUGHT, *leg) for leg in legs]
    journal += [_line("d1", None, "ann", "USD", "1039.54"), _line("d1", None, "@external", "USD", "-1039.54")]
    journal += [_line("d2", None, "ann", "ACME", 3), _line("d2", None, "@external", "ACME", -3)]
    books = Books(orders, set(), {}, holds, {}, accounts, journal, {}, [], {"orders": 0, "balances": 0})
    paid_in = {("ann", "USD"): Fraction("1039.54"), ("ann", "ACME"): Fraction(3)}
    return Facts(merged(told, told), merged(told), frozenset(told), books, paid_in)


def _versions(order_id: str, *statuses: str) -> dict[int, list[Any]]:
    return {version: [_event(order_id, version, statuses)] for version in range(1, len(statuses) + 1)}


def _event(order_id: str, version: int, statuses: tuple[str, ...]) -> Any:
    filled = "PROCESSING" in statuses[:version]
    return {
        "order_id": order_id,
        "version": version,
        "status": statuses[version - 1],
        "previous_status": statuses[version - 2] if version > 1 else None,
        "reason_code": "TIMED_OUT" if statuses[version - 1] == "FAILED" else None,
        "occurred_at": f"at {version}",
        "order": {
            "order_id": order_id,
            "user_id": "ann",
            "asset_id": "ACME",
            "order_type": "MARKET_BUY",
            "status": statuses[version - 1],
            "filled_quantity": "2" if filled else "0",
            "average_price": "20" if filled else None,
            "fee": "0.04" if filled else "0",
            "updated_at": f"at {version}",
        },
    }


def _row(versions: dict[int, list[Any]]) -> dict[str, Any]:
    newest = max(versions)
    event = versions[newest][0]
    row = {name: event["order"][name] for name in ("filled_quantity", "average_price", "fee")}
    row |= {name: None if value is None else Decimal(value) for name, value in row.items()}
    phase = "WORKING" if event["status"] == "CONFIRMED" else event["status"]
    return row | {"version": newest, "status": event["status"], "phase": phase, "reason_code": event["reason_code"]}


def _hold(order_id: str, state: str) -> dict[str, Any]:
    return {"order_id": order_id, "owner": "ann", "unit": "USD", "amount": Decimal("50.05"), "state": state}


def _account(asset_id: str, available: str, held: str) -> dict[str, Any]:
    return {"user_id": "ann", "asset_id": asset_id, "available": Decimal(available), "held": Decimal(held)}


def _line(entry_id: str, order_id: str | None, account: str, asset_id: str, amount: object) -> dict[str, Any]:
    names = ("entry_id", "order_id", "account", "asset_id", "amount")
    return dict(zip(names, (entry_id, order_id, account, asset_id, Decimal(str(amount))), strict=True))


def test_a_system_that_is_well_has_no_finding() -> None:
    """Events that are told twice with another time are fine, and so is an order that rests."""
    facts = well()
    again = copy.deepcopy(facts.told[BOUGHT][4][0])
    again["occurred_at"] = again["order"]["updated_at"] = "later"
    facts.told[BOUGHT][4].append(again)
    assert [] == judge(facts)


def _forget(facts: Facts) -> None:
    del facts.books.orders[FAILED], facts.books.holds[FAILED], facts.now[FAILED]


def _order(order_id: str, **fields: object) -> Callable[[Facts], None]:
    return lambda facts: facts.books.orders[order_id].update(fields)


def _told_otherwise(facts: Facts) -> None:
    again = copy.deepcopy(facts.told[BOUGHT][4][0])
    again["order"]["average_price"] = "21"
    facts.told[BOUGHT][4].append(again)


def _told_after_the_end(facts: Facts) -> None:
    event = _event(FAILED, 3, ("PENDING", "FAILED", "CANCELLED"))
    for life in (facts.told, facts.now):
        life[FAILED][3] = [event]
    facts.books.orders[FAILED]["version"] = 3


def _doubled(facts: Facts) -> None:
    lines = [line | {"entry_id": "again"} for line in facts.books.journal if line["order_id"] == BOUGHT]
    facts.books.journal.extend(lines)
    facts.books.accounts[0]["available"] -= Decimal("40.04")
    facts.books.accounts[1]["available"] += 2


def _entry_without_an_end(facts: Facts) -> None:
    for line in facts.books.journal:
        line["order_id"] = RESTS if line["order_id"] == BOUGHT else line["order_id"]


def _one_cent(facts: Facts) -> None:
    facts.books.accounts[0]["available"] += Decimal("0.01")


def _one_cent_booked(facts: Facts) -> None:
    for line in facts.books.journal:
        if line["order_id"] == BOUGHT and line["asset_id"] == "USD":
            line["amount"] += {"ann": Decimal("0.01"), "@market": Decimal("-0.01")}.get(line["account"], 0)


def _unbalanced(facts: Facts) -> None:
    facts.books.journal[-1]["amount"] += 1


def _held_for_nobody(facts: Facts) -> None:
    facts.books.accounts[0]["held"] += 1
    facts.books.accounts[0]["available"] -= 1


FAULTS: dict[str, tuple[Callable[[Facts], object], str]] = {
    "an order that was told is gone": (_forget, "there is no such order"),
    "an order is at an older version": (_order(RESTS, version=1), "it was told up to version 2, and is at 1"),
    "an end is another one": (_order(FAILED, reason_code="STALE_PRICE"), "it was told as"),
    "an end has another version": (_order(FAILED, version=3), "it was told as"),
    "a fill has another price": (_order(BOUGHT, average_price=Decimal(21)), "it was told as"),
    "an end was undone": (_order(FAILED, status="PENDING", phase="VALIDATING"), "it was told as"),
    "a version was told in two ways": (_told_otherwise, "version 4 was told in several ways"),
    "something was told after the end": (_told_after_the_end, "version 3 is CANCELLED after"),
    "the topic lacks the newest version": (lambda facts: facts.now[BOUGHT].pop(4), "the topic has [1, 2, 3]"),
    "the topic lacks an order": (lambda facts: facts.now.pop(RESTS), "the topic has []"),
    "the topic says another status": (
        lambda facts: facts.now[RESTS][2][0].update(status="CANCELLED"),
        "the topic says CANCELLED",
    ),
    "an order never ends": (_order(RESTS, phase="RESERVING"), "it never ended"),
    "an event was never sent": (lambda facts: facts.books.unsent.update(orders=1), "1 rows were never sent"),
    "an order was booked twice": (_doubled, "it has 2 entries"),
    "an order was booked that is open": (_entry_without_an_end, "it has 1 entries"),
    "an account has a cent too much": (_one_cent, "are there, it should be"),
    "a cent too little was booked": (_one_cent_booked, "its legs should be"),
    "the journal does not balance": (_unbalanced, "it sums to 1"),
    "money is held for nobody": (_held_for_nobody, "are held, its holds sum to"),
    "an order that has ended holds money": (
        lambda facts: facts.books.holds[FAILED][0].update(state="HELD"),
        "it is FAILED, and a hold is",
    ),
    "an open order holds nothing": (
        lambda facts: facts.books.holds[RESTS][0].update(state="REFUNDED"),
        "it is CONFIRMED, and no hold is",
    ),
    "a completed order has not paid": (
        lambda facts: facts.books.holds[BOUGHT][0].update(state="REFUNDED"),
        "its holds are ['REFUNDED']",
    ),
}
"""What is planted, and what is said of it."""


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    """What is planted is found by its rule; without it there is no finding."""
    facts = well()
    plant, words = FAULTS[fault]
    plant(facts)
    assert [one.text for one in judge(facts) if words in one.text], [str(one) for one in judge(facts)]


def test_an_accepted_request_that_is_no_order_is_found() -> None:
    """Of a request that nobody read, nothing is told; it is missing all the same."""
    facts = well()
    assert ["lost"] == [one.kind for one in judge(facts._replace(accepted=facts.accepted | {"unread"}))]
