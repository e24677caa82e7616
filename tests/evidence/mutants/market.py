"""The mutants of conditional orders: of levels, trails, feeds, fires and what rests. See `table`."""

from __future__ import annotations

from typing import Final

from tests.evidence.mutants.mutant import Mutant

MARKET_MUTANTS: Final = (
    Mutant(
        "market: a price at its level does not count",
        "A price at the level reaches it (A3): >=, not >.",
        "order_saga/core/levels.py",
        "return price >= self.price if self.is_up else price <= self.price",
        "return price > self.price if self.is_up else price < self.price",
        ("tests/evidence/simulation/test_market.py::test_a_quote_at_its_level_counts",),
    ),
    Mutant(
        "market: a tick at its level does not fire",
        "A price at the level fires (A3): >=, not >.",
        "order_saga/triggers/book.py",
        "if (up is not None and point.price >= up) or (down is not None and point.price <= down):",
        "if (up is not None and point.price > up) or (down is not None and point.price < down):",
        (
            "tests/order_saga/triggers/test_engine.py::test_batches_fire_what_single_ticks_fire",
            "tests/order_saga/triggers/test_engine.py::test_every_cut_fires_the_same",
        ),
    ),
    Mutant(
        "market: a repetition is a new tick",
        "Only a greater sequence is newer: >, not >=.",
        "order_saga/triggers/feed.py",
        "elif mark is None or tick.sequence > mark.sequence:",
        "elif mark is None or tick.sequence >= mark.sequence:",
        ("tests/order_saga/triggers/test_feed.py::test_a_repetition_renews_the_confirmation_only",),
    ),
    Mutant(
        "market: a live repetition is not judged",
        "A tick that came too late is judged when it is repeated and live.",
        "order_saga/triggers/feed.py",
        "comes_alive = tick.live and not mark.live",
        "comes_alive = False",
        (
            "tests/order_saga/triggers/test_feed.py::test_a_live_repetition_of_a_tick_that_came_too_late_is_judged",
            "tests/evidence/simulation/test_market.py::test_the_repetition_of_a_stale_tick_fires",
        ),
    ),
    Mutant(
        "market: equal peaks are kept",
        "A step that is no better than those after it goes: <=, not <.",
        "order_saga/triggers/path.py",
        "            if better(self._side, step.price, stack.price):\n                break",
        "            if not better(self._side, stack.price, step.price):\n                break",
        ("tests/order_saga/triggers/test_path.py::test_steps_are_the_best_price_since_each_start",),
    ),
    Mutant(
        "market: the mark moves in the first round",
        "The mark moves when all that its ticks fire has fired.",
        "order_saga/triggers/process.py",
        "        if not full:\n            marks = {",
        "        if True:\n            marks = {",
        ("tests/evidence/simulation/test_market.py::test_a_full_round_is_followed_by_the_rest_of_its_ticks",),
    ),
    Mutant(
        "market: the cap is ignored",
        "A BUY stop without a limit pays at most its cap.",
        "order_saga/core/entry.py",
        "if cap is not None and fire.price > cap:",
        "if cap is not None and fire.price > cap + cap:",
        ("tests/evidence/simulation/test_market.py::test_a_gap_above_its_cap_costs_nobody_money",),
    ),
    Mutant(
        "market: a cancel takes no gate",
        "Orders share the gate of their asset before any row, so a cancel and a tick are in one order.",
        "order_saga/worker/market.py",
        "    if assets:\n        await resting_store.share_gates(tx, assets)\n",
        "    if assets:\n",
        ("tests/order_saga/worker/test_market.py::test_a_cancel_waits_for_the_gate_and_takes_the_row_away",),
    ),
    Mutant(
        "market: a row before its gate",
        "No order that rests is locked before the gate of its asset is held.",
        "order_saga/worker/store.py",
        "($4::bool OR NOT EXISTS (SELECT FROM rests_on))",
        "($4::bool OR EXISTS (SELECT) OR NOT EXISTS (SELECT FROM rests_on))",
        ("tests/order_saga/worker/test_market.py::test_no_order_is_locked_before_its_gate_is_held",),
    ),
    Mutant(
        "market: a stale tick fires",
        "A tick that was confirmed too long ago fires nothing.",
        "order_saga/triggers/feed.py",
        "live=tick.trading is Trading.OPEN and now - confirmed(tick) <= age_max",
        "live=tick.trading is Trading.OPEN",
        (
            "tests/order_saga/triggers/test_feed.py::test_a_tick_is_live_for_thirty_seconds",
            "tests/evidence/simulation/test_market.py::test_a_stale_tick_fires_nothing",
        ),
    ),
    Mutant(
        "market: a halted tick fires",
        "A tick of an asset that does not trade fires nothing.",
        "order_saga/triggers/feed.py",
        "live=tick.trading is Trading.OPEN and now - confirmed(tick) <= age_max",
        "live=now - confirmed(tick) <= age_max",
        ("tests/evidence/simulation/test_market.py::test_a_tick_in_a_halt_fires_nothing",),
    ),
    Mutant(
        "market: an expired order fires",
        "A row whose time is over cannot fire, even if nobody has ended its order yet.",
        "order_saga/triggers/store.py",
        '_NOT_EXPIRED: Final = "(expires_at IS NULL OR expires_at > $1)"',
        '_NOT_EXPIRED: Final = "(expires_at IS NULL OR expires_at > $1 OR true)"',
        ("tests/order_saga/triggers/test_store.py::test_an_expired_order_does_not_fire",),
    ),
    Mutant(
        "market: a trail is rounded towards the price",
        "The level of a trailing stop is rounded away from early firing.",
        "order_saga/core/trail.py",
        "return Price(add(floor, tick) if beyond and side is Side.BUY else floor)",
        "return Price(add(floor, tick) if beyond and side is Side.SELL else floor)",
        ("tests/order_saga/core/test_trail.py::test_the_level_that_is_shown_is_the_level_that_fires",),
    ),
    Mutant(
        "market: a tick that could not fire does not count again",
        "An order that rests from a tick which was not live fires by its live repetition.",
        "order_saga/core/entry.py",
        "counted = mark.live or waits_for is None",
        "counted = True",
        ("tests/order_saga/worker/test_market.py::test_a_stale_mark_fires_nothing_but_its_repetition_may",),
    ),
    Mutant(
        "market: a cancel comes before the fire",
        "What a tick has done was committed before, so it comes first.",
        "order_saga/worker/process.py",
        "return [*told, *(one for one in messages if not (isinstance(one, TimerDue) and one.order_id in news))]",
        "return [*(one for one in messages if not (isinstance(one, TimerDue) and one.order_id in news)), *told]",
        ("tests/order_saga/worker/test_market.py::test_a_fire_that_was_committed_comes_first",),
    ),
    Mutant(
        "market: a queue forgets its oldest order",
        "No order of a queue rests from before its bound.",
        "order_saga/triggers/book.py",
        "return {trail: upto + 1 for trail, upto in self.probes}",
        "return {trail: upto + 3 for trail, upto in self.probes}",
        ("tests/order_saga/triggers/test_engine.py::test_batches_fire_what_single_ticks_fire",),
    ),
    Mutant(
        "market: a parked fire is not told",
        "Every version is told, also that of a fire that is written while its order is parked (I9).",
        "order_saga/worker/process.py",
        "        Outbox(SCHEMA).write(tx, events)\n",
        "        Outbox(SCHEMA).write(tx, events[1:])\n",
        (
            "tests/evidence/simulation/test_market.py::test_a_fire_of_an_order_that_is_parked_is_told",
            "tests/order_saga/worker/test_market.py::test_a_poisonous_message_parks_a_fired_order_after_its_fire",
        ),
    ),
)
