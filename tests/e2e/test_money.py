"""Money is right to the cent: sums follow the rules, splitting gains nothing, two orders can't spend one balance."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from tests.e2e.checker import assert_all_is_well, effect_of
from tests.e2e.orders import COMPLETED, HOLDINGS, buy, sell
from tests.e2e.system import System
from tests.e2e.trader import Trader

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_the_example_of_the_rules_to_the_cent(system: System, trader: Trader) -> None:
    """A sale of 0.00100001 BTC at 50,000 yields 50.00, fee 0.06, credit 49.94; the entry sums to zero per asset."""
    [order_id] = await trader.produce(sell("alice", "BTC", "0.00100001"))
    assert {order_id: COMPLETED} == await trader.ended([order_id])
    lines = await system.rows("SELECT account, asset_id, amount FROM audit.journal WHERE order_id = $1::uuid", order_id)
    assert {
        ("alice", "BTC", Fraction("-0.00100001")),
        ("@market", "BTC", Fraction("0.00100001")),
        ("alice", "USD", Fraction("49.94")),
        ("@fees", "USD", Fraction("0.06")),
        ("@market", "USD", Fraction(-50)),
    } == {(row["account"], row["asset_id"], Fraction(row["amount"])) for row in lines}


async def test_rounding_composes_and_splitting_gains_nothing(system: System, trader: Trader) -> None:
    """Named test 7: a purchase split in two costs at least as much, and a sale split in two brings no more."""
    await system.endow(["whole", "split"], HOLDINGS)
    rng = random.Random(7)  # noqa: S311 - a test's dice must fall alike each time
    trials: dict[str, tuple[str, str]] = {}
    for make in (buy, sell) * 20:
        parts = [rng.randrange(100_000, 1_000_000) for _ in range(2)]
        whole, *halves = (f"0.{units:08d}" for units in (sum(parts), *parts))
        trials[(await trader.produce(make("whole", "BTC", whole)))[0]] = tuple(  # type: ignore[assignment]
            await trader.produce(*(make("split", "BTC", half) for half in halves))
        )
    ids = [order_id for whole_id, half_ids in trials.items() for order_id in (whole_id, *half_ids)]
    assert dict.fromkeys(ids, COMPLETED) == await trader.ended(ids)
    gained = [_cash(system, *half_ids) - _cash(system, whole_id) for whole_id, half_ids in trials.items()]
    assert [] == [amount for amount in gained if amount > 0]
    assert any(gained)
    await assert_all_is_well(system, trader)


async def test_two_orders_at_once_on_an_account_that_covers_one(system: System, trader: Trader) -> None:
    """Named test 10: one of the two orders completes with the whole balance, the other is refused, without deadlock."""
    users = await system.endow([f"thin-{number}" for number in range(40)], {"USD": "20.02"})
    wanted = [buy(user, "ACME", "1", ends="COMPLETED or refused") for user in users for _ in range(2)]
    ends = await trader.ended(await trader.trade(wanted))
    by_user = {
        user: sorted(end for order_id, end in ends.items() if trader.accepted[order_id].user_id == user)
        for user in users
    }
    assert {user: [COMPLETED, "FAILED INSUFFICIENT_BALANCE"] for user in users} == by_user
    rows = await system.rows("SELECT asset_id, available FROM audit.accounts WHERE user_id = ANY($1::text[])", users)
    assert {("USD", 0), ("ACME", 1)} == {(row["asset_id"], row["available"]) for row in rows}
    assert [(0,)] == [tuple(row) for row in await system.owner_rows(DEADLOCKS)]
    await assert_all_is_well(system, trader)


DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def _cash(system: System, *order_ids: str) -> Fraction:
    """Work out what completed orders did to their user's cash."""
    orders = [system.events.of(order_id)[-1]["order"] for order_id in order_ids]
    return sum((effect_of(order)[order["user_id"], "USD"] for order in orders), Fraction(0))
