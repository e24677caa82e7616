"""Requests that wait for an order, as `Prefer: wait` asks: who waits for which, and how each is notified.

Nothing here reads a table by the clock. An event notifies those who wait for its order, and each looks at it again. A
notification too many costs a look; one that is missed costs a wait to its end, where everybody looks anyway.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from starlette.requests import ClientDisconnect, Request

from contracts.orders import Order
from order_api.http.limits import InFlight
from order_api.http.tokens import Caller
from saga_kit.runtime.errors import classify

Fits = Callable[[Order], Awaitable[bool]]
"""Whether an order, as it was read a moment ago, is what was waited for."""
WAITING_MAX: Final = 10_000
"""Requests that wait at the same time in one process; further ones are answered without waiting."""


class Waiter:
    """One request that waits: for the order's end, or for any version but the one that is `known`."""

    def __init__(self, *, for_end: bool) -> None:
        self.known = -1
        self._for_end = for_end
        self._notified = asyncio.Event()

    def notify(self, version: int | None = None, *, terminal: bool = True) -> None:
        """Wake the request when this version is worth a look; None always is."""
        if version is None or (terminal if self._for_end else version != self.known):
            self._notified.set()

    async def notified(self, deadline: float) -> bool:
        """Wait for a notification until the loop's time `deadline`; return whether one came."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._notified.wait()
        except TimeoutError:
            return False
        self._notified.clear()
        return True


class Waiters:
    """All requests that wait, by the key of their order's events (its id as the record's bytes have it)."""

    def __init__(
        self,
        *,
        waiting_max: int = WAITING_MAX,
        waiting_per_user_max: int = WAITING_MAX,
        beside: Callable[[], int] = lambda: 0,
    ) -> None:
        """`beside` counts others that have a connection for long: they take places of those that wait."""
        self._waiting_max = waiting_max
        self._beside = beside
        self._waiting_per_user_max = waiting_per_user_max
        self._users: Counter[str] = Counter()
        self._waiters: dict[bytes, set[Waiter]] = {}
        self.closed = False
        self.waiting = 0

    def full(self, user_id: str | None) -> bool:
        """Return whether this user may wait no more: so many do already, or the process is about to end.

        None stands for a service that speaks for many users: only the bound of all together counts for it.
        """
        mine = 0 if user_id is None else self._users[user_id]
        return self.closed or self.waiting + self._beside() >= self._waiting_max or mine >= self._waiting_per_user_max

    def __contains__(self, key: bytes | None) -> bool:
        """Return whether anybody waits for this order."""
        return key in self._waiters

    @contextmanager
    def waiter(self, key: bytes, *, for_end: bool, user_id: str | None = None) -> Iterator[Waiter]:
        """Register a waiter for an order as long as the context lasts; it counts for the user, if one is given."""
        waiter = Waiter(for_end=for_end)
        waiters = self._waiters.setdefault(key, set())
        waiters.add(waiter)
        self.waiting += 1
        self._users[user_id or ""] += 1
        try:
            yield waiter
        finally:
            self.waiting -= 1
            self._users[user_id or ""] -= 1
            if not self._users[user_id or ""]:
                del self._users[user_id or ""]
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[key]

    def notify(self, key: bytes, version: int | None = None, *, terminal: bool = True) -> None:
        """Notify all who wait for this order."""
        for waiter in self._waiters.get(key, ()):
            waiter.notify(version, terminal=terminal)

    def notify_all(self) -> None:
        """Notify everybody: an event may have been missed."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.notify()

    def close(self) -> None:
        """Let nobody wait any longer: each who does is answered with the order as it is."""
        self.closed = True
        self.notify_all()


class Waiting:
    """How a request waits. While it does, it is not in flight: others may work in its place."""

    def __init__(self, read: Callable[[UUID, Caller], Awaitable[Order]], waiters: Waiters, in_flight: InFlight) -> None:
        self._read = read
        self._waiters = waiters
        self._in_flight = in_flight

    def full(self, caller: Caller) -> bool:
        """Return whether this caller may wait no more."""
        return self._waiters.full(caller.one_user)

    async def for_end(self, request: Request, order: Order, caller: Caller, wait_s: int) -> tuple[Order, bool]:
        """Wait for the end of an order that is accepted; return it, and whether its client was waited for.

        The order stays accepted whatever happens: when the database fails meanwhile, the answer is what there was.
        """
        return await self.patiently(request, order, _ended, caller, wait_s, for_end=True)

    async def patiently(
        self,
        request: Request,
        order: Order,
        fits: Fits,
        caller: Caller,
        wait_s: int,
        *,
        for_end: bool = False,
    ) -> tuple[Order, bool]:
        """Wait until what was accepted about an order shows; the same as `for_end` otherwise."""
        if not wait_s or self.full(caller):
            return order, False
        try:
            return await self.until(request, fits, order.order_id, caller, wait_s, for_end=for_end), True
        except Exception as error:
            if classify(error) == "poison":
                raise
            return order, False

    async def until(
        self,
        request: Request,
        fits: Fits,
        order_id: UUID,
        caller: Caller,
        wait_s: int,
        *,
        for_end: bool,
    ) -> Order:
        """Wait until an order fits, at most `wait_s`; return it as it is then. Ends when the client hangs up.

        With `for_end` only the order's end is worth a look.
        """
        deadline = asyncio.get_running_loop().time() + wait_s

        async def look() -> Order:
            with self._waiters.waiter(str(order_id).encode(), for_end=for_end, user_id=caller.one_user) as waiter:
                while True:
                    order = await self._read(order_id, caller)
                    if await fits(order) or self._waiters.closed:
                        return order
                    waiter.known = order.version
                    if not await waiter.notified(deadline):
                        return await self._read(order_id, caller)

        with self._in_flight.waiting():
            return await _unless_gone(request, look())


async def _ended(order: Order) -> bool:
    return order.status.terminal


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Order]) -> Order:
    """Do what takes long, unless the client hangs up."""
    working, hanging_up = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        hanging_up.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
