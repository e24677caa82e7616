"""Submits orders as any client can, by REST and by Kafka, and remembers each accepted one."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from itertools import islice
from typing import Any, Self

import httpx2
import jwt

from tests.e2e.orders import Wanted
from tests.e2e.system import WITHIN_S, System, eventually
from tests.e2e.wire import Message, message

RETRY_S = 0.2
ENDED = {"COMPLETED", "CANCELLED", "FAILED"}
_ENDED_SQL = "status IN ('COMPLETED', 'CANCELLED', 'FAILED')"


class Trader:
    """Acts for every user. `accepted`: what was wanted of each accepted order, by its id.

    `cancels`: the topic for cancels by Kafka; where no process knows the newest one, `orders.requests`.
    """

    def __init__(self, system: System, *, cancels: str = "orders.cancels") -> None:
        self.accepted: dict[str, Wanted] = {}
        self._system, self._cancels = system, cancels
        self._tokens: dict[str, str] = {}
        self._api = httpx2.AsyncClient(base_url=system.stack.api_url, timeout=20)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.aclose()

    async def call(self, user_id: str, method: str, path: str, **more: Any) -> httpx2.Response:
        """Call the API as a user."""
        headers = {"Authorization": f"Bearer {self.token(user_id)}", **more.pop("headers", {})}
        return await self._api.request(method, path, headers=headers, **more)

    async def post(self, wanted: Wanted) -> str:
        """Submit by REST and return the order's id. Repeat with the same key until there is an answer."""
        key = str(uuid.uuid4())
        answer = await self._insist(wanted.user_id, "POST", "/orders", json=wanted.body, key=key)
        assert 202 == answer.status_code, answer.text
        order_id: str = answer.json()["order_id"]
        self.accepted[order_id] = wanted
        return order_id

    async def cancel(self, order_id: str) -> int:
        """Ask by REST for a cancel and return the status code: 202, 200 or 409."""
        user_id = self.accepted[order_id].user_id
        return (await self._insist(user_id, "PUT", f"/orders/{order_id}/cancel")).status_code

    async def produce(self, *wanted: Wanted) -> list[str]:
        """Submit by Kafka, each order to be cancelled followed by its cancel; return the ids."""
        cancels = {one.order_id: cancel_of(one)._replace(topic=self._cancels) for one in wanted if one.cancel}
        messages = [part for one in wanted for part in (request_of(one), cancels.get(one.order_id)) if part]
        await self._system.producer.send(*messages)
        self.note(*wanted)
        return [one.order_id for one in wanted]

    def note(self, *wanted: Wanted) -> None:
        """Remember orders that were sent to Kafka in another way."""
        self.accepted |= {one.order_id: one for one in wanted}

    async def trade(self, wanted: Sequence[Wanted], *, over_s: float = 0.0) -> list[str]:
        """Submit all evenly over a time, every other one by REST, with the cancels that they want; return the ids."""
        begin, pause_s = time.monotonic(), over_s / max(1, len(wanted))
        limit = asyncio.Semaphore(30)

        async def submit(number: int, one: Wanted) -> str:
            await asyncio.sleep(max(0.0, begin + number * pause_s - time.monotonic()))
            async with limit:
                if number % 2:
                    return (await self.produce(one))[0]
                order_id = await self.post(one)
                if one.cancel:
                    assert await self.cancel(order_id) in {200, 202, 409}
                return order_id

        return list(await asyncio.gather(*(submit(number, one) for number, one in enumerate(wanted))))

    async def trade_during(
        self, work: Coroutine[Any, Any, None], wanted: Iterable[Wanted], *, at_least: int, rate: int
    ) -> list[str]:
        """Submit at a steady rate until `work` is done and there are at least so many orders; return their ids.

        When `work` fails, its error is raised, not an error of the orders.
        """
        ids: list[str] = []
        stream = iter(wanted)
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            while not working.done() or len(ids) < at_least:
                ids += await self.trade(list(islice(stream, rate)), over_s=1.0)
        return ids

    async def ended(self, order_ids: Iterable[str], *, within_s: float = WITHIN_S) -> dict[str, str]:
        """Wait until these orders have ended and their last events were seen; return status and reason of each."""
        wanted = set(order_ids)
        await eventually(lambda: self._have_ended(wanted), f"{len(wanted)} orders end", within_s=within_s)
        await eventually(lambda: self._were_told(wanted), "each end is told on the wire", within_s=within_s)
        found = await self._orders(wanted)
        return {str(row["order_id"]): " ".join(filter(None, (row["status"], row["reason_code"]))) for row in found}

    async def _have_ended(self, order_ids: set[str]) -> bool:
        counted = await self._system.rows(
            f"SELECT count(*) FROM audit.orders WHERE order_id = ANY($1::uuid[]) AND {_ENDED_SQL}",
            list(order_ids),
        )
        return bool(counted[0]["count"] == len(order_ids))

    async def _were_told(self, order_ids: set[str]) -> bool:
        events = self._system.events
        return all(ENDED.intersection(events.statuses(order_id)) for order_id in order_ids)

    async def _orders(self, order_ids: set[str]) -> list[Any]:
        statement = "SELECT order_id, status, reason_code FROM audit.orders WHERE order_id = ANY($1::uuid[])"
        return await self._system.rows(statement, list(order_ids))

    async def _insist(
        self, user_id: str, method: str, path: str, *, json: Any = None, key: str | None = None
    ) -> httpx2.Response:
        """Repeat a call until an answer tells its outcome; after a 5xx the outcome is unknown."""
        headers = {} if key is None else {"Idempotency-Key": key}
        give_up_at = time.monotonic() + WITHIN_S
        while True:
            try:
                answer = await self.call(user_id, method, path, json=json, headers=headers)
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
                trouble = f"{answer.status_code} {answer.text}"
            except httpx2.TransportError as error:
                trouble = repr(error)
            assert time.monotonic() < give_up_at, f"{method} {path} is never answered: {trouble}"
            await asyncio.sleep(RETRY_S)

    def token(self, user_id: str) -> str:
        """Return a user's token, the same one for an hour."""
        if user_id not in self._tokens:
            claims = {"sub": user_id, "scope": "orders:read orders:write", "exp": int(time.time()) + 3600}
            self._tokens[user_id] = jwt.encode(claims, self._system.stack.jwt_secret, "HS256")
        return self._tokens[user_id]


def request_of(wanted: Wanted, *, partition: int = -1) -> Message:
    """Write the message that submits an order."""
    body = {"order_id": wanted.order_id, "user_id": wanted.user_id, **wanted.body}
    return message("orders.requests", wanted.order_id, "OrderRequested", body, partition=partition)


def cancel_of(wanted: Wanted, *, by: str | None = None) -> Message:
    """Write the message that asks for an order's cancel."""
    body = {"order_id": wanted.order_id, "user_id": wanted.user_id, "requested_by": by or wanted.user_id}
    return message("orders.cancels", wanted.order_id, "OrderCancelRequested", body)
