"""The released version and this one work side by side on one database and one broker, there and back.

A thousand orders and more are in flight when the processes change: the balance service is away while they begin, so
that they are open on purpose, some before their money is held, some after they were filled. No request to the API may
fail.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import httpx2
import pytest
import pytest_asyncio

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import HOLDINGS, Wanted, buy, mixed
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader
from tests.e2e.versions import HEAD, Fleet, Version, fleet, old
from tests.support.infrastructure import Infrastructure
from tests.support.released import released

pytestmark = [pytest.mark.asyncio, pytest.mark.apache_kafka, pytest.mark.timeout(600)]

IN_FLIGHT: Final = 1_000
FILLED: Final = 250
"""Of them, orders that were filled and wait for their settlement."""
BEGUN: Final = 1_250
"""A sixth of a mix ends without the balance service."""
ENDED_WITHIN_S: Final = 60.0
"""How long an order may take from the moment when the balance service is back."""
ROLLED_WITHIN_S: Final = 20.0
"""How long an order may take while processes are replaced one by one, with nobody away."""
TIME_SCALE: Final = 20.0
"""Nobody loses patience while processes change: a check or a reservation is given up after ten minutes."""
TEN_TIMES: Final = {name: str(10 * Decimal(amount)) for name, amount in HOLDINGS.items()}
USERS: Final = [f"user-{number}" for number in range(12)]
ASKED_EVERY_S: Final = 0.1


@pytest_asyncio.fixture
async def before(tmp_path: Path) -> Version:
    """Give the released version."""
    return old(await asyncio.to_thread(released, tmp_path / "sources"))


async def test_a_deploy_and_a_rollback_with_orders_in_flight(
    infrastructure: Infrastructure, tmp_path: Path, before: Version
) -> None:
    """Orders that either version began the other one ends as they must, and the API answers all the time."""
    holdings = dict.fromkeys(USERS, TEN_TIMES)
    async with (
        fleet(infrastructure, tmp_path / "stack", before, time_scale=TIME_SCALE, holdings=holdings) as one,
        Trader(one.system, cancels="orders.requests") as trader,
    ):
        wanted = mixed(USERS, seed=22)
        await one.start(before, "assets", "orchestrator", "api")
        async with asked_all_the_time(one, trader):
            # Expand: this version's schema and topics, under the old processes.
            begun = await begin(one, trader, before, list(islice(wanted, BEGUN)))
            for command in ("migrate", "topics", "check-deploy"):
                await well_done(one, command)
            # Deploy.
            await one.start(HEAD, "assets", "orchestrator", "api")
            await repeated_at_the_other(one, trader, before, HEAD)
            await repeated_at_the_other(one, trader, HEAD, before)
            await one.stop(before, "assets", "orchestrator")
            await ended_by_both_balances(one, trader, begun, first=before, then=HEAD)
            await one.stop(before, "api")
            # Roll back.
            await one.stop(HEAD, "balance")
            begun = await begin(one, trader, HEAD, list(islice(wanted, BEGUN)))
            await well_done(one, "check-deploy", "--rollback-to", before.number)
            await one.start(before, "assets", "orchestrator", "api")
            await one.stop(HEAD, "api", "orchestrator", "assets")
            await ended_by_both_balances(one, trader, begun, first=HEAD, then=before)
            # And deploy again, while orders go on and nobody is away.
            rolled = await trader.trade_during(roll(one, trader, before, HEAD), wanted, at_least=100, rate=20)
            await ends_as_announced(trader, rolled)
            assert await slowest_s(one.system, rolled) < ROLLED_WITHIN_S
        await assert_all_is_well(one.system, trader)
        await nothing_was_set_aside(one.system)
        assert [] == one.said


async def well_done(one: Fleet, *words: str) -> None:
    """Run a command of this version, which must find nothing wrong."""
    done = await one.system.cli(*words, env=one.settings)
    assert 0 == done.code, done.out + done.err


async def begin(one: Fleet, trader: Trader, version: Version, wanted: Sequence[Wanted]) -> list[str]:
    """Have a version alone begin orders, while no balance service runs or for a moment only; return their ids.

    A quarter gets its money held and is filled, and waits for its settlement. The others wait for their money, or for
    the end of a hold that may be, after a cancel.
    """
    system, first = one.system, [each for each in wanted if not each.cancel][: len(wanted) // 3]
    ids = await trader.trade(first)
    await eventually(lambda: _have(system, ids, "status IS NOT NULL", len(ids)), "the orchestrator knows them")
    await eventually(lambda: _asked(system, ids), "all answers of the asset service are there")
    await one.stop(version, "orchestrator")
    await one.start(version, "balance")
    await eventually(lambda: _answered(system, ids), "the balance service has answered all of them")
    await one.stop(version, "balance")
    await one.start(version, "orchestrator")
    await eventually(lambda: _have(system, ids, "phase = 'SETTLING'", FILLED), "orders wait for their settlement")
    rest = [each for each in wanted if each not in first]
    ids += await trader.trade(rest)
    await eventually(lambda: _have(system, ids, "status IS NOT NULL", len(ids)), "the orchestrator knows them")
    open_ones = await system.rows(f"SELECT phase, count(*) FROM audit.orders WHERE {_OPEN} GROUP BY phase")
    found = {row["phase"]: row["count"] for row in open_ones}
    assert sum(found.values()) >= IN_FLIGHT
    assert {"VALIDATING", "RESERVING", "SETTLING", "REFUNDING"} <= found.keys()
    return ids


async def ended_by_both_balances(
    one: Fleet, trader: Trader, begun: Sequence[str], *, first: Version, then: Version
) -> None:
    """Have balance services of both versions end these orders together; then the first one is stopped."""
    since = time.monotonic()
    await asyncio.gather(one.start(first, "balance"), one.start(then, "balance"))
    await eventually(lambda: _have(one.system, begun, f"NOT ({_OPEN})", len(begun) // 4), "a quarter has ended")
    await one.stop(first, "balance")
    await ends_as_announced(trader, begun)
    assert time.monotonic() - since < ENDED_WITHIN_S


async def repeated_at_the_other(one: Fleet, trader: Trader, first: Version, then: Version) -> None:
    """Send a request again under its key: it finds its order, whichever version has accepted it."""
    wanted, found = buy("user-1", "BTC", "0.0100", price="50000.00"), []
    headers = {"Authorization": f"Bearer {trader.token('user-1')}", "Idempotency-Key": str(uuid.uuid4())}
    for version in (first, then):
        async with httpx2.AsyncClient(base_url=one.api(version), headers=headers, timeout=30) as client:
            answer = await client.post("/orders", json=wanted.body)
            assert 202 == answer.status_code, answer.text
            found.append(answer.json()["order_id"])
    assert found[0] == found[1]
    trader.accepted[found[0]] = wanted


async def roll(one: Fleet, trader: Trader, first: Version, then: Version) -> None:
    """Replace every process, as a deploy does: participants, orchestrator, API. Whoever waits for an order is told."""
    for services in (("balance", "assets"), ("orchestrator",), ("api",)):
        await one.start(then, *services)
        await waited_for(one, trader, first)
        if services == ("api",):
            await waited_for(one, trader, then)
        await one.stop(first, *services)


async def waited_for(one: Fleet, trader: Trader, version: Version) -> None:
    """Submit and wait for the end, at a version's own API: it follows the events of whichever orchestrator."""
    wanted = buy("user-2", "ACME", "2")
    headers = {"Authorization": f"Bearer {trader.token('user-2')}", "Prefer": f"wait={ROLLED_WITHIN_S:g}"}
    async with httpx2.AsyncClient(base_url=one.api(version), headers=headers, timeout=60) as client:
        answer = await client.post("/orders", json=wanted.body)
    assert (201, "COMPLETED") == (answer.status_code, answer.json()["status"]), answer.text
    trader.accepted[answer.json()["order_id"]] = wanted


async def ends_as_announced(trader: Trader, ids: Sequence[str]) -> None:
    """Wait until orders have ended; each as it must."""
    ends = await trader.ended(ids)
    assert {} == {id_: end for id_, end in ends.items() if end not in trader.accepted[id_].announced}


async def nothing_was_set_aside(system: System) -> None:
    """Expect no order that is parked, and no dead letter."""
    assert 0 == (await system.rows("SELECT count(*) FROM audit.orders WHERE parked_reason IS NOT NULL"))[0]["count"]
    for schema in ("orders", "balances", "assets"):
        assert [] == await system.owner_rows(f"SELECT topic, reason FROM {schema}.dead_letters")


async def slowest_s(system: System, ids: Sequence[str]) -> float:
    """Return the longest time that one of these orders took."""
    rows = await system.rows(
        "SELECT max(extract(epoch FROM updated_at - created_at))::float8 AS took_s FROM audit.orders"
        " WHERE order_id = ANY($1::text[]::uuid[])",
        list(ids),
    )
    return float(rows[0]["took_s"])


@asynccontextmanager
async def asked_all_the_time(one: Fleet, trader: Trader) -> AsyncIterator[None]:
    """Submit and read orders by REST while the block runs, each request on a connection of its own; none may fail."""
    asking, failures = True, []

    async def ask() -> None:
        last = await trader.post(buy("user-0", "ACME", "1"))
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(base_url=one.system.stack.api_url, timeout=30, limits=limits) as client:
            for number in cycle(range(5)):
                if not asking:
                    return
                paths = (f"/orders/{last}", f"/v1/orders/{last}/history", "/orders?limit=5", f"/orders/{last}/status")
                request: Mapping[str, object] = {"method": "GET", "url": paths[number % 4]}
                wanted = buy("user-0", "ACME", "1")
                if number == 4:
                    request = {"method": "POST", "url": "/orders", "json": wanted.body}
                headers = {"Authorization": f"Bearer {trader.token('user-0')}"}
                try:
                    answer = await client.request(headers=headers, **request)  # type: ignore[arg-type]
                    if answer.status_code not in {200, 202}:
                        failures.append(f"{request}: {answer.status_code} {answer.text}")
                    elif number == 4:
                        last = answer.json()["order_id"]
                        trader.accepted[last] = wanted
                except httpx2.TransportError as error:
                    failures.append(f"{request}: {error!r}")
                await asyncio.sleep(ASKED_EVERY_S)

    async with asyncio.TaskGroup() as group:
        group.create_task(ask())
        try:
            yield
        finally:
            asking = False
    assert [] == failures


_OPEN: Final = "status NOT IN ('COMPLETED', 'CANCELLED', 'FAILED')"


async def _have(system: System, ids: Sequence[str], what: str, number: int) -> bool:
    statement = f"SELECT count(*) FROM audit.orders WHERE order_id = ANY($1::text[]::uuid[]) AND {what}"
    return bool((await system.rows(statement, list(ids)))[0]["count"] >= number)


async def _asked(system: System, ids: Sequence[str]) -> bool:
    """Whether each order that has not ended waits for the balance service alone."""
    statement = """
        SELECT count(*) FROM audit.questions
        WHERE answer = 'OPEN' AND participant = 'assets' AND order_id = ANY($1::text[]::uuid[])"""
    return bool((await system.rows(statement, list(ids)))[0]["count"] == 0)


async def _answered(system: System, ids: Sequence[str]) -> bool:
    """Whether the balance service knows each order that asks for its money, and has sent all its answers."""
    statement = """
        SELECT (SELECT count(*) FROM audit.questions AS asked
                WHERE answer = 'OPEN' AND participant = 'balance' AND order_id = ANY($1::text[]::uuid[])
                AND NOT EXISTS (SELECT FROM balances.holds AS hold WHERE hold.saga_id = asked.order_id::text))
            + (SELECT count(*) FROM balances.outbox)"""
    return bool((await system.owner_rows(statement, list(ids)))[0][0] == 0)
