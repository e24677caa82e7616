"""The mutants of the queue and of sessions: of what waits for an opening, of calendars, and of DAY. See `table`."""

from __future__ import annotations

from typing import Final

from tests.evidence.mutants.mutant import Mutant

_QUEUE: Final = "tests/order_saga/core/test_queue.py::"
_SESSIONS: Final = "tests/participants/assets/test_sessions.py::"
_STORE: Final = "tests/participants/assets/test_session_store.py::"

SESSION_MUTANTS: Final = (
    Mutant(
        "queue: the opening on the way in is not seen",
        "An opening that came before the order could rest fires it (A4).",
        "order_saga/core/entry.py",
        "    if mark.live:\n        return Entered(Entry.FILLS, fire",
        "    if False:\n        return Entered(Entry.FILLS, fire",
        (f"{_QUEUE}test_an_opening_on_the_way_in_fires_it_at_once",),
    ),
    Mutant(
        "queue: holds what the last price costs",
        "A queued buy holds its price and its slippage (A5), not the price of a closed market.",
        "order_saga/core/levels.py",
        "        if quote.is_open:\n            return quote.price",
        "        if quote.price:\n            return quote.price",
        (f"{_QUEUE}test_the_hold_of_a_queued_buy_is_what_it_pays_at_worst",),
    ),
    Mutant(
        "queue: a sell takes any opening price",
        "Beyond its slippage a queued order fails (A11), whichever side.",
        "order_saga/core/levels.py",
        "    if saga.price is None or saga.slippage_bps is None:\n",
        "    if True:\n",
        (f"{_QUEUE}test_the_opening_price_may_be_worse_by_the_slippage_and_no_more",),
    ),
    Mutant(
        "queue: a row that a price could fire",
        "A queued row is found by the opening alone.",
        "order_saga/worker/resting_store.py",
        "    queued = saga.order_type is not None and saga.order_type.kind is OrderKind.MARKET\n",
        "    queued = False\n",
        ("tests/order_saga/worker/test_market.py::test_a_market_order_queues_by_its_row",),
    ),
    Mutant(
        "queue: it waits for ever",
        "Without an end of its own it ends after 30 days.",
        "order_saga/core/entry.py",
        "    return now + EXPIRES_WITHIN if terms.time_in_force is TimeInForce.GTD else None",
        "    return None",
        (f"{_QUEUE}test_without_an_end_of_its_own_it_waits_thirty_days",),
    ),
    Mutant(
        "queue: the price of a closed market must be fresh",
        "Nobody confirms the price of a closed market, and nobody who waits is refused for that.",
        "participants/assets/rules.py",
        "    waits = command.queue_when_closed and quote.trading is not Trading.OPEN\n",
        "    waits = False\n",
        ("tests/participants/assets/test_resting_rules.py::test_the_price_of_a_closed_market_is_old_by_nature",),
    ),
    Mutant(
        "day: no session is no end",
        "An asset without sessions refuses a DAY order.",
        "order_saga/core/entry.py",
        "    if terms.time_in_force is TimeInForce.DAY and quote.session_ends_at is None:",
        "    if False:",
        (f"{_QUEUE}test_an_asset_without_sessions_refuses_a_day_order_by_name",),
    ),
    Mutant(
        "day: its end is not stored",
        "The row that is ended by the clock has the session's end.",
        "order_saga/worker/resting_store.py",
        "return *trail, saga.expires_at, *stands_at",
        "return *trail, terms.expires_at, *stands_at",
        ("tests/order_saga/worker/test_market.py::test_a_day_order_has_the_end_of_its_session_in_its_row",),
    ),
    Mutant(
        "sessions: a skipped time is an hour late",
        "A time that the clock skips is the moment of the skip.",
        "participants/assets/sessions.py",
        "    while after - before > timedelta(seconds=1):",
        "    while after < before:",
        (f"{_SESSIONS}test_a_time_that_is_skipped_is_the_skip_and_one_that_comes_twice_its_first",),
    ),
    Mutant(
        "sessions: the night's session is forgotten at midnight",
        "A session may have begun the day before.",
        "participants/assets/sessions.py",
        ".date() - timedelta(days=2)",
        ".date()",
        (f"{_SESSIONS}test_an_asset_is_open_when_the_clock_on_the_wall_says_so",),
    ),
    Mutant(
        "sessions: the calendar lifts a halt",
        "A halt is a person's; the calendar never touches it.",
        "participants/assets/sessions.py",
        "    if trading is Trading.HALTED or (trading",
        "    if (trading",
        (f"{_SESSIONS}test_whose_word_counts", f"{_STORE}test_a_halt_wins_over_the_calendar"),
    ),
    Mutant(
        "sessions: followed without a plan",
        "The next look is planned with what was done, so that nothing is done twice.",
        "participants/assets/session_store.py",
        "stands.changes_at or now + LOOK_AGAIN)\n            if (goes_to",
        "now)\n            if (goes_to",
        (f"{_STORE}test_an_asset_closes_and_opens_with_its_sessions",),
    ),
)  # fmt: skip
