"""Every way of being behind: what was told, what the database knows, and what is left of the commands, all of it.

For each pair of moments of a history, the earlier one is the backup and the later one is what Kafka has.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

import pytest
from msgspec import structs

from contracts.assets import AssetApproved
from contracts.balance import BalanceCommand, ReserveBalance, SettleBalance
from contracts.vocabulary import HoldState, OrderKind, OrderStatus, Side
from order_saga.core.advance import advance
from order_saga.core.phases import TERMINAL
from order_saga.core.recovery import NO_TERMS
from order_saga.core.saga import Decision, Phase, Requested, Why
from tests.order_saga.core import sample
from tests.order_saga.core.conditional import CASES, TRAILING_STOP, Case
from tests.order_saga.core.sample import Story

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contracts.orders import Order
    from order_saga.core.saga import Incoming

ALL, RESERVED_ONLY, NONE = "all commands", "the reservation", "no command"


class History:
    """A history of one order, as far as it goes."""

    def __init__(self, name: str, *messages: Incoming) -> None:
        self.name = name
        self.messages = messages

    def __str__(self) -> str:
        """Name it in a report of tests."""
        return self.name

    def until(self, moment: int) -> Story:
        """Live through it up to a moment."""
        return Story(*self.messages[:moment])


class Unquoted(Story):
    """A story that may go on without a quote: its steps are not checked one by one, since it shows less than it did."""

    def tell(self, *messages: Incoming) -> Story:
        """Give these messages to the order."""
        for message in messages:
            outcome = advance(self.saga, sample.fitting(self.saga, message), self.now)
            self.saga = outcome.saga if isinstance(outcome, Decision) else self.saga
            self.told.append(outcome)
        return self


def histories() -> Iterator[History]:
    """List histories that end in every way, of orders of every kind."""
    for side in Side:
        asked = sample.requested(side, client_order_id="mine")
        to_market = (asked, sample.approved(), sample.reserved())
        yield History(f"{side} fills", *to_market, sample.settled())
        yield History(f"{side} is busted", *to_market, sample.not_settled())
        yield History(f"{side} is cancelled", asked, sample.approved(), sample.cancel(), sample.refunded())
        yield History(f"{side} lacks money", asked, sample.approved(), sample.not_reserved(), sample.refunded())
        yield History(f"{side} is refused", asked, sample.not_approved(), sample.refunded())
    yield History("invalid", sample.invalid())
    yield History("duplicate", structs.replace(sample.requested(), duplicate_of=sample.ORDER_ID))
    yield History("cancelled before its request", sample.cancel(), sample.requested())
    for case in CASES:
        rests = (
            case.requested(),
            case.approved(is_open=case.order_type.kind is not OrderKind.MARKET),
            sample.reserved(),
        )
        yield History(f"{case}, fires", *rests, case.fired("fires"), sample.settled())
        yield History(f"{case}, is cancelled", *rests, sample.cancel(), sample.refunded())
    yield from _changed(next(one for one in CASES if one.order_type.kind is TRAILING_STOP))
    yield from _changed(next(one for one in CASES if str(one).startswith("STOP_LOSS_BUY with a limit")))


def _changed(case: Case) -> Iterator[History]:
    rests = (case.requested(), case.approved(), sample.reserved())
    less, more = sample.amend(quantity="0.005"), sample.amend("second", quantity="0.02")
    yield History(
        f"{case}, lowered", *rests, less, sample.rechecked(), sample.adjusted(), case.fired("fires"), sample.settled()
    )
    yield History(
        f"{case}, raised", *rests, more, sample.rechecked(), sample.adjusted(), sample.cancel(), sample.refunded()
    )
    yield History(f"{case}, raise in doubt", *rests, more, sample.rechecked(), case.fired("fires"), sample.settled())
    yield History(f"{case}, held", *rests, sample.suspend(), sample.release(), case.fired("fires"), sample.settled())
    yield History(
        f"{case}, triggered",
        *rests,
        sample.triggered(str(case.at("breaks the limit"))),
        sample.cancel(),
        sample.refunded(),
    )
    yield History(f"{case}, parked", *rests, sample.park(), sample.cancel(), sample.resume(), sample.refunded())


HISTORIES: Final = tuple(histories())


def timeless(order: Order) -> Order:
    """Leave out when a version was made: it is told again later."""
    return structs.replace(order, updated_at=order.created_at)


@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_every_pair_of_moments(history: History) -> None:
    """It ends as it was told, or is cancelled; without the terms of a fill that was told it parks and says so."""
    moments = range(len(history.messages) + 1)
    for backup, kafka, left in product(moments, moments, (ALL, RESERVED_ONLY, NONE)):
        if backup <= kafka:
            judge(history, backup, kafka, left)


def judge(history: History, backup: int, kafka: int, left: str) -> None:
    """Bring the order forward, let the balance service answer, and compare."""
    what = (history.name, backup, kafka, left)
    story, uncut = history.until(backup), history.until(kafka)
    decisions = [one for one in uncut.told if isinstance(one, Decision)]
    events = [event for one in decisions for event in one.events]
    sent = [ask.message for one in decisions for ask in one.asks if isinstance(ask.message, BalanceCommand)]
    commands = [one for one in sent if left == ALL or (left == RESERVED_ONLY and isinstance(one, ReserveBalance))]
    request = history.messages[0] if isinstance(history.messages[0], Requested) else None
    approvals = [one for one in history.messages[:kafka] if isinstance(one, AssetApproved)] if left == ALL else []
    before, told = story.saga, events[-1] if events else None
    story = story if left == ALL else Unquoted(saga=story.saga)
    known = request if left != NONE else None
    story.now = sample.NOW
    story.tell(sample.recovery(*events, commands=tuple(commands), request=known, approvals=tuple(approvals)))
    if story.why is not None:
        assert story.why is Why.DUPLICATE, what
        return
    was_filled = any(event.status is OrderStatus.PROCESSING for event in events)
    if was_filled and story.saga.parked_reason is not None:
        assert left != ALL, what
        assert story.saga.parked_reason == NO_TERMS, what
        assert story.saga.status is OrderStatus.PROCESSING, what
        return
    assert story.saga.parked_reason is None, what
    asked = list(story.commands)
    if story.saga.phase is Phase.SETTLING:
        if before.phase is not Phase.SETTLING and left == ALL:
            assert [one for one in sent if isinstance(one, SettleBalance)][:1] == asked, what
        busted = told is not None and told.status is OrderStatus.FAILED
        story.tell(sample.not_settled() if busted else sample.settled())
    elif story.saga.phase is Phase.REFUNDING:
        story.tell(sample.refunded(HoldState.REFUNDED))
    assert story.saga.phase in TERMINAL, what
    if told is not None and told.status.terminal:
        last = events[-1]
        assert (last.version, last.status, last.reason_code) == (
            story.saga.version, story.saga.status, story.saga.reason_code,
        ), what  # fmt: skip
        if left == ALL:
            assert timeless(last.order) == timeless(story.shown), what
    elif told is not None and told.status is not OrderStatus.PROCESSING and story.saga.phase is not Phase.COMPLETED:
        assert story.saga.status is OrderStatus.CANCELLED, what
