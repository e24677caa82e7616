"""`PUT /v1/orders/{id}/hold` and `/release`: who may, what the saga is told, and what the caller learns of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from order_api.settings import ApiSettings
from tests.order_api.orders.changes.support import OPERATOR, put, reads, rests, told
from tests.order_api.support import Api, Orchestrator, running, until

HOLD, RELEASE = "OrderHoldRequested", "OrderReleaseRequested"
ON_HOLD = {"suspended": {"requested_by": "alice"}}
NAMES = {"hold": HOLD, "release": RELEASE}


async def _on_hold(orchestrator: Orchestrator, by: str = "alice", order_id: str | None = None, **columns: Any) -> str:
    order_id = await rests(orchestrator, order_id, progress={"suspended": {"requested_by": by}}, **columns)
    await orchestrator.says(order_id, "held", HOLD, requested_by=by)
    return order_id


@pytest.mark.parametrize("wish", ["hold", "release"])
async def test_a_wish_is_stored_and_published(api: Api, orchestrator: Orchestrator, wish: str) -> None:
    """202 with the order as it still is; the saga is told, in the lane of changes, under the order's key."""
    order_id = await (rests(orchestrator) if wish == "hold" else _on_hold(orchestrator))

    answers = [await put(api, order_id, wish) for _ in range(2)]

    assert [(202, wish == "release")] * 2 == [(one.status_code, one.json()["on_hold"]) for one in answers]
    first, again = api.wire.asked
    assert first == again
    assert (order_id, "orders.changes") == (first.key, first.topic)
    message = told(api)[0]
    assert (NAMES[wish], "alice", "alice") == (type(message).__name__, message.user_id, message.requested_by)
    [row] = await orchestrator.run("SELECT wish, settled, created_at FROM api.suspensions")
    assert (wish, False, message.requested_at) == tuple(row)


@pytest.mark.parametrize("wish", ["hold", "release"])
async def test_what_is_as_wished_is_answered(api: Api, orchestrator: Orchestrator, wish: str) -> None:
    """200 with the order, and nobody is asked."""
    order_id = await (_on_hold(orchestrator) if wish == "hold" else rests(orchestrator))

    answer = await put(api, order_id, wish)

    assert (200, '"2"', wish == "hold") == (answer.status_code, answer.headers["etag"], answer.json()["on_hold"])
    assert [] == told(api)


async def test_a_wish_under_way_is_met(api: Api, orchestrator: Orchestrator) -> None:
    """A release behind a hold that nobody has read yet is sent, though the order does not show the hold."""
    order_id = await rests(orchestrator)
    assert [202, 202, 202] == [(await put(api, order_id, wish)).status_code for wish in ("hold", "release", "hold")]
    assert [HOLD, RELEASE, HOLD] == [type(message).__name__ for message in told(api)]
    assert 3 == len({message.id for message in api.wire.asked})
    await reads(api, orchestrator, "held", shows={"progress": ON_HOLD})
    assert 200 == (await put(api, order_id, "hold")).status_code


@pytest.mark.parametrize("wish", ["hold", "release"])
@pytest.mark.parametrize(
    "columns",
    [{"phase": "VALIDATING"}, {"phase": "SETTLING"}, {"phase": "COMPLETED"}, {"cancel_requested": True}],
)
async def test_what_does_not_rest_is_refused(
    api: Api, orchestrator: Orchestrator, wish: str, columns: dict[str, Any]
) -> None:
    """409, and nothing is stored."""
    order_id = await rests(orchestrator, **columns)

    answer = await put(api, order_id, wish)

    assert (409, "order-not-resting", order_id) == (
        *(answer.status_code, answer.json()["code"], answer.json()["order_id"]),
    )
    assert [] == await orchestrator.run("SELECT FROM api.suspensions")


async def test_only_an_operator_releases_what_an_operator_holds(api: Api, orchestrator: Orchestrator) -> None:
    """The user learns whose hold it is; an operator's release is sent in the operator's name."""
    order_id = await _on_hold(orchestrator, "@operator:ann")

    refused, accepted = await put(api, order_id, "release"), await put(api, order_id, "release", **OPERATOR)

    assert (409, "held-by-operator") == (refused.status_code, refused.json()["code"])
    assert 202 == accepted.status_code
    assert ["@operator:ops"] == [message.requested_by for message in told(api)]


async def test_an_operator_takes_a_users_hold_over(api: Api, orchestrator: Orchestrator) -> None:
    """Else its user could release what the operator wants held. A user's hold adds nothing to an operator's."""
    order_id = await _on_hold(orchestrator)
    assert (202, 200) == (
        (await put(api, order_id, "hold", **OPERATOR)).status_code,
        (await put(api, await _on_hold(orchestrator, "@operator:ann"), "hold")).status_code,
    )
    assert ["@operator:ops"] == [message.requested_by for message in told(api)]


async def test_the_wishes_of_two_do_not_replace_each_other(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """An operator's hold that was not published stays to be published, whatever the user asks for meanwhile."""
    async with running(settings) as api:
        order_id = await rests(orchestrator)
        api.wire.works = False
        await put(api, order_id, "hold", **OPERATOR)
        await put(api, order_id, "release")
        rows = await orchestrator.run("SELECT requested_by, wish FROM api.suspensions ORDER BY 1")
        assert ("@operator:ops", "hold") in [tuple(row) for row in rows]


OUTCOMES: list[tuple[str, dict[str, Any], tuple[str, dict[str, Any]] | None, int, str | None]] = [
    ("hold", {"version": 3, "progress": ON_HOLD}, ("held", {}), 200, None),
    ("hold", {"version": 3, "phase": "SETTLING"}, ("ignored", {"why": "too_late"}), 409, "order-not-resting"),
    ("hold", {"version": 3}, ("ignored", {"why": "too_many"}), 409, "too-many-holds"),
    ("hold", {}, None, 202, None),
    ("release", {"version": 3}, ("released", {}), 200, None),
    ("release", {"version": 4, "phase": "COMPLETED"}, ("released", {}), 200, None),
    (
        "release",
        {"version": 3, "progress": {**ON_HOLD, "release_refused": "WOULD_TRIGGER_IMMEDIATELY"}},
        ("ignored", {"why": "conflict", "reason": "the price 47400 meets the trigger already"}),
        409,
        "release-refused",
    ),
    ("release", {"version": 3, "phase": "CANCELLED"}, ("expired", {}), 409, "order-not-resting"),
    ("release", {"version": 3, "progress": ON_HOLD}, ("ignored", {"why": "not_allowed"}), 409, "held-by-operator"),
    ("hold", {"version": 4}, ("ignored", {"why": "late"}), 409, "overtaken"),
    ("hold", {"version": 4, "progress": ON_HOLD}, ("ignored", {"why": "late"}), 200, None),
    ("release", {"version": 4, "progress": ON_HOLD}, ("ignored", {"why": "late"}), 409, "overtaken"),
    ("release", {"version": 4}, ("ignored", {"why": "late"}), 200, None),
]


@pytest.mark.parametrize(("wish", "columns", "entry", "status", "code"), OUTCOMES)
async def test_a_wish_is_waited_for(
    api: Api,
    orchestrator: Orchestrator,
    wish: str,
    columns: dict[str, Any],
    entry: tuple[str, dict[str, Any]] | None,
    status: int,
    code: str | None,
) -> None:
    """With `Prefer: wait` the answer is what became of it, by what the history says."""
    order_id = await (rests(orchestrator) if wish == "hold" else _on_hold(orchestrator))
    wait = f"wait={1 if entry is None else 20}"
    waits = asyncio.create_task(put(api, order_id, wish, headers={"prefer": wait}))
    await until(lambda: told(api))
    if entry is not None:
        kind, detail = entry
        await reads(api, orchestrator, kind, shows=columns, **detail)

    answer = await waits

    assert (status, code, wait) == (
        *(answer.status_code, answer.json().get("code"), answer.headers["preference-applied"]),
    )
    if code == "release-refused":
        assert ("WOULD_TRIGGER_IMMEDIATELY", "the price 47400 meets the trigger already") == (
            *(answer.json()["release_refused"], answer.json()["detail"]),
        )


async def test_a_takeover_is_waited_for(api: Api, orchestrator: Orchestrator) -> None:
    """The order is on hold by its user when an operator's hold is asked for: only the history tells of the latter."""
    order_id = await _on_hold(orchestrator)

    unread = await put(api, order_id, "hold", headers={"prefer": "wait=1"}, **OPERATOR)
    waits = asyncio.create_task(put(api, order_id, "hold", headers={"prefer": "wait=20"}, **OPERATOR))
    await until(lambda: len(told(api)) == 2)
    await reads(api, orchestrator, "held")

    assert (202, "wait=1") == (unread.status_code, unread.headers["preference-applied"])
    assert (200, True) == ((await waits).status_code, waits.result().json()["on_hold"])


async def test_a_release_behind_a_hold_is_waited_for(api: Api, orchestrator: Orchestrator) -> None:
    """Before the hold is read the order is as the release wishes; the release is not granted by that."""
    order_id = await rests(orchestrator)
    await put(api, order_id, "hold")
    waits = asyncio.create_task(put(api, order_id, "release", headers={"prefer": "wait=20"}))
    await until(lambda: len(told(api)) == 2)
    await reads(api, orchestrator, "held", 0)
    await reads(api, orchestrator, "released", 1, shows={"version": 4})

    answer = await waits

    assert (200, "wait=20", '"4"') == (answer.status_code, answer.headers["preference-applied"], answer.headers["etag"])


async def test_an_earlier_wish_that_is_read_later_answers_nothing(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """Hold, release, hold before anything is read: the first hold's line neither answers nor settles the second."""
    async with running(settings, grace_s=60.0) as api:
        order_id = await rests(orchestrator)
        for wish in ("hold", "release"):
            await put(api, order_id, wish)
        waits = asyncio.create_task(put(api, order_id, "hold", headers={"prefer": "wait=1"}))
        await until(lambda: len(told(api)) == 3)
        await reads(api, orchestrator, "held", 0)

        assert 202 == (await waits).status_code
        again = await put(api, order_id, "hold")
        first, third, fourth = (told(api)[number].requested_at for number in (0, 2, 3))
        assert (202, True) == (again.status_code, first < third == fourth)


async def test_a_wish_is_published_until_the_history_tells_of_it(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """Kept after a failed publish, repeated as it was, and settled when it was read, whatever came of it."""
    async with running(settings, grace_s=0.01) as api:
        order_id = await rests(orchestrator)
        await orchestrator.says(order_id, "held", HOLD, requested_by="alice")  # an earlier one
        api.wire.works = False
        answer = await put(api, order_id, "hold")
        assert (503, "not-published") == (answer.status_code, answer.json()["code"])
        api.wire.works = True
        first = api.wire.asked[0]
        await until(lambda: api.wire.asked.count(first) >= 3)
        await orchestrator.says(order_id, "ignored", HOLD, requested_by="mallory", why="not_allowed")
        seen = len(api.wire.asked)
        await until(lambda: len(api.wire.asked) > seen)
        await reads(api, orchestrator, "ignored", why="duplicate")
        await until(lambda: orchestrator.run("SELECT FROM api.suspensions WHERE settled"))
        assert [first] * len(api.wire.asked) == api.wire.asked


async def test_a_release_that_was_refused_can_be_asked_for_again(api: Api, orchestrator: Orchestrator) -> None:
    """It is another one: with a time of its own, so that the first refusal does not answer it."""
    order_id = await _on_hold(orchestrator)
    await put(api, order_id, "release")
    await reads(api, orchestrator, "ignored", why="conflict")
    waits = asyncio.create_task(put(api, order_id, "release", headers={"prefer": "wait=20"}))
    await until(lambda: len(told(api)) == 2)
    await reads(api, orchestrator, "released", shows={"version": 3})

    assert (200, False) == ((await waits).status_code, waits.result().json()["on_hold"])
    first, second = told(api)
    assert first.requested_at < second.requested_at


async def test_every_wish_leaves_a_line(api: Api, orchestrator: Orchestrator) -> None:
    """Accepted, granted before, refused."""
    order_id = await rests(orchestrator)
    await put(api, order_id, "release")
    await put(api, order_id, "hold")
    await orchestrator.says(order_id, "held", HOLD, requested_by="@operator:ops")
    await _on_hold(orchestrator, "@operator:ops", order_id)
    await put(api, order_id, "release")
    await put(api, order_id, "release", **OPERATOR)
    await put(api, order_id, "hold", user="bob")

    rows = await orchestrator.run("SELECT action, outcome, caller FROM audit.requests ORDER BY request_id")
    assert [
        ("release", "replayed", "alice"),
        ("hold", "accepted", "alice"),
        ("release", "held-by-operator", "alice"),
        ("release", "accepted", "ops"),
    ] == [tuple(row) for row in rows]


async def test_the_order_is_found_by_its_users_own_name(api: Api, orchestrator: Orchestrator) -> None:
    """By client id it is the same."""
    order_id = await rests(orchestrator, client_order_id="mine")
    for wish in ("hold", "release"):
        answer = await api.call("PUT", f"/orders/by-client-id/mine/{wish}")
        assert (202, order_id) == (answer.status_code, answer.json()["order_id"])
