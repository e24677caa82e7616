"""A circuit breaker for each participant: one that is down gets a few probes, not a storm of repeated questions.

It counts instead of timing: so many repeated questions without one answer open it, and the first answer closes it.
While it is open, timers postpone their questions, but a few of them probe (it is half open then).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from order_saga.core.phases import PHASES, QUESTIONS
from order_saga.core.saga import Participant, Phase, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

OPENS_AFTER: Final = 100
"""Repeated questions without an answer."""


class CircuitBreaker:
    """Counts, for each participant, the repeated questions since its last answer."""

    def __init__(self, opens_after: int = OPENS_AFTER) -> None:
        """Begin closed for everybody."""
        self._opens_after = opens_after
        self._unanswered = dict.fromkeys(Participant, 0)
        self._closed_again: set[Participant] = set()

    def asked_again(self, step: Step) -> None:
        """Note a repeated question."""
        self._unanswered[QUESTIONS[step].participant] += 1

    def answered(self, step: Step) -> None:
        """Note an answer; one that closes the breaker is remembered for `closed_again`."""
        participant = QUESTIONS[step].participant
        if self._unanswered[participant] >= self._opens_after:
            self._closed_again.add(participant)
        self._unanswered[participant] = 0

    def silent(self) -> tuple[Participant, ...]:
        """List the participants for whom the breaker is open."""
        return tuple(one for one, unanswered in self._unanswered.items() if unanswered >= self._opens_after)

    def closed_again(self) -> list[Phase]:
        """List the phases that wait for a participant that answers again; each time is told once."""
        phases = _waiting_for(self._closed_again)
        self._closed_again = set()
        return phases


def _waiting_for(participants: Iterable[Participant]) -> list[Phase]:
    wanted = set(participants)
    return [
        phase for phase, row in PHASES.items() if any(QUESTIONS[step].participant in wanted for _, step in row.asks)
    ]
