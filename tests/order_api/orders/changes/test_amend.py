"""`PATCH /v1/orders/{id}`: who may change what, what the saga is told, and what the caller learns of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from contracts.amends import AmendRefusal, AmendState, OrderAmendment
from contracts.decimals import Price
from contracts.vocabulary import TimeInForce
from order_api.settings import ApiSettings
from tests.order_api.orders.changes.support import OPERATOR, patch, rests, told
from tests.order_api.support import Api, Orchestrator, running, until

LIMIT = {"limit_price": Price(47_000)}
NAME = "OrderAmendRequested"


async def test_an_amend_is_stored_published_and_shown_as_pending(api: Api, orchestrator: Orchestrator) -> None:
    """202 with the order and its amend; the message has the order's key and only what changes."""
    order_id = await rests(orchestrator)

    answer = await patch(api, order_id, {"limit_price": "47000", "quantity": "0.02"}, key="mine")

    body = answer.json()
    assert (202, order_id, "CONFIRMED") == (answer.status_code, body["order_id"], body["status"])
    assert ("mine", "PENDING", "47000", "0.02", None) == tuple(
        body["amend"].get(name) for name in ("amend_id", "state", "limit_price", "quantity", "trigger_price")
    )
    assert "48000" == body["limit_price"]
    [message] = told(api)
    assert (order_id, "alice", "alice", "mine", None) == (
        *(str(message.order_id), message.user_id, message.requested_by, message.amend_id, message.expected_versions),
    )
    assert (Decimal(47_000), Decimal("0.02"), None) == (message.limit_price, message.quantity, message.trigger_price)
    assert order_id == api.wire.asked[-1].key
    [row] = await orchestrator.run("SELECT created_at, settled FROM api.amends")
    assert (message.requested_at, False) == tuple(row)
    assert (await api.get(f"/orders/{order_id}")).json()["amend"] is None  # the order shows it when the saga has it


async def test_an_amend_without_a_key_gets_a_name(api: Api, orchestrator: Orchestrator) -> None:
    """Each such request is an amend of its own."""
    names = set()
    for _ in range(2):
        names.add((await patch(api, await rests(orchestrator))).json()["amend"]["amend_id"])
    assert 2 == len(names)


BROKEN: list[tuple[Any, str]] = [
    ({}, "body"),
    ({"limit_price": None}, "body"),
    ([], "body"),
    ({"asset_id": "ETH"}, "asset_id"),
    ({"order_type": "LIMIT_SELL", "limit_price": "1"}, "order_type"),
    ({"limit_price": 47_000}, "limit_price"),
    ({"limit_price": "0"}, "limit_price"),
    ({"quantity": "-1"}, "quantity"),
    ({"trail_bps": 7}, "trail_bps"),
    ({"time_in_force": "DAYS"}, "time_in_force"),
    ({"expires_at": "2026-01-01"}, "expires_at"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ({"expires_at": "2199-01-01T00:00:00Z"}, "expires_at"),
]


@pytest.mark.parametrize(("body", "field"), BROKEN)
async def test_a_broken_body_is_refused_by_name(api: Api, orchestrator: Orchestrator, body: Any, field: str) -> None:
    """Unknown fields, broken values and nothing at all: 422, and nothing is stored."""
    answer = await patch(api, await rests(orchestrator), body)

    assert (422, "invalid-request") == (answer.status_code, answer.json()["code"])
    assert field in {error["field"] for error in answer.json()["errors"]}
    assert [] == await orchestrator.run("SELECT FROM api.amends")
    assert [] == told(api)


async def test_a_time_is_sent_as_the_instant_that_it_is(api: Api, orchestrator: Orchestrator) -> None:
    """An offset is no other wish: the same key with the same instant is the same amend."""
    ends = (datetime.now(UTC) + timedelta(hours=3)).replace(microsecond=0)
    texts = (f"{ends:%Y-%m-%dT%H:%M:%SZ}", f"{ends + timedelta(hours=2):%Y-%m-%dT%H:%M:%S+02:00}")
    order_id = await rests(orchestrator)

    answers = [await patch(api, order_id, {"time_in_force": "GTD", "expires_at": text}, key="k") for text in texts]

    assert [202, 202] == [answer.status_code for answer in answers]
    assert {(TimeInForce.GTD, ends)} == {(message.time_in_force, message.expires_at) for message in told(api)}


STATUSES: list[tuple[dict[str, Any], str]] = [
    ({"phase": "VALIDATING"}, "NOT_AMENDABLE"),
    ({"phase": "SETTLING"}, "TOO_LATE"),
    ({"phase": "COMPLETED"}, "TOO_LATE"),
    ({"phase": "CANCELLED"}, "TOO_LATE"),
    ({"phase": "FAILED"}, "TOO_LATE"),
    ({"cancel_requested": True}, "TOO_LATE"),
]


@pytest.mark.parametrize(("columns", "refusal"), STATUSES)
async def test_what_does_not_rest_is_refused_at_once(
    api: Api, orchestrator: Orchestrator, columns: dict[str, Any], refusal: str
) -> None:
    """409 with the reason, a line in the trail, and nothing is stored or published."""
    order_id = await rests(orchestrator, **columns)

    answer = await patch(api, order_id)

    body = answer.json()
    assert (409, "amend-refused", refusal) == (answer.status_code, body["code"], body["amend_refusal"])
    assert (order_id, f"/orders/{order_id}") == (body["order_id"], body["instance"])
    assert [] == await orchestrator.run("SELECT FROM api.amends")
    assert [] == told(api)
    assert [("amend", "amend-refused", "alice")] == await _trail(orchestrator)


async def test_a_claim_does_not_rest_yet(api: Api) -> None:
    """Of an order that the orchestrator does not have yet nothing can be changed."""
    posted = (await api.submit()).json()

    answer = await patch(api, posted["order_id"])

    assert (409, "NOT_AMENDABLE") == (answer.status_code, answer.json()["amend_refusal"])


CALLERS: list[tuple[str, str, int, str | None]] = [
    ("alice", "orders:write", 202, "alice"),
    ("bob", "orders:write", 404, None),
    ("alice", "orders:read", 403, None),
    ("ops", "orders:operate", 202, "@operator:ops"),
    ("broker", "orders:write orders:act-for-users", 202, "alice"),
]


@pytest.mark.parametrize(("user", "scope", "status", "requested_by"), CALLERS)
async def test_who_may_amend(
    api: Api, orchestrator: Orchestrator, user: str, scope: str, status: int, requested_by: str | None
) -> None:
    """As with cancels: the owner, who acts for them, and an operator by name; for others there is no such order."""
    answer = await patch(api, await rests(orchestrator), user=user, scope=scope)

    assert status == answer.status_code
    assert ([requested_by] if requested_by else []) == [message.requested_by for message in told(api)]


async def test_the_order_is_found_by_its_users_own_name(api: Api, orchestrator: Orchestrator) -> None:
    """By client id it is the same amend."""
    order_id = await rests(orchestrator, client_order_id="mine")

    answer = await api.call("PATCH", "/orders/by-client-id/mine", json={"quantity": "0.02"})

    assert (202, order_id) == (answer.status_code, answer.json()["order_id"])


IF_MATCH: list[tuple[str, int, tuple[int, ...] | None]] = [
    ('"2"', 202, (2,)),
    ('"1", "2"', 202, (2,)),
    ('"4","2" , "3", W/"5", "x", "06", "3"', 202, (2, 3, 4)),
    (", ".join(f'"{version}"' for version in range(200)), 202, tuple(range(2, 102))),
    ("*", 202, None),
    ('"1"', 412, None),
    ('"1", "3"', 412, None),
    ('W/"2"', 412, None),
    ('"*"', 412, None),
    ('"02"', 412, None),
    (f'"{"9" * 400}"', 412, None),
    ("2", 412, None),
    ("", 412, None),
]


@pytest.mark.parametrize(("header", "status", "expected"), IF_MATCH)
async def test_if_match_names_the_version(
    api: Api, orchestrator: Orchestrator, header: str, status: int, expected: tuple[int, ...] | None
) -> None:
    """A version that is another already is a 412; which ones will do until the saga decides is told to it."""
    answer = await patch(api, await rests(orchestrator), headers={"if-match": header})

    assert status == answer.status_code
    assert ([expected] if status == 202 else []) == [message.expected_versions for message in told(api)]
    if status == 412:
        assert "version-mismatch" == answer.json()["code"]


async def test_the_same_key_is_the_same_amend(api: Api, orchestrator: Orchestrator) -> None:
    """Repeated at the same time or later, one amend; `1.0` is `1.00`; other changes under the key are refused."""
    order_id = await rests(orchestrator)
    answers = await asyncio.gather(*(patch(api, order_id, {"quantity": "1.0"}, key="k") for _ in range(8)))
    again = await patch(api, order_id, {"quantity": "1.00"}, key="k", headers={"if-match": '"1"'})
    other = await patch(api, order_id, {"quantity": "1.01"}, key="k")

    assert {202} == {answer.status_code for answer in (*answers, again)}
    assert "true" == again.headers["idempotency-replayed"]
    assert [api.wire.asked[0]] * len(api.wire.asked) == api.wire.asked
    assert 1 == len(await orchestrator.run("SELECT FROM api.amends"))
    assert (422, "idempotency-key-reused", order_id) == (
        *(other.status_code, other.json()["code"], other.json()["order_id"]),
    )
    assert (await patch(api, await rests(orchestrator), key="k")).status_code == 202  # of another order it is free


async def test_one_amend_at_a_time(api: Api, orchestrator: Orchestrator) -> None:
    """Until the orchestrator has read one, another is refused: it could overtake the first. Of many one wins."""
    order_id = await rests(orchestrator)
    answers = await asyncio.gather(*(patch(api, order_id, {"quantity": f"{n}"}, key=f"k{n}") for n in range(1, 9)))
    assert [202, *[409] * 7] == sorted(answer.status_code for answer in answers)
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    assert "AMEND_IN_PROGRESS" == refused["amend_refusal"]
    [message] = told(api)

    await orchestrator.says(order_id, "received", NAME, amend_id=message.amend_id, requested_by="alice")

    assert 202 == (await patch(api, order_id, key="next")).status_code
    assert [True, False] == [row[0] for row in await orchestrator.run("SELECT settled FROM api.amends ORDER BY 1 DESC")]


async def test_only_the_requesters_own_message_counts_as_read(api: Api, orchestrator: Orchestrator) -> None:
    """What a stranger sent under the same name, or what came before, says nothing about ours."""
    order_id = await rests(orchestrator)
    await orchestrator.says(order_id, "ignored", NAME, amend_id="k", requested_by="alice", why="too_early")
    await patch(api, order_id, key="k")
    await orchestrator.says(order_id, "ignored", NAME, amend_id="k", requested_by="mallory", why="not_allowed")

    assert 409 == (await patch(api, order_id, key="other")).status_code

    await orchestrator.says(order_id, "ignored", NAME, amend_id="k", requested_by="alice", why="too_late")
    assert 202 == (await patch(api, order_id, key="other")).status_code


async def test_a_name_that_came_by_another_way_is_taken(api: Api, orchestrator: Orchestrator) -> None:
    """An amend that a producer sent under this id is not ours to answer for."""
    order_id = await rests(orchestrator)
    await orchestrator.says(order_id, "received", NAME, amend_id="k", requested_by="alice")

    answer = await patch(api, order_id, key="k")

    assert (422, "idempotency-key-reused") == (answer.status_code, answer.json()["code"])
    assert [] == told(api)


def _amend(state: AmendState, code: AmendRefusal | None = None, reason: str | None = None) -> OrderAmendment:
    return OrderAmendment("k", state, code, reason, limit_price=Price(47_000))


OUTCOMES: list[tuple[dict[str, Any], int, str | None]] = [
    ({"amend": _amend(AmendState.APPLIED), "version": 4}, 200, None),
    ({"amend": _amend(AmendState.APPLIED), "version": 5, "phase": "COMPLETED"}, 200, None),
    (
        {"amend": _amend(AmendState.REFUSED, AmendRefusal.INSUFFICIENT_BALANCE, "240 more are needed"), "version": 4},
        409,
        "INSUFFICIENT_BALANCE",
    ),
    ({"phase": "SETTLING", "version": 3}, 409, "TOO_LATE"),
    ({"amend": _amend(AmendState.PENDING), "version": 3}, 202, None),
]


@pytest.mark.parametrize(("columns", "status", "refusal"), OUTCOMES)
async def test_an_amend_is_waited_for(
    api: Api, orchestrator: Orchestrator, columns: dict[str, Any], status: int, refusal: str | None
) -> None:
    """With `Prefer: wait` the answer tells what became of it; the same request later tells it without waiting."""
    order_id = await rests(orchestrator)
    waits = asyncio.create_task(patch(api, order_id, key="k", headers={"prefer": "wait=20"}))
    await until(lambda: api.app.state.waiters.waiting)

    async with orchestrator.decision() as decision:
        await rests(decision, order_id, **columns)
        await decision.says(order_id, "ignored" if refusal == "TOO_LATE" else "received", NAME, **_HIS, why="too_late")
    waiters = api.app.state.waiters
    waiters.close() if status == 202 else waiters.notify_all()  # the time is over, or an event has come

    for answer in (await waits, await patch(api, order_id, key="k")):
        assert (status, refusal) == (answer.status_code, answer.json().get("amend_refusal")), answer.text
        if status < 300:
            assert f'"{columns["version"]}"' == answer.headers["etag"]
    assert "wait=20" == waits.result().headers["preference-applied"]
    assert refusal != "INSUFFICIENT_BALANCE" or "240 more are needed" == waits.result().json()["detail"]


_HIS = {"amend_id": "k", "requested_by": "alice"}
HISTORIES: list[tuple[list[tuple[str, str, dict[str, Any]]], int, str | None]] = [
    ([("received", NAME, _HIS)], 202, None),
    ([("received", NAME, _HIS), ("amend_refused", "AmendRefused", {"amend_id": "k", "reason_code": "INVALID_TICK"})],
     409, "INVALID_TICK"),
    ([("ignored", NAME, {**_HIS, "why": "too_many"})], 409, "TOO_MANY_AMENDS"),
    ([("ignored", NAME, {**_HIS, "why": "too_early"})], 409, "NOT_AMENDABLE"),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "status", "refusal"), HISTORIES)
async def test_what_the_order_does_not_show_the_history_tells(
    api: Api, orchestrator: Orchestrator, entries: list[Any], status: int, refusal: str | None
) -> None:
    """The order shows one amend; of an earlier one, and of one that was not acted on, the same request learns all."""
    order_id = await rests(orchestrator)
    await patch(api, order_id, key="k")
    await rests(orchestrator, order_id, amend=OrderAmendment("later", AmendState.APPLIED, quantity=None))
    for kind, name, detail in entries:
        await orchestrator.says(order_id, kind, name, **detail)

    answer = await patch(api, order_id, key="k")

    assert (status, refusal) == (answer.status_code, answer.json().get("amend_refusal"))


async def test_an_amend_that_was_not_refused_is_in_force_when_the_order_has_ended(
    api: Api, orchestrator: Orchestrator
) -> None:
    """An ended order has no amend under way."""
    order_id = await rests(orchestrator)
    await patch(api, order_id, key="k")
    await orchestrator.says(order_id, "received", NAME, **_HIS)
    await rests(orchestrator, order_id, phase="COMPLETED", amend=OrderAmendment("later", AmendState.REFUSED))

    assert 200 == (await patch(api, order_id, key="k")).status_code


async def test_too_many_amends_are_refused_without_asking(api: Api, orchestrator: Orchestrator) -> None:
    """When the order says that it takes no more, it never will."""
    full = OrderAmendment("k100", AmendState.REFUSED, AmendRefusal.TOO_MANY_AMENDS, "the order was amended 100 times")
    order_id = await rests(orchestrator, amend=full)

    answer = await patch(api, order_id)

    assert (409, "TOO_MANY_AMENDS") == (answer.status_code, answer.json()["amend_refusal"])


async def test_a_failed_publish_is_repeated_until_the_history_tells_of_it(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """503 says that it is kept. It is published as it was, until it was read; another process does so as well."""
    async with running(settings, grace_s=0.01) as api:
        order_id = await rests(orchestrator)
        api.wire.works = False
        answer = await patch(api, order_id, key="k")
        assert (503, "not-published") == (answer.status_code, answer.json()["code"])
        api.wire.works = True
        first = api.wire.asked[0]
        await until(lambda: api.wire.asked.count(first) >= 3)
        async with running(settings, grace_s=0.01) as other:
            await until(lambda: first in other.wire.asked)
        await orchestrator.says(order_id, "received", NAME, **_HIS)
        await until(lambda: orchestrator.run("SELECT FROM api.amends WHERE settled"))
        assert [first] * len(api.wire.asked) == api.wire.asked


@pytest.mark.parametrize("columns", [{"phase": "SETTLING"}, {"phase": "COMPLETED"}, {"user_id": "bob"}])
async def test_what_can_never_show_is_settled(
    settings: ApiSettings, orchestrator: Orchestrator, columns: dict[str, Any]
) -> None:
    """An order that was filled or has ended, or that is another user's, is past every amend."""
    async with running(settings, grace_s=0.01) as api:
        order_id = await rests(orchestrator)
        await patch(api, order_id)
        await rests(orchestrator, order_id, **columns)
        await until(lambda: orchestrator.run("SELECT FROM api.amends WHERE settled"))


async def test_a_process_that_dies_before_the_publish_loses_nothing(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """The amend is committed before anything is published; another process publishes it."""
    order_id = await rests(orchestrator)
    async with running(settings.model_copy(update={"api_sweep_interval_s": 60.0})) as dying:
        dying.wire.may_go_on.clear()
        patching = asyncio.create_task(patch(dying, order_id, key="k"))
        await until(lambda: dying.wire.asked)
        assert 1 == len(await orchestrator.run("SELECT FROM api.amends"))
        async with running(settings, grace_s=0.01) as other:
            await orchestrator.run("UPDATE api.amends SET next_publish_at = now()")
            await until(lambda: other.wire.asked)
            assert dying.wire.asked[0] == other.wire.asked[0]
        dying.wire.may_go_on.set()
        await patching


async def test_every_amend_leaves_a_line(api: Api, orchestrator: Orchestrator) -> None:
    """Accepted, repeated, refused: the trail has all, with the problem's code."""
    order_id = await rests(orchestrator)
    await patch(api, order_id, key="k")
    await patch(api, order_id, key="k")
    await patch(api, order_id, {"quantity": "3"}, key="k")
    await patch(api, order_id, headers={"if-match": '"7"'}, **OPERATOR)
    await patch(api, order_id, user="bob")
    await patch(api, order_id, {"asset_id": "x"})

    assert [
        ("amend", "accepted", "alice"),
        ("amend", "replayed", "alice"),
        ("amend", "idempotency-key-reused", "alice"),
        ("amend", "version-mismatch", "ops"),
    ] == await _trail(orchestrator)


async def test_an_unknown_order_cannot_be_amended(api: Api) -> None:
    """404, and nothing is told to anybody."""
    for order_id in (str(uuid4()), "x"):
        assert 404 == (await patch(api, order_id)).status_code
    assert [] == told(api)


async def _trail(orchestrator: Orchestrator) -> list[tuple[Any, ...]]:
    rows = await orchestrator.run("SELECT action, outcome, caller FROM audit.requests ORDER BY request_id")
    return [tuple(row) for row in rows]
