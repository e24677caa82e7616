"""Who has stopped answering: a participant that is down gets a few probes instead of a storm of repeated questions.

Silence is counted, not timed: so many repeated questions without one answer. The first answer ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from order_saga.core.phases import PHASES, QUESTIONS
from order_saga.core.saga import Participant, Phase, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

SILENT_AFTER: Final = 100
"""Repeated questions without an answer."""
PROBES: Final = 10
"""Orders in a round of timers that still ask a silent participant; see `timers.PROBE_EVERY_S`."""


class Silence:
    """Counts, for each participant, the repeated questions since its last answer."""

    def __init__(self, silent_after: int = SILENT_AFTER) -> None:
        """Begin by believing that everybody listens; `silent_after` repeated questions without an answer end that."""
        self._silent_after = silent_after
        self._unanswered = dict.fromkeys(Participant, 0)
        self._back: set[Participant] = set()

    def asked_again(self, step: Step) -> None:
        """Note a repeated question."""
        self._unanswered[QUESTIONS[step].participant] += 1

    def answered(self, step: Step) -> None:
        """Note an answer; one that ends a silence is remembered for `take_back`."""
        participant = QUESTIONS[step].participant
        if self._unanswered[participant] >= self._silent_after:
            self._back.add(participant)
        self._unanswered[participant] = 0

    def held_back(self) -> frozenset[Step]:
        """List the questions that wait for a silent participant."""
        return frozenset(
            step for step, row in QUESTIONS.items() if self._unanswered[row.participant] >= self._silent_after
        )

    def take_back(self) -> list[Phase]:
        """List the phases that wait for a participant that answers again; each return is told once."""
        phases = _waiting_for(self._back)
        self._back = set()
        return phases


def _waiting_for(participants: Iterable[Participant]) -> list[Phase]:
    wanted = set(participants)
    return [
        phase for phase, row in PHASES.items() if any(QUESTIONS[step].participant in wanted for _, step in row.asks)
    ]
