"""Folding a batch equals advancing one by one: the result does not depend on how messages are cut into batches."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from uuid import UUID

from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from contracts.orders import OrderCancelRequested
from contracts.vocabulary import OrderStatus, Side
from order_saga.core.advance import advance
from order_saga.core.fold import Folded, HistoryRow, fold, order_of
from order_saga.core.phases import MOVES
from order_saga.core.saga import (
    Decision,
    Fill,
    HistoryEntry,
    Incoming,
    Participant,
    Phase,
    RecoveryRequested,
    Requested,
    Saga,
    Why,
)
from tests.order_saga.core.invariants import availability
from tests.order_saga.core.sample import (
    NOW,
    ORDER_ID,
    OTHER_USER,
    approved,
    blank,
    cancel,
    not_settled,
    park,
    quote,
    recovery,
    refunded,
    requested,
    reserved,
    resume,
    settled,
    timer,
)
from tests.order_saga.core.world import always, replies

if TYPE_CHECKING:
    from contracts.orders import OrderStatusChanged
    from order_saga.core.saga import Ask

OTHER_ID: Final = UUID(int=996)
WORDS: Final = [message for side in Side for message in (*always(side).values(), *replies(side).values())]
STORY: Final = [requested(), timer(), approved(), reserved(), timer(), settled(), cancel()]
"""These messages complete an order, so random choices from them often have an effect."""


def of(message: Incoming, order_id: UUID) -> Incoming:
    """Copy a message for another order."""
    if isinstance(message, Requested):
        return structs.replace(message, request=structs.replace(message.request, order_id=order_id))
    if hasattr(message, "command_id"):
        step = message.command_id.partition(":")[2]
        hold = {"hold_id": f"{order_id}:reserve"} if hasattr(message, "hold_id") else {}
        return structs.replace(message, order_id=order_id, command_id=f"{order_id}:{step}", **hold)
    return structs.replace(message, order_id=order_id)


MESSAGES: Final = st.lists(
    st.builds(of, st.sampled_from(WORDS) | st.sampled_from(STORY), st.sampled_from((ORDER_ID, OTHER_ID))), max_size=30
) | st.permutations(STORY).map(list)


class Collected:
    """The collected output of a sequence of batches."""

    def __init__(self) -> None:
        """Start without any known saga."""
        self.sagas: dict[UUID, Saga] = {}
        self.history: list[HistoryRow] = []
        self.asks: list[Ask] = []
        self.events: list[OrderStatusChanged] = []
        self.fills: dict[str, Fill] = {}
        self.unknown: list[Incoming] = []
        self.ignored: Counter[Why] = Counter()

    def tell(self, batch: list[Incoming]) -> Folded:
        """Fold one batch over the known sagas."""
        folded = fold(self.sagas, batch, NOW)
        self.sagas |= folded.sagas
        self.history += folded.history.values()
        self.asks += folded.asks
        self.events += folded.events
        self.fills |= folded.fills
        self.unknown += folded.unknown
        self.ignored += folded.ignored
        return folded

    def entries(self, order_id: UUID) -> list[HistoryEntry]:
        """Return an order's whole history."""
        return [entry for row in self.history if row.order_id == order_id for entry in row.entries]


def one_by_one(messages: list[Incoming]) -> Collected:
    """Advance each saga by each message, without `fold`."""
    tale = Collected()
    for message in messages:
        order_id = order_of(message)
        begun = structs.replace(blank(), order_id=order_id, user_id=_named(message))
        begins = isinstance(message, Requested | OrderCancelRequested | RecoveryRequested)
        saga = tale.sagas.get(order_id, begun if begins else None)
        if saga is None:
            tale.unknown.append(message)
            continue
        outcome = advance(saga, message, NOW)
        if isinstance(outcome, Decision):
            tale.sagas[order_id] = outcome.saga
            tale.asks += outcome.asks
            tale.events += outcome.events
            entries = list(outcome.entries)
            if outcome.fill is not None:
                tale.fills[outcome.fill.fill_id] = outcome.fill
        else:
            tale.ignored[outcome.why] += 1
            entries = [HistoryEntry("ignored", outcome.name, detail={"why": outcome.why, **outcome.detail})]
            if outcome.why is Why.NOT_DUE:
                continue
            tale.sagas[order_id] = structs.replace(saga, history_seq=saga.history_seq + 1)
        tale.history.append(HistoryRow(order_id, 0, 0, entries, []))
    return tale


def _named(message: Incoming) -> str:
    if isinstance(message, Requested):
        return message.request.user_id
    return str(getattr(message, "user_id", ""))


def _cut(messages: list[Incoming], cuts: set[int]) -> list[list[Incoming]]:
    at = [0, *sorted(cut for cut in cuts if cut < len(messages)), len(messages)]
    return [messages[start:end] for start, end in pairwise(at)]


@given(MESSAGES, st.sets(st.integers(1, 29)))
@example([recovery()], set())
@settings(max_examples=300, deadline=None)
def test_any_cut_into_batches_comes_to_the_same(messages: list[Incoming], cuts: set[int]) -> None:
    """Any cut gives the same sagas, history, commands, events, fills and counts as advancing one by one."""
    expected, found = one_by_one(messages), Collected()
    for batch in _cut(messages, cuts):
        found.tell(batch)
    assert found.sagas == expected.sagas
    assert found.events == expected.events
    assert found.asks == expected.asks
    assert found.fills == expected.fills
    assert found.unknown == expected.unknown
    assert found.ignored == expected.ignored
    for order_id in (ORDER_ID, OTHER_ID):
        assert found.entries(order_id) == expected.entries(order_id)


@given(MESSAGES, st.sets(st.integers(1, 29)))
@settings(max_examples=300, deadline=None)
def test_history_is_gapless(messages: list[Incoming], cuts: set[int]) -> None:
    """I7: history numbers have no gap, versions follow each other, and every move is legal."""
    tale = Collected()
    for batch in _cut(messages, cuts):
        before = dict(tale.sagas)
        folded = tale.tell(batch)
        for order_id, row in folded.history.items():
            known = before.get(order_id)
            assert row.entries, "no empty row: its number would be given again"
            assert row.seq == (known.history_seq if known else 0) + 1
            assert row.version_from == (known.version if known else 0)
            assert row.version_to == folded.sagas[order_id].version
            assert folded.sagas[order_id].history_seq == row.seq + len(row.entries) - 1
            status = (known.status if known else None) or ""
            for move in row.moves:
                came_from, _, went_to = move.partition(">")
                assert came_from == status
                legal = MOVES[OrderStatus(came_from) if came_from else None]
                assert went_to in legal or move == "PENDING>PENDING"
                status = went_to
            assert status == (folded.sagas[order_id].status or "")
        assert set(folded.sagas) >= set(folded.history)


def test_a_whole_order_in_one_batch() -> None:
    """A whole order in one batch makes one row and four versions, and its saga is written once."""
    folded = fold({}, [requested(), approved(), reserved(), settled()], NOW)
    row = folded.history[ORDER_ID]
    assert (row.seq, row.version_from, row.version_to) == (1, 0, 4)
    assert row.moves == [">PENDING", "PENDING>CONFIRMED", "CONFIRMED>PROCESSING", "PROCESSING>COMPLETED"]
    assert [event.version for event in folded.events] == [1, 2, 3, 4]
    assert [ask.step for ask in folded.asks] == ["check", "reserve", "settle"]
    assert list(folded.fills) == [f"{ORDER_ID}:fill"]
    assert folded.sagas[ORDER_ID].history_seq == len(row.entries)


def test_a_fill_that_is_busted_in_its_own_batch_is_written_as_busted() -> None:
    """A fill that is busted in the same batch is written once, in its final form."""
    folded = fold({}, [requested(), approved(), reserved(), not_settled()], NOW)
    assert [fill.busted for fill in folded.fills.values()] == [True]


def test_an_ignored_message_is_counted_and_written_down_with_its_reason() -> None:
    """An ignored message gets a named reason, a counter and a line in the history."""
    known = fold({}, [requested()], NOW).sagas
    folded = fold(known, [requested(), cancel(OTHER_USER), approved(command_id="another:check")], NOW)
    assert folded.ignored == {Why.DUPLICATE: 1, Why.NOT_ALLOWED: 1, Why.UNKNOWN: 1}
    told = [(entry.kind, entry.name, entry.detail["why"]) for entry in folded.history[ORDER_ID].entries]
    assert told == [
        ("ignored", "OrderRequested", "duplicate"),
        ("ignored", "OrderCancelRequested", "not_allowed"),
        ("ignored", "AssetApproved", "unknown"),
    ]
    assert folded.sagas[ORDER_ID].history_seq == known[ORDER_ID].history_seq + 3


def test_a_timer_that_is_not_due_leaves_no_trace_but_a_count() -> None:
    """A timer that is not due only counts: timers are the worker's own messages, so the history does not need them."""
    known = fold({}, [requested()], NOW).sagas
    folded = fold(known, [timer()], NOW)
    assert (folded.sagas, folded.history, folded.ignored) == ({}, {}, {Why.NOT_DUE: 1})


def test_a_postponed_question_moves_the_saga_and_writes_no_history() -> None:
    """A postponed question writes no history, because an empty entry would use up a history number."""
    saga = fold({}, [requested()], NOW).sagas[ORDER_ID]
    assert saga.due_at is not None
    folded = fold({ORDER_ID: saga}, [timer()], saga.due_at, 1.0, availability(silent=frozenset({Participant.ASSETS})))
    assert folded.history == {}
    assert folded.sagas[ORDER_ID].due_at == saga.due_at + timedelta(seconds=4)


def test_only_a_request_a_cancel_or_a_recovery_begins_an_order() -> None:
    """Only these create a saga; any other message must name an existing order."""
    unknown: list[Incoming] = [timer(), park(), resume(), approved(), refunded()]
    folded = fold({}, unknown, NOW)
    assert folded.unknown == unknown
    assert folded.sagas == {}
    for message in (cancel(), recovery()):
        begun = fold({}, [message, timer()], NOW)
        assert begun.sagas[ORDER_ID].phase is Phase.NEW
        assert begun.unknown == []


def test_a_stub_is_not_the_requests_user() -> None:
    """A stub begun by a cancel may name another user; the request replaces that user by its own."""
    folded = fold({}, [cancel(OTHER_USER, OTHER_USER), requested()], NOW)
    assert folded.sagas[ORDER_ID].user_id == "alice"


def test_fold_changes_nothing_that_is_known() -> None:
    """`fold` does not change the loaded sagas, so the same batch can be tried again."""
    known = fold({}, [requested()], NOW).sagas
    before = dict(known)
    first, second = (fold(known, [approved(), reserved()], NOW) for _ in range(2))
    assert known == before
    assert first == second


def test_the_time_scale_applies_to_every_saga() -> None:
    """One time scale multiplies all times of the table, for every saga."""
    saga = fold({}, [requested()], NOW, time_scale=0.1).sagas[ORDER_ID]
    assert saga.due_at is not None
    assert (saga.due_at - NOW).total_seconds() == 0.2


def test_the_sample_quote_is_that_of_an_approval() -> None:
    """`sample.quote` equals the quote of an approval, so the tests of money use the quotes that orders have."""
    saga = fold({}, [requested(), approved()], NOW).sagas[ORDER_ID]
    assert saga.progress.quote == quote()
