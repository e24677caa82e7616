"""Injects each kind of fault into a running system, and undoes it. The schedule says which fault comes when."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import psutil
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it exports them in a way that mypy does not see
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from docker import from_env
from sqlalchemy.exc import SQLAlchemyError

from contracts.assets import Trading
from operations.access.database import connected
from operations.access.errors import Trouble
from participants.assets.price_store import set_trading
from saga_kit.runtime.errors import DATABASE_ERRORS
from tests.e2e.system import eventually
from tests.evidence.chaos.arena import PARTITIONS, Arena
from tests.evidence.chaos.prices import Raw
from tests.evidence.chaos.schedule import Fault, Kind
from tests.support.servers import Server

ALIVE_WITHIN_S: Final = 30.0
TRADED_WITHIN_S: Final = 60.0
EVENTS: Final = "orders.events"
GROUP_OF: Final = {
    "orders.requests": "orchestrator",
    "orders.cancels": "orchestrator",
    "balance.replies": "orchestrator",
    "assets.replies": "orchestrator",
    "balance.commands": "balance",
    "assets.commands": "assets",
    EVENTS: "webhooks",
}
ROLLED: Final = tuple(GROUP_OF)
PRICES: Final = "assets.prices"
"""Its segments roll, too, but it is compacted, so no record of it can be deleted."""
ECHOES: Final = 30
"""Fewer than what looks like a feed that has begun anew."""
ROLL_S: Final = 3.0


class NotDoneError(Exception):
    """A fault could not be injected; says why in one line."""


@dataclass
class Done:
    """A fault that was injected: its begin and end (monotonic), and a note on what it hit."""

    fault: Fault
    in_flight: int
    began_at: float
    over_at: float = 0.0
    met: str = ""
    not_done: str = ""
    recovered_s: float | None = None
    """How long after the fault's end the first order submitted after it had ended; None when none did."""


class Faults:
    """Injects faults, those to one target one after the other.

    `witness_at`: see `_roll_segments`; `prices`: the records of an asset's prices, as they were read.
    """

    def __init__(
        self,
        arena: Arena,
        in_flight: Callable[[], int],
        witness_at: Callable[[], dict[int, int]],
        prices: Mapping[str, Sequence[Raw]],
    ) -> None:
        self.done: list[Done] = []
        self._arena = arena
        self._in_flight = in_flight
        self._witness_at = witness_at
        self._prices = prices
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._docker = from_env()
        self._ways = {
            Kind.KILL: self._kill,
            Kind.IMMEDIATE: self._immediate,
            Kind.SERVER_KILL: self._server_kill,
            Kind.FREEZE: self._freeze,
            Kind.FREEZE_LONG: self._freeze,
            Kind.LAG: self._freeze,
            Kind.CUT: self._cut,
            Kind.DELAY: self._delay,
            Kind.SWALLOW: self._swallow,
            Kind.ROLL: self._roll,
            Kind.CLOCK: self._clock,
            Kind.STALE: self._freeze,
            Kind.HALT: self._halt,
            Kind.ECHO: self._echo,
        }

    async def do(self, fault: Fault) -> Done:
        """Wait until orders are in flight and the target has no other fault; inject the fault, and undo it."""
        async with self._turns[fault.target]:
            give_up_at = time.monotonic() + ALIVE_WITHIN_S
            while not (under_way := self._in_flight()) and time.monotonic() < give_up_at:
                await asyncio.sleep(0.01)
            done = Done(fault, under_way, time.monotonic())
            self.done.append(done)
            try:
                done.met = await self._ways[fault.kind](fault)
            except (NotDoneError, KafkaException) as error:
                done.not_done = str(error)
            done.over_at = time.monotonic()
        return done

    def undo(self) -> None:
        """End every fault: all processes run, all connections pass, all clocks are right."""
        for service in self._arena.stack.pids:
            for pid in self._arena.pids(service):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        for proxy in self._arena.proxies.values():
            proxy.heal()
        for clock in self._arena.clocks.values():
            clock.write_text("+0\n")

    def close(self) -> None:
        """Close the Docker client."""
        self._docker.close()

    # Processes --------------------------------------------------------------------------------------------------------

    async def _kill(self, fault: Fault) -> str:
        [process] = await self._alive(fault.target)
        age_s = time.time() - process.create_time()
        process.kill()
        return f"{age_s:.0f} s old"

    async def _freeze(self, fault: Fault) -> str:
        processes = await self._alive(fault.target)
        for process in processes:
            process.suspend()
        try:
            await asyncio.sleep(fault.hold_s)
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()
        return f"{len(processes)} frozen"

    async def _clock(self, fault: Fault) -> str:
        clock = self._arena.clocks.get(fault.target)
        if clock is None:
            raise NotDoneError("the library `faketime` is not installed")
        clock.write_text(f"{fault.amount:+g}\n")
        try:
            await asyncio.sleep(fault.hold_s)
        finally:
            clock.write_text("+0\n")
        return ""

    async def _alive(self, target: str) -> list[psutil.Process]:
        """Return the target's processes as soon as all of them run."""
        give_up_at = time.monotonic() + ALIVE_WITHIN_S
        while time.monotonic() < give_up_at:
            found = []
            for pid in self._arena.pids(target):
                with suppress(psutil.NoSuchProcess):
                    process = psutil.Process(pid)
                    found += [process] if process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD} else []
            if found and len(found) == len(self._arena.pids(target)):
                return found
            await asyncio.sleep(0.05)
        raise NotDoneError(f"{target} did not run for {ALIVE_WITHIN_S:g} s")

    # Servers ----------------------------------------------------------------------------------------------------------

    async def _immediate(self, fault: Fault) -> str:
        return await self._down(self._arena.postgres, "SIGQUIT", fault)  # what pg_ctl stop -m immediate sends

    async def _server_kill(self, fault: Fault) -> str:
        return await self._down(self._server(fault.target), "SIGKILL", fault)

    async def _down(self, server: Server, how: str, fault: Fault) -> str:
        container = await asyncio.to_thread(self._docker.containers.get, server.container_id or "")
        await asyncio.to_thread(container.kill, how)
        await asyncio.to_thread(container.wait)
        await asyncio.sleep(fault.hold_s)
        began = time.monotonic()
        for patience in (True, True, False):  # a busy machine may need several times what is usual
            try:
                await server.start()
                break
            except RuntimeError:
                if not patience:
                    raise
        return f"up again in {time.monotonic() - began:.1f} s"

    def _server(self, target: str) -> Server:
        return self._arena.postgres if target == "postgres" else self._arena.kafka

    # The connections --------------------------------------------------------------------------------------------------

    async def _cut(self, fault: Fault) -> str:
        proxy = self._arena.proxies[fault.target]
        number = proxy.cut()
        await asyncio.sleep(fault.hold_s)
        proxy.heal()
        return f"{number} connections"

    async def _delay(self, fault: Fault) -> str:
        proxy = self._arena.proxies[fault.target]
        proxy.delay_s = fault.amount
        await asyncio.sleep(fault.hold_s)
        proxy.heal()
        return f"{proxy.connections} connections"

    async def _swallow(self, fault: Fault) -> str:
        proxy = self._arena.proxies[fault.target]
        number = proxy.swallow()
        await asyncio.sleep(fault.hold_s)
        proxy.heal()
        return f"{number} connections"

    # The market -------------------------------------------------------------------------------------------------------

    async def _halt(self, fault: Fault) -> str:
        await self._trade(fault.target, Trading.HALTED)
        try:
            await asyncio.sleep(fault.hold_s)
        finally:
            await self._trade(fault.target, Trading.OPEN)
        return ""

    async def _trade(self, asset_id: str, trading: Trading) -> None:
        """Set an asset's trading state, through whatever faults there are."""

        async def is_set() -> bool:
            with suppress(Trouble, SQLAlchemyError, OSError, *DATABASE_ERRORS):
                async with connected(self._arena.stack.logins["assets"]) as engine, asyncio.timeout(10):
                    await set_trading(engine, asset_id, trading)
                    return True
            return False

        try:
            await eventually(is_set, f"{asset_id} is {trading}", within_s=TRADED_WITHIN_S)
        except AssertionError as error:
            raise NotDoneError(str(error)) from error

    async def _echo(self, fault: Fault) -> str:
        """Publish old records again, the newest one included: all are late or repeat what is known."""
        known = self._prices[fault.target]
        echoes = [*known[-10 * ECHOES :: 10], *known[-1:]]
        producer = Producer(
            {
                "bootstrap.servers": self._arena.stack.kafka_bootstrap_servers,
                "partitioner": "murmur2_random",
                "log_level": 0,
            }
        )
        for key, value, headers in echoes:
            producer.produce(self._arena.prefix + PRICES, key=key, value=value, headers=list(headers))
        left = await asyncio.to_thread(producer.flush, ALIVE_WITHIN_S)
        if left:
            raise NotDoneError(f"the broker did not take {left} of {len(echoes)} records")
        return f"{len(echoes)} records"

    # The broker's log -------------------------------------------------------------------------------------------------

    async def _roll(self, _fault: Fault) -> str:
        give_up_at = time.monotonic() + ALIVE_WITHIN_S
        while True:
            try:
                return await asyncio.to_thread(self._roll_segments)
            except KafkaException:  # a broker that was down a moment ago may not know its groups yet
                if time.monotonic() > give_up_at:
                    raise

    def _roll_segments(self) -> str:
        """Let every topic begin a new segment at once, and delete the records that all its readers have read.

        For `orders.events` the witness is one of them: it has no group and must see all of them.
        """
        admin = AdminClient({"bootstrap.servers": self._arena.stack.kafka_bootstrap_servers, "log_level": 0})
        prefix = self._arena.prefix
        self._configure(admin, "50")
        time.sleep(ROLL_S)
        witness_at, past = self._witness_at(), {}
        for group in set(GROUP_OF.values()):
            asked = admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(prefix + group)], request_timeout=10
            )
            for tp in asked[prefix + group].result().topic_partitions:
                topic, offset = tp.topic.removeprefix(prefix), tp.offset
                past[topic, tp.partition] = min(offset, witness_at[tp.partition]) if topic == EVENTS else offset
        places = [
            TopicPartition(prefix + topic, number, past[topic, number])
            for topic in ROLLED
            for number in range(PARTITIONS)
            if past.get((topic, number), 0) > 0
        ]
        deleted = 0
        for outcome in admin.delete_records(places, request_timeout=10).values():
            deleted += outcome.result().low_watermark
        self._configure(admin, "604800000")
        return f"the logs of {len(places)} partitions begin at {deleted} in all"

    def _configure(self, admin: AdminClient, segment_ms: str) -> None:
        entry = ConfigEntry("segment.ms", segment_ms, incremental_operation=AlterConfigOpType.SET)
        resources = [
            ConfigResource(ResourceType.TOPIC, self._arena.prefix + topic, incremental_configs=[entry])
            for topic in (*ROLLED, PRICES)
        ]
        answers: dict[Any, Any] = admin.incremental_alter_configs(resources, request_timeout=10)
        for outcome in answers.values():
            outcome.result()
