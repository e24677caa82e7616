"""Cancels all of a user's open orders, page by page, and fires the timers that were not renewed in time.

A mass cancel is a row before anything is cancelled, and its place moves with each page of cancels, in one commit. So
whoever finds one that is not completed goes on where it is: the request that made it, or the sweeper of any process.
The cancels themselves are those of single orders from then on: published until the order shows them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final
from uuid import uuid4

import structlog
from prometheus_client import Counter

from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller
from order_api.orders.audit_trail import Origin
from order_api.orders.mass_cancels.store import TIMERS_MAX, Filter, MassCancel, MassCancelStore, Timer
from order_api.orders.publication.messages import Cancel, cancel_message
from order_api.orders.publication.unpublished import Unpublished
from saga_kit.messaging.outbox import Publishes
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.errors import Stopped, describe

WITHIN_S: Final = 5.0
"""A request, or a round of the sweeper, works on a mass cancel for so long; the rest is a later round's."""
AT_ONCE: Final = 3
"""Mass cancels that a process goes on with at the same time."""
KEY_TRIES: Final = 3

log = structlog.get_logger(__name__)


class MassCancels:
    """Serves known callers; raises `Problem` for what it refuses."""

    def __init__(
        self,
        store: MassCancelStore,
        publisher: Publishes,
        fired: Counter,
        *,
        unpublished: Unpublished,
        keys_kept_days: int,
        interval_s: float = 1.0,
    ) -> None:
        """Take what it needs; `fired` counts timers."""
        self._store = store
        self._publisher = publisher
        self._fired = fired
        self._unpublished = unpublished
        self._keys_kept_days = keys_kept_days
        self._interval_s = interval_s
        self._free = asyncio.Semaphore(AT_ONCE)

    async def cancel_all(
        self, user_id: str, wanted: Filter, key: str | None, caller: Caller, origin: Origin
    ) -> tuple[MassCancel, bool]:
        """Cancel a user's open orders; return how far it came, and whether the key had asked for it before."""
        if not caller.sees(user_id):
            raise Problem(Code.OTHER_USER)
        requested_by = caller.name_for(user_id)
        for _ in range(KEY_TRIES):
            made = await self._store.add(uuid4(), user_id, requested_by, key, wanted, origin)
            if made is not None:
                return await self._work_off(made), False
            assert key is not None  # noqa: S101 - nothing else can be taken
            if await self._store.release_key(user_id, requested_by, key, self._keys_kept_days):
                continue
            before = await self._store.holder(user_id, requested_by, key)
            if before is not None and before.filter != wanted:
                raise Problem(Code.CANCEL_ALL_KEY_REUSED)
            if before is not None:
                return await self._work_off(before), True
        raise Problem(Code.UNAVAILABLE)

    async def set_timer(self, user_id: str, timeout_s: int, caller: Caller, origin: Origin) -> Timer:
        """Set, renew or switch off a user's timer."""
        if not caller.acts_for(user_id):
            raise Problem(Code.OTHER_USER)
        timer = await self._store.set_timer(user_id, timeout_s, origin)
        if timer.fired_at == timer.set_at:
            self._fired.inc()
        return timer

    async def timer(self, user_id: str, caller: Caller) -> Timer | None:
        """Return a user's timer, or None if it was never set."""
        if not caller.sees(user_id):
            raise Problem(Code.OTHER_USER)
        return await self._store.timer(user_id)

    async def run(self, stopping: asyncio.Event) -> None:
        """Go on with mass cancels until `stopping`, several at once: one that is slow or fails holds up no other."""
        async with asyncio.TaskGroup() as group:
            await keep_doing("cancel all", partial(self.sweep, group), stopping, every_s=self._interval_s)

    async def run_timers(self, stopping: asyncio.Event) -> None:
        """Fire timers until `stopping`, whatever becomes of the mass cancels that they ask for."""
        await keep_doing("cancel timers", self.fire, stopping, every_s=self._interval_s)

    async def fire(self) -> bool:
        """Fire what is due; return whether more may be."""
        if fired := await self._store.fire():
            self._fired.inc(fired)
            log.warning("cancel timers fired", timers=fired)
        return fired == TIMERS_MAX

    async def sweep(self, group: asyncio.TaskGroup) -> bool:
        """Begin to work off the mass cancel that is due longest; return whether there was one."""
        await self._free.acquire()
        leased = None
        try:
            leased = await self._store.lease()
        finally:
            if leased is None:
                self._free.release()
        if leased is None:
            return False
        group.create_task(self._attempt(leased))
        return True

    async def _attempt(self, one: MassCancel) -> None:
        """Work off a mass cancel as far as it goes. What fails is due again later, by its lease."""
        try:
            await self._work_off(one)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - infrastructure, most likely; the others go on
            log.warning("failed, will try again", what="cancel all", cause=describe(error))
        finally:
            self._free.release()

    async def _work_off(self, one: MassCancel) -> MassCancel:
        """Cancel page after page; return how far it came. The cancels of a page are safe before they are published."""
        clock = asyncio.get_running_loop().time
        until = clock() + WITHIN_S
        while one.completed_at is None and clock() < until:
            found = await self._store.go_on(one.mass_cancel_id)
            if found is None:
                break
            one, cancels = found
            if not await self._publish(cancels):
                break
        return one

    async def _publish(self, cancels: Sequence[Cancel]) -> bool:
        """Publish cancels. What could not be published is repeated as every other cancel is."""
        if not cancels:
            return True
        messages = [cancel_message(cancel) for cancel in cancels]
        published = await self._publisher.publish(messages)
        self._unpublished.note(messages, published=published)
        return published
