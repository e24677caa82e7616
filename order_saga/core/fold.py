"""`fold`: a whole batch over the sagas that it touches, in message order. Pure, like `advance`, which it calls."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from contracts.orders import OrderCancelRequested, OrderStatusChanged
from order_saga.core.advance import ALL_AVAILABLE, NO_MARKS, NO_WATERMARKS, advance
from order_saga.core.saga import (
    Ask,
    Availability,
    Decision,
    Fill,
    HistoryEntry,
    Ignored,
    Incoming,
    Mark,
    Participant,
    Phase,
    RecoveryRequested,
    Requested,
    Saga,
    Why,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from contracts.decimals import Price


class HistoryRow(msgspec.Struct):
    """What one batch adds to an order's history: entries from number `seq` on, and the moves of its versions.

    A move is `PENDING>CONFIRMED`, the first one `>PENDING`; there is one for each version after `version_from`.
    """

    order_id: UUID
    seq: int
    version_from: int
    entries: list[HistoryEntry]
    moves: list[str]

    @property
    def version_to(self) -> int:
        """The order's version after this batch."""
        return self.version_from + len(self.moves)


class Folded(msgspec.Struct):
    """All that a batch decided. `sagas` holds each touched saga once, as it is now."""

    sagas: dict[UUID, Saga]
    history: dict[UUID, HistoryRow]
    asks: list[Ask]
    events: list[OrderStatusChanged]
    fills: dict[str, Fill]
    unknown: list[Incoming]
    """Replies that name an order that does not exist."""
    ignored: Counter[Why]


def fold(
    known: Mapping[UUID, Saga],
    messages: Sequence[Incoming],
    now: datetime,
    time_scale: float = 1.0,
    availability: Mapping[Participant, Availability] = ALL_AVAILABLE,
    marks: Mapping[str, Mark] = NO_MARKS,
    watermarks: Mapping[UUID, Price] = NO_WATERMARKS,
) -> Folded:
    """Advance every saga by its messages, in their order.

    `known` holds each named saga that exists, `marks` what is known of the market of each asset that they wait for,
    `watermarks` the best prices since those of them rest that trail the market.
    """
    folded = Folded({}, {}, [], [], {}, [], Counter())
    for message in messages:
        order_id = order_of(message)
        saga = folded.sagas.get(order_id) or known.get(order_id) or _blank(message, now)
        if saga is None:
            folded.unknown.append(message)
            continue
        outcome = advance(saga, message, now, time_scale, availability, marks, watermarks)
        if isinstance(outcome, Ignored):
            _ignore(folded, saga, outcome)
        else:
            _take(folded, saga, outcome)
    return folded


def order_of(message: Incoming) -> UUID:
    """Name the order that a message is about."""
    return message.request.order_id if isinstance(message, Requested) else message.order_id


def _blank(message: Incoming, now: datetime) -> Saga | None:
    """Begin a saga for a request, for a cancel that came first, or for one that a restored database has forgotten."""
    if isinstance(message, Requested):
        return Saga(message.request.order_id, message.request.user_id, Phase.NEW, now, now)
    if isinstance(message, OrderCancelRequested | RecoveryRequested):
        return Saga(message.order_id, message.user_id, Phase.NEW, now, now)
    return None


def _take(folded: Folded, before: Saga, decision: Decision) -> None:
    folded.sagas[before.order_id] = decision.saga
    folded.asks.extend(decision.asks)
    folded.events.extend(decision.events)
    if decision.fill is not None:
        folded.fills[decision.fill.fill_id] = decision.fill
    folded.ignored.update(Why(entry.detail["why"]) for entry in decision.entries if entry.kind == "ignored")
    if not decision.entries:
        return  # a question that goes on waiting is not worth a line, nor a row without one
    row = _history_row(folded, before)
    row.entries.extend(decision.entries)
    row.moves.extend([(event.previous_status or "") + ">" + event.status for event in decision.events])


def _ignore(folded: Folded, saga: Saga, ignored: Ignored) -> None:
    folded.ignored[ignored.why] += 1
    if ignored.why is Why.NOT_DUE:
        return  # a timer that no longer fits is our own doing and tells nobody anything
    entry = HistoryEntry("ignored", ignored.name, detail={"why": ignored.why.value, **ignored.detail})
    _history_row(folded, saga).entries.append(entry)
    folded.sagas[saga.order_id] = structs.replace(saga, history_seq=saga.history_seq + 1)


def _history_row(folded: Folded, before: Saga) -> HistoryRow:
    row = folded.history.get(before.order_id)
    if row is None:
        row = HistoryRow(before.order_id, before.history_seq + 1, before.version, [], [])
        folded.history[before.order_id] = row
    return row
