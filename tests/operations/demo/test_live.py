"""What the demo says of streams and webhooks is what it heard: nothing is good that was not told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.codec import encode
from contracts.examples import example
from operations.demo.live import tell_live
from tests.support.planned_api import UNTIL_LEFT, PlannedApi, planned_api
from tests.support.shown_order import ORDER

PATIENT_S = 8
"""Longer than a busy machine stands still: what comes at all comes by then."""
VERSIONS = ("PENDING", "CONFIRMED", "PROCESSING", "COMPLETED")
LIVE = b"retry: 1\n\nevent: snapshot-end\nid: t1\ndata: {}\n\n"
REFUSED: dict[str, Any] = {
    "type": "/problems/invalid-request", "code": "invalid-request", "title": "Invalid request", "status": 422,
    "detail": "url must begin with https://",
}  # fmt: skip


def _versions(*statuses: str) -> bytes:
    """Write the versions of an order as a stream has them."""
    shown = json.loads(encode(example("OrderStatusChanged")))
    order = shown["order"] | {"order_id": ORDER["order_id"]}
    texts = []
    for version, status in enumerate(VERSIONS, 1):
        if status in statuses:
            told = {"order_id": ORDER["order_id"], "version": version, "status": status}
            texts.append(json.dumps(shown | told | {"order": order | told}))
    return b"".join(f"event: order\nid: t2\ndata: {text}\n\n".encode() for text in texts)


def _plan(server: PlannedApi, *of_one: str, feed: tuple[bytes | str, ...]) -> None:
    server.plan(422, REFUSED, **{"content-type": "application/problem+json"})
    server.plan_stream(*feed)
    server.plan(202, ORDER)
    server.plan_stream(_versions(*of_one), *([] if "COMPLETED" in of_one else [UNTIL_LEFT]))


@pytest.mark.parametrize("may_leave_out", [True, False])
async def test_a_system_that_sends_nothing_here_leaves_the_webhook_out(may_leave_out: bool) -> None:  # noqa: FBT001
    """It says why. That is good for a system of somebody's, not for the demo's own."""
    with planned_api() as server:
        _plan(server, *VERSIONS, feed=(LIVE, _versions("COMPLETED"), UNTIL_LEFT))
        tellings = await tell_live(server.address, lambda: "t", 30, may_leave_out=may_leave_out)
    told = [(one.told, one.good) for one in tellings]
    assert [("PENDING, CONFIRMED, PROCESSING, COMPLETED", True), ("snapshot-end, COMPLETED", True)] == told[:2]
    assert all(words.startswith("left out: ") and REFUSED["detail"] in words for words, _ in told[2:]), told
    assert [may_leave_out] * 2 == [good for _, good in told[2:]]
    assert {ORDER["order_id"]} == {one.order_id for one in tellings}


async def test_what_does_not_come_is_not_good() -> None:
    """A version that is missing, a gap, and an end that is not told within the patience."""
    with planned_api() as server:
        gap = b'event: gap\ndata: {"since":null,"list":"/orders"}\n\n'
        _plan(server, "PENDING", "COMPLETED", feed=(LIVE, gap, _versions("CONFIRMED"), UNTIL_LEFT))
        tellings = await tell_live(server.address, lambda: "t", PATIENT_S, may_leave_out=True)
    assert [("PENDING, COMPLETED", False), ("snapshot-end, gap", False)] == [
        (one.told, one.good) for one in tellings[:2]
    ]


async def test_a_system_that_is_away_is_said() -> None:
    """No error is raised, and nothing is good."""
    with planned_api() as server:
        address = server.address
    tellings = await tell_live(address, lambda: "t", 30, may_leave_out=True)
    assert not any(one.good for one in tellings)
    assert all("Connect" in one.told for one in tellings), tellings
