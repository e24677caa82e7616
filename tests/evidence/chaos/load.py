"""Steady load by REST and Kafka: good and hopeless orders, cancels, repeats, contradictions, unreadable messages.

It records what it sent and what was answered. The run's seed decides what comes next; the clock decides when.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final, Self

import httpx2
import jwt
from confluent_kafka import KafkaException, Producer

from tests.evidence.chaos.bodies import (
    FEED,
    HOPELESS,
    START,
    amend_of,
    conditional_body,
    conditional_ends,
    good_body,
)
from tests.evidence.chaos.record import NO, YES, Placed, Record, Unreadable

HOLDINGS: Final = {"USD": "10000000.00", "BTC": "500", "ETH": "500", "ACME": "100000", **dict.fromkeys(FEED, "1000000")}
"""The holdings of each user: enough for any run, so that no order is refused for lack of balance."""
CALL_S: Final = 8.0
INSIST_S: Final = 40.0
DELIVERED_WITHIN_S: Final = 60.0
BURST_MAX: Final = 2_000
"""The most unacknowledged messages."""
WAITING_MAX: Final = 150
"""The most open calls of the API; beyond that the load waits, as clients do."""
MIX: Final = {
    "good": 50,
    "hopeless": 9,
    "withdrawn": 14,
    "foreign_cancel": 2,
    "doubled": 9,
    "contradiction": 4,
    "twins": 3,
    "invalid": 4,
    "unreadable": 5,
}
"""The weight of each kind of request."""
MIX_WITH_FEED: Final = MIX | {"conditional": 70, "changed": 30}
"""The same, and as many orders that wait for a price; some of them are amended, suspended and released meanwhile."""
OPERATOR: Final = "@operator:chaos"
CONDITIONAL: Final = "conditional"
"""The kind of such an order in the record: it ends when the market or its user wants it."""
CANCEL_AGAIN_S: Final = 5.0
RESTS_WITHIN_S: Final = 90.0
COMPLETED, WITHDRAWN = "COMPLETED", "CANCELLED USER_REQUESTED"

Headers = list[tuple[str, bytes]]


class Load:
    """Sends requests until stopped. `apis`: the addresses of the API's replicas; `mix`: the weight of each kind.

    `newest` tells the newest price of an asset, if it is known: conditional orders wait for prices near it. `rests`
    tells whether an order is known to rest: most changes are sent then.
    """

    def __init__(  # noqa: PLR0913 - what a load needs of a system
        self,
        record: Record,
        *,
        apis: Sequence[str],
        kafka: str,
        prefix: str,
        secret: str,
        users: Sequence[str],
        seed: int,
        mix: Mapping[str, int] | None = None,
        newest: Callable[[str], Fraction | None] = lambda _: None,
        rests: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.record = record
        self._mix = dict(mix or MIX)
        self._newest, self._rests = newest, rests
        self._cancelled_at: dict[str, float] = {}
        self._prefix, self._secret, self._users = prefix, secret, users
        self._rng = random.Random(seed)  # noqa: S311 - chance that can be repeated is the point
        self._apis = [httpx2.AsyncClient(base_url=url, timeout=CALL_S) for url in apis]
        self._producer = Producer(
            {
                "bootstrap.servers": kafka,
                "partitioner": "murmur2_random",
                "acks": "all",
                "enable.idempotence": False,  # so that the library's retries duplicate messages, too
                "linger.ms": 5,
                "message.timeout.ms": int(DELIVERED_WITHIN_S * 1000),
                "socket.timeout.ms": 10_000,
                "reconnect.backoff.max.ms": 500,
                "message.max.bytes": 2_000_000,
                "log_level": 0,
            }
        )
        self._tokens: dict[str, str] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._room = asyncio.Semaphore(WAITING_MAX)
        self._polling = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="load", daemon=True)

    async def __aenter__(self) -> Self:
        self._poller.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._polling.set()
        await asyncio.to_thread(self._poller.join)
        for api in self._apis:
            await api.aclose()

    async def run(self, rate: float) -> None:
        """Send at this rate until `stop`."""
        next_at = time.monotonic()
        while not self._stopping.is_set():
            await self.place()
            next_at = max(next_at + 1 / rate, time.monotonic() - 1.0)  # after a pause the load does not catch up
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))

    async def burst(self, orders: int) -> None:
        """Send this number of good orders by Kafka as fast as possible; return when the broker has them."""
        await self._burst(self._by_kafka(self._rng) for _ in range(orders))

    async def rest(self, orders: int) -> None:
        """Send this number of conditional orders by Kafka whose levels are far away, as fast as possible."""
        await self._burst(self._far(self._rng) for _ in range(orders))

    async def cancel_resting(self, resting: Mapping[str, str]) -> None:
        """Cancel these orders of users, and again while they are not gone."""
        now_s = time.monotonic()
        for order_id, user_id in list(resting.items()):
            if now_s - self._cancelled_at.get(order_id, -CANCEL_AGAIN_S) >= CANCEL_AGAIN_S:
                self._cancelled_at[order_id] = now_s
                self._send(*self._cancel(order_id, user_id))
                await asyncio.sleep(0)  # thousands of them hold up nobody else's turn

    async def _burst(self, wanted: Iterable[tuple[Placed, Coroutine[Any, Any, None]]]) -> None:
        for placed, act in wanted:
            self.record.placed.append(placed)
            self._beside(act)
            if len(self._under_way) > BURST_MAX:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)

    def _beside(self, act: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(act)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def stop(self) -> None:
        """Send nothing new; return when every call is answered and every message is acknowledged or failed."""
        self._stopping.set()
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def place(self) -> None:
        """Send the next request; return when it is under way."""
        await self._room.acquire()
        rng = self._rng
        [kind] = rng.choices(list(self._mix), list(self._mix.values()))
        placed, act = getattr(self, f"_{kind}")(rng)
        self.record.placed += [placed] if placed is not None else []
        task = asyncio.create_task(act)
        self._under_way.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    # Kinds of requests ------------------------------------------------------------------------------------------------

    def _placed(self, kind: str, channel: str, body: dict[str, Any], *ends: str, user_id: str | None = None) -> Placed:
        placed = Placed(
            number=len(self.record.placed),
            kind=kind,
            channel=channel,
            user_id=user_id or self._rng.choice(self._users),
            bodies=[body],
            ends=list(ends or (COMPLETED,)),
            at_s=time.monotonic(),
        )
        identity = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        if channel == "rest":
            placed.key = identity
        else:
            placed.order_id = identity
        return placed

    def _good(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        if rng.random() < 0.5:
            placed = self._placed("plain", "rest", good_body(rng))
            return placed, self._post(placed, insist=rng.random() < 0.7)
        return self._by_kafka(rng)

    def _by_kafka(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        placed = self._placed("plain", "kafka", good_body(rng))
        return placed, self._produce(placed)

    def _hopeless(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        body, ends, user_id = rng.choice(HOPELESS)
        placed = self._placed("hopeless", rng.choice(("rest", "kafka")), body, ends, user_id=user_id)
        return placed, self._post(placed, insist=True) if placed.channel == "rest" else self._produce(placed)

    def _unaffected(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        """Order an asset that the asset service refuses at once, so that the balance service gets no question."""
        body = {"order_type": "MARKET_BUY", "asset_id": rng.choice(("NOPE", "HALT")), "quantity": "5"}
        placed = self._placed("unaffected", "kafka", body, "FAILED ASSET_NOT_FOUND", "FAILED ASSET_NOT_TRADABLE")
        return placed, self._produce(placed)

    def _withdrawn(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        placed = self._placed("cancelled", rng.choice(("rest", "kafka")), good_body(rng), COMPLETED, WITHDRAWN)
        placed.cancelled = True
        pause_s = rng.choice((0.0, 0.0, 0.02, 0.3))
        if placed.channel == "rest":
            return placed, self._post_and_cancel(placed, pause_s)
        return placed, self._produce_and_cancel(placed, pause_s, first=rng.random() < 0.2)

    def _foreign_cancel(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        placed = self._placed("cancelled by another user", "kafka", good_body(rng))

        async def act() -> None:
            await self._produce(placed)
            self._send(*self._cancel(placed.order_id or "", placed.user_id, by="mallory"))

        return placed, act()

    def _doubled(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        """Send the same request twice: with one key to both replicas at once, or the same bytes to the topic."""
        if rng.random() < 0.5:
            placed = self._placed("doubled", "rest", good_body(rng))

            async def both() -> None:
                await asyncio.gather(*(self._post(placed, insist=True, first=number) for number in (0, 1)))

            return placed, both()
        placed = self._placed("doubled", "kafka", good_body(rng))

        async def twice() -> None:
            message = self._request(placed, placed.bodies[0])
            await asyncio.gather(*(self._deliver(placed, message) for _ in (0, 1)))

        return placed, twice()

    def _contradiction(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        """Send two contents under one key or one order id: only the first to be accepted counts."""
        placed = self._placed("contradicted", rng.choice(("rest", "kafka")), good_body(rng))
        placed.bodies.append(good_body(rng))

        async def act() -> None:
            if placed.channel == "rest":
                await self._post(placed, insist=True)
                await self._post(placed, insist=False, body=placed.bodies[1])
            else:
                await asyncio.gather(*(self._deliver(placed, self._request(placed, body)) for body in placed.bodies))

        return placed, act()

    def _twins(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        """Send two orders of one user with the same client order id: one of them is refused as a duplicate."""
        name = f"twin-{rng.getrandbits(48):x}"
        body = good_body(rng) | {"client_order_id": name}
        one = self._placed("twin", "kafka", body, COMPLETED, "FAILED DUPLICATE_CLIENT_ORDER_ID")
        self.record.placed.append(one)
        two = self._placed("twin", "kafka", body, *one.ends, user_id=one.user_id)
        one.twin = two.twin = name

        async def act() -> None:
            await asyncio.gather(self._produce(one), self._produce(two))

        return two, act()

    def _conditional(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        """Wait for a price; some are cancelled meanwhile."""
        placed = self._waiting(rng, rng.choice(("rest", "kafka")))
        placed.cancelled = rng.random() < 0.25
        if not placed.cancelled:
            return placed, self._post(placed, insist=True) if placed.channel == "rest" else self._produce(placed)
        pause_s = rng.choice((0.0, 0.1, 1.0, 5.0, 15.0))
        if placed.channel == "rest":
            return placed, self._post_and_cancel(placed, pause_s)
        return placed, self._produce_and_cancel(placed, pause_s, first=rng.random() < 0.1)

    def _changed(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        """Wait for a price, and be amended, suspended and released meanwhile: by the user, an operator and a thief."""
        placed = self._waiting(rng, "kafka")
        work = [(rng.choice((0.0, 0.1, 0.5, 2.0, 5.0)), self._change(placed, rng)) for _ in range(rng.randint(1, 4))]

        waits_s = rng.choice((0.0, RESTS_WITHIN_S, RESTS_WITHIN_S, RESTS_WITHIN_S))

        async def change() -> None:
            await self._until_it_rests(placed, waits_s)
            for pause_s, messages in work:
                await self._pause(pause_s)
                for name, body in messages:
                    value = json.dumps(body).encode()
                    self.record.unsure.append(value)
                    self._send("orders.changes", placed.order_id or "", value, _headers(name))

        async def act() -> None:
            await self._produce(placed)
            self._beside(change())  # it waits for long, and takes no call's room

        return placed, act()

    async def _until_it_rests(self, placed: Placed, within_s: float) -> None:
        """Wait until an order rests, or the load stops, or for so long."""
        give_up_at = time.monotonic() + within_s
        while time.monotonic() < give_up_at and not self._stopping.is_set() and not self._rests(placed.order_id or ""):
            await self._pause(0.2)

    def _change(self, placed: Placed, rng: random.Random) -> list[tuple[str, dict[str, Any]]]:
        """Make the messages of a change: an amend, perhaps twice, or a suspension and perhaps its release."""
        by = rng.choice((placed.user_id, placed.user_id, placed.user_id, OPERATOR))
        body = {"order_id": placed.order_id, "user_id": placed.user_id, "requested_by": by}
        if rng.random() < 0.6:
            placed.amends.append(amend_of(rng, placed.bodies[0]))
            amend = ("OrderAmendRequested", body | {"amend_id": f"amend-{len(placed.amends)}"} | placed.amends[-1])
            stolen = (
                "OrderAmendRequested",
                {**amend[1], "requested_by": "mallory", "quantity": "1", "amend_id": "mine"},
            )
            return [amend] * rng.choice((1, 1, 2)) + [stolen] * rng.choice((0, 0, 0, 1))
        placed.suspended_by.append(by)
        releases = rng.choice(([], [by], [by], [placed.user_id], ["mallory", placed.user_id]))
        return [
            ("OrderHoldRequested", body),
            *(("OrderReleaseRequested", body | {"requested_by": one}) for one in releases),
        ]

    def _far(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        placed = self._waiting(rng, "kafka", far=True)
        return placed, self._produce(placed)

    def _waiting(self, rng: random.Random, channel: str, *, far: bool | None = None) -> Placed:
        asset_id = rng.choice(FEED)
        body = conditional_body(rng, asset_id, self._newest(asset_id) or START, far=far)
        return self._placed(CONDITIONAL, channel, body, *conditional_ends(body))

    def _invalid(self, rng: random.Random) -> tuple[Placed, Coroutine[Any, Any, None]]:
        """Break a rule: REST refuses the request; by Kafka it becomes an order that fails, so the producer is told."""
        body = good_body(rng) | rng.choice(({"quantity": "-1"}, {"quantity": 1}, {"order_type": "WISH"}))
        placed = self._placed("invalid", rng.choice(("rest", "kafka")), body, "FAILED INVALID_ORDER")
        return placed, self._post(placed, insist=True) if placed.channel == "rest" else self._produce(placed)

    def _unreadable(self, rng: random.Random) -> tuple[None, Coroutine[Any, Any, None]]:
        """Send a message from which not even an order's id can be read."""
        mark = f"{rng.getrandbits(64):016x}"
        topic = rng.choice(("orders.requests", "orders.requests", "balance.commands", "assets.replies"))
        value, headers = rng.choice(
            (
                (f'{{"broken": "{mark}', _headers("OrderRequested")),
                (f'{{"no order id": "{mark}"}}', _headers("OrderRequested")),
                (f'{{"mark": "{mark}"}}', _headers("NobodyKnowsThis")),
                (f'{{"mark": "{mark}"}}', []),
            )
        )
        return None, self._spoil(topic, mark, value.encode(), headers)

    # How it is sent ---------------------------------------------------------------------------------------------------

    async def _post(
        self, placed: Placed, *, insist: bool, first: int | None = None, body: dict[str, Any] | None = None
    ) -> None:
        """Post; with `insist`, repeat with the same key to the other replica while the outcome is unknown."""
        give_up_at = time.monotonic() + INSIST_S
        number = self._rng.randrange(2) if first is None else first
        headers = self._authorized(placed.user_id) | {"Idempotency-Key": placed.key or ""}
        while True:
            status = 0
            with contextlib.suppress(httpx2.TransportError):
                answer = await self._apis[number % len(self._apis)].post(
                    "/orders", json=body or placed.bodies[0], headers=headers
                )
                status = answer.status_code
                self._heard(placed, answer)
            if body is None or status in YES:  # such an answer is about the contradiction, not the order
                placed.answers.append(status)
            if status in YES:
                placed.accepted_at_s = placed.accepted_at_s or time.monotonic()
            if status in YES | NO or not insist or time.monotonic() > give_up_at:
                return
            number += 1
            await asyncio.sleep(0.5)

    def _heard(self, placed: Placed, answer: httpx2.Response) -> None:
        with contextlib.suppress(ValueError):
            order_id = answer.json().get("order_id")
            if order_id and answer.status_code not in NO:
                placed.order_id = placed.order_id or order_id
                placed.ids += [order_id] if order_id not in placed.ids else []

    async def _post_and_cancel(self, placed: Placed, pause_s: float) -> None:
        await self._post(placed, insist=True)
        await self._pause(pause_s)
        if placed.order_id is not None:
            with contextlib.suppress(httpx2.TransportError):
                api = self._apis[placed.number % len(self._apis)]
                await api.put(f"/orders/{placed.order_id}/cancel", headers=self._authorized(placed.user_id))

    async def _produce(self, placed: Placed) -> None:
        await self._deliver(placed, self._request(placed, placed.bodies[0]))

    async def _produce_and_cancel(self, placed: Placed, pause_s: float, *, first: bool) -> None:
        cancel = self._cancel(placed.order_id or "", placed.user_id)
        if first:
            self._send(*cancel)
        await asyncio.gather(self._produce(placed), self._pause(pause_s))
        if not first:
            self._send(*cancel)

    async def _pause(self, pause_s: float) -> None:
        """Wait for so long, or until the load stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):  # in Python 3.11 `wait_for` may lose that it is called off
                await self._stopping.wait()

    async def _deliver(self, placed: Placed, message: tuple[str, str, bytes, Headers]) -> None:
        if await self._acknowledged(*message) is not None:
            placed.stored = True
            placed.accepted_at_s = placed.accepted_at_s or time.monotonic()

    async def _spoil(self, topic: str, key: str, value: bytes, headers: Headers) -> None:
        stored = await self._acknowledged(topic, key, value, headers)
        if stored is None:
            self.record.unsure.append(value)
        else:
            self.record.unreadable.append(Unreadable(stored.topic(), stored.partition(), stored.offset(), value))

    async def _acknowledged(self, topic: str, key: str, value: bytes, headers: Headers) -> Any | None:
        """Send, and return the broker's acknowledgement; None when there is none."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Any] = loop.create_future()

        def known(stored: Any) -> None:
            if not outcome.done():
                outcome.set_result(stored)

        def delivered(error: Any, stored: Any) -> None:
            loop.call_soon_threadsafe(known, None if error is not None else stored)

        self._send(topic, key, value, headers, delivered)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DELIVERED_WITHIN_S + 15):
                return await outcome
        return None

    def _poll(self) -> None:
        """Poll the producer for delivery reports, in a thread of its own."""
        while not self._polling.is_set():
            self._producer.poll(0.1)

    def _send(
        self,
        topic: str,
        key: str,
        value: bytes,
        headers: Headers,
        delivered: Callable[[Any, Any], None] | None = None,
    ) -> None:
        try:
            self._producer.produce(
                self._prefix + topic, key=key, value=value, headers=list(headers), on_delivery=delivered
            )
        except (BufferError, KafkaException):
            if delivered is not None:
                delivered("the queue is full", None)

    def _request(self, placed: Placed, body: dict[str, Any]) -> tuple[str, str, bytes, Headers]:
        order_id = placed.order_id or ""
        value = json.dumps({"order_id": order_id, "user_id": placed.user_id, **body}).encode()
        return "orders.requests", order_id, value, _headers("OrderRequested")

    def _cancel(self, order_id: str, user_id: str, *, by: str | None = None) -> tuple[str, str, bytes, Headers]:
        body = {"order_id": order_id, "user_id": user_id, "requested_by": by or user_id}
        topic = self._rng.choice(("orders.cancels", "orders.cancels", "orders.requests"))
        return topic, order_id, json.dumps(body).encode(), _headers("OrderCancelRequested")

    def _authorized(self, user_id: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(user_id)}"}

    def token(self, user_id: str) -> str:
        """Return a user's token, the same one for a day."""
        if user_id not in self._tokens:
            claims = {"sub": user_id, "scope": "orders:read orders:write", "exp": int(time.time()) + 24 * 3600}
            self._tokens[user_id] = jwt.encode(claims, self._secret, "HS256")
        return self._tokens[user_id]


def _headers(kind: str) -> Headers:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", str(uuid.uuid4()).encode()),
        ("ce_source", b"chaos"),
        ("ce_type", kind.encode()),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
        ("content-type", b"application/json"),
    ]
