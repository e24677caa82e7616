"""The demo: every way an order can end, on a real PostgreSQL and a Kafka-protocol broker, as announced or not."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from operations.cli.explain import print_story
from operations.cli.reach import (
    colour_of,
    connected,
    database_url,
    err,
    jwt_secret,
    kafka_settings,
    out,
    print_json,
    print_table,
    publishing,
    rows,
    setting,
)
from operations.cli.trading import ENDED, sign
from operations.demo.samples import load_samples
from operations.demo.scenes import Scene, scenes
from saga_kit.runtime.settings import KafkaSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine

    from saga_kit.messaging.publisher import Publisher

TIME_SCALE: Final = 0.1
PATIENCE_S: Final = 90.0
"""Twice what the slowest asset takes, at time scale 1."""
STARTING_S: Final = 40.0
"""More for a system that has just started on a busy machine."""
NEXT: Final = """\
next: make run    keeps such a system running; README.md, "Use it", goes on from there
      make test   all tests: most of an hour on two cores"""


@dataclass(frozen=True)
class Target:
    """The system that the demo plays against; `patience_s`: how long a slow order may take there."""

    api_url: str
    database_url: str
    kafka: KafkaSettings
    jwt_secret: str
    patience_s: float


async def run_here(*, json: bool) -> int:
    """Play against the system that runs already, at its own pace; 0 when everything came out as announced."""
    api_url = setting("ORDER_API_URL", "api")
    good = await _play(Target(api_url, database_url(), kafka_settings(), jwt_secret(), PATIENCE_S), json=json)
    return 0 if good else 1


async def run_demo(*, keep: bool, json: bool) -> int:
    """Play against a system of its own, at a tenth of its pace; 0 when everything came out as announced."""
    from local_stack.errors import StackError
    from local_stack.stack import LocalStack, StackOptions

    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="order-saga-demo-"))

    async def samples(logins: Mapping[str, str]) -> None:
        await load_samples(logins, TIME_SCALE)

    options = StackOptions(time_scale=TIME_SCALE, load_samples=samples)
    stack = LocalStack(folder, options, err if json else out)
    try:
        async with stack:
            kafka = KafkaSettings(  # all of it: the environment may be meant for another broker, with TLS and a login
                kafka_bootstrap_servers=stack.kafka_bootstrap_servers,
                kafka_topic_prefix="",
                kafka_security_protocol="PLAINTEXT",
                kafka_ssl_cafile=None,
            )
            patience_s = PATIENCE_S * TIME_SCALE + STARTING_S
            target = Target(stack.api_url, stack.database_url, kafka, stack.jwt_secret, patience_s)
            good = await _play(target, json=json)
        (err if json else out).print(f"\n{time.monotonic() - began:.0f} s, nothing is left running\n{NEXT}")
    except StackError as error:
        err.print(f"[red]{error}[/]")
        return 1
    finally:
        if not keep:
            await stack.remove()
    return 0 if good else 1


async def _play(target: Target, *, json: bool) -> bool:
    from operations.audit import audit
    from operations.cli.inspect import story

    async with connected(target.database_url) as engine:
        async with httpx.AsyncClient(base_url=target.api_url, timeout=30) as api, publishing(target.kafka) as publisher:
            acts = _Acts(target, api, publisher)
            await acts.prepare()
            shown = await acts.play(scenes())
            extras = await acts.faults(shown[0][0].order_id, engine)
        with err.status("auditing ..."):
            findings = await audit(engine)
        if json:
            print_json([{"title": s.title, "order_id": s.order_id, "announced": s.ends, "ended": e} for s, e in shown])
        else:
            _print(shown, extras)
            print_story(await story(engine, uuid.UUID(shown[17][0].order_id)))
            for finding in findings:
                out.print(f"[red]{finding.invariant} {finding.order_id}: {finding.what}[/]")
            out.print("[green]audit: I1 to I11 hold[/]" if not findings else f"[red]audit: {len(findings)} findings[/]")
    good = not findings and all(s.ends == ended for s, ended in shown) and all(good for _, good in extras)
    verdict = "[green]everything came out as announced[/]" if good else "[red]not as announced[/]"
    (err if json else out).print(f"\n{verdict}")
    return good


class _Acts:
    """Plays scenes against a running system, by REST and by Kafka, and looks how they end."""

    def __init__(self, target: Target, api: httpx.AsyncClient, publisher: Publisher) -> None:
        self._target = target
        self._api = api
        self._publisher = publisher

    async def prepare(self) -> None:
        """Give bob something of the asset whose service is slow, so that a sell of it has a hold to refund."""
        from contracts.decimals import Money
        from participants.balance.store import deposit

        async with connected(self._target.database_url) as engine:
            await deposit(engine, "demo:bob:SLOW", "bob", "SLOW", Money(100))

    async def play(self, scenes: list[Scene]) -> list[tuple[Scene, str]]:
        """Submit all but the last at once; the last needs the one before it to be there."""
        *together, last = scenes
        played = [await self._submit(scene) for scene in together]
        with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=err, transient=True) as progress:
            task = progress.add_task("orders run ...")
            ended = await asyncio.gather(*(self._end(scene) for scene in played))
            progress.update(task, description="the last one ...")
            played.append(await self._submit(last))
            ended.append(await self._end(last))
        return list(zip(played, ended, strict=True))

    async def _submit(self, scene: Scene) -> Scene:
        if scene.by_kafka:
            request = {"order_id": scene.order_id, "user_id": scene.user, **scene.body}
            await self._produce(scene.order_id, msgspec.json.encode(request))
            return scene
        answer = await self._api.post("/orders", json=dict(scene.body), headers=self._as(scene.user))
        answer.raise_for_status()
        placed = replace(scene, order_id=answer.json()["order_id"])
        if scene.cancel_by is not None:
            operator = scene.cancel_by.startswith("@")
            headers = self._as("ops", "orders:operate") if operator else self._as(scene.cancel_by)
            (await self._api.put(f"/orders/{placed.order_id}/cancel", headers=headers)).raise_for_status()
        return placed

    async def _end(self, scene: Scene) -> str:
        deadline = time.monotonic() + self._target.patience_s
        told = "nothing heard"
        while time.monotonic() < deadline:
            answer = await self._api.get(f"/orders/{scene.order_id}", headers=self._as(scene.user))
            if answer.is_success:
                order = answer.json()
                told = " ".join(filter(None, (order["status"], order["reason_code"])))
                if order["status"] in ENDED:
                    return told
            await asyncio.sleep(0.1)
        return told

    async def faults(self, order_id: str, engine: AsyncEngine) -> list[tuple[str, bool]]:
        """Deliver a command twice and a message that nobody can read; both must leave their mark and do no harm."""
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
        from contracts.balance import ReserveBalance
        from contracts.codec import outgoing
        from contracts.decimals import Money

        known = hold["user_id"], hold["asset_id"], Money(hold["amount"])
        command = ReserveBalance(hold["hold_id"], uuid.UUID(order_id), hold["hold_id"], *known)
        await self._publisher.publish(
            [outgoing(command, message_id=command.command_id, source="demo", time=datetime.now(UTC), attempt=2)]
        )

    async def _produce(self, order_id: str, body: bytes) -> None:
        """Produce a request as any Kafka client would: CloudEvents headers and a JSON body."""
        from contracts.envelope import Envelope, Outgoing, write_headers
        from contracts.topics import ORDERS_REQUESTS

        envelope = Envelope(str(uuid.uuid4()), "OrderRequested", "demo", datetime.now(UTC))
        message = Outgoing(ORDERS_REQUESTS.name, order_id, envelope.id, body, write_headers(envelope))
        await self._publisher.publish([message])

    def _as(self, user: str, *scopes: str) -> dict[str, str]:
        token = sign(user, ["orders:read", "orders:write", *scopes], secret=self._target.jwt_secret)
        return {"Authorization": f"Bearer {token}"}


async def _becomes_true(look: Any, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if await look():
            return True
        await asyncio.sleep(0.1)
    return False


def _print(shown: list[tuple[Scene, str]], extras: list[tuple[str, bool]]) -> None:
    table = Table("what", "order", "ended as announced", title="every way an order can end", title_justify="left")
    table.columns[2].no_wrap = True
    for scene, ended in shown:
        status = ended.split(" ")[0]
        good = ended == scene.ends
        verdict = f"[green]✓[/] [{colour_of(status)}]{ended}[/]" if good else f"[red]✗ {ended}, not {scene.ends}[/]"
        side = scene.body["order_type"].removeprefix("MARKET_").lower()
        table.add_row(scene.title, f"{scene.user} {side} {scene.body['quantity']} {scene.body['asset_id']}", verdict)
    print_table(table)
    for title, good in extras:
        out.print(f"{'[green]✓[/]' if good else '[red]✗[/]'} {title}")
