"""The mutants of the orchestrator's process: its batches, its store and its timers. See `table`."""

from __future__ import annotations

from typing import Final

from tests.evidence.mutants.mutant import Mutant

WORKER_MUTANTS: Final = (
    Mutant(
        "cancel taken for an answer",
        "A request and a cancel are said once.",
        "order_saga/worker/process.py",
        "        return not isinstance(message, (Requested, OrderCancelRequested, *CHANGES))",
        "        return not isinstance(message, (Requested, *CHANGES))",
        ("tests/integration/test_ages.py::test_what_others_ask_for_does_not_come_again_by_itself",),
    ),
    Mutant(
        "sent again, young again",
        "What has an age is as old as its oldest time says.",
        "order_saga/worker/process.py",
        "    return min(datetime.fromtimestamp(record.timestamp / 1000, UTC), envelope.time)",
        "    return datetime.fromtimestamp(record.timestamp / 1000, UTC)",
        (
            "tests/integration/test_ages.py::test_a_request_is_as_old_as_its_oldest_time",
            "tests/integration/test_ages.py::test_a_quote_is_as_old_as_its_oldest_time",
        ),
    ),
    Mutant(
        "history not written",
        "What a batch decides is stored with its history, in one statement.",
        "order_saga/worker/store.py",
        "    _write_history(tx, [row for row in folded.history.values() if row.entries], at)",
        "    _write_history(tx, [], at)",
        (
            "tests/integration/test_statements.py::test_an_orchestrators_batch_is_four_round_trips",
            "tests/operations/cli/test_stuck.py::test_attempts_and_overdue_are_told",
        ),
    ),
    Mutant(
        "clock read before the lock",
        "Deadlines go by the database's clock after the last wait for a lock.",
        "order_saga/worker/store.py",
        "    SELECT clock_timestamp(), ARRAY(",
        "    SELECT statement_timestamp(), ARRAY(",
        ("tests/order_saga/worker/test_store.py::test_the_clock_is_read_after_the_last_lock",),
    ),
    Mutant(
        "orders not locked",
        "A batch changes an order only while it holds its row's lock.",
        "order_saga/worker/store.py",
        'ORDER BY order_id FOR UPDATE"""',
        'ORDER BY order_id"""',
        (
            "tests/order_saga/worker/test_store.py::test_the_clock_is_read_after_the_last_lock",
            "tests/evidence/simulation/test_same_as_postgres.py::test_two_at_the_same_time_meet_alike",
        ),
    ),
    Mutant(
        "archived order begun again",
        "A request never begins an order that was archived while its batch waited.",
        "order_saga/worker/store.py",
        "    WHERE new.order_id <> ALL(ARRAY({_ARCHIVED})) AND {_NAME_IS_FREE} ON CONFLICT DO NOTHING",
        "    WHERE {_NAME_IS_FREE} ON CONFLICT DO NOTHING",
        ("tests/operations/retention/test_archive.py::test_a_batch_that_waits_for_the_archive_finds_the_order_there",),
    ),
    Mutant(
        "archived name given again",
        "Of two orders of a user with one client order id, the second is a duplicate, whenever the first is archived.",
        "order_saga/worker/store.py",
        " AND {_NAME_IS_FREE} ON CONFLICT DO NOTHING",
        " ON CONFLICT DO NOTHING",
        ("tests/operations/retention/test_archive.py::test_a_name_whose_holder_was_archived_meanwhile_is_taken",),
    ),
    Mutant(
        "archived name given to a cancelled order",
        "The same for an order that a cancel began, which takes its name by an update.",
        "order_saga/worker/store.py",
        '_update((*_ASKED_FOR, *_MOVING), f" AND {_NAME_IS_FREE}")',
        "_update((*_ASKED_FOR, *_MOVING))",
        ("tests/operations/retention/test_archive.py::test_a_name_whose_holder_was_archived_meanwhile_is_taken",),
    ),
    Mutant(
        "name taken by a late update",
        "Of two orders of a user with one client order id, the second is ended as a duplicate, and nothing is parked.",
        "order_saga/worker/store.py",
        "rows=len(sagas), otherwise=otherwise, unique=CLIENT_ID_INDEX)",
        "rows=len(sagas), otherwise=otherwise)",
        (
            "tests/order_saga/worker/test_store.py::test_a_stub_that_takes_a_name_which_another_order_holds_is_contention",
        ),
    ),
)
