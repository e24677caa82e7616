"""Conditional orders by REST: which fields go together, when they may end, and how one that rests is shown."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from contracts.codec import encode
from contracts.terms import EXPIRES_WITHIN, Terms
from contracts.vocabulary import OrderKind, OrderType
from order_api.orders.description.examples import CONDITIONAL_BODIES
from tests.order_api.support import LIMIT, NOT_CONDITIONAL, Api, Orchestrator


def _ahead(**time: float) -> str:
    return (datetime.now(UTC) + timedelta(**time)).isoformat().replace("+00:00", "Z")


GTD: dict[str, Any] = {"time_in_force": "GTD"}
BODIES = {name: body for name, (_, body) in CONDITIONAL_BODIES.items()}


@pytest.mark.parametrize("name", BODIES)
async def test_an_example_of_each_kind_is_accepted_and_shows_its_terms(api: Api, name: str) -> None:
    """A 202 shows what was asked for, with the defaults of the type; what does not apply is null."""
    body = BODIES[name] | ({"expires_at": _ahead(days=1)} if "expires_at" in BODIES[name] else {})
    answer = await api.call("POST", "/orders", json=body)
    order = answer.json()
    expected = NOT_CONDITIONAL | {"time_in_force": "GTC", "price": None, "slippage_bps": None} | body
    assert 202 == answer.status_code, answer.text
    assert expected == {field: order[field] for field in expected}
    assert order == (await api.get(answer.headers["location"])).json()


def test_there_is_an_example_of_each_kind() -> None:
    """The document shows every conditional kind once at least."""
    shown = {OrderType(body["order_type"]).kind for body in BODIES.values()}
    assert set(OrderKind) - {OrderKind.MARKET} == shown


@pytest.mark.parametrize(
    ("order_type", "slippage"),
    [("STOP_LOSS_BUY", 100), ("TAKE_PROFIT_BUY", 100), ("STOP_LOSS_SELL", None), ("TAKE_PROFIT_SELL", None)],
)
async def test_slippage_is_resolved_by_the_type_and_published_as_it_was_sent(
    api: Api, order_type: str, slippage: int | None
) -> None:
    """What the client left out is shown as the default of its type, and is in no message."""
    answer = await api.submit({"order_type": order_type, "trigger_price": "1"})
    assert slippage == answer.json()["slippage_bps"]
    published = json.loads(api.wire.asked[-1].value)
    assert {"slippage_bps", "price", "limit_price", "time_in_force"}.isdisjoint(published)
    assert ("1", order_type) == (published["trigger_price"], published["order_type"])


STOP: dict[str, Any] = {"order_type": "STOP_LOSS_BUY", "trigger_price": "1"}
BRACKET: dict[str, Any] = {"order_type": "BRACKET_SELL", "limit_price": "55000", "trigger_price": "47500"}
TRAIL: dict[str, Any] = {"order_type": "TRAILING_STOP_SELL", "trail_bps": 100}
MISFITS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"order_type": "LIMIT_BUY"}, {"limit_price": "is required for LIMIT_BUY"}),
    (LIMIT | {"price": "1"}, {"price": "is not a field of LIMIT_BUY: give limit_price"}),
    (LIMIT | {"slippage_bps": 100}, {"slippage_bps": "is not a field of LIMIT_BUY"}),
    (LIMIT | GTD, {"expires_at": "is required with time_in_force GTD"}),
    (LIMIT | {"expires_at": "2026-03-09T12:00:00Z"}, {"expires_at": "is a field of time_in_force GTD only"}),
    (STOP | {"time_in_force": "IOC"}, {"time_in_force": "must be one of GTC, GTD, DAY for STOP_LOSS_BUY"}),
    (
        STOP | {"limit_price": "2", "slippage_bps": 5},
        {"slippage_bps": "has no meaning beside limit_price, which bounds the price"},
    ),
    ({"order_type": "BRACKET_SELL", "trigger_price": "1"}, {"limit_price": "is required for BRACKET_SELL"}),
    (BRACKET | {"trigger_price": "55000"}, {"trigger_price": "must be below limit_price for BRACKET_SELL"}),
    (
        BRACKET | {"order_type": "BRACKET_BUY"},
        {"trigger_price": "must be above limit_price for BRACKET_BUY"},
    ),
    (BRACKET | {"slippage_bps": 5}, {"slippage_bps": "is not a field of BRACKET_SELL: a sell exits at any price"}),
    (TRAIL | {"trail_amount": "1"}, {"trail_amount": "exactly one of trail_amount and trail_bps is required"}),
    (
        {"time_in_force": "GTC", "queue_when_closed": True, "trail_bps": 5},
        {
            "trail_bps": "is not a field of MARKET_BUY",
            "time_in_force": "is not a field of MARKET_BUY",
            "price": "is required for MARKET_BUY with queue_when_closed",
        },
    ),
    (
        {"price": "1", "expires_at": "2026-03-09T12:00:00Z"},
        {"expires_at": "is a field of MARKET_BUY with queue_when_closed only"},
    ),
]


async def test_fields_that_do_not_go_together_are_a_422_with_an_error_for_each(
    api: Api, orchestrator: Orchestrator
) -> None:
    """Each error says what would be right, and what was given; no order exists."""
    for body, rules in MISFITS:
        answer = await api.submit(body)
        assert (422, "invalid-request") == (answer.status_code, answer.json()["code"]), body
        assert rules == {error["field"]: error["rule"] for error in answer.json()["errors"]}
        for error in answer.json()["errors"]:
            sent = json.dumps(body[error["field"]]) if error["field"] in body else None
            assert sent == error["got"]
    assert [] == await orchestrator.run("SELECT FROM api.claims")
    assert [] == api.wire.asked


async def test_expires_at_is_later_than_now_and_not_too_far_away(api: Api, orchestrator: Orchestrator) -> None:
    """By the database's clock; the error tells the time. Whoever comes in the same batch is not held up."""
    [(now,)] = await orchestrator.run("SELECT now()")
    late = [now - timedelta(seconds=1), now - timedelta(days=20_000), now + EXPIRES_WITHIN + timedelta(minutes=5)]
    bodies = [LIMIT | GTD | {"expires_at": time.isoformat()} for time in late]
    refused = await asyncio.gather(*(api.submit(body) for body in bodies), *(api.submit(LIMIT) for _ in late))
    assert [422] * 3 + [202] * 3 == [answer.status_code for answer in refused]
    assert 3 == len(await orchestrator.run("SELECT FROM api.claims"))
    for answer in refused[:3]:
        [error] = answer.json()["errors"]
        assert "expires_at" == error["field"]
        assert "later than now and at most 30 days away; it is 20" in error["rule"]
    for time in (now + timedelta(minutes=1), now + EXPIRES_WITHIN):
        assert 202 == (await api.submit(LIMIT | GTD | {"expires_at": time.isoformat()})).status_code


async def test_an_order_that_was_accepted_in_time_is_answered_again_later(api: Api, orchestrator: Orchestrator) -> None:
    """A repetition after `expires_at` finds its order, and another intent is refused as such."""
    body = LIMIT | GTD | {"expires_at": _ahead(hours=1)}
    first = await api.submit(body, key="k")
    past = json.dumps(_ahead(hours=-1))[1:-1]
    await orchestrator.run(
        "UPDATE api.claims SET intent = replace(intent, left($1, 26), left($2, 26)),"
        " request = convert_to(replace(convert_from(request, 'UTF8'), left($1, 26), left($2, 26)), 'UTF8')",
        *(body["expires_at"], past),
    )
    again = await api.submit(body | {"expires_at": past}, key="k")
    assert (202, first.json()["order_id"]) == (again.status_code, again.json()["order_id"]), again.text
    other = await api.submit(body | {"expires_at": past, "limit_price": "1"}, key="k")
    assert "idempotency-key-reused" == other.json()["code"]


async def test_every_term_is_part_of_the_intent(api: Api) -> None:
    """Equal terms may be written differently; each other one is another intent."""
    expires_at = datetime.now(UTC) + timedelta(days=1)
    stop = {"order_type": "STOP_LOSS_BUY", "trigger_price": "5.0"}
    firsts: list[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = [
        (
            stop,
            stop | {"trigger_price": "5", "slippage_bps": 100, "time_in_force": "GTC", "queue_when_closed": False},
            [{"trigger_price": "6"}, {"slippage_bps": 99}, {"limit_price": "6"}, {"queue_when_closed": True}],
        ),
        (
            LIMIT | GTD | {"expires_at": expires_at.isoformat()},
            LIMIT | GTD | {"expires_at": expires_at.replace(tzinfo=None).isoformat() + "Z"},
            [{"expires_at": _ahead(days=2)}, {"expires_at": None, "time_in_force": None}, {"limit_price": "1"}],
        ),
        (BRACKET, BRACKET | {"limit_price": "55000.0"}, [{"limit_price": "55001"}, {"trigger_price": "47501"}]),
        (TRAIL, TRAIL, [{"trail_bps": 105}, {"trail_bps": None, "trail_amount": "100"}]),
        (LIMIT, LIMIT, [{"time_in_force": "IOC"}]),
    ]
    for number, (first, same, others) in enumerate(firsts):
        made = await api.submit(first, key=f"k{number}")
        again = await api.submit(same, key=f"k{number}")
        assert 202 == made.status_code, made.text
        assert (made.json()["order_id"], "true") == (again.json()["order_id"], again.headers["idempotency-replayed"])
        for other in others:
            refused = await api.submit(first | other, key=f"k{number}")
            assert "idempotency-key-reused" == refused.json()["code"], other


async def test_an_order_that_rests_is_shown_with_what_it_holds(api: Api, orchestrator: Orchestrator) -> None:
    """GET, the list of open orders and the state show the same; a trailing stop shows its trigger as of now."""
    order_id = str(uuid4())
    progress = {
        "quote": {"cash_asset_id": "USD", "tick": "0.01"},
        "hold": {"asset_id": "BTC", "amount": "0.01"},
        "rest": {"from_sequence": 7, "entered_at": "2026-03-01T12:00:00Z", "watermark": "50000.00"},
    }
    await orchestrator.shows(
        *(order_id,),
        phase="WORKING",
        version=2,
        order_type="TRAILING_STOP_SELL",
        slippage_bps=None,
        terms=encode(Terms(trail_bps=300)).decode(),
        progress=json.dumps(progress),
    )
    order = (await api.get(f"/orders/{order_id}")).json()
    expected = NOT_CONDITIONAL | {
        "status": "CONFIRMED",
        "trail_bps": 300,
        "time_in_force": "GTC",
        "watermark": "50000",
        "revision": 1,
        "trigger_price": "48500",
        "held_asset_id": "BTC",
        "held_amount": "0.01",
        "slippage_bps": None,
    }
    assert expected == {name: order[name] for name in expected}
    assert [order] == (await api.get("/orders?open=true&order_type=TRAILING_STOP_SELL")).json()["orders"]
    assert [] == (await api.get("/orders?open=false")).json()["orders"]
    state = (await api.get(f"/orders/{order_id}/status")).json()
    assert state == {name: order[name] for name in state}
