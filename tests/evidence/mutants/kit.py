"""The mutants of the kit: batches, outbox, messages and the barrier of participants. See `table`."""

# ruff: noqa: E501 - a text that is replaced stands here as it is there

from __future__ import annotations

from typing import Final

from tests.evidence.mutants.mutant import Mutant

KIT_MUTANTS: Final = (
    Mutant(
        "locked key among the others",
        "What belongs to a key of which a row is locked is tried after the others, and for a moment only.",
        "saga_kit/messaging/batch.py",
        "        free, locked = self._locked.split(messages)",
        "        free, locked = messages, None",
        ("tests/saga_kit/messaging/test_locked_rows.py::test_a_key_that_is_known_to_be_locked_delays_no_other_key",),
    ),
    Mutant(
        "locked request dropped",
        "A message that nobody says again is read again from its topic.",
        "saga_kit/messaging/batch.py",
        "        return message.record is None or self._comes_again(message.message)",
        "        return True",
        ("tests/saga_kit/messaging/test_locked_rows.py::test_a_message_that_nobody_sends_again_is_read_again",),
    ),
    Mutant(
        "tombstone skipped",
        "A refund of what was never reserved leaves a tombstone, so that a late reservation finds its end.",
        "saga_kit/participant/barrier.py",
        "(CommandKind.REFUND, None): HoldAction.BURY",
        "(CommandKind.REFUND, None): HoldAction.OPEN",
        (
            "tests/saga_kit/participant/test_barrier_table.py::test_each_cell_is_the_protocols",
            "tests/participants/balance/test_barrier_orders.py::test_every_order_of_arrival_has_the_end_of_the_table",
        ),
    ),
    Mutant(
        "commands of before the ledger executed",
        "What was made before a ledger's first start is another ledger's: it moves nothing here.",
        "saga_kit/participant/handler.py",
        "return self._began_at is not None and self._is_earlier(made_at(received))",
        "return False",
        (
            "tests/saga_kit/participant/test_barrier_postgres.py::test_a_command_from_before_the_first_start_moves_nothing",
            "tests/docs/test_example.py::test_commands_of_before_its_first_start_move_nothing",
        ),
    ),
    Mutant(
        "another ledger's hold reserved again",
        "An unknown hold that was asked for before the ledger began is a conflict, not a new hold.",
        "saga_kit/participant/handler.py",
        "if command.hold_id not in holds and self._is_earlier(command.hold_asked_at):",
        "if command.hold_id not in holds and self._is_earlier(None):",
        (
            (
                "tests/saga_kit/participant/test_barrier_postgres.py"
                "::test_an_order_that_another_ledger_may_hold_money_for_gets_a_conflict"
            ),
        ),
    ),
    Mutant(
        "late reservation re-opened",
        "A reservation that comes after the refund is refused.",
        "saga_kit/participant/barrier.py",
        "(CommandKind.RESERVE, HoldState.REFUNDED): HoldAction.DENY",
        "(CommandKind.RESERVE, HoldState.REFUNDED): HoldAction.CONFIRM",
        ("tests/saga_kit/participant/test_barrier_table.py::test_each_cell_is_the_protocols",),
    ),
    Mutant(
        "reserve over a tombstone",
        "A reservation that meets its tombstone is refused.",
        "saga_kit/participant/barrier.py",
        "(CommandKind.RESERVE, HoldState.TOMBSTONE): HoldAction.DENY",
        "(CommandKind.RESERVE, HoldState.TOMBSTONE): HoldAction.OPEN",
        (
            "tests/saga_kit/participant/test_barrier_table.py::test_each_cell_is_the_protocols",
            "tests/participants/balance/test_barrier_orders.py::test_every_order_of_arrival_has_the_end_of_the_table",
        ),
    ),
    Mutant(
        "refund without dedupe",
        "A refund that comes again changes nothing.",
        "saga_kit/participant/barrier.py",
        "(CommandKind.REFUND, HoldState.REFUNDED): HoldAction.CONFIRM",
        "(CommandKind.REFUND, HoldState.REFUNDED): HoldAction.RELEASE",
        (
            "tests/saga_kit/participant/test_barrier_table.py::test_each_cell_is_the_protocols",
            "tests/saga_kit/participant/test_barrier_table.py::test_no_sequence_moves_money_twice",
        ),
    ),
    Mutant(
        "settle twice",
        "A settlement that comes again gives the same answer and moves nothing.",
        "saga_kit/participant/barrier.py",
        "(CommandKind.SETTLE, HoldState.SETTLED): HoldAction.CONFIRM",
        "(CommandKind.SETTLE, HoldState.SETTLED): HoldAction.CAPTURE",
        (
            "tests/saga_kit/participant/test_barrier_table.py::test_each_cell_is_the_protocols",
            "tests/saga_kit/participant/test_barrier_table.py::test_no_sequence_moves_money_twice",
        ),
    ),
    Mutant(
        "settled hold refunded",
        "No hold is both settled and refunded.",
        "saga_kit/participant/barrier.py",
        "(CommandKind.REFUND, HoldState.SETTLED): HoldAction.DENY",
        "(CommandKind.REFUND, HoldState.SETTLED): HoldAction.RELEASE",
        (
            "tests/saga_kit/participant/test_barrier_table.py::test_each_cell_is_the_protocols",
            "tests/saga_kit/participant/test_barrier_table.py::test_no_sequence_moves_money_twice",
        ),
    ),
    Mutant(
        "hold terms not compared",
        "Another amount, asset or user under a known hold id is a conflict.",
        "saga_kit/participant/barrier.py",
        "    if hold is not None and _has_other_terms(command, hold):",
        "    if hold is not None and not hold.owner:",
        ("tests/saga_kit/participant/test_barrier_table.py::test_other_terms_under_a_known_id_change_nothing",),
    ),
    Mutant(
        "revision not compared",
        "A command that confirms an adjustment which the hold does not know is a conflict.",
        "saga_kit/participant/barrier.py",
        "    if hold.state is HoldState.HELD and hold.revision < command.revision:",
        "    if hold.state is HoldState.HELD and hold.revision < 0:",
        (
            "tests/saga_kit/participant/test_barrier_revisions.py::test_each_cell_of_an_adjusted_hold",
            "tests/participants/balance/test_adjustments.py::test_every_order_of_arrival_has_the_end_of_the_table",
        ),
    ),
    Mutant(
        "a lower revision moves money",
        "An adjustment that comes after a newer one is superseded: it changes nothing.",
        "saga_kit/participant/barrier.py",
        "    if command.revision < hold.revision:",
        "    if command.revision < 0:",
        (
            "tests/saga_kit/participant/test_barrier_revisions.py::test_each_cell_of_an_adjusted_hold",
            "tests/participants/balance/test_adjustments.py::test_of_two_adjustments_the_newer_counts_whichever_comes_first",
        ),
    ),
    Mutant(
        "repetition of another amount accepted",
        "A revision that was answered is never answered for another amount.",
        "saga_kit/participant/barrier.py",
        "        if command.amount == hold.asked:",
        "        if hold.asked is not None:",
        (
            "tests/saga_kit/participant/test_barrier_revisions.py::test_each_cell_of_an_adjusted_hold",
            "tests/participants/balance/test_adjustments.py::test_a_refusal_is_repeated_when_there_is_money_meanwhile",
        ),
    ),
    Mutant(
        "refused adjustment can be tried again",
        "An adjustment that was refused is used up: repeated, it is refused for the same reason.",
        "saga_kit/participant/barrier.py",
        "        revision=command.revision,\n        asked=command.amount,",
        "        revision=hold.revision if refusal else command.revision,\n        asked=command.amount,",
        (
            "tests/saga_kit/participant/test_barrier_revisions.py::test_a_raise_that_is_not_covered_uses_its_revision_up",
            "tests/participants/balance/test_adjustments.py::test_a_refusal_is_repeated_when_there_is_money_meanwhile",
        ),
    ),
    Mutant(
        "refused raise believed",
        "A refused adjustment leaves the hold's amount as it was.",
        "saga_kit/participant/barrier.py",
        "        amount=hold.amount if refusal else command.amount,",
        "        amount=command.amount,",
        (
            "tests/saga_kit/participant/test_barrier_revisions.py::test_a_raise_that_is_not_covered_uses_its_revision_up",
            "tests/participants/balance/test_adjustments.py::test_two_raises_of_one_account_at_once_do_not_overdraw",
        ),
    ),
    Mutant(
        "adjusted amount not written",
        "What a hold is worth now is in its row.",
        "saga_kit/participant/holds.py",
        '_MOVING: Final = {"amount", "captured",',
        '_MOVING: Final = {"captured",',
        (
            "tests/participants/balance/test_adjustments.py::test_of_two_adjustments_the_newer_counts_whichever_comes_first",
            "tests/saga_kit/participant/test_barrier_postgres.py::test_all_orders_and_repetitions_in_all_cuts_end_the_same",
        ),
    ),
    Mutant(
        "adjustment where it has no place",
        "In tables of before adjustments nothing is adjusted, since it could not be stored.",
        "saga_kit/participant/handler.py",
        "            if command.kind is CommandKind.ADJUST and not self._adjustable:",
        "            if command.kind is CommandKind.ADJUST and self._began_at is None:",
        ("tests/saga_kit/participant/test_older_tables.py::test_an_adjustment_finds_no_place_in_older_tables",),
    ),
    Mutant(
        "outbox row deleted early",
        "A row is deleted only after the broker has acknowledged its messages.",
        "saga_kit/messaging/batch.py",
        "        if await self._publisher.publish(now):\n            reached(CrashPoint.PUBLISHED, messages)\n            self._outbox.remember(rows)",
        "        self._outbox.remember(rows)\n        if await self._publisher.publish(now):\n            reached(CrashPoint.PUBLISHED, messages)",
        ("tests/saga_kit/messaging/test_batch.py::test_what_was_not_acknowledged_stays_for_the_relay",),
    ),
    Mutant(
        "published before the commit",
        "Nothing is published that may still be rolled back.",
        "saga_kit/messaging/batch.py",
        "            check_sizes(effects.messages)\n",
        "            check_sizes(effects.messages)\n            await self._publisher.publish([one.outgoing for one in effects.outbox])\n",
        (
            "tests/saga_kit/messaging/test_batch.py::test_nothing_is_published_when_the_transaction_fails",
            "tests/saga_kit/messaging/test_batch.py::test_a_batch_commits_work_and_outbox_together_and_publishes_after",
        ),
    ),
    Mutant(
        "rows of a part not counted",
        "Each write of a combined statement says how many rows it must write; another number is a lost race.",
        "saga_kit/runtime/transactions.py",
        "            if write.rows is not None and number != write.rows:",
        "            if write.rows is not None and number > write.rows:",
        (
            "tests/saga_kit/runtime/test_transactions.py::test_another_number_of_rows_is_contention",
            "tests/saga_kit/runtime/test_transactions.py::test_contention_without_a_text_says_the_numbers",
        ),
    ),
    Mutant(
        "a part of the statement dropped",
        "Everything that a batch puts off is written, in one transaction.",
        "saga_kit/runtime/transactions.py",
        "        writes, self._writes = self._writes, []",
        "        writes, self._writes = self._writes[:2], []",
        ("tests/saga_kit/runtime/test_transactions.py::test_several_writes_are_sent_as_one_statement",),
    ),
    Mutant(
        "a lost race taken for a bad message",
        "A message whose order another member stored first is handled again, and is no dead letter.",
        "saga_kit/runtime/transactions.py",
        "    guarded = len(writes) > 1 and any(write.rows is not None for write in writes)",
        "    guarded = False",
        (
            "tests/saga_kit/runtime/test_transactions.py::test_a_duplicate_beside_a_part_that_compares_its_rows_is_contention",
            "tests/order_saga/worker/test_store.py::test_of_two_members_that_begin_one_order_the_second_runs_again",
        ),
    ),
    Mutant(
        "a compared write committed at once",
        "A write that may be refused by its number of rows can still be rolled back.",
        "saga_kit/runtime/transactions.py",
        "        if not (last and all(write.rows is None for write in writes)):",
        "        if not last:",
        ("tests/saga_kit/runtime/test_transactions.py::test_another_number_of_rows_is_contention",),
    ),
    Mutant(
        "session kept that the server ended",
        "A session that can't write any more is replaced, so that a failover ends.",
        "saga_kit/runtime/transactions.py",
        "            self._stale = self._stale or ends_sessions(error)",
        "            self._stale = self._stale",
        ("tests/saga_kit/runtime/test_transaction_pool.py::test_a_session_that_the_server_ends_is_replaced",),
    ),
    Mutant(
        "event not stored",
        "A message that must be published is in the outbox in the same transaction.",
        "saga_kit/messaging/batch.py",
        "rows = self._outbox.write(tx, effects.outbox, sent)",
        "rows = self._outbox.write(tx, [], sent)",
        (
            "tests/saga_kit/messaging/test_batch.py::test_a_batch_commits_work_and_outbox_together_and_publishes_after",
            "tests/saga_kit/messaging/test_outbox.py::test_a_crash_after_the_commit_and_before_publishing_loses_nothing",
        ),
    ),
    Mutant(
        "infrastructure taken for poison",
        "An outage is never a fault of a message.",
        "saga_kit/runtime/errors.py",
        '        return "infrastructure"  # OSError',
        '        return "poison"  # OSError',
        ("tests/saga_kit/runtime/test_errors.py::test_errors_of_the_surroundings_are_infrastructure",),
    ),
    Mutant(
        "poison taken for infrastructure",
        "A data error is a fault of one message; to retry it for ever stops a partition.",
        "saga_kit/runtime/errors.py",
        'frozenset({"22", "23"})',
        'frozenset({"99"})',
        ("tests/saga_kit/runtime/test_errors.py::test_data_errors_are_poison",),
    ),
    Mutant(
        "poison parks nobody",
        "A message that can't be handled parks its order, or is a dead letter.",
        "saga_kit/messaging/batch.py",
        "            await self._set_aside(part.messages[0], error)",
        "            return",
        (
            "tests/saga_kit/messaging/test_batch.py::test_halving_isolates_exactly_the_bad_messages_and_keeps_order",
            "tests/saga_kit/messaging/test_batch.py::test_a_bad_message_without_an_order_becomes_a_dead_letter",
        ),
    ),
    Mutant(
        "halves in the wrong order",
        "A batch that is halved is handled in message order.",
        "saga_kit/messaging/batch.py",
        "[_Part(self.messages[middle:], short_locks), _Part(self.messages[:middle], short_locks)]",
        "[_Part(self.messages[:middle], short_locks), _Part(self.messages[middle:], short_locks)]",
        ("tests/saga_kit/messaging/test_batch.py::test_halving_isolates_exactly_the_bad_messages_and_keeps_order",),
    ),
    Mutant(
        "lease not taken",
        "A claimed row is left alone by other relays for its lease.",
        "saga_kit/messaging/outbox.py",
        "            UPDATE {schema}.outbox SET available_at = clock_timestamp() + make_interval(secs => $1)\n            WHERE outbox_id = ANY(ARRAY(",
        "            UPDATE {schema}.outbox SET available_at = clock_timestamp() - make_interval(secs => $1)\n            WHERE outbox_id = ANY(ARRAY(",
        (
            "tests/saga_kit/messaging/test_outbox.py::test_a_relay_that_died_with_its_claim_is_replaced_after_the_lease",
            "tests/saga_kit/messaging/test_outbox.py::test_two_relays_never_publish_a_row_at_once",
        ),
    ),
    Mutant(
        "relay deletes what was not sent",
        "A publish that was not acknowledged is not sent: its row stays.",
        "saga_kit/messaging/outbox.py",
        "            if sent:\n                self._outbox.delete(tx, ids)\n            else:",
        "            if ids:\n                self._outbox.delete(tx, ids)\n            else:",
        (
            "tests/saga_kit/messaging/test_batch.py::test_what_was_not_acknowledged_stays_for_the_relay",
            "tests/saga_kit/messaging/test_outbox.py::test_a_row_that_cannot_be_sent_does_not_hold_up_the_others",
        ),
    ),
    Mutant(
        "dead letter doubled",
        "A redelivered record makes no second dead letter.",
        "saga_kit/messaging/dead_letters.py",
        '            ON CONFLICT ON CONSTRAINT dead_letters_record DO NOTHING"""',
        '            """',
        ("tests/saga_kit/messaging/test_dead_letters.py::test_a_redelivered_record_makes_no_second_dead_letter",),
    ),
    Mutant(
        "dead letter loses bytes",
        "A record that can't be handled is stored byte for byte.",
        "saga_kit/messaging/dead_letters.py",
        "            [record.value for record in records],",
        "            [None for record in records],",
        ("tests/saga_kit/messaging/test_dead_letters.py::test_a_dead_letter_keeps_every_byte",),
    ),
    Mutant(
        "acknowledged before the commit",
        "Offsets are committed last: returning means committed, and only then is it acknowledged.",
        "saga_kit/messaging/consumer.py",
        "            await self._process.run(readable, unreadable)\n            self._poller.handled(records)\n            self._commits.request(self._subscriber.consumer, readable)",
        "            self._poller.handled(records)\n            self._commits.request(self._subscriber.consumer, readable)\n            await self._process.run(readable, unreadable)",
        (
            "tests/saga_kit/messaging/test_consumer.py::test_a_batch_that_waits_is_not_acknowledged_by_a_stop",
            "tests/saga_kit/messaging/test_consumer.py::test_nothing_is_acknowledged_after_a_batch_was_given_up",
        ),
    ),
)
