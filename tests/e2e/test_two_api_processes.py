"""Two API processes over one system: a client sees the same orders, whichever of them answers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import CANCELLED, COMPLETED, HOLDINGS, buy, sell
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader

pytestmark = pytest.mark.asyncio(loop_scope="package")


@dataclass
class ApiProcesses:
    """Both API processes, each with a client for its own address."""

    system: System
    trader: Trader
    clients: tuple[httpx2.AsyncClient, httpx2.AsyncClient]

    async def call(self, process: int, user_id: str, method: str, path: str, **more: Any) -> httpx2.Response:
        """Call one of the two as a user: an even number is the first, an odd one the second."""
        headers = {"Authorization": f"Bearer {self.trader.token(user_id)}", **more.pop("headers", {})}
        return await self.clients[process % 2].request(method, path, headers=headers, **more)


@pytest_asyncio.fixture
async def apis(system: System, trader: Trader) -> AsyncIterator[ApiProcesses]:
    """Find the two processes; each request opens a connection, as many independent clients would."""
    ports = [system.port(pid) for pid in system.stack.pids["api"]]
    assert 2 == len(set(ports))
    limits = httpx2.Limits(max_keepalive_connections=0)
    clients = [httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) for port in ports]
    try:
        yield ApiProcesses(system, trader, (clients[0], clients[1]))
    finally:
        for client in clients:
            await client.aclose()


async def test_equal_requests_to_both_processes_make_one_order(
    apis: ApiProcesses, system: System, trader: Trader
) -> None:
    """Named test 9: 20 equal requests at the same instant make one order, whose money moves once; tried ten times."""
    await system.endow(["twin"], HOLDINGS)
    for number in range(10):
        wanted = buy("twin", "ACME", f"{number + 1}")
        keys = {"headers": {"Idempotency-Key": f"twin-{number}"}}
        bodies = [wanted.body, wanted.body | {"quantity": f"{number + 1}.0"}]  # the same intent, written differently
        answers = await asyncio.gather(
            *(apis.call(n, "twin", "POST", "/orders", json=bodies[n % 3 % 2], **keys) for n in range(20))
        )
        assert {202} == {answer.status_code for answer in answers}
        [order_id] = {answer.json()["order_id"] for answer in answers}
        assert 19 == sum(answer.headers.get("idempotency-replayed") == "true" for answer in answers)
        trader.accepted[order_id] = wanted
        assert {order_id: COMPLETED} == await trader.ended([order_id])
    mine = "SELECT count(*) FROM audit.orders WHERE user_id = 'twin'"
    assert 10 == (await system.rows(mine))[0]["count"]
    await assert_all_is_well(system, trader)


async def test_a_get_at_the_other_process_finds_the_order_at_once(
    apis: ApiProcesses, system: System, trader: Trader
) -> None:
    """Named test 15: after a 202 of one process, the other finds the order by id, status, client order id and list."""
    await system.endow(["hasty"], HOLDINGS)
    limit = asyncio.Semaphore(10)

    async def submit_and_look(number: int) -> set[int]:
        wanted, name = buy("hasty", "ACME", "1"), f"name-{number}"
        async with limit:
            answer = await apis.call(number, "hasty", "POST", "/orders", json=wanted.body | {"client_order_id": name})
            order_id = answer.json()["order_id"]
            trader.accepted[order_id] = wanted
            paths = (f"/orders/{order_id}", f"/orders/{order_id}/status", f"/orders/by-client-id/{name}")
            looks = [await apis.call(number + 1, "hasty", "GET", path) for path in paths]
            listed = await apis.call(number + 1, "hasty", "GET", "/orders", params={"limit": 200})
        assert order_id in {order["order_id"] for order in listed.json()["orders"]}
        assert {order_id} == {look.json()["order_id"] for look in looks}
        return {answer.status_code, *(look.status_code for look in looks)}

    assert [{202, 200}] * 60 == list(await asyncio.gather(*(submit_and_look(number) for number in range(60))))


async def test_pages_from_both_processes_hold_every_order_once(
    apis: ApiProcesses, system: System, trader: Trader
) -> None:
    """Named test 14: pages read from both processes in alternation hold every earlier order once, while orders run."""
    await system.endow(["reader"], HOLDINGS)
    before = await _submit_together(apis, "reader", 40)
    making = asyncio.create_task(_submit_together(apis, "reader", 40))
    listings = [await _all_pages(apis, "reader", limit) for limit in (3, 7, 40)]
    after = before | await making
    listings.append(await _all_pages(apis, "reader", 7))

    for listing in listings:
        assert len(listing) == len(set(listing))
        assert before <= set(listing) <= after
    assert after == set(listings[-1])
    assert {COMPLETED} == set((await trader.ended(after)).values())
    assert after == set(await _all_pages(apis, "reader", 9, status="COMPLETED"))
    assert [] == await _all_pages(apis, "reader", 9, open="true")


async def _submit_together(apis: ApiProcesses, user_id: str, count: int) -> set[str]:
    wanted = [buy(user_id, "ACME", "1") for _ in range(count)]
    answers = await asyncio.gather(
        *(apis.call(number, user_id, "POST", "/orders", json=one.body) for number, one in enumerate(wanted))
    )
    ids = [answer.json()["order_id"] for answer in answers]
    apis.trader.accepted |= dict(zip(ids, wanted, strict=True))
    return set(ids)


async def _all_pages(apis: ApiProcesses, user_id: str, limit: int, **query: Any) -> list[str]:
    found: list[str] = []
    cursor: dict[str, str] = {}
    for process in range(1000):
        answer = await apis.call(process, user_id, "GET", "/orders", params={"limit": limit, **query, **cursor})
        page = answer.json()
        found += [order["order_id"] for order in page["orders"]]
        if not page["has_more"]:
            return found
        cursor = {"cursor": page["next_cursor"]}
    raise AssertionError("the list has no end")


async def test_a_cancel_at_both_processes_and_the_fill_have_one_winner(
    apis: ApiProcesses, system: System, trader: Trader
) -> None:
    """Named test 4: an order that is cancelled at both processes ends once, and every answer fits its end."""
    await system.endow(["undecided"], HOLDINGS)
    dice = random.Random(4)  # noqa: S311 - a test's dice must fall alike each time
    wanted = [sell("undecided", "ACME", "1", cancel=True) for _ in range(80)]

    async def submit_and_cancel(number: int) -> tuple[str, set[tuple[int, str]]]:
        await asyncio.sleep(dice.uniform(0, 2))
        answer = await apis.call(number, "undecided", "POST", "/orders", json=wanted[number].body)
        order_id = answer.json()["order_id"]
        trader.accepted[order_id] = wanted[number]
        await asyncio.sleep(dice.choice((0, 0, dice.uniform(0, 0.4), 2)))
        path = f"/orders/{order_id}/cancel"
        answers = await asyncio.gather(*(apis.call(process, "undecided", "PUT", path) for process in (0, 1)))
        cancels.release()
        return order_id, {(one.status_code, one.json().get("code", "")) for one in answers}

    async def hold_up() -> None:
        """Pause the asset service until ten orders are cancelled: on a busy machine every cancel comes too late."""
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
        again = await apis.call(0, "undecided", "PUT", f"/orders/{order_id}/cancel")
        assert (200 if end == CANCELLED else 409) == again.status_code
        told = [event["status"] for event in system.events.of(order_id)]
        assert end.split()[0] == told[-1]
        assert 1 == len({"CANCELLED", "COMPLETED"} & set(told))
    await assert_all_is_well(system, trader)


async def test_a_client_that_waits_at_the_other_process_is_told(
    apis: ApiProcesses, system: System, trader: Trader
) -> None:
    """A client may wait at one process for each version of an order that it submitted to the other.

    A submission that waits for the end of its order gets it as 201.
    """
    await system.endow(["patient"], HOLDINGS)

    async def trade(number: int) -> tuple[int, str, list[int]]:
        wanted = buy("patient", "ACME", "1")
        answer = await apis.call(number, "patient", "POST", "/orders", json=wanted.body)
        order_id = answer.json()["order_id"]
        trader.accepted[order_id] = wanted
        versions, status, etag = [0], "PENDING", answer.headers["etag"]
        while status not in {"COMPLETED", "FAILED"}:
            state = await apis.call(
                *(number + 1, "patient", "GET", f"/orders/{order_id}/status"),
                headers={"Prefer": "wait=30", "If-None-Match": etag},
            )
            assert 200 == state.status_code
            versions.append(state.json()["version"])
            status, etag = state.json()["status"], state.headers["etag"]
        waited = await apis.call(number, "patient", "POST", "/orders", json=wanted.body, headers={"Prefer": "wait=30"})
        trader.accepted[waited.json()["order_id"]] = wanted
        return waited.status_code, waited.json()["status"], versions

    for code, status, versions in await asyncio.gather(*(trade(number) for number in range(20))):
        assert (201, "COMPLETED") == (code, status)
        assert sorted(set(versions)) == versions
        assert 4 == versions[-1]


async def test_a_refused_order_that_was_waited_for_is_a_201(apis: ApiProcesses) -> None:
    """The order exists, so the answer is 201; its body says that the order failed."""
    wanted = buy("nobody", "BTC", "0.01")

    answer = await apis.call(0, "nobody", "POST", "/orders", json=wanted.body, headers={"Prefer": "wait=30"})

    body = answer.json()
    assert (201, "FAILED", "ACCOUNT_NOT_FOUND") == (answer.status_code, body["status"], body["reason_code"])
    assert answer.headers["location"] == f"/orders/{body['order_id']}"
    apis.trader.accepted[body["order_id"]] = buy("nobody", "BTC", "0.01", ends="FAILED ACCOUNT_NOT_FOUND")


async def test_an_api_process_that_dies_loses_no_order(apis: ApiProcesses, system: System, trader: Trader) -> None:
    """One API is killed with SIGKILL while 60 clients wait: each gets its one order from the other, by the same key."""
    await system.endow(["unlucky"], HOLDINGS)
    wanted = [buy("unlucky", "ACME", "1") for _ in range(60)]
    victim = system.stack.pids["api"][0]

    async def submit(number: int) -> str:
        headers = {"Idempotency-Key": f"unlucky-{number}", "Prefer": "wait=20"}
        for process in (0, 1):
            try:
                answer = await apis.call(
                    process, "unlucky", "POST", "/orders", json=wanted[number].body, headers=headers
                )
            except httpx2.TransportError:
                continue
            assert answer.status_code in {201, 202}, answer.text
            order_id: str = answer.json()["order_id"]
            trader.accepted[order_id] = wanted[number]
            return order_id
        raise AssertionError("no API process answered")

    submitting = [asyncio.create_task(submit(number)) for number in range(len(wanted))]
    await asyncio.sleep(0.3)
    os.kill(victim, signal.SIGKILL)
    ids = await asyncio.gather(*submitting)

    assert len(wanted) == len(set(ids))
    assert {COMPLETED} == set((await trader.ended(ids)).values())
    mine = "SELECT count(*) FROM audit.claims WHERE user_id = 'unlucky'"
    assert len(wanted) == (await system.rows(mine))[0]["count"]
    await eventually(lambda: _is_back(apis), "the dead API is started again")
    await assert_all_is_well(system, trader)


async def _is_back(apis: ApiProcesses) -> bool:
    try:
        return (await apis.clients[0].get("/health/ready")).status_code == httpx2.codes.OK
    except httpx2.TransportError:
        return False
