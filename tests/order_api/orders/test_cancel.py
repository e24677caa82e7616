"""`PUT /orders/{id}/cancel`: its table of answers, who may ask, and what the saga is told."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from contracts import codec
from contracts.orders import OrderCancelRequested
from order_api.settings import ApiSettings
from tests.e2e.system import eventually
from tests.order_api.support import Api, Orchestrator, running, until

TABLE: list[tuple[str, int, str | None]] = [
    ("VALIDATING", 202, None),
    ("RESERVING", 202, None),
    ("REFUNDING", 202, None),
    ("SETTLING", 409, "too-late-to-cancel"),
    ("COMPLETED", 409, "order-not-cancelable"),
    ("FAILED", 409, "order-not-cancelable"),
    ("CANCELLED", 200, None),
]


@pytest.mark.parametrize(("phase", "status", "code"), TABLE)
async def test_the_answer_follows_from_the_status(
    api: Api, orchestrator: Orchestrator, phase: str, status: int, code: str | None
) -> None:
    """Not ended: stored, published, 202. Cancelled: 200 with the order. Filled or ended otherwise: 409, and nothing."""
    order_id = str(uuid4())
    await orchestrator.shows(order_id, phase=phase, version=3)
    answer = await api.cancel(order_id)
    body = answer.json()
    assert (status, code, order_id) == (answer.status_code, body.get("code"), body["order_id"])
    assert (
        (status == 202) == (len(api.wire.asked) == 1) == (len(await orchestrator.run("SELECT FROM api.cancels")) == 1)
    )
    if status == 202:
        assert (True, "PENDING", 3) == (body["cancel_requested"], body["status"], body["version"])
    elif status == 200:
        assert (await api.get(f"/orders/{order_id}")).json() == body
    else:
        assert ("SETTLING" == phase) == (body["order_status"] == "PROCESSING")


async def test_a_claim_can_be_cancelled(api: Api) -> None:
    """An order that the orchestrator does not have yet can be cancelled: the saga is told, in the lane of cancels."""
    posted = (await api.submit()).json()
    answer = await api.cancel(posted["order_id"])
    assert (202, {**posted, "cancel_requested": True}) == (answer.status_code, answer.json())
    request, cancel = api.wire.asked
    assert (request.key, "orders.cancels") == (cancel.key, cancel.topic)
    message = codec.decode("OrderCancelRequested", cancel.value)
    assert isinstance(message, OrderCancelRequested)
    assert (posted["order_id"], "alice", "alice") == (str(message.order_id), message.user_id, message.requested_by)
    assert message.requested_at is not None


async def test_a_repeated_cancel_is_the_same_cancel(api: Api, orchestrator: Orchestrator) -> None:
    """A second request publishes the same message again, until the order shows the cancel; then it only answers."""
    order_id = (await api.submit()).json()["order_id"]
    answers = await asyncio.gather(*(api.cancel(order_id) for _ in range(10)))
    assert {202} == {answer.status_code for answer in answers}
    first, *more = api.wire.asked[1:]
    assert [first] * 9 == more
    await orchestrator.shows(order_id, cancel_requested=True, version=2)
    assert (202, True) == ((again := await api.cancel(order_id)).status_code, again.json()["cancel_requested"])
    assert 11 == len(api.wire.asked)


async def test_cancel_requested_shows_only_what_is_decided(api: Api, orchestrator: Orchestrator) -> None:
    """The 202 says that the cancel is accepted; the order itself shows it when the orchestrator has committed it."""
    order_id = str(uuid4())
    await orchestrator.shows(order_id)
    assert (await api.cancel(order_id)).json()["cancel_requested"]
    assert not (await api.get(f"/orders/{order_id}")).json()["cancel_requested"]


CALLERS: list[tuple[str, str, int, str | None]] = [
    ("alice", "orders:write", 202, "alice"),
    ("bob", "orders:write", 404, None),
    ("bob", "orders:read orders:write", 404, None),
    ("alice", "orders:read", 403, None),
    ("ops", "orders:operate", 202, "@operator:ops"),
    ("alice", "orders:operate", 202, "alice"),
    ("broker", "orders:write orders:act-for-users", 202, "alice"),
    ("broker", "orders:act-for-users", 403, None),
]


@pytest.mark.parametrize(("user", "scope", "status", "requested_by"), CALLERS)
async def test_who_may_cancel(
    api: Api, orchestrator: Orchestrator, user: str, scope: str, status: int, requested_by: str | None
) -> None:
    """The owner, who acts for them, and an operator, who is named as such; for others the order does not exist."""
    order_id = str(uuid4())
    await orchestrator.shows(order_id)
    answer = await api.cancel(order_id, user=user, scope=scope)
    assert status == answer.status_code
    told: list[Any] = [codec.decode("OrderCancelRequested", message.value) for message in api.wire.asked]
    expected = [("alice", requested_by)] if requested_by else []
    assert expected == [(message.user_id, message.requested_by) for message in told]


async def test_an_operators_cancel_stands_beside_the_users(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """The last cancel of an order is the one that is kept, with a time of its own; the same one keeps its time."""
    order_id = str(uuid4())
    await orchestrator.shows(order_id)
    async with running(settings) as api:
        for user, scope in (("alice", "orders:write"), ("ops", "orders:operate"), ("ops", "orders:operate")):
            assert 202 == (await api.cancel(order_id, user=user, scope=scope)).status_code
        mine, operators, again = api.wire.asked
        assert f"{order_id}:cancel:alice" == mine.id
        assert f"{order_id}:cancel:@operator:ops" == operators.id
        assert operators == again
        [row] = await orchestrator.run("SELECT requested_by FROM api.cancels")
        assert "@operator:ops" == row["requested_by"]


async def test_an_unknown_order_cannot_be_cancelled(api: Api) -> None:
    """No order, no cancel: 404, and nothing is stored or published."""
    for order_id in (str(uuid4()), "x", str(uuid4()).upper(), "00000000000000000000000000000000"):
        assert 404 == (await api.cancel(order_id)).status_code
    assert [] == api.wire.asked


@pytest.mark.parametrize(
    ("phase", "status", "ended"),
    [("CANCELLED", 200, "CANCELLED"), ("COMPLETED", 409, "COMPLETED"), ("VALIDATING", 202, "PENDING")],
)
async def test_a_cancel_waits_for_the_end(
    api: Api, orchestrator: Orchestrator, phase: str, status: int, ended: str
) -> None:
    """With `Prefer: wait` the answer tells what became of it, or that nothing has yet; it says that it has waited."""
    order_id = (await api.submit()).json()["order_id"]
    waits = asyncio.create_task(api.cancel(order_id, headers={"prefer": "wait=20"}))

    async def is_accepted() -> bool:
        return bool(await orchestrator.run("SELECT FROM api.cancels"))

    await eventually(is_accepted, "the cancel is accepted")
    await until(lambda: api.app.state.waiters.waiting)
    await orchestrator.shows(order_id, phase=phase, version=3)
    waiters = api.app.state.waiters
    waiters.close() if status == 202 else waiters.notify_all()  # the time is over, or an event has come
    answer = await waits
    body = answer.json()
    assert (status, "wait=20") == (answer.status_code, answer.headers.get("preference-applied"))
    assert ended == body.get("status" if status < 300 else "order_status")
    assert status != 202 or body["cancel_requested"]
