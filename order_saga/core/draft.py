"""A decision in the making: the saga as it stands so far, and what the message has brought about. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from contracts.orders import OrderStatusChanged
from contracts.vocabulary import OrderStatus
from order_saga.core.saga import (
    Ask,
    Availability,
    Decision,
    Fill,
    HistoryEntry,
    Mark,
    Participant,
    Question,
    Saga,
    snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from contracts.decimals import Price


_set: Final = structs.force_setattr


class Draft:
    """A decision in the making. It lives for one call of `advance`."""

    __slots__ = (
        "asks",
        "availability",
        "entries",
        "events",
        "fill",
        "marks",
        "now",
        "saga",
        "time_scale",
        "watermarks",
    )

    def __init__(
        self,
        saga: Saga,
        now: datetime,
        time_scale: float,
        availability: Mapping[Participant, Availability],
        marks: Mapping[str, Mark],
        watermarks: Mapping[UUID, Price],
    ) -> None:
        # Copies of its own, changed in place until the decision is made.
        self.saga = structs.replace(saga, progress=structs.replace(saga.progress))
        self.now = now
        self.time_scale = time_scale
        self.availability = availability
        self.marks = marks
        self.watermarks = watermarks
        self.entries: list[HistoryEntry] = []
        self.asks: list[Ask] = []
        self.events: list[OrderStatusChanged] = []
        self.fill: Fill | None = None

    def decision(self) -> Decision:
        """Make the decision: an order that is neither ended nor parked wakes when its first open question is due."""
        saga = self.saga
        due = [question.due_at for question in saga.progress.open()] if saga.parked_reason is None else []
        self.set(due_at=min(due, default=None), history_seq=saga.history_seq + len(self.entries))
        return Decision(self.saga, tuple(self.entries), tuple(self.asks), tuple(self.events), self.fill)

    def set(self, **changes: Any) -> None:
        """Change the saga."""
        saga = self.saga
        for name, value in changes.items():
            _set(saga, name, value)

    def learn(self, **changes: Any) -> None:
        """Change what the saga knows beyond the public order."""
        progress = self.saga.progress
        for name, value in changes.items():
            _set(progress, name, value)

    def put(self, question: Question) -> None:
        """Write a question down as it is now."""
        others = [known for known in self.saga.progress.questions if known.step is not question.step]
        _set(self.saga.progress, "questions", (*others, question))

    def note(self, kind: str, name: str, **detail: Any) -> None:
        """Add a line to the history."""
        self.entries.append(HistoryEntry(kind, name, detail=detail))

    def scaled(self, seconds: float) -> timedelta:
        """Make a time of the table one of this system."""
        return _scaled(seconds, self.time_scale)

    def show(self, status: OrderStatus | None = None) -> None:
        """Make a version that the public sees: a new status, or another visible change under the same one."""
        before = self.saga.status
        self.set(status=status or before, version=self.saga.version + 1, updated_at=self.now)
        saga = self.saga
        order = snapshot(saga)
        detail = {"reason_code": saga.reason_code} if saga.reason_code else {}
        self.entries.append(HistoryEntry("status", order.status, order.status, saga.version, detail))
        self.events.append(
            OrderStatusChanged(
                order_id=saga.order_id,
                version=saga.version,
                status=order.status,
                previous_status=before,
                reason_code=saga.reason_code,
                occurred_at=self.now,
                order=order,
            )
        )


@lru_cache
def _scaled(seconds: float, time_scale: float) -> timedelta:
    return timedelta(seconds=seconds * time_scale)
