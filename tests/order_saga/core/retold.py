"""Tells the histories of a walk again without its reduction: with real versions, texts and times, move by move."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec import structs

from contracts.assets import CheckAsset
from contracts.orders import OrderRequested
from order_saga.core.advance import advance
from order_saga.core.saga import Command, Ignored, Participant, Requested, Saga
from tests.order_saga.core.invariants import NOBODY, availability, check
from tests.order_saga.core.sample import NOW, fitting
from tests.order_saga.core.walker import SILENT, Walk, as_seen

if TYPE_CHECKING:
    from datetime import datetime

    from order_saga.core.saga import Incoming


def retold(
    walk: Walk, saga: Saga, now: datetime, move: str | float, paused: frozenset[Participant] = NOBODY
) -> tuple[Saga, datetime]:
    """Give the same message to a saga with real times and to the walk's saga; compare all outputs."""
    if isinstance(move, float):
        now += timedelta(seconds=move)
        assert walk.find(saga, now) is not None, "the walk knows every state"
        return saga, now
    state = walk.find(saga, now)
    assert state is not None
    edge, message = walk.edge(state, move, paused), as_seen(saga, _made_now(walk.messages[move], now))
    away = availability(paused, SILENT.get(move, NOBODY))
    outcome = advance(saga, fitting(saga, message), now, availability=away, marks=walk.market(move))
    check(saga, now, outcome, paused)
    if isinstance(outcome, Ignored):
        assert (edge.ignored, edge.to) == (outcome.why, state)
        return saga, now
    assert edge.ignored is None
    assert edge.to == walk.find(outcome.saga, now)
    assert [_timeless(ask.message) for ask in edge.asks] == [_timeless(ask.message) for ask in outcome.asks]
    assert edge.moves == tuple(f"{event.previous_status or ''}>{event.status}" for event in outcome.events)
    assert edge.fill == outcome.fill
    return outcome.saga, now


def _timeless(command: Command) -> Command:
    """Leave out the time when the hold was asked for; in the walk it is always `NOW`."""
    return command if isinstance(command, CheckAsset) else structs.replace(command, hold_asked_at=None)


def _made_now(message: Incoming, now: datetime) -> Incoming:
    """Move a request of the walk, which is always made at `NOW`, to the present time, and its order's end with it."""
    if not isinstance(message, Requested):
        return message
    request, later = message.request, now - NOW
    if request.requested_at is not None:
        request = structs.replace(request, requested_at=request.requested_at + later)
    if isinstance(request, OrderRequested) and request.expires_at is not None:
        request = structs.replace(request, expires_at=request.expires_at + later)
    return structs.replace(message, request=request, sent_at=message.sent_at + later)
