"""What streams send, part by part: of a user's orders, of all orders, and of one order, as server-sent events.

A client keeps the highest version of each order. So what is sent twice does no harm, and what is shown from the
database may overlap with what comes live.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Protocol
from urllib.parse import urlencode
from uuid import UUID

import msgspec

from contracts.orders import Order
from contracts.vocabulary import id_text
from contracts.webhooks import EventType
from order_api.http.problems import Problem
from order_api.http.tokens import Caller
from order_api.live.feed import Feed
from order_api.live.framing import Framing, write_id
from order_api.live.mailbox import OrderEvent, PriceEvent, Taken
from order_api.live.marks import time_of
from order_api.live.snapshots import Snapshots, snapshot_event
from order_api.live.store import LiveStore
from order_api.live.streams import Stream, Streams
from order_api.orders.service import OrderService, address
from saga_kit.runtime.errors import classify

FRAMES_MAX: Final = 50
"""Frames that are sent as one part."""


class Prices(Protocol):
    """Whoever knows the newest prices."""

    def newest(self, asset_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return what is known of these assets, as JSON objects by asset."""


class Wished(msgspec.Struct, frozen=True):
    """What a stream is to send: the orders of a user, or all orders (None), and the prices of assets.

    `since` is the mark that its client had last, None when it begins. `listed_as` is the `user_id` that its client
    gives to list these orders, None for its own.
    """

    user_id: str | None
    prices: tuple[str, ...] = ()
    since: int | None = None
    listed_as: str | None = None


class LiveUpdates:
    """Makes the frames of streams. Raises what reading raises, but only before the first frame."""

    def __init__(
        self,
        feed: Feed,
        streams: Streams,
        store: LiveStore,
        snapshots: Snapshots,
        orders: OrderService,
        prices: Prices,
    ) -> None:
        self._feed = feed
        self._streams = streams
        self._store = store
        self._snapshots = snapshots
        self._orders = orders
        self._prices = prices

    async def of_orders(self, wished: Wished, stream: Stream, framing: Framing) -> AsyncGenerator[Sequence[bytes]]:
        """Send what changes about orders, and prices: first what there is, then what comes."""
        known: set[bytes] = set()
        with self._following(wished, stream):
            shown, mark = await self._shown(wished, wished.since, known, framing, stream)
            newest = [PriceEvent(*one) for one in self._prices.newest(wished.prices).items()]
            first = [*framing.begin(), *shown, *self._priced(newest, framing, stream)]
            stream.mark = mark
            for part in _parts([*first, framing.event("snapshot-end", b"{}", write_id(mark) if mark else None)]):
                yield part
            sent = mark or wished.since or 0
            while stream.why is None:
                taken, heard = await stream.next(), self._feed.mark
                frames = [self._gap(wished, sent, framing)] if taken.gap else []
                if taken.stale:
                    try:
                        shown, mark = await self._shown(wished, sent, known, framing, stream)
                    except Exception as error:
                        if classify(error) == "poison":
                            raise
                        stream.end("unavailable")  # it comes back with its last id, to a process that can read
                        return
                    stream.mark = mark
                    frames += shown
                frames += self._told(taken, mark, framing, stream)
                sent = max(sent, mark, *(event.mark for event in taken.orders))
                if taken.beat:
                    frames.append(framing.heartbeat(max(heard, mark)))
                for part in _parts(frames):
                    yield part

    async def of_prices(
        self, asset_ids: Sequence[str], stream: Stream, framing: Framing
    ) -> AsyncGenerator[Sequence[bytes]]:
        """Send the newest prices of assets, and each newer one, and nothing of orders."""
        self._feed.follow_prices(asset_ids, stream.mailbox)
        try:
            newest = [PriceEvent(*one) for one in self._prices.newest(asset_ids).items()]
            yield [*self._priced(newest, framing, stream), framing.event("snapshot-end", b"{}")]
            while stream.why is None:
                for part in _parts(self._priced((await stream.next()).prices, framing, stream)):
                    yield part
        finally:
            self._feed.leave_prices(asset_ids, stream.mailbox)

    async def of_order(
        self, order: Order, known: int | None, caller: Caller, stream: Stream, framing: Framing
    ) -> AsyncGenerator[Sequence[bytes]]:
        """Send each version of one order after `known`, and end with its last one. None: from now on."""
        followed = _Followed(order, known, stream)
        self._feed.follow_order(id_text(order.order_id), order.user_id, stream.mailbox)
        try:
            order = await self._orders.order(order.order_id, caller)
            begun = [*framing.begin(), *await self._versions(followed, [snapshot_event(order)], framing)]
            for part in _parts([*begun, *(() if followed.ended else (framing.event("snapshot-end", b"{}"),))]):
                yield part
            while stream.why is None and not followed.ended:
                taken, heard = await stream.next(), self._feed.mark
                try:
                    events = taken.orders
                    if taken.stale or taken.gap:
                        events = [*events, snapshot_event(await self._orders.order(order.order_id, caller))]
                    frames = await self._versions(followed, events, framing)
                except Problem:  # its reader may not see it any more
                    break
                except Exception as error:
                    if classify(error) == "poison":
                        raise
                    stream.end("unavailable")
                    return
                if taken.beat:
                    frames.append(framing.heartbeat(heard))
                for part in _parts(frames):
                    yield part
        finally:
            self._feed.leave_order(id_text(order.order_id), stream.mailbox)
        if stream.why is None:
            stream.end("ended")

    @contextmanager
    def _following(self, wished: Wished, stream: Stream) -> Iterator[None]:
        """Have the feed fill the mailbox: before anything is read, so that nothing is missed in between."""
        mailbox = stream.mailbox
        if wished.user_id is None:
            self._feed.follow_all(mailbox)
        else:
            self._feed.follow_user(wished.user_id, mailbox)
        self._feed.follow_prices(wished.prices, mailbox)
        try:
            yield
        finally:
            self._feed.leave_all(mailbox)
            self._feed.leave_user(wished.user_id or "", mailbox)
            self._feed.leave_prices(wished.prices, mailbox)

    async def _shown(
        self, wished: Wished, since: int | None, known: set[bytes], framing: Framing, stream: Stream
    ) -> tuple[list[bytes], int]:
        """Read what there is; return its frames, and the mark before which nothing is missing after them.

        An endpoint that is given up is told unless it is `known` already, and is known from then on. All orders of
        everybody are never shown: whoever comes back to them is told of the gap.
        """
        if wished.user_id is None:
            return ([] if since is None else [self._gap(wished, since, framing)]), 0
        snapshot = await self._snapshots.of_user(wished.user_id, since)
        self._count(stream, "order", len(snapshot.orders))
        frames = [one for event in snapshot.orders for one in framing.order(event, 0)]
        disabled = [one for one in snapshot.disabled if one not in known]
        known.update(disabled)
        self._count(stream, EventType.WEBHOOK_DISABLED, len(disabled))
        frames += [framing.event(EventType.WEBHOOK_DISABLED, one) for one in disabled]
        if not snapshot.gap:
            return frames, snapshot.mark
        # Of a mark that is ahead of the database nobody knows what came before it.
        asked = since if since is not None and since <= snapshot.mark else 0
        return [self._gap(wished, asked, framing), *frames], snapshot.mark

    def _told(self, taken: Taken, mark: int, framing: Framing, stream: Stream) -> list[bytes]:
        self._count(stream, "order", len(taken.orders))
        frames = [one for event in taken.orders for one in framing.order(event, mark)]
        return frames + self._priced(taken.prices, framing, stream)

    def _priced(self, prices: Iterable[PriceEvent], framing: Framing, stream: Stream) -> list[bytes]:
        frames = [framing.price(price) for price in prices]
        self._count(stream, "price", len(frames))
        return frames

    async def _versions(self, followed: _Followed, events: Iterable[OrderEvent], framing: Framing) -> list[bytes]:
        """Write what is new of one order, with the versions that nobody has told of: those are in its history."""
        frames = []
        for event in sorted(events, key=lambda one: one.version):
            followed.ended = followed.ended or event.terminal
            if event.version <= followed.version:
                continue
            missing = 0 if followed.version < 0 else event.version - followed.version - 1
            if missing:
                past = await self._store.versions(followed.order_id, followed.version, event.version)
                if len(past) < missing:
                    self._streams.gaps.inc()
                    frames.append(framing.gap(0, f"{address(followed.order_id)}/history"))
                frames += [framing.event("version", msgspec.json.encode(one), str(one.version)) for one in past]
            frames.append(framing.version(event))
            self._count(followed.stream, "order", 1)
            followed.version = event.version
        return frames

    def _gap(self, wished: Wished, since: int, framing: Framing) -> bytes:
        """Say that what has changed since a mark may be missing, and count it."""
        self._streams.gaps.inc()
        if wished.user_id is None:
            return framing.gap(since, None)
        query = {"created_from": time_of(since).isoformat().replace("+00:00", "Z")} if since else {}
        if wished.listed_as is not None:
            query["user_id"] = wished.listed_as
        return framing.gap(since, "/orders" + (f"?{urlencode(query, safe=':')}" if query else ""))

    def _count(self, stream: Stream, event: str, number: int) -> None:
        if number:
            stream.events += number
            self._streams.events.labels(event).inc(number)


class _Followed:
    """One order whose versions are told one by one: the last one that was told, -1 before the first."""

    def __init__(self, order: Order, known: int | None, stream: Stream) -> None:
        self.stream = stream
        self.order_id: UUID = order.order_id
        self.version = -1 if known is None else known
        self.ended = False


def _parts(frames: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for first in range(0, len(frames), FRAMES_MAX):
        yield frames[first : first + FRAMES_MAX]
