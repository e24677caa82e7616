"""Checks from outside that every cent is where it belongs: by the deposits, the published events and the audit views.

It computes the effect of each order itself, in fractions and whole cents, with none of the system's arithmetic.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from tests.e2e.system import System, eventually
from tests.e2e.trader import ENDED, Trader

PRICES = {"BTC": Fraction(50_000), "ETH": Fraction(2_500), "ACME": Fraction(20), "SLOW": Fraction(10)}
"""What the sample assets cost, in USD. A conditional order fills at the tick that fires it, as its own test checks."""
FEE_RATE = Fraction(10, 10_000)
LEGAL = {
    (): {"PENDING"},
    ("PENDING",): {"PENDING", "CONFIRMED", "CANCELLED", "FAILED"},
    ("CONFIRMED",): {"CONFIRMED", "PROCESSING", "CANCELLED", "FAILED"},
    ("PROCESSING",): {"COMPLETED", "FAILED"},
}
"""Which statuses may follow the earlier one. PENDING after PENDING means that a cancel was requested; CONFIRMED after
CONFIRMED means that of an order that rests, or that it was triggered."""

Effect = dict[tuple[str, str], Fraction]


async def assert_all_is_well(system: System, trader: Trader) -> None:
    """Fail unless every accepted order ended, all its versions were published, and every account adds up."""
    ids = set(trader.accepted)
    await trader.ended(ids)
    await eventually(lambda: _all_versions_were_told(system, ids), "each version of each order is told on the wire")
    assert [] == [fault for order_id in sorted(ids) for fault in story_faults(system, order_id)]
    assert expected_accounts(system, ids) == await accounts(system)
    assert [] == [dict(row) for row in await system.rows(_MONEY_FAULTS)]
    assert [] == await system.audit()


def story_faults(system: System, order_id: str) -> list[str]:
    """List what is wrong with the published events of an order: versions, status changes, repeats, sums."""
    seen = system.events.versions(order_id)
    faults = [f"{order_id}: versions {sorted(seen)}"] if sorted(seen) != list(range(1, len(seen) + 1)) else []
    faults += [f"{order_id}: version {v} was told in two ways" for v, b in seen.items() if any(x != b[0] for x in b)]
    told = system.events.of(order_id)
    before: tuple[str, ...] = ()
    for event in told:
        if event["status"] not in LEGAL.get(before, set()) or (event["previous_status"],) != (*before, None)[:1]:
            faults.append(f"{order_id}: {event['status']} after {before}")
        before = (event["status"],)
    if not told or told[-1]["status"] not in ENDED:
        faults.append(f"{order_id}: no end was told")
    elif told[-1]["status"] == "COMPLETED" and Fraction(told[-1]["order"]["fee"]) != fee_of(told[-1]["order"]):
        faults.append(f"{order_id}: the fee is {told[-1]['order']['fee']}")
    return faults


def expected_accounts(system: System, order_ids: Iterable[str]) -> Effect:
    """Add up what every account must hold: its deposits and the effects of orders published as COMPLETED."""
    sums: Effect = defaultdict(Fraction, {key: Fraction(amount) for key, amount in system.deposits.items()})
    for order_id in order_ids:
        last = system.events.of(order_id)[-1]
        if last["status"] == "COMPLETED":
            for key, amount in effect_of(last["order"]).items():
                sums[key] += amount
    return {key: amount for key, amount in sums.items() if amount}


def effect_of(order: Any) -> Effect:
    """Work out what a completed order does to its user's accounts."""
    user, asset, quantity = order["user_id"], order["asset_id"], Fraction(order["filled_quantity"])
    gross = quantity * Fraction(order["average_price"])
    if order["order_type"].endswith("_BUY"):
        return {(user, asset): quantity, (user, "USD"): -_up(gross) - fee_of(order)}
    return {(user, asset): -quantity, (user, "USD"): _down(gross) - fee_of(order)}


def fee_of(order: Any) -> Fraction:
    """Work out the fee, rounded up to the cent."""
    conditional = not order["order_type"].startswith("MARKET_")
    price = Fraction(order["average_price"]) if conditional else PRICES[order["asset_id"]]
    return _up(Fraction(order["filled_quantity"]) * price * FEE_RATE)


async def accounts(system: System) -> Effect:
    """Read what every account holds; nothing may be held for an order any more."""
    rows = await system.rows("SELECT user_id, asset_id, available, held FROM audit.accounts")
    assert [] == [dict(row) for row in rows if row["held"]]
    return {(row["user_id"], row["asset_id"]): Fraction(row["available"]) for row in rows if row["available"]}


async def _all_versions_were_told(system: System, order_ids: set[str]) -> bool:
    rows = await system.rows(
        "SELECT order_id, version FROM audit.orders WHERE order_id = ANY($1::uuid[])", list(order_ids)
    )
    return all(len(system.events.versions(str(row["order_id"]))) == row["version"] for row in rows)


def _up(amount: Fraction) -> Fraction:
    return Fraction(math.ceil(amount * 100), 100)


def _down(amount: Fraction) -> Fraction:
    return Fraction(math.floor(amount * 100), 100)


_MONEY_FAULTS = """
    SELECT 'the journal of ' || asset_id || ' sums to ' || sum(amount) AS fault FROM audit.journal
    GROUP BY asset_id HAVING sum(amount) <> 0
    UNION ALL
    SELECT 'entry ' || entry_id || ' sums to ' || sum(amount) FROM audit.journal
    GROUP BY entry_id, asset_id HAVING sum(amount) <> 0
    UNION ALL
    SELECT 'hold ' || hold_id || ' is ' || state FROM audit.holds WHERE state = 'HELD' OR captured + refunded <>
        CASE WHEN state IN ('SETTLED', 'REFUNDED') THEN amount ELSE 0 END OR captured > amount
    UNION ALL
    SELECT 'order ' || o.order_id || ' is ' || o.status || ', its hold ' || coalesce(h.state, 'missing')
    FROM audit.orders o LEFT JOIN audit.holds h USING (order_id)
    WHERE (o.status = 'COMPLETED') <> (h.state IS NOT DISTINCT FROM 'SETTLED')"""
"""Entries that do not balance, holds that are active or do not add up, orders whose hold does not fit their end."""
