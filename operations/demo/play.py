"""The demo: play every way an order can end, on a running system, and say how each ended."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import httpx2
import msgspec

from contracts.assets import Trading
from contracts.balance import ReserveBalance
from contracts.codec import outgoing
from contracts.decimals import Money, Price
from contracts.envelope import Envelope, Outgoing, write_headers
from contracts.topics import ORDERS_REQUESTS
from operations.access.database import connected, rows
from operations.access.rest import ENDED
from operations.access.system import publishing
from operations.access.tokens import SCOPES, WEBHOOK_SCOPES
from operations.audit import audit
from operations.demo.live import USER, tell_live
from operations.demo.scenes import CLOSED, MARKET, OPENING, PATH, Scene, conditional_scenes, scenes
from operations.diagnosis.story import story
from operations.market.prices import set_price, set_trading
from operations.repair.runs import Run
from participants.balance.store import deposit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.access.tokens import Signer
    from operations.audit import Finding
    from operations.demo.live import Telling
    from saga_kit.messaging.publisher import Publisher
    from saga_kit.runtime.settings import KafkaSettings

TIME_SCALE: Final = 0.1
PATIENCE_S: Final = 90.0
"""Twice what the slowest asset takes, at time scale 1."""
PRICE_EVERY_S: Final = 0.3
"""How long each price stands, so that it is a tick of its own on any machine."""
STARTING_S: Final = 40.0
"""More for a system that has just started on a busy machine."""
STORY_OF: Final = 17
"""The scene whose order's story is shown."""

Tell = Callable[[str], None]
"""Is called with what is being done, in words."""


@dataclass(frozen=True)
class Target:
    """The system that the demo plays against.

    `patience_s`: how long a slow order may take there. `ledger`: as for `audit.ledger.find`. `may_leave_out`: it is
    somebody's, and may be set up to send no webhook to a private address.
    """

    api_url: str
    database_url: str
    kafka: KafkaSettings
    signer: Signer
    patience_s: float
    ledger: str = ""
    may_leave_out: bool = False


class Played(NamedTuple):
    """What was shown: how each scene ended, what was told live, what else was tried, one order's story, the audit."""

    scenes: list[tuple[Scene, str]]
    tellings: list[Telling]
    extras: list[tuple[str, bool]]
    story: dict[str, Any]
    findings: list[Finding]

    @property
    def good(self) -> bool:
        """Whether everything came out as announced."""
        as_announced = all(scene.ends == ended for scene, ended in self.scenes)
        as_announced = as_announced and all(one.good for one in self.tellings)
        return as_announced and all(good for _, good in self.extras) and not self.findings


async def play(target: Target, tell: Tell) -> Played:
    """Play all scenes, deliver faults, audit."""
    async with (
        connected(target.database_url) as engine,
        httpx2.AsyncClient(base_url=target.api_url, timeout=30) as api,
        publishing(target.kafka) as publisher,
    ):
        acts = _Acts(target, api, publisher)
        await acts.prepare(engine)
        async with _told_live(target) as told:
            shown = await acts.play(scenes(), tell)
            shown += await acts.play_on_a_market(conditional_scenes(), engine, tell)
            extras = await acts.faults(shown[0][0].order_id, engine)
            tell("streams and webhooks ...")
            tellings = await told
        tell("auditing ...")
        findings = await audit(engine)
        known = await story(engine, uuid.UUID(shown[STORY_OF][0].order_id), target.ledger)
    return Played(shown, tellings, extras, known, findings)


@asynccontextmanager
async def _told_live(target: Target) -> AsyncIterator[asyncio.Task[list[Telling]]]:
    """Have an order told live beside all others: a webhook whose receiver failed comes again after seconds."""

    def sign() -> str:
        return target.signer.sign(USER, [*SCOPES, *WEBHOOK_SCOPES])

    telling = tell_live(target.api_url, sign, target.patience_s, may_leave_out=target.may_leave_out)
    task = asyncio.create_task(telling, name="demo: told live")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Acts:
    """Plays scenes against a running system, by REST and by Kafka, and waits for their ends."""

    def __init__(self, target: Target, api: httpx2.AsyncClient, publisher: Publisher) -> None:
        self._target = target
        self._api = api
        self._publisher = publisher

    async def prepare(self, engine: AsyncEngine) -> None:
        """Give bob something of the asset whose service is slow, so that a sell of it has a hold to refund."""
        await deposit(engine, "demo:bob:SLOW", "bob", "SLOW", Money(100))

    async def play(self, scenes: list[Scene], tell: Tell) -> list[tuple[Scene, str]]:
        """Submit all but the last at once; the last needs the one before it to be there."""
        *together, last = scenes
        played = [await self._submit(scene) for scene in together]
        tell("orders run ...")
        ended = await asyncio.gather(*(self._end(scene) for scene in played))
        tell("the last one ...")
        played.append(await self._submit(last))
        ended.append(await self._end(last))
        return list(zip(played, ended, strict=True))

    async def play_on_a_market(self, scenes: list[Scene], engine: AsyncEngine, tell: Tell) -> list[tuple[Scene, str]]:
        """Submit conditional orders, move the price when all of them rest, and wait for their ends."""
        tell("conditional orders ...")
        await self._trade(engine, Trading.CLOSED)
        played = [await self._submit(scene) for scene in scenes]
        for scene in played:
            if scene.rests:
                await self._wait_for(scene, lambda status: status != "PENDING")
            if scene.cancel_by is not None:
                await self._cancel(scene, scene.cancel_by)
            await self._change(scene)
        tell("the price moves ...")
        for price in PATH:
            await set_price(engine, MARKET, Price(price), Run(f"demo-{uuid.uuid4()}", "demo"))
            await asyncio.sleep(PRICE_EVERY_S)
        tell("the closed market opens ...")
        await self._trade(engine, Trading.OPEN, Price(OPENING))
        for scene in played:
            if scene.held:
                await self._cancel(scene, scene.user)
        ended = await asyncio.gather(*(self._end(scene) for scene in played))
        await self._trade(engine, Trading.CLOSED)
        return list(zip(played, ended, strict=True))

    async def _trade(self, engine: AsyncEngine, trading: Trading, price: Price | None = None) -> None:
        await set_trading(engine, CLOSED, trading, Run(f"demo-{uuid.uuid4()}", "demo"), price=price)

    async def _submit(self, scene: Scene) -> Scene:
        if scene.by_kafka:
            request = {"order_id": scene.order_id, "user_id": scene.user, **scene.body}
            await self._produce(scene.order_id, msgspec.json.encode(request))
            return scene
        answer = await self._api.post("/orders", json=dict(scene.body), headers=self._as(scene.user))
        answer.raise_for_status()
        placed = replace(scene, order_id=answer.json()["order_id"])
        if scene.cancel_by is not None and not scene.rests:
            await self._cancel(placed, scene.cancel_by)
        return placed

    async def _cancel(self, scene: Scene, by: str) -> None:
        headers = self._as("ops", "orders:operate") if by.startswith("@") else self._as(by)
        (await self._api.put(f"/orders/{scene.order_id}/cancel", headers=headers)).raise_for_status()

    async def _change(self, scene: Scene) -> None:
        """Amend an order that rests, or put it on hold, and wait until that counts."""
        headers = self._as(scene.user) | {"Prefer": "wait=10"}
        if scene.amend is not None:
            answer = await self._api.patch(f"/orders/{scene.order_id}", json=dict(scene.amend), headers=headers)
            answer.raise_for_status()
        if scene.held:
            (await self._api.put(f"/orders/{scene.order_id}/hold", headers=headers)).raise_for_status()

    async def _end(self, scene: Scene) -> str:
        return await self._wait_for(scene, lambda status: status in ENDED)

    async def _wait_for(self, scene: Scene, is_reached: Callable[[str], bool]) -> str:
        """Wait for a status of an order; return the last one, with its reason."""
        deadline = time.monotonic() + self._target.patience_s
        status = "nothing heard"
        while time.monotonic() < deadline:
            answer = await self._api.get(f"/orders/{scene.order_id}", headers=self._as(scene.user))
            if answer.is_success:
                order = answer.json()
                status = " ".join(filter(None, (order["status"], order["reason_code"])))
                if is_reached(order["status"]):
                    return status
            await asyncio.sleep(0.1)
        return status

    async def faults(self, order_id: str, engine: AsyncEngine) -> list[tuple[str, bool]]:
        """Deliver a command twice, and a message that can't be read; say of each whether it did no harm."""
        await self._redeliver(order_id, engine)
        await self._produce(order_id, b"{ not JSON")
        duplicate = (
            "SELECT 1 FROM audit.history WHERE order_id = $1 AND kind = 'ignored' AND detail->>'why' = 'duplicate'"
        )
        late = (
            "SELECT 1 FROM audit.history WHERE kind = 'ignored' AND name = 'AssetApproved' AND detail->>'why' = 'late'"
        )
        dead = "SELECT 1 FROM orders.dead_letters WHERE reason LIKE '%JSON%'"
        held_once = "SELECT 1 FROM audit.holds WHERE order_id = $1 AND state = 'SETTLED' AND captured = amount"
        checks = (
            ("a command delivered twice: answered alike, ignored", duplicate, (uuid.UUID(order_id),)),
            ("... and its money moved once", held_once, (uuid.UUID(order_id),)),
            ("an answer after the order had ended: ignored as late", late, ()),
            ("a message that is not JSON: a dead letter with its bytes", dead, ()),
        )
        return [
            (title, await _becomes_true(lambda s=s, a=a: rows(engine, s, *a), self._target.patience_s))
            for title, s, a in checks
        ]

    async def _redeliver(self, order_id: str, engine: AsyncEngine) -> None:
        for hold in await rows(engine, "SELECT * FROM audit.holds WHERE order_id = $1", uuid.UUID(order_id)):
            await self._reserve_again(order_id, hold)

    async def _reserve_again(self, order_id: str, hold: Mapping[str, Any]) -> None:
        known = hold["user_id"], hold["asset_id"], Money(hold["amount"])
        command = ReserveBalance(hold["hold_id"], uuid.UUID(order_id), hold["hold_id"], *known)
        await self._publisher.publish(
            [outgoing(command, message_id=command.command_id, source="demo", time=datetime.now(UTC), attempt=2)]
        )

    async def _produce(self, order_id: str, body: bytes) -> None:
        """Produce a request as any Kafka client would: CloudEvents headers and a JSON body."""
        envelope = Envelope(str(uuid.uuid4()), "OrderRequested", "demo", datetime.now(UTC))
        message = Outgoing(ORDERS_REQUESTS.name, order_id, envelope.id, body, write_headers(envelope))
        await self._publisher.publish([message])

    def _as(self, user: str, *scopes: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._target.signer.sign(user, [*SCOPES, *scopes])}"}


async def _becomes_true(look: Any, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if await look():
            return True
        await asyncio.sleep(0.1)
    return False
