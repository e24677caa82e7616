"""What Kafka may have of the sample order when the database is restored: as far as it has come, with its commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contracts.assets import CheckAsset
from contracts.vocabulary import HoldState, OrderType, Side
from order_saga.core.saga import Decision
from tests.order_saga.core import sample

if TYPE_CHECKING:
    from order_saga.core.saga import Incoming, RecoveryRequested


def recoveries() -> list[RecoveryRequested]:
    """List it for a market order of either side, and for a stop, after each step of some histories."""
    stop = sample.conditional(OrderType.STOP_LOSS_SELL, trigger_price="49000", limit_price="48000")
    stories: list[tuple[Incoming, ...]] = [
        (stop, sample.approved(), sample.reserved(), sample.fired("48500"), sample.settled()),
        (stop, sample.approved(), sample.reserved(), sample.cancel(), sample.refunded()),
    ]
    for side in Side:
        asked = sample.requested(side)
        stories.append((asked, sample.approved(), sample.reserved(), sample.settled()))
        stories.append((asked, sample.approved(), sample.reserved(), sample.not_settled()))
        stories.append((asked, sample.approved(), sample.not_reserved(), sample.refunded(HoldState.REFUSED)))
        stories.append((asked, sample.not_approved(), sample.refunded()))
    found = []
    for messages in stories:
        for number in range(1, len(messages) + 1):
            story = sample.Story(*messages[:number])
            decisions = [one for one in story.told if isinstance(one, Decision)]
            events = [event for one in decisions for event in one.events]
            asked_for = [ask.message for one in decisions for ask in one.asks]
            commands = tuple(one for one in asked_for if not isinstance(one, CheckAsset))
            found += [sample.recovery(*events), sample.recovery(*events, commands=commands)]
            found.append(sample.recovery(commands=commands, request=messages[0]))
    return found
