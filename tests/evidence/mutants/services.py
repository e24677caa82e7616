"""The mutants of the participants, the REST API, the operations and the contracts. See `table`."""

from __future__ import annotations

from typing import Final

from tests.evidence.mutants.mutant import Mutant

SERVICES_MUTANTS: Final = (
    Mutant(
        "checks before the price source",
        "After an outage the source confirms first.",
        "participants/assets/service.py",
        "        if await self._catch_up():",
        "        if False:",
        ("tests/participants/assets/test_asset_service.py::test_after_an_outage_the_source_comes_first",),
    ),
    Mutant(
        "raise not covered",
        "A raise of a hold that the available balance does not cover is refused.",
        "participants/balance/ledger.py",
        "        if account is not None and account.available < delta:",
        "        if account is not None and account.available < ZERO:",
        (
            "tests/participants/balance/test_adjustments.py::test_two_raises_of_one_account_at_once_do_not_overdraw",
            "tests/participants/balance/test_balance_money.py::test_any_script_ends_as_in_the_model",
        ),
    ),
    Mutant(
        "remainder not returned",
        "What is not captured returns to its owner.",
        "participants/balance/ledger.py",
        "available=subtract(hold.amount, message.capture), held=negate(hold.amount)",
        "available=ZERO, held=negate(hold.amount)",
        (
            "tests/saga_kit/participant/test_barrier_table.py::test_the_remainder_is_exact_at_36_digits",
            "tests/participants/balance/test_balance_money.py::test_any_script_ends_as_in_the_model",
        ),
    ),
    Mutant(
        "overdraft",
        "A sum that is missing is refused; nothing is clamped.",
        "participants/balance/ledger.py",
        "        if available < command.amount:",
        "        if available < ZERO:",
        (
            "tests/participants/balance/test_balance_concurrency.py::test_two_orders_on_one_account_at_once_do_not_overdraw",
            "tests/participants/balance/test_balance_money.py::test_any_script_ends_as_in_the_model",
        ),
    ),
    Mutant(
        "one side of the entry",
        "Every leg has its opposite: an entry sums to zero per asset.",
        "participants/balance/ledger.py",
        "for key, gain in (((account, asset_id), amount), ((against, asset_id), negate(amount))):",
        "for key, gain in (((account, asset_id), amount),):",
        (
            "tests/participants/balance/test_balance_money.py::test_a_settlement_is_one_entry_with_both_sides_of_everything",
        ),
    ),
    Mutant(
        "lock order dropped",
        "Every transaction locks accounts in the same order, so that there is no deadlock.",
        "participants/balance/store.py",
        "ORDER BY account.user_id, account.asset_id\nFOR UPDATE OF account",
        "FOR UPDATE OF account",
        ("tests/participants/balance/test_balance_concurrency.py::test_accounts_are_locked_in_their_order",),
    ),
    Mutant(
        "a stale price approved",
        "An asset whose source does not stand by its price is refused.",
        "participants/assets/rules.py",
        "return not waits and now - quote.confirmed_at > stale_after\n",
        "return not waits and now < quote.as_of\n",
        (
            "tests/participants/assets/test_asset_rules.py::test_a_price_counts_for_as_long_as_its_source_confirms_it",
            "tests/participants/assets/test_asset_service.py::test_a_dead_source_is_stale_from_the_start_and_for_ever",
        ),
    ),
    Mutant(
        "step not checked",
        "A quantity must lie on the asset's step.",
        "participants/assets/rules.py",
        "    if not is_multiple(command.quantity, asset.step):",
        "    if not is_multiple(command.quantity, command.quantity):",
        ("tests/participants/assets/test_asset_rules.py::test_objections_come_in_their_order",),
    ),
    Mutant(
        "another intent under a known key",
        "The same intent is the same order; another under the same key is refused.",
        "order_api/orders/service.py",
        "    if first.intent != claim.intent:",
        '    if first.intent == "":',
        ("tests/order_api/orders/test_idempotency.py::test_the_same_key_with_another_intent_is_refused",),
    ),
    Mutant(
        "claims not unique",
        "Twins that submit at the same instant with one key make one order.",
        "order_api/orders/store.py",
        "        ORDER BY n.user_id, n.idempotency_key, n.client_order_id\n        ON CONFLICT DO NOTHING\n",
        "        ORDER BY n.user_id, n.idempotency_key, n.client_order_id\n",
        (
            "tests/order_api/orders/test_idempotency.py::test_twins_at_the_same_instant_make_one_order",
            "tests/order_api/orders/test_idempotency.py::test_the_same_key_and_intent_give_the_same_order_again",
        ),
    ),
    Mutant(
        "sweeper publishes nothing",
        "What was accepted is published until the orchestrator shows it.",
        "order_api/orders/publication/sweeper.py",
        "[*lost, *unsure[:UNSURE_MAX]], unsure[UNSURE_MAX:]",
        "[], unsure",
        ("tests/order_api/orders/publication/test_publication.py::test_a_claim_that_nobody_published_is_published",),
    ),
    Mutant(
        "sweeper repeats a queue",
        "What waits in a long queue is not published into it again.",
        "order_api/orders/publication/sweeper.py",
        "UNSURE_MAX: Final = 100",
        "UNSURE_MAX: Final = 100_000",
        ("tests/order_api/orders/publication/test_publication.py::test_a_queue_is_not_made_longer",),
    ),
    Mutant(
        "audit believes a refund of what is held",
        "An order that has ended holds nothing (I3).",
        "operations/audit/order_checks.py",
        "\"o.status IN ('CANCELLED', 'FAILED') AND h.state IN ('HELD', 'SETTLED')\"",
        "\"o.status IN ('CANCELLED', 'FAILED') AND h.state = 'SETTLED'\"",
        ("tests/operations/audit/test_audit.py::test_a_planted_fault_is_found_by_its_order",),
    ),
    Mutant(
        "audit believes one look",
        "What looks wrong is a finding only when a second look agrees.",
        "operations/audit/look.py",
        "    return [suspect for suspect in again if (suspect.check, suspect.key) in before]",
        "    return again",
        ("tests/operations/audit/test_audit.py::test_what_each_look_sees_anew_is_no_finding",),
    ),
)
