"""Asks the asset service what it would say of an order, and waits for the answer. Nothing is stored.

The question is the saga's own, on the saga's own topic, under an id that says that it is a preview's. So any asset
service that answers orders answers previews, by the same rules. The answers are followed only while somebody asks: all
answers to orders pass there, too. One that is lost is an answer that does not come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import structlog

from contracts.assets import AssetApproved, AssetRefused, CheckAsset, is_for_preview
from contracts.codec import decode, outgoing
from contracts.envelope import UnreadableMessage, read_envelope
from contracts.topics import ASSETS_REPLIES
from contracts.vocabulary import id_text
from order_api.http.problems import Code, Problem
from order_api.orders.publication.messages import SOURCE
from saga_kit.messaging.fetch_limits import LostRecord
from saga_kit.messaging.follower import TopicFollower
from saga_kit.messaging.outbox import Publishes
from saga_kit.runtime.settings import KitSettings

Answer = AssetApproved | AssetRefused
ANSWER_WITHIN_S: Final = 3.0
"""The saga would ask again after 2 s: whoever is slower than this is as good as away."""
BEGIN_WITHIN_S: Final = 5.0
"""For the first preview in a while: until the answers are followed."""
IDLE_S: Final = 300.0
"""After so long without a question, the answers are followed no more."""
WAITING_MAX: Final = 500
"""Previews that wait at the same time in one process."""

log = structlog.get_logger(__name__)


class Inquiry:
    """Asks, and hears the answers that are for this process."""

    def __init__(self, settings: KitSettings, publisher: Publishes, *, idle_s: float = IDLE_S) -> None:
        self._publisher = publisher
        self._idle_s = idle_s
        self._answers = _Answers()
        self._follower = TopicFollower(settings, ASSETS_REPLIES.name, self._answers, name="api-previews")
        self._wanted = asyncio.Event()
        self._resting = asyncio.Event()
        """Set when answers are followed no more, a moment before the follower has ended."""

    @property
    def following(self) -> bool:
        """Whether answers are heard from now on until all questions have theirs."""
        return self._follower.following and not self._resting.is_set()

    async def ask(self, question: CheckAsset, now: datetime) -> Answer | None:
        """Return the asset service's answer; None when it does not answer in time. `now` is the database's time.

        Raises the problem when too many ask already, or when the broker is away.
        """
        if len(self._answers) >= WAITING_MAX:
            raise Problem(Code.OVERLOADED)
        self._wanted.set()
        answer = self._answers.expect(key := id_text(question.order_id).encode())
        try:
            await self._begun()
            message = outgoing(question, message_id=question.command_id, source=SOURCE, time=now)
            if not await self._publisher.publish([message]):
                raise Problem(Code.UNAVAILABLE)
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            self._answers.forget(key)

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow the answers while somebody asks, until `stopping`."""
        while not stopping.is_set():
            await _first_of(self._wanted, stopping)
            if stopping.is_set():
                return
            self._resting.clear()
            following = asyncio.create_task(self._follower.run(self._resting))
            try:
                while (self._wanted.is_set() or self._answers) and not stopping.is_set():
                    self._wanted.clear()
                    await _first_of(stopping, within_s=self._idle_s)
            finally:
                self._resting.set()
                await following

    async def _begun(self) -> None:
        try:
            async with asyncio.timeout(BEGIN_WITHIN_S):
                while not self.following:
                    self._answers.began.clear()
                    await self._answers.began.wait()
        except TimeoutError:
            raise Problem(Code.UNAVAILABLE) from None


class _Answers:
    """The previews that wait for an answer, by the key of its record."""

    def __init__(self) -> None:
        self._expected: dict[bytes, asyncio.Future[Answer]] = {}
        self.began = asyncio.Event()

    def __len__(self) -> int:
        return len(self._expected)

    def expect(self, key: bytes) -> asyncio.Future[Answer]:
        """Wait for an answer from now on."""
        return self._expected.setdefault(key, asyncio.get_running_loop().create_future())

    def forget(self, key: bytes) -> None:
        """Wait no more."""
        self._expected.pop(key, None)

    async def hear(self, records: Sequence[Any]) -> None:
        """Hand answers to whoever waits for them; the first one counts, as for an order. One that is lost is none."""
        for record in records:
            expected = None if isinstance(record, LostRecord) else self._expected.get(record.key)
            if expected is not None and not expected.done() and (answer := _read(record)) is not None:
                expected.set_result(answer)

    def missed(self) -> None:
        """Note that answers are followed from now on. One that was missed does not come again."""
        self.began.set()


def _read(record: Any) -> Answer | None:
    """Read an answer to a preview, or None for what is none, or can't be read."""
    try:
        message = decode(read_envelope(record.headers).type, record.value)
    except UnreadableMessage as error:
        log.warning("an answer to a preview can't be read", reason=str(error))
        return None
    if isinstance(message, (AssetApproved, AssetRefused)) and is_for_preview(message.command_id):
        return message
    return None


async def _first_of(*events: asyncio.Event, within_s: float | None = None) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
