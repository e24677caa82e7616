"""Handles a batch: lock its sagas, fold, write, and return what to send. The kit begins and commits the transaction."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

import structlog
from msgspec import structs

from contracts.assets import AssetApproved, AssetRefused, is_for_preview
from contracts.codec import decode, outgoing
from contracts.envelope import Envelope, Outgoing, UnreadableMessage
from contracts.orders import InvalidOrder, OrderCancelRequested, OrderRequested, OrderStatusChanged
from contracts.terms import terms_of
from contracts.topics import ASSETS_REPLIES, BALANCE_REPLIES, ORDERS_CANCELS, ORDERS_CHANGES, ORDERS_REQUESTS
from contracts.vocabulary import id_text
from order_saga.core.advance import ALL_AVAILABLE
from order_saga.core.behind import is_behind
from order_saga.core.fold import Folded, fold, order_of
from order_saga.core.phases import ANSWERS
from order_saga.core.saga import (
    Ask,
    Availability,
    FromMarket,
    Incoming,
    ParkRequested,
    Participant,
    Phase,
    RecoveryRequested,
    Requested,
    Saga,
    TimerDue,
)
from order_saga.worker import resting_store, store
from order_saga.worker.market import open_batch, save_batch
from order_saga.worker.tables import SCHEMA
from saga_kit.messaging.batch import Effects, Intake, Received, RejectedRecord
from saga_kit.messaging.outbox import AT_ONCE_S, Outbox, OutboxMessage

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from uuid import UUID

    from order_saga.worker.admission import AdmissionLimit
    from order_saga.worker.circuit_breaker import CircuitBreaker
    from order_saga.worker.metrics import SagaMetrics
    from saga_kit.messaging.batch import Record
    from saga_kit.runtime.transactions import Transaction

SOURCE: Final = "order-saga/orchestrator"
MAX_OPEN_ORDERS: Final = 200
CHANGES: Final = ORDERS_CHANGES.messages

log = structlog.get_logger(__name__)


class SagaHandler:
    """The orchestrator's handler: see `saga_kit.messaging.batch.Handler`."""

    topics: tuple[str, ...] = (ORDERS_REQUESTS.name, BALANCE_REPLIES.name, ASSETS_REPLIES.name)
    intake: Intake | None = None

    def __init__(
        self,
        *,
        time_scale: float,
        metrics: SagaMetrics,
        breaker: CircuitBreaker,
        admission: AdmissionLimit | None = None,
        max_open_orders: int = MAX_OPEN_ORDERS,
    ) -> None:
        """Take the pace of the saga's clock, and what watches it. Without `admission`, all are let in.

        `max_open_orders`: conditional orders that a user may have open at once in one asset.
        """
        self._time_scale = time_scale
        self._metrics = metrics
        self._breaker = breaker
        self._admission = admission
        self._max_open_orders = max_open_orders
        if admission is not None and ORDERS_REQUESTS.name in self.topics:
            self.intake = Intake(ORDERS_REQUESTS.name, admission.room)

    def decode(self, envelope: Envelope, record: Record) -> Incoming:
        """Read one record. The age of a request or a quote counts from the earliest time that its record tells."""
        message = decode(envelope.type, record.value)
        if isinstance(message, (OrderRequested, InvalidOrder)):
            return Requested(message, sent_at(envelope, record), envelope.traceparent)
        if isinstance(message, AssetApproved):
            made_at = sent_at(envelope, record)
            return structs.replace(message, quoted_at=min(made_at, message.quoted_at or made_at))
        if isinstance(message, (OrderCancelRequested, *CHANGES, *ANSWERS)):
            return cast("Incoming", message)
        raise UnreadableMessage(f"{envelope.type} is not for the orchestrator")

    def comes_again(self, message: Incoming) -> bool:
        """Tell whether a dropped message comes again: replies and timers do, requests and changes may not."""
        return not isinstance(message, (Requested, OrderCancelRequested, *CHANGES))

    async def handle(self, tx: Transaction, received: Sequence[Received[Incoming]]) -> Effects:
        """Fold the batch over its sagas and write them. A rollback or a repeat does no harm."""
        everything = received
        received = [each for each in everything if not _is_for_preview(each.message)]
        not_ours = {FOR_PREVIEW: len(everything) - len(received)} if len(received) < len(everything) else {}
        if not received:
            return Effects(dropped=not_ours)
        messages = [each.message for each in received]
        named = {order_of(message) for message in messages}
        opened = await open_batch(tx, named, _client_ids(messages))
        known, now, _, paused, archived, holders = opened.taken
        missing = named - known.keys() - archived
        if missing and any(order_of(one) in missing for one in messages if type(one) is not Requested):
            archived |= await store.archived(tx, missing)
        living = [message for message in messages if order_of(message) not in archived] if archived else messages
        dropped = len(messages) - len(living)
        living = _with_duplicates(living, known, holders)
        living = await self._within_limit(tx, living, known)
        living = _after_news(living, opened.market.news)
        market = opened.market
        available = self._availability(paused)
        folded = fold(known, living, now, self._time_scale, available, market.marks, market.watermarks)
        save_batch(tx, opened, folded, now)
        parked = [saga for saga in folded.sagas.values() if saga.parked_reason and not _was_parked(known, saga)]
        unknown = {id(message) for message in folded.unknown}
        return Effects(
            messages=[_command(ask, now) for ask in folded.asks],
            outbox=[_event(event, folded) for event in folded.events],
            dead_letters=[
                RejectedRecord(each.record, f"there is no order {order_of(each.message)}")
                for each in received
                if each.record is not None and id(each.message) in unknown
            ],
            dropped=not_ours,
            after_commit=lambda: self._watch(messages, folded, parked, dropped),
        )

    async def park(self, tx: Transaction, received: Received[Incoming], reason: str) -> bool:
        """Park the order of a message that can't be handled, until a person resumes it. False: there is none."""
        order_id = order_of(received.message)
        opened = await open_batch(tx, [order_id])
        known, now = opened.taken.known, opened.taken.now
        if order_id not in known or known[order_id].phase is Phase.NEW:
            return False
        # What a tick has done to it comes first: parked, it would not wait for the market any more.
        messages = [*opened.market.news.get(order_id, ()), ParkRequested(order_id, reason)]
        folded = fold(known, messages, now, self._time_scale, marks=opened.market.marks)
        save_batch(tx, opened, folded, now)
        # What the fire asks is asked when the order is resumed.
        events = _left_to_the_relay(folded)
        Outbox(SCHEMA).write(tx, events)
        return True

    async def recover(self, tx: Transaction, requests: Sequence[RecoveryRequested]) -> Folded:
        """Bring orders forward after a restore; nothing is written of those that are not behind.

        Nobody publishes from memory here: events leave by the outbox, and the orders' questions fall due.
        """
        opened = await open_batch(tx, [request.order_id for request in requests])
        known, now = opened.taken.known, opened.taken.now
        behind = [one for one in requests if is_behind(known.get(one.order_id), one)]
        messages = _after_news([*behind], {one.order_id: opened.market.news.get(one.order_id, ()) for one in behind})
        available = self._availability(opened.taken.paused)
        folded = fold(known, messages, now, self._time_scale, available, opened.market.marks, opened.market.watermarks)
        if messages:
            save_batch(tx, opened, folded, now)
            Outbox(SCHEMA).write(tx, _left_to_the_relay(folded))
        return folded

    async def _within_limit(
        self, tx: Transaction, messages: list[Incoming], known: Mapping[UUID, Saga]
    ) -> list[Incoming]:
        """Mark each new conditional order of a user who has as many open ones in the asset as are allowed."""
        new = [index for index, one in enumerate(messages) if _begins_to_wait(one, known)]
        if not new:
            return messages
        pairs = [_holder_and_asset(messages[index]) for index in new]
        asked = sorted(set(pairs))
        number = dict(zip(asked, await resting_store.open_orders(tx, asked), strict=True))
        marked = list(messages)
        for index, pair in zip(new, pairs, strict=True):
            if number[pair] >= self._max_open_orders:
                marked[index] = structs.replace(cast("Requested", messages[index]), too_many_open=number[pair])
            else:
                number[pair] += 1
        return marked

    def _availability(self, paused: Collection[Participant]) -> Mapping[Participant, Availability]:
        """Map who is not available to the reason. An operator's pause outranks the circuit breaker."""
        silent = self._breaker.silent()
        if not silent and not paused:
            return ALL_AVAILABLE
        return dict.fromkeys(silent, Availability.SILENT) | dict.fromkeys(paused, Availability.PAUSED)

    def _watch(self, messages: Sequence[Incoming], folded: Folded, parked: Sequence[Saga], archived: int) -> None:
        """Count what was committed, and log what a person must look at: the orders that this batch parked.

        `archived`: messages of archived orders, which nobody acts on any more.
        """
        for message in messages:
            if type(message) in ANSWERS:
                self._breaker.answered(ANSWERS[type(message)][0])
        for ask in folded.asks:
            if ask.attempt > 1:
                self._breaker.asked_again(ask.step)
        for saga in parked:
            log.error("an order is parked", order_id=id_text(saga.order_id), reason=saga.parked_reason)
        if archived:
            log.warning("messages of archived orders are ignored", messages=archived)
        if self._admission is not None:
            self._admission.note(messages, folded.asks)
        self._metrics.count(folded, archived)


class ChangeHandler(SagaHandler):
    """The same handler for cancels and for changes of resting orders, in a consumer of its own: nothing holds them up.

    A cancel that comes before its request is kept until that comes (`advance`), so the topics need no order.
    """

    topics = (ORDERS_CANCELS.name, ORDERS_CHANGES.name)


def _was_parked(known: Mapping[UUID, Saga], saga: Saga) -> bool:
    return saga.order_id in known and known[saga.order_id].parked_reason is not None


FOR_PREVIEW: Final = "answers a preview"
"""The reason for which an answer is dropped: it is for the API, which has asked."""


def _is_for_preview(message: Incoming) -> bool:
    """Tell whether an answer is for the API, which has asked it for a preview: it is about no order."""
    return isinstance(message, (AssetApproved, AssetRefused)) and is_for_preview(message.command_id)


def sent_at(envelope: Envelope, record: Record) -> datetime:
    """Return the earlier of the broker's time and the sender's: publishing it again makes no message younger."""
    return min(datetime.fromtimestamp(record.timestamp / 1000, UTC), envelope.time)


def _client_ids(messages: Sequence[Incoming]) -> list[tuple[str, str]]:
    requests = [one.request for one in messages if isinstance(one, Requested)]
    return [(one.user_id, one.client_order_id) for one in requests if one.client_order_id is not None]


def _with_duplicates(
    messages: list[Incoming], known: Mapping[UUID, Saga], holders: dict[tuple[str, str], UUID]
) -> list[Incoming]:
    """Mark each new request whose client order id another order of its user holds, in the table or in this batch."""
    marked = messages
    begun = {order_id for order_id, saga in known.items() if saga.phase is not Phase.NEW}
    for index, message in enumerate(messages):
        if not isinstance(message, Requested) or message.request.order_id in begun:
            continue
        request = message.request
        begun.add(request.order_id)  # whatever else comes for this order moves nothing, and takes no name
        if request.client_order_id is None:
            continue
        holder = holders.setdefault((request.user_id, request.client_order_id), request.order_id)
        if holder != request.order_id:
            marked = list(messages) if marked is messages else marked
            marked[index] = structs.replace(message, duplicate_of=holder)
    return marked


def _begins_to_wait(message: Incoming, known: Mapping[UUID, Saga]) -> bool:
    if not isinstance(message, Requested) or not isinstance(message.request, OrderRequested):
        return False
    begun = known.get(message.request.order_id)
    return terms_of(message.request) is not None and (begun is None or begun.phase is Phase.NEW)


def _holder_and_asset(message: Incoming) -> tuple[str, str]:
    request = cast("Requested", message).request
    return request.user_id, request.asset_id or ""


def _after_news(messages: list[Incoming], news: Mapping[UUID, Sequence[FromMarket]]) -> list[Incoming]:
    """Put first what ticks have done to the batch's orders: it was committed before. It answers their timers."""
    if not news:
        return messages
    told = [message for order_id in sorted(news) for message in news[order_id]]
    return [*told, *(one for one in messages if not (isinstance(one, TimerDue) and one.order_id in news))]


def _command(ask: Ask, now: datetime) -> Outgoing:
    return outgoing(
        ask.message,
        message_id=ask.command_id,
        source=SOURCE,
        time=now,
        traceparent=ask.traceparent,
        attempt=ask.attempt,
    )


def _event(event: OrderStatusChanged, folded: Folded) -> OutboxMessage:
    event_id = f"{id_text(event.order_id)}:v{event.version}"
    traceparent = folded.sagas[event.order_id].traceparent
    return OutboxMessage(
        event_id,
        outgoing(event, message_id=event_id, source=SOURCE, time=event.occurred_at, traceparent=traceparent),
    )


def _left_to_the_relay(folded: Folded) -> list[OutboxMessage]:
    """Make events that nobody publishes from memory."""
    return [structs.replace(_event(event, folded), delay_s=AT_ONCE_S) for event in folded.events]
