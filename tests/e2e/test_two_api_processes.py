"""Two API processes over one system: whichever a client happens to meet, it meets the same orders."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import CANCELLED, COMPLETED, HOLDINGS, buy, sell
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader

pytestmark = pytest.mark.asyncio(loop_scope="package")


@dataclass
class Doors:
    """Both API processes, each asked by its own address."""

    system: System
    trader: Trader
    clients: tuple[httpx.AsyncClient, httpx.AsyncClient]

    async def call(self, door: int, user_id: str, method: str, path: str, **more: Any) -> httpx.Response:
        """Call one of the two as a user."""
        headers = {"Authorization": f"Bearer {self.trader.token(user_id)}", **more.pop("headers", {})}
        return await self.clients[door % 2].request(method, path, headers=headers, **more)


@pytest_asyncio.fixture
async def doors(system: System, trader: Trader) -> AsyncIterator[Doors]:
    """Find the two processes; a connection is opened for each request, as by a crowd of clients."""
    ports = [system.port(pid) for pid in system.stack.pids["api"]]
    assert 2 == len(set(ports))
    limits = httpx.Limits(max_keepalive_connections=0)
    clients = [httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) for port in ports]
    try:
        yield Doors(system, trader, (clients[0], clients[1]))
    finally:
        for client in clients:
            await client.aclose()


async def test_twins_at_both_doors_make_one_order(doors: Doors, system: System, trader: Trader) -> None:
    """Named test 9: 20 equal requests at the same instant, ten times: one order each, and its money moves once."""
    await system.endow(["twin"], HOLDINGS)
    for number in range(10):
        wanted = buy("twin", "ACME", f"{number + 1}")
        keys = {"headers": {"Idempotency-Key": f"twin-{number}"}}
        bodies = [wanted.body, wanted.body | {"quantity": f"{number + 1}.0"}]  # the same intent in other words
        answers = await asyncio.gather(
            *(doors.call(n, "twin", "POST", "/orders", json=bodies[n % 3 % 2], **keys) for n in range(20))
        )
        assert {202} == {answer.status_code for answer in answers}
        [order_id] = {answer.json()["order_id"] for answer in answers}
        assert 19 == sum(answer.headers.get("idempotency-replayed") == "true" for answer in answers)
        trader.accepted[order_id] = wanted
        assert {order_id: COMPLETED} == await trader.ended([order_id])
    mine = "SELECT count(*) FROM audit.orders WHERE user_id = 'twin'"
    assert 10 == (await system.rows(mine))[0]["count"]
    await assert_all_is_well(system, trader)


async def test_a_get_at_the_other_door_finds_the_order_at_once(doors: Doors, system: System, trader: Trader) -> None:
    """Named test 15: after a 202 here, a GET there answers no 404 by id, name or status, nor misses it in the list."""
    await system.endow(["hasty"], HOLDINGS)
    limit = asyncio.Semaphore(10)

    async def submit_and_look(number: int) -> set[int]:
        wanted, name = buy("hasty", "ACME", "1"), f"name-{number}"
        async with limit:
            answer = await doors.call(number, "hasty", "POST", "/orders", json=wanted.body | {"client_order_id": name})
            order_id = answer.json()["order_id"]
            trader.accepted[order_id] = wanted
            paths = (f"/orders/{order_id}", f"/orders/{order_id}/status", f"/orders/by-client-id/{name}")
            looks = [await doors.call(number + 1, "hasty", "GET", path) for path in paths]
            listed = await doors.call(number + 1, "hasty", "GET", "/orders", params={"limit": 200})
        assert order_id in {order["order_id"] for order in listed.json()["orders"]}
        assert {order_id} == {look.json()["order_id"] for look in looks}
        return {answer.status_code, *(look.status_code for look in looks)}

    assert [{202, 200}] * 60 == list(await asyncio.gather(*(submit_and_look(number) for number in range(60))))


async def test_pages_from_both_doors_hold_every_order_once(doors: Doors, system: System, trader: Trader) -> None:
    """Named test 14: while orders are made and end, a walk by alternate doors meets all that were there, none twice."""
    await system.endow(["reader"], HOLDINGS)
    before = await _submit_at_once(doors, "reader", 40)
    making = asyncio.create_task(_submit_at_once(doors, "reader", 40))
    walks = [await _walk(doors, "reader", limit) for limit in (3, 7, 40)]
    after = before | await making
    walks.append(await _walk(doors, "reader", 7))

    for walk in walks:
        assert len(walk) == len(set(walk))
        assert before <= set(walk) <= after
    assert after == set(walks[-1])
    assert {COMPLETED} == set((await trader.ended(after)).values())
    assert after == set(await _walk(doors, "reader", 9, status="COMPLETED"))
    assert [] == await _walk(doors, "reader", 9, open="true")


async def _submit_at_once(doors: Doors, user_id: str, count: int) -> set[str]:
    wanted = [buy(user_id, "ACME", "1") for _ in range(count)]
    answers = await asyncio.gather(
        *(doors.call(number, user_id, "POST", "/orders", json=one.body) for number, one in enumerate(wanted))
    )
    ids = [answer.json()["order_id"] for answer in answers]
    doors.trader.accepted |= dict(zip(ids, wanted, strict=True))
    return set(ids)


async def _walk(doors: Doors, user_id: str, limit: int, **query: Any) -> list[str]:
    found: list[str] = []
    cursor: dict[str, str] = {}
    for door in range(1000):
        answer = await doors.call(door, user_id, "GET", "/orders", params={"limit": limit, **query, **cursor})
        page = answer.json()
        found += [order["order_id"] for order in page["orders"]]
        if not page["has_more"]:
            return found
        cursor = {"cursor": page["next_cursor"]}
    raise AssertionError("the list has no end")


async def test_a_cancel_at_the_other_door_and_the_fill_have_one_winner(
    doors: Doors, system: System, trader: Trader
) -> None:
    """Named test 4: cancelled at both doors at any moment; the order ends once, and every answer fits its end."""
    await system.endow(["undecided"], HOLDINGS)
    dice = random.Random(4)  # noqa: S311 - a test's dice must fall alike each time
    wanted = [sell("undecided", "ACME", "1", cancel=True) for _ in range(80)]

    async def submit_and_cancel(number: int) -> tuple[str, set[tuple[int, str]]]:
        await asyncio.sleep(dice.uniform(0, 2))
        answer = await doors.call(number, "undecided", "POST", "/orders", json=wanted[number].body)
        order_id = answer.json()["order_id"]
        trader.accepted[order_id] = wanted[number]
        await asyncio.sleep(dice.choice((0, 0, dice.uniform(0, 0.4), 2)))
        path = f"/orders/{order_id}/cancel"
        answers = await asyncio.gather(*(doors.call(door, "undecided", "PUT", path) for door in (0, 1)))
        cancels.release()
        return order_id, {(one.status_code, one.json().get("code", "")) for one in answers}

    async def hold_up() -> None:
        """Freeze who is asked first until some were cancelled at both doors: on a busy machine every cancel is late."""
        with system.paused("assets"):
            for _ in range(10):
                await cancels.acquire()

    cancels = asyncio.Semaphore(0)
    held_up = asyncio.create_task(hold_up())
    said = dict(await asyncio.gather(*(submit_and_cancel(number) for number in range(len(wanted)))))
    await held_up
    ends = await trader.ended(said)

    allowed = {
        CANCELLED: {(202, ""), (200, "")},
        COMPLETED: {(202, ""), (409, "too-late-to-cancel"), (409, "order-not-cancelable")},
    }
    assert {CANCELLED, COMPLETED} == set(ends.values())
    assert [] == [(order_id, end) for order_id, end in ends.items() if not said[order_id] <= allowed[end]]
    for order_id, end in ends.items():
        again = await doors.call(0, "undecided", "PUT", f"/orders/{order_id}/cancel")
        assert (200 if end == CANCELLED else 409) == again.status_code
        told = [event["status"] for event in system.events.of(order_id)]
        assert end.split()[0] == told[-1]
        assert 1 == len({"CANCELLED", "COMPLETED"} & set(told))
    await assert_all_is_well(system, trader)


async def test_who_waits_at_the_other_door_is_told(doors: Doors, system: System, trader: Trader) -> None:
    """An order submitted here is waited for there, version by version; a submission that waits gets its end as 201."""
    await system.endow(["patient"], HOLDINGS)

    async def trade(number: int) -> tuple[int, str, list[int]]:
        wanted = buy("patient", "ACME", "1")
        answer = await doors.call(number, "patient", "POST", "/orders", json=wanted.body)
        order_id = answer.json()["order_id"]
        trader.accepted[order_id] = wanted
        versions, status, etag = [0], "PENDING", answer.headers["etag"]
        while status not in {"COMPLETED", "FAILED"}:
            state = await doors.call(
                *(number + 1, "patient", "GET", f"/orders/{order_id}/status"),
                headers={"Prefer": "wait=30", "If-None-Match": etag},
            )
            assert 200 == state.status_code
            versions.append(state.json()["version"])
            status, etag = state.json()["status"], state.headers["etag"]
        waited = await doors.call(number, "patient", "POST", "/orders", json=wanted.body, headers={"Prefer": "wait=30"})
        trader.accepted[waited.json()["order_id"]] = wanted
        return waited.status_code, waited.json()["status"], versions

    for code, status, versions in await asyncio.gather(*(trade(number) for number in range(20))):
        assert (201, "COMPLETED") == (code, status)
        assert sorted(set(versions)) == versions
        assert 4 == versions[-1]


async def test_a_refused_order_that_was_waited_for_is_a_201(doors: Doors) -> None:
    """The resource exists, so it is 201; what became of it stands in it."""
    wanted = buy("nobody", "BTC", "0.01")

    answer = await doors.call(0, "nobody", "POST", "/orders", json=wanted.body, headers={"Prefer": "wait=30"})

    body = answer.json()
    assert (201, "FAILED", "ACCOUNT_NOT_FOUND") == (answer.status_code, body["status"], body["reason_code"])
    assert answer.headers["location"] == f"/orders/{body['order_id']}"
    doors.trader.accepted[body["order_id"]] = buy("nobody", "BTC", "0.01", ends="FAILED ACCOUNT_NOT_FOUND")


async def test_a_door_that_dies_takes_no_order_with_it(doors: Doors, system: System, trader: Trader) -> None:
    """`kill -9` of one API while 60 clients wait at it: each finds its order at the other, by its key, and it ends."""
    await system.endow(["unlucky"], HOLDINGS)
    wanted = [buy("unlucky", "ACME", "1") for _ in range(60)]
    victim = system.stack.pids["api"][0]

    async def submit(number: int) -> str:
        headers = {"Idempotency-Key": f"unlucky-{number}", "Prefer": "wait=20"}
        for door in (0, 1):
            try:
                answer = await doors.call(door, "unlucky", "POST", "/orders", json=wanted[number].body, headers=headers)
            except httpx.TransportError:
                continue
            assert answer.status_code in {201, 202}, answer.text
            order_id: str = answer.json()["order_id"]
            trader.accepted[order_id] = wanted[number]
            return order_id
        raise AssertionError("no door answered")

    submitting = [asyncio.create_task(submit(number)) for number in range(len(wanted))]
    await asyncio.sleep(0.3)
    os.kill(victim, signal.SIGKILL)
    ids = await asyncio.gather(*submitting)

    assert len(wanted) == len(set(ids))
    assert {COMPLETED} == set((await trader.ended(ids)).values())
    mine = "SELECT count(*) FROM audit.claims WHERE user_id = 'unlucky'"
    assert len(wanted) == (await system.rows(mine))[0]["count"]
    await eventually(lambda: _is_back(doors), "the dead API is started again")
    await assert_all_is_well(system, trader)


async def _is_back(doors: Doors) -> bool:
    try:
        return (await doors.clients[0].get("/health/ready")).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
