"""`POST /orders/cancel-all`: which orders, how often, who may, and that none is lost on the way."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from contracts import codec
from contracts.orders import OrderCancelRequested
from contracts.vocabulary import OrderType
from order_api.orders.audit_trail import Origin
from order_api.orders.mass_cancels.store import _CANCEL_PAGE, PAGE, Filter, MassCancelStore
from order_api.settings import ApiSettings
from saga_kit.runtime.database import create_engine
from tests.order_api.orders.mass_cancels.support import cancel_all, cancelled, mass_cancels, open_orders
from tests.order_api.support import Api, Orchestrator, running, until


async def test_everything_that_can_be_cancelled_is(api: Api, orchestrator: Orchestrator) -> None:
    """Orders and claims of the user that are not filled and not ended; each as by a cancel of its own."""
    claim = (await api.submit()).json()["order_id"]
    rows = {phase: str(uuid4()) for phase in ("VALIDATING", "RESERVING", "SETTLING", "COMPLETED", "FAILED")}
    for phase, order_id in rows.items():
        await orchestrator.shows(order_id, phase=phase, version=3)
    await orchestrator.shows(str(uuid4()), cancel_requested=True)
    await orchestrator.shows(str(uuid4()), user_id="bob")
    answer = await cancel_all(api)
    body = answer.json()
    assert (202, 3) == (answer.status_code, body["orders"])
    assert body["completed_at"] is not None
    wanted = {claim, rows["VALIDATING"], rows["RESERVING"]}
    assert wanted == await cancelled(orchestrator)
    messages = [codec.decode("OrderCancelRequested", one.value) for one in api.wire.asked if ":cancel:" in one.id]
    assert wanted == {str(one.order_id) for one in messages if isinstance(one, OrderCancelRequested)}
    assert {("alice", "alice")} == {
        (one.user_id, one.requested_by) for one in messages if isinstance(one, OrderCancelRequested)
    }
    trail = await orchestrator.run(
        "SELECT order_id, outcome, caller, address FROM api.requests WHERE action = 'cancel'"
    )
    assert {(order_id, "accepted", "alice", "127.0.0.1") for order_id in wanted} == {
        (str(order_id), *rest) for order_id, *rest in trail
    }


FILTERS: list[tuple[dict[str, Any], set[str]]] = [
    ({"asset_id": "BTC"}, {"buy", "sell", "claim"}),
    ({"asset_id": "ETH"}, {"ether"}),
    ({"side": "SELL"}, {"sell", "ether"}),
    ({"side": "BUY", "asset_id": "BTC"}, {"buy", "claim"}),
    ({"order_type": "MARKET_SELL", "asset_id": "BTC"}, {"sell"}),
    ({"side": "SELL", "order_type": "MARKET_SELL"}, {"sell", "ether"}),
    ({"order_type": "LIMIT_BUY"}, set()),
    ({"asset_id": "NONE"}, set()),
]


@pytest.mark.parametrize(("body", "names"), FILTERS)
async def test_a_filter_leaves_the_rest_alone(
    api: Api, orchestrator: Orchestrator, body: dict[str, Any], names: set[str]
) -> None:
    """By asset, side and type, of orders as of claims."""
    ids = {
        "claim": (await api.submit()).json()["order_id"],
        **{name: str(uuid4()) for name in ("buy", "sell", "ether")},
    }
    await orchestrator.shows(ids["buy"])
    await orchestrator.shows(ids["sell"], order_type="MARKET_SELL")
    await orchestrator.shows(ids["ether"], order_type="MARKET_SELL", asset_id="ETH")
    answer = (await cancel_all(api, body)).json()
    assert len(names) == answer["orders"]
    assert {ids[name] for name in names} == await cancelled(orchestrator)


HOSTILE: list[tuple[Any, set[str]]] = [
    ({"side": "buy"}, {"side"}),
    ({"side": "BUY", "order_type": "MARKET_SELL"}, {"side"}),
    ({"order_type": "MARKET"}, {"order_type"}),
    ({"asset_id": "' OR true --"}, {"asset_id"}),
    ({"asset": "BTC"}, {"asset"}),
    ({"asset_id": None, "status": "PENDING"}, {"status"}),
    ({"user_id": "@fees", "side": 1}, {"user_id", "side"}),
    ([], {"body"}),
    (None, {"body"}),
]


@pytest.mark.parametrize(("body", "fields"), HOSTILE)
async def test_what_breaks_a_rule_cancels_nothing(
    api: Api, orchestrator: Orchestrator, body: Any, fields: set[str]
) -> None:
    """A filter that is misspelt must never mean everything: each fault is named, and nothing is stored."""
    await orchestrator.shows(str(uuid4()))
    answer = await api.call("POST", "/orders/cancel-all", content=codec.encode(body), headers=_JSON)
    assert (422, "invalid-request") == (answer.status_code, answer.json()["code"])
    assert fields == {error["field"] for error in answer.json()["errors"]}
    assert ([], set()) == (await mass_cancels(orchestrator), await cancelled(orchestrator))


_JSON = {"Content-Type": "application/json"}


async def test_a_filter_twice_is_refused(api: Api, orchestrator: Orchestrator) -> None:
    """Of two assets neither is meant for sure; and what is no JSON cancels nothing."""
    twice = await api.call(
        "POST", "/orders/cancel-all", content=b'{"asset_id": "BTC", "asset_id": "ETH"}', headers=_JSON
    )
    broken = await api.call("POST", "/orders/cancel-all", content=b"{", headers=_JSON)
    without = await api.call("POST", "/orders/cancel-all")
    assert [(422, "invalid-request"), (422, "malformed-json"), (415, "unsupported-media-type")] == [
        (answer.status_code, answer.json()["code"]) for answer in (twice, broken, without)
    ]
    assert [] == await mass_cancels(orchestrator)


async def test_who_may_cancel_whose_orders(api: Api, orchestrator: Orchestrator) -> None:
    """The user; a service that acts for users, in their name; an operator in their own; nobody else."""
    order_id = str(uuid4())
    await orchestrator.shows(order_id)
    body = {"user_id": "alice"}
    stranger = await cancel_all(api, body, user="mallory")
    reader = await cancel_all(api, scope="orders:read")
    assert [(403, "other-user"), (403, "insufficient-scope")] == [
        (answer.status_code, answer.json()["code"]) for answer in (stranger, reader)
    ]
    assert set() == await cancelled(orchestrator)
    await cancel_all(api, body, user="ann", scope="orders:operate")
    assert [("@operator:ann",)] == [
        tuple(row) for row in await orchestrator.run("SELECT requested_by FROM api.cancels")
    ]
    await cancel_all(api, body, user="desk", scope="orders:write orders:act-for-users")
    assert [("alice",)] == [tuple(row) for row in await orchestrator.run("SELECT requested_by FROM api.cancels")]


async def test_the_same_key_cancels_once(api: Api, orchestrator: Orchestrator) -> None:
    """Repeated, it is the same mass cancel: an order that was accepted since is left alone. A new key is a new one."""
    await orchestrator.shows(str(uuid4()))
    first = await cancel_all(api, {"side": "BUY"}, key="k")
    later = (await api.submit()).json()["order_id"]
    again = await cancel_all(api, {"side": "BUY"}, key="k")
    assert (202, first.json(), "true") == (again.status_code, again.json(), again.headers["idempotency-replayed"])
    assert "idempotency-replayed" not in first.headers
    assert later not in await cancelled(orchestrator)
    other = await cancel_all(api, {"side": "SELL"}, key="k")
    assert (422, "cancel-all-key-reused") == (other.status_code, other.json()["code"])
    assert 202 == (await cancel_all(api, {"side": "SELL"}, key="k", user="bob")).status_code
    assert 1 == (await cancel_all(api, key="new")).json()["orders"]
    assert later in await cancelled(orchestrator)


async def test_each_requester_has_keys_of_their_own(api: Api, orchestrator: Orchestrator) -> None:
    """Operators and the user choose the same key: each asks for a mass cancel of their own, and it is theirs again."""
    body, operate = {"user_id": "alice"}, "orders:operate"
    askers: list[dict[str, str]] = [{}, {"user": "ann", "scope": operate}, {"user": "olga", "scope": operate}]

    filters = [{"side": "BUY"}, {"side": "SELL"}, {"asset_id": "BTC"}]
    asked = list(zip(askers, filters, strict=True)) * 2

    answers = [await cancel_all(api, body | chosen, key="k", **who) for who, chosen in asked]

    assert [202] * 6 == [answer.status_code for answer in answers]
    made = [answer.json()["mass_cancel_id"] for answer in answers]
    assert (3, made[:3]) == (len(set(made)), made[3:])
    assert ["alice", "@operator:ann", "@operator:olga"] == [
        row["requested_by"] for row in await mass_cancels(orchestrator)
    ]
    await orchestrator.run("UPDATE api.mass_cancels SET created_at = created_at - interval '31 days'")
    assert 202 == (await cancel_all(api, body | {"side": "BUY"}, key="k", **askers[1])).status_code
    kept = await orchestrator.run("SELECT requested_by FROM api.mass_cancels WHERE idempotency_key = 'k' ORDER BY 1")
    assert ["@operator:ann", "@operator:olga", "alice"] == [row["requested_by"] for row in kept]


async def test_twins_are_one(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """The same key at the same moment, in two processes: one mass cancel, and each order has one line in the trail."""
    await open_orders(orchestrator, PAGE + 50)
    async with running(settings) as one, running(settings) as other:
        answers = await asyncio.gather(*(cancel_all(api, key="k") for api in (one, other) * 4))
    assert {202} == {answer.status_code for answer in answers}
    assert 1 == len({answer.json()["mass_cancel_id"] for answer in answers})
    assert {PAGE + 50} == {answer.json()["orders"] for answer in answers}
    [(lines, orders)] = await orchestrator.run(
        "SELECT count(*), count(DISTINCT order_id) FROM api.requests WHERE action = 'cancel'"
    )
    assert (PAGE + 50, PAGE + 50) == (lines, orders)


async def test_an_old_key_is_released(api: Api, orchestrator: Orchestrator) -> None:
    """A key that was kept as long as promised serves another mass cancel."""
    await cancel_all(api, {"side": "BUY"}, key="k")
    await orchestrator.run("UPDATE api.mass_cancels SET created_at = created_at - interval '31 days'")
    assert 202 == (await cancel_all(api, {"side": "SELL"}, key="k")).status_code


async def test_asking_again_makes_no_further_work(api: Api, orchestrator: Orchestrator) -> None:
    """Cancels that the orders do not show yet are not made again: whoever asks for all in a loop costs little."""
    await open_orders(orchestrator, 20)
    counts = [(await cancel_all(api)).json()["orders"] for _ in range(3)]
    assert [20, 0, 0] == counts
    assert 20 == len(api.wire.asked)


async def test_what_is_accepted_later_is_left_alone(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """A mass cancel that goes on later than the request still is about the orders of its moment."""
    before = str(uuid4())
    await orchestrator.shows(before)
    engine = create_engine(settings.sqlalchemy_url, application_name="api")
    store = MassCancelStore(engine)
    made = await store.add(uuid4(), "alice", "alice", None, Filter(), _origin())
    assert made is not None
    async with running(settings) as api:
        after = (await api.submit()).json()["order_id"]
        found = await store.go_on(made.mass_cancel_id)
    assert found is not None
    assert ([before], 1) == ([str(cancel.order_id) for cancel in found[1]], found[0].orders)
    assert after not in await cancelled(orchestrator)
    await engine.dispose()


async def test_thousands_of_orders_in_bounded_pages(api: Api, orchestrator: Orchestrator) -> None:
    """5,000 open orders, many of one time: each is cancelled once, no batch is larger than a page, and it is quick."""
    await open_orders(orchestrator, 5_000)
    began = time.monotonic()
    body = (await cancel_all(api)).json()
    took_s = time.monotonic() - began
    assert took_s < 20  # 0.9 s on two cores that others use too; 20 for a machine that is overloaded
    assert 5_000 == body["orders"]
    assert PAGE == max(len(batch) for batch in api.wire.batches)
    assert {1} == set(Counter(message.id for message in api.wire.asked).values())
    assert 5_000 == len(await cancelled(orchestrator))


async def test_a_page_costs_the_same_however_many_orders_have_ended(orchestrator: Orchestrator) -> None:
    """The open orders behind 20,000 ended ones are found by an index, not by looking at all."""
    await orchestrator.run(
        "INSERT INTO orders.orders (order_id, user_id, phase, status, version, cancel_requested, filled_quantity, fee,"
        " progress, history_seq, created_at, updated_at) SELECT gen_random_uuid(), 'alice', 'COMPLETED', 'COMPLETED',"
        " 4, false, 0, 0, '{}', 0, now() - n * interval '1 second', now() FROM generate_series(1, 20000) AS n"
    )
    await open_orders(orchestrator, 30)
    await orchestrator.run("ANALYZE orders.orders")
    start = datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1)
    values = (uuid4(), "alice", "alice", 5.0, PAGE, *start, None, list(OrderType))
    plan = await orchestrator.run(f"EXPLAIN (ANALYZE, FORMAT TEXT) {_CANCEL_PAGE}", *values)
    text = "\n".join(row[0] for row in plan)
    assert "Seq Scan on orders" not in text, text
    assert "archive_by_user" not in text, text  # it holds what has ended, as its CHECK says
    touched = max(int(float(line.split("rows=")[2].split()[0])) for line in text.splitlines() if "(actual" in line)
    assert 30 == touched, text


async def test_a_broker_that_is_away_stops_no_cancel(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """The pages that could not be published are published by the sweeper, and the rest is gone on with."""
    async with running(settings) as api:  # so the sweeper does not take the first page before the request does
        await open_orders(orchestrator, 2 * PAGE + 10)
        api.wire.works = False
        answer = await cancel_all(api)
        assert (202, PAGE, None) == (answer.status_code, answer.json()["orders"], answer.json()["completed_at"])
        api.wire.works = True
        await orchestrator.run("UPDATE api.cancels SET next_publish_at = now()")
        await orchestrator.run("UPDATE api.mass_cancels SET next_run_at = now()")
        await until(lambda: _completed(orchestrator))
        assert 2 * PAGE + 10 == len(await cancelled(orchestrator))
        first = {message.id for message in api.wire.batches[0]}
        await until(lambda: first <= {message.id for batch in api.wire.batches[1:] for message in batch}, 30)


async def test_one_that_a_dead_process_left_is_gone_on_with_once(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """Committed, and its process dies at once: two others sweep, and no order is cancelled twice."""
    await open_orders(orchestrator, 3 * PAGE)
    engine = create_engine(settings.sqlalchemy_url, application_name="api")
    made = await MassCancelStore(engine, grace_s=0.0).add(uuid4(), "alice", "alice", None, Filter(), _origin())
    assert made is not None
    async with running(settings) as one, running(settings) as other:
        await until(lambda: _completed(orchestrator))
        await until(lambda: 3 * PAGE == len(one.wire.asked) + len(other.wire.asked))
    [row] = await mass_cancels(orchestrator)
    assert 3 * PAGE == row["orders"]
    [(lines,)] = await orchestrator.run("SELECT count(*) FROM api.requests WHERE action = 'cancel'")
    assert 3 * PAGE == lines
    await engine.dispose()


async def _completed(orchestrator: Orchestrator) -> bool:
    return all(row["completed_at"] is not None for row in await mass_cancels(orchestrator))


def _origin() -> Origin:
    return Origin("alice", "", None, None)
