"""The mutants of changes of orders that rest: amends, holds and releases. See `table`."""

# ruff: noqa: E501 - a text that is replaced stands here as it is there

from __future__ import annotations

from typing import Final

from tests.evidence.mutants.mutant import Mutant

CHANGE_MUTANTS: Final = (
    Mutant(
        "the raise is asked after the swap",
        "More money is held before new terms count.",
        "order_saga/core/transition.py",
        "    if found is None and needs_more(new):",
        "    if found is not None and needs_more(new):",
        (
            "tests/order_saga/core/test_amend.py::test_more_money_is_held_before_the_new_terms_count",
            "tests/order_saga/core/test_amend.py::test_a_refused_raise_refuses_the_amend",
        ),
    ),
    Mutant(
        "lower before the swap",
        "Less money is held only after the new terms count.",
        "order_saga/core/weighing.py",
        "    return required_hold(new).amount > min((hold.amount, *new.progress.unconfirmed))",
        "    return required_hold(new).amount != min((hold.amount, *new.progress.unconfirmed))",
        ("tests/order_saga/core/test_amend.py::test_less_money_is_held_after_the_new_terms_count",),
    ),
    Mutant(
        "money that may have gone back is counted on",
        "What an unsupported lowering may have returned is not surely held.",
        "order_saga/core/weighing.py",
        "> min((hold.amount, *new.progress.unconfirmed))",
        "> hold.amount",
        ("tests/order_saga/core/test_amend.py::test_money_that_may_have_gone_back_is_not_counted_on",),
    ),
    Mutant(
        "the revision of an answer is not compared",
        "An adjustment's answer names the revision that was asked for.",
        "order_saga/core/judgement.py",
        "pairs += [(message.amount, (asked.amount,)), (message.revision, (asked.revision,))]",
        "pairs += [(message.amount, (asked.amount,))]",
        ("tests/order_saga/core/test_amend.py::test_an_impossible_answer_to_an_adjustment_parks",),
    ),
    Mutant(
        "the revision of a refusal is not compared",
        "A refused adjustment names the revision that was asked for.",
        "order_saga/core/judgement.py",
        "other = isinstance(message, AdjustmentRefused) and message.revision != number",
        "other = False",
        ("tests/order_saga/core/test_amend.py::test_an_impossible_answer_to_an_adjustment_parks",),
    ),
    Mutant(
        "an amend keeps the old sequence",
        "New terms never fire at a tick from before they counted.",
        "order_saga/core/weighing.py",
        "rest if not waits_for or _keeps_its_place(saga, new) else _from_mark(mark, now)",
        "rest",
        ("tests/order_saga/core/test_amend.py::test_an_order_keeps_its_place_only_if_it_asks_no_more_of_the_market",),
    ),
    Mutant(
        "release keeps the old sequence",
        "A released order is accepted anew: prices from before do not count.",
        "order_saga/core/weighing.py",
        "    return Judged(None, _from_mark(mark, now))",
        "    return Judged(None, rest)",
        ("tests/order_saga/core/test_suspend.py::test_a_released_order_is_accepted_anew",),
    ),
    Mutant(
        "a price from before the order fires its new terms",
        "No order is judged by a price that is older than its quote.",
        "order_saga/core/entry.py",
        "    if mark is not None and mark.sequence >= quote.sequence:",
        "    if mark is not None:",
        (
            "tests/order_saga/core/test_amend.py::test_no_price_from_before_the_order_counts_for_its_amend",
            "tests/order_saga/core/test_suspend.py::test_no_price_from_before_the_order_counts_for_its_release",
        ),
    ),
    Mutant(
        "an operator's hold is released by its user",
        "What an operator has suspended only an operator releases.",
        "order_saga/core/changes.py",
        "    if suspended is None or not _is_operator(suspended.requested_by) or _is_operator(message.requested_by):",
        "    if suspended is None or message.requested_by == saga.user_id or _is_operator(message.requested_by):",
        ("tests/order_saga/core/test_suspend.py::test_only_an_operator_releases_what_an_operator_has_suspended",),
    ),
    Mutant(
        "a hold that changes nothing is forgotten",
        "Of two wishes of one requester the later counts, also when it changed nothing.",
        "order_saga/core/changes.py",
        "    if message.requested_at is None:\n        return Ignored(why, name, detail)",
        "    if message.requested_at is not None:\n        return Ignored(why, name, detail)",
        ("tests/order_saga/core/test_suspend.py::test_a_release_that_was_held_up_does_not_undo_a_later_hold",),
    ),
    Mutant(
        "a trailing stop is released beyond its hold",
        "No order is released where no fire could be filled.",
        "order_saga/core/weighing.py",
        "saga.side is Side.BUY and level > most:",
        "saga.side is Side.BUY and level > most + most:",
        ("tests/order_saga/core/test_suspend.py::test_no_trailing_stop_is_released_where_no_fire_could_be_filled",),
    ),
    Mutant(
        "a trailing stop on hold moves on",
        "On hold no tick moves an order.",
        "order_saga/core/changes.py",
        "        rest=_stands_still(draft),",
        "        rest=draft.saga.progress.rest,",
        ("tests/order_saga/core/test_suspend.py::test_a_trailing_stop_on_hold_stands_still",),
    ),
    Mutant(
        "a hold that was held up undoes a release",
        "Of two wishes of one requester the later counts.",
        "order_saga/core/changes.py",
        "if asked_at < known.requested_at else None",
        "if asked_at > known.requested_at else None",
        ("tests/order_saga/core/test_suspend.py::test_a_hold_that_was_held_up_does_not_undo_a_later_release",),
    ),
    Mutant(
        "a repeated amend counts twice",
        "An amend counts once, also after later ones.",
        "order_saga/core/changes.py",
        "    if message.amend_id in known:",
        "    if known and message.amend_id == known[-1]:",
        (
            "tests/order_saga/core/test_amend.py::test_a_repeated_amend_is_a_duplicate_also_after_later_ones",
            "tests/order_saga/core/test_amend.py::test_an_order_is_amended_a_hundred_times",
        ),
    ),
    Mutant(
        "a fire leaves the amend open",
        "What ends an order's rest refuses its open amend as too late.",
        "order_saga/core/transition.py",
        "    if draft.saga.progress.amending is None:\n        return False\n",
        "    return False\n",
        ("tests/order_saga/core/test_amend.py::test_what_ends_the_rest_comes_before_an_open_amend",),
    ),
    Mutant(
        "an amend in a pause is asked about",
        "An answer to an earlier question of its kind does not answer a new one.",
        "order_saga/core/asking.py",
        "    for question in asked:  # all are open before anybody is asked: who answered one like it needs not have answered it\n        draft.put(question)\n    if paused := paused_for(draft):\n        hold_back(draft, paused)\n        return\n",
        "    if paused := paused_for(draft):\n        for question in asked:\n            draft.put(question)\n        hold_back(draft, paused)\n        return\n",
        ("tests/order_saga/core/test_amend.py::test_a_second_amend_is_not_asked_about_in_a_pause",),
    ),
)
