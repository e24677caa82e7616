"""The circuit breaker: opened by repeated questions without an answer, closed by the first answer."""

from __future__ import annotations

from order_saga.core.saga import Participant, Phase, Step
from order_saga.worker.circuit_breaker import OPENS_AFTER, CircuitBreaker


def _opened_by(step: Step) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(OPENS_AFTER):
        breaker.asked_again(step)
    return breaker


def test_it_opens_when_enough_questions_went_unanswered() -> None:
    """It opens at the limit and not before, for one participant only, whichever of its questions went unanswered."""
    breaker = CircuitBreaker()
    for _ in range(OPENS_AFTER - 1):
        breaker.asked_again(Step.SETTLE)
    assert () == breaker.silent()
    breaker.asked_again(Step.REFUND)
    assert (Participant.BALANCE,) == breaker.silent()


def test_the_first_answer_closes_it_and_names_the_waiting_phases() -> None:
    """One answer closes the breaker, and `closed_again` lists the phases that wait for the participant once."""
    breaker = _opened_by(Step.CHECK)
    breaker.answered(Step.CHECK)
    assert () == breaker.silent()
    assert [Phase.VALIDATING, Phase.AMENDING] == breaker.closed_again()
    assert [] == breaker.closed_again()


def test_an_answer_while_it_is_closed_wakes_no_order() -> None:
    """An answer while the breaker is closed wakes no order."""
    breaker = CircuitBreaker()
    breaker.asked_again(Step.RESERVE)
    breaker.answered(Step.RESERVE)
    assert [] == breaker.closed_again()


def test_one_participants_answer_does_not_close_it_for_another() -> None:
    """An answer of the asset service does not close the breaker of the balance service."""
    breaker = _opened_by(Step.RESERVE)
    breaker.answered(Step.CHECK)
    assert (Participant.BALANCE,) == breaker.silent()
