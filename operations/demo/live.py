"""Whoever waits is told: an order of the demo as its user's streams and webhook tell it, beside what was announced."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from contracts.orders import OrderStatusChanged
from contracts.webhooks import EventType
from operations.demo.receiver import FAILED, TAKEN, receiving
from order_client import AsyncClient, Gap, Interrupted, OrderSagaError, OrderVersion, ProblemError, SnapshotEnd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from uuid import UUID

    from operations.demo.receiver import Came, Receiver
    from order_client import StreamItem

USER: Final = "alice"
ASSET: Final = "BTC"
QUANTITY: Final = "0.01"
VERSIONS: Final = "PENDING, CONFIRMED, PROCESSING, COMPLETED"
_PORTS: Final = {"http": 80, "https": 443}


class Telling(NamedTuple):
    """Something that told of an order: what it had to say, what it said, and whether that is good."""

    title: str
    order_id: str
    announced: str
    told: str
    good: bool


class _Heard:
    """What has been heard so far, so that it can be shown whenever the patience is over."""

    def __init__(self) -> None:
        self.order_id = ""
        self.feed: list[str] = []
        self.versions: list[str] = []
        self.came: list[Came] = []
        self.fault = ""
        self.no_webhook = ""

    def tellings(self, *, may_leave_out: bool) -> list[Telling]:
        """Say of each who told something what was announced and what it said."""
        taken = [one.type for one in self.came if (one.order_id, one.answered) == (self.order_id, TAKEN)]
        first = [str(one.answered) for one in self.came if one.webhook_id == self.came[0].webhook_id]
        return [
            self._stream("a stream of one order: every version", VERSIONS, self.versions),
            self._stream("a stream of all her orders: the open ones, then live", "snapshot-end, COMPLETED", self.feed),
            self._webhook("a webhook, verified by the standard's library", "order.completed", taken, may_leave_out),
            self._webhook("one whose receiver failed: it came again", f"{FAILED}, {TAKEN}", first, may_leave_out),
        ]

    def _stream(self, title: str, announced: str, told: list[str]) -> Telling:
        words = ", ".join([*told, *filter(None, [self.fault])]) or "nothing heard"
        return Telling(title, self.order_id, announced, words, announced == words)

    def _webhook(self, title: str, announced: str, told: list[str], may_leave_out: bool) -> Telling:
        if self.no_webhook:
            return Telling(title, self.order_id, announced, f"left out: {self.no_webhook}", may_leave_out)
        return self._stream(title, announced, told)


async def tell_live(api_url: str, sign: Callable[[], str], patience_s: float, *, may_leave_out: bool) -> list[Telling]:
    """Follow an order of its own by two streams, and have a receiver told of it; return within `patience_s`.

    `sign` makes a token of `USER`. `may_leave_out`: it is good, too, when the system refuses to send webhooks to this
    machine. What breaks is said by the tellings, and never raised.
    """
    heard = _Heard()
    try:
        async with (
            asyncio.timeout(patience_s),
            receiving(await _own_address(api_url)) as receiver,
            AsyncClient(api_url, sign) as client,
        ):
            await _follow(client, receiver, heard)
    except TimeoutError:
        pass  # what is missing is told by what is there
    except (OrderSagaError, OSError) as error:
        heard.fault = str(error)
    return heard.tellings(may_leave_out=may_leave_out)


async def _follow(client: AsyncClient, receiver: Receiver, heard: _Heard) -> None:
    """Do what is shown; the endpoint is removed, whatever happens."""
    endpoint_id = await _make_endpoint(client, receiver, heard)
    heard.came = receiver.came
    try:
        async with aclosing(client.events()) as feed:
            await _listen(feed, heard, lambda item: isinstance(item, SnapshotEnd))
            order = await client.submit_order(ASSET, "MARKET_BUY", QUANTITY)
            heard.order_id = str(order.order_id)
            await _listen_to_the_order(client, order.order_id, heard)
            await _listen(feed, heard, lambda item: _ends(item, order.order_id))
        if endpoint_id is not None:
            await receiver.wait_until(lambda: all(one.good for one in heard.tellings(may_leave_out=False)))
    finally:
        if endpoint_id is not None:
            with suppress(OrderSagaError):
                await client.delete_webhook(endpoint_id)


async def _make_endpoint(client: AsyncClient, receiver: Receiver, heard: _Heard) -> UUID | None:
    """Have the receiver told how orders complete. None where this system sends nothing to it, which `heard` says."""
    try:
        made = await client.create_webhook(
            receiver.url, event_types=[EventType.ORDER_COMPLETED], description="of order-saga demo"
        )
    except ProblemError as error:
        heard.no_webhook = str(error)
        return None
    receiver.secret = made.secret
    return made.webhook.endpoint_id


async def _listen_to_the_order(client: AsyncClient, order_id: UUID, heard: _Heard) -> None:
    async with aclosing(client.order_events(order_id, after=0)) as events:
        async for item in events:
            if isinstance(item, (OrderStatusChanged, OrderVersion)):
                heard.versions.append(item.status)


async def _listen(feed: AsyncIterator[StreamItem], heard: _Heard, is_last: Callable[[StreamItem], bool]) -> None:
    """Note what the stream says of the order, and of itself, up to and with the last item."""
    async for item in feed:
        match item:
            case SnapshotEnd():
                heard.feed.append("snapshot-end")
            case Gap():
                heard.feed.append("gap")
            case Interrupted():
                heard.feed.append("interrupted")
            case OrderStatusChanged() if is_last(item):
                heard.feed.append(item.status)
            case _:
                continue
        if is_last(item):
            return


def _ends(item: StreamItem, order_id: UUID) -> bool:
    return isinstance(item, OrderStatusChanged) and item.order_id == order_id and item.status.terminal


async def _own_address(api_url: str) -> str:
    """Find the address of this machine that the system's network leads to: the loopback of a system that is here."""
    parts = urlsplit(api_url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port or _PORTS[parts.scheme])
    try:
        address: str = writer.get_extra_info("sockname")[0]
        return address
    finally:
        writer.close()
