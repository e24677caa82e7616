"""What events tell, folded: a hold that has ended stays as it has ended, whatever comes with it in one batch."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from uuid import UUID

from contracts.decimals import Money, Quantity
from contracts.holds import HoldEvent, HoldExpired, HoldPlaced, HoldRefusal, HoldRefused, HoldReleased
from order_api.holds.holds import Action, HoldStatus, news_of

TERMS = (UUID(int=1), "alice", "USD", Quantity("5"))
UNTIL = datetime(2026, 1, 2, tzinfo=UTC)
PLACED = HoldPlaced(*TERMS, UNTIL)
CONFLICT = HoldRefused(*TERMS, HoldRefusal.HOLD_CONFLICT, "other terms")
EXPIRED = HoldExpired(*TERMS, Money("5"))
RELEASED = HoldReleased(*TERMS, Money("0"))


def told(*events: HoldEvent) -> list[HoldStatus]:
    """Return what events tell of the one hold."""
    return [change.status for change in news_of(events).changes]


def test_a_refusal_ends_no_hold_that_is_held() -> None:
    """It may be the answer to somebody else, who used the id for a hold of other terms."""
    assert [HoldStatus.HELD] == told(PLACED, CONFLICT)
    assert [HoldStatus.EXPIRED] == told(PLACED, CONFLICT, EXPIRED)


def test_an_end_is_final() -> None:
    """Of what is told of one hold the first end counts, in every order of what is no end."""
    every: tuple[HoldEvent, ...] = (PLACED, CONFLICT, EXPIRED)
    for events in itertools.permutations(every):
        assert [HoldStatus.EXPIRED] == told(*events)
    assert [HoldStatus.RELEASED] == told(RELEASED, CONFLICT, EXPIRED)


def test_another_hold_of_the_same_id_is_another_hold() -> None:
    """Terms tell them apart."""
    other = HoldExpired(TERMS[0], "bob", *TERMS[2:], Money("5"))
    assert [HoldStatus.HELD, HoldStatus.EXPIRED] == told(PLACED, other)


def test_an_end_answers_what_was_asked_before() -> None:
    """A hold that has expired was placed, and needs no release any more."""
    assert {Action.PLACE, Action.RELEASE} == {answer.action for answer in news_of([EXPIRED]).answers}
