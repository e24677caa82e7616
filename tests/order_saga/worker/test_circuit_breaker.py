"""Who has stopped answering: counted in repeated questions, ended by the first answer."""

from __future__ import annotations

from order_saga.core.saga import Phase, Step
from order_saga.worker.circuit_breaker import SILENT_AFTER, Silence


def _silent(step: Step) -> Silence:
    silence = Silence()
    for _ in range(SILENT_AFTER):
        silence.asked_again(step)
    return silence


def test_everybody_is_asked_until_enough_questions_went_unanswered() -> None:
    """Questions are held back from one participant only, and only once it left so many repeats unanswered."""
    silence = Silence()
    for _ in range(SILENT_AFTER - 1):
        silence.asked_again(Step.SETTLE)
    assert frozenset() == silence.held_back()
    silence.asked_again(Step.REFUND)
    assert frozenset({Step.RESERVE, Step.SETTLE, Step.REFUND}) == silence.held_back()


def test_the_first_answer_ends_a_silence_and_wakes_who_waited() -> None:
    """After one answer nothing is held back, and the phases that wait for the participant are told once."""
    silence = _silent(Step.CHECK)
    silence.answered(Step.CHECK)
    assert frozenset() == silence.held_back()
    assert [Phase.VALIDATING] == silence.take_back()
    assert [] == silence.take_back()


def test_an_answer_without_a_silence_wakes_nobody() -> None:
    """The usual answer costs nothing."""
    silence = Silence()
    silence.asked_again(Step.RESERVE)
    silence.answered(Step.RESERVE)
    assert [] == silence.take_back()


def test_one_participants_answer_does_not_end_anothers_silence() -> None:
    """Balance may be down while assets answers."""
    silence = _silent(Step.RESERVE)
    silence.answered(Step.CHECK)
    assert Step.RESERVE in silence.held_back()
