"""`/orders/cancel-all-after`: it fires once and only when nobody renewed it in time, whatever runs or dies."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from contracts import codec
from order_api.orders.audit_trail import Origin
from order_api.orders.mass_cancels.store import MassCancelStore
from order_api.settings import ApiSettings
from saga_kit.runtime.database import create_engine
from tests.order_api.orders.mass_cancels.support import (
    cancelled,
    mass_cancels,
    open_orders,
    read_timer,
    set_timer,
)
from tests.order_api.support import Api, Orchestrator, running, until

ORIGIN = Origin("alice", "", None, None)


async def _expire(orchestrator: Orchestrator) -> None:
    await orchestrator.run("UPDATE api.cancel_timers SET fires_at = now() - interval '1 s' WHERE fires_at IS NOT NULL")


async def test_a_timer_is_set_renewed_read_and_switched_off(api: Api, orchestrator: Orchestrator) -> None:
    """Each call replaces it; the time that it fires at is the database's time and the seconds that were asked for."""
    assert {"user_id": "alice", "timeout_s": 0, "fires_at": None} == _part(await read_timer(api))
    first = await set_timer(api, 60)
    assert first == await read_timer(api) | {"now": first["now"]}
    [(timer_s,)] = await orchestrator.run("SELECT extract(epoch FROM fires_at - set_at)::float FROM api.cancel_timers")
    assert 60.0 == timer_s
    second = await set_timer(api, 90)
    assert second["fires_at"] > first["fires_at"]
    off = await set_timer(api, 0)
    assert (0, None, None) == (off["timeout_s"], off["fires_at"], off["fired_at"])
    assert ([], 1) == (await mass_cancels(orchestrator), len(await orchestrator.run("SELECT FROM api.cancel_timers")))


def _part(timer: dict[str, Any]) -> dict[str, Any]:
    return {name: timer[name] for name in ("user_id", "timeout_s", "fires_at")}


async def test_it_fires_and_is_off_then(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """A second passes without a call: the open orders are cancelled, the timer is off, and it says what it did."""
    async with running(settings) as api:
        await open_orders(orchestrator, 7)
        await open_orders(orchestrator, 3, "bob")
        await set_timer(api, 1)
        fired = await until(lambda: _fired(api))
        assert (1, None, 7) == (fired["timeout_s"], fired["fires_at"], fired["orders"])
        assert fired["fired_at"] > fired["set_at"]
        assert 7 == len(await cancelled(orchestrator))
        assert {"alice"} == {codec.decode("OrderCancelRequested", one.value).user_id for one in api.wire.asked}  # type: ignore[attr-defined]
        assert 1.0 == await api.metric("cancel_timers_fired_total")
        again = await set_timer(api, 60)
        assert (fired["fired_at"], 7) == (again["fired_at"], again["orders"])


async def _fired(api: Api, **who: str) -> dict[str, Any] | None:
    timer = await read_timer(api, **who)
    return timer if timer["completed_at"] else None


async def test_a_slow_one_holds_up_no_other(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """While the cancels of one timer can't be published, another user's timer fires in time."""
    async with running(settings) as api:
        await open_orders(orchestrator, 1)
        api.wire.may_go_on.clear()
        await set_timer(api, 60)
        await _expire(orchestrator)
        await until(lambda: api.wire.asked)
        await set_timer(api, 60, user="bob")
        await _expire(orchestrator)
        await until(lambda: _has_fired(api, "bob"))
        api.wire.may_go_on.set()
        await until(lambda: _fired(api))


async def _has_fired(api: Api, user: str) -> bool:
    return (await read_timer(api, user=user))["fired_at"] is not None


async def test_a_failing_one_holds_up_no_other(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """Whatever makes a mass cancel fail each time that it is tried, those that are due later are worked off."""
    async with running(settings) as api:
        await api.submit()
        await orchestrator.run("UPDATE api.claims SET request = 'not JSON'")
        await set_timer(api, 60)
        await _expire(orchestrator)
        await until(lambda: _has_fired(api, "alice"))
        await open_orders(orchestrator, 2, "bob")
        await set_timer(api, 60, user="bob")
        await _expire(orchestrator)
        bobs = await until(lambda: _fired(api, user="bob"))
        assert (2, None) == (bobs["orders"], (await read_timer(api))["completed_at"])


async def test_it_fires_once_however_many_sweep(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """Ten sweepers at once, and many users' timers: each timer makes one mass cancel."""
    engine = create_engine(settings.sqlalchemy_url, application_name="api", pool_size=10)
    store = MassCancelStore(engine)
    for number in range(20):
        await store.set_timer(f"user{number}", 60, ORIGIN)
    await _expire(orchestrator)
    counts = await asyncio.gather(*(store.fire() for _ in range(10)))
    assert (20, 20) == (sum(counts), len({row["user_id"] for row in await mass_cancels(orchestrator)}))
    assert 0 == await store.fire()
    await engine.dispose()


async def test_renewed_or_fired_but_never_lost(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """A call races the sweepers for a timer that is due: it fires exactly once, and the call arms it anew."""
    engine = create_engine(settings.sqlalchemy_url, application_name="api", pool_size=10)
    store = MassCancelStore(engine)
    await store.set_timer("alice", 60, ORIGIN)
    for rounds in range(1, 21):
        await _expire(orchestrator)
        await asyncio.gather(store.fire(), store.set_timer("alice", 60, ORIGIN), store.fire())
        timer = await store.timer("alice")
        assert timer is not None
        assert rounds == len(await mass_cancels(orchestrator))
        assert (True, True) == (timer.fires_at is not None, timer.fired_at is not None)
    await engine.dispose()


@pytest.mark.parametrize("timeout_s", [0, 60])
async def test_a_call_that_comes_too_late_is_too_late(
    settings: ApiSettings, orchestrator: Orchestrator, timeout_s: int
) -> None:
    """No sweeper ran, the time has come: the timer fires before it is renewed or switched off, by the clock alone."""
    await open_orders(orchestrator, 2)
    async with running(settings.model_copy(update={"api_sweep_interval_s": 0.2})) as api:
        await set_timer(api, 60)
        await _expire(orchestrator)
        late = await set_timer(api, timeout_s)
        assert (timeout_s == 0) == (late["fires_at"] is None)
        assert late["fired_at"] is not None
        await until(lambda: _fired(api))
    assert 2 == len(await cancelled(orchestrator))


async def test_a_renewal_in_time_holds_off_the_sweeper(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """A sweeper that waits behind a call judges what the call has left, not what it saw before."""
    engine = create_engine(settings.sqlalchemy_url, application_name="api", pool_size=3)
    store = MassCancelStore(engine)
    await store.set_timer("alice", 60, ORIGIN)
    async with engine.connect() as renewing:
        await renewing.begin()
        await renewing.exec_driver_sql("UPDATE api.cancel_timers SET fires_at = now() - interval '1 s'")
        assert 0 == await store.fire()  # locked: skipped
        await renewing.exec_driver_sql("UPDATE api.cancel_timers SET fires_at = now() + interval '60 s'")
        await renewing.commit()
    assert 0 == await store.fire()
    assert [] == await mass_cancels(orchestrator)
    await engine.dispose()


async def test_it_survives_that_every_process_was_away(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """Set, the API ends, its time comes: the next process fires it. So one that could not publish is published."""
    await open_orders(orchestrator, 4)
    async with running(settings.model_copy(update={"api_sweep_interval_s": 60.0})) as api:
        await set_timer(api, 60)
    await _expire(orchestrator)
    async with running(settings) as api:
        assert 4 == (await until(lambda: _fired(api)))["orders"]
        assert 4 == len(api.wire.asked)


HOSTILE: list[tuple[Any, set[str]]] = [
    ({}, {"timeout_s"}),
    ({"timeout_s": -1}, {"timeout_s"}),
    ({"timeout_s": 86_401}, {"timeout_s"}),
    ({"timeout_s": 10**30}, {"timeout_s"}),
    ({"timeout_s": 1.5}, {"timeout_s"}),
    ({"timeout_s": "60"}, {"timeout_s"}),
    ({"timeout_s": True}, {"timeout_s"}),
    ({"timeout_s": None}, {"timeout_s"}),
    ({"timeout_s": 60, "asset_id": "BTC"}, {"asset_id"}),
    ({"timeout_s": 60, "user_id": "a b"}, {"user_id"}),
]


@pytest.mark.parametrize(("body", "fields"), HOSTILE)
async def test_what_breaks_a_rule_sets_nothing(
    api: Api, orchestrator: Orchestrator, body: Any, fields: set[str]
) -> None:
    """A timer that would not do what its user thinks is refused by the field's name."""
    answer = await api.call("PUT", "/orders/cancel-all-after", json=body)
    assert (422, fields) == (answer.status_code, {error["field"] for error in answer.json()["errors"]})
    assert [] == await orchestrator.run("SELECT FROM api.cancel_timers")


async def test_whose_timer_who_may_set_and_read(api: Api, orchestrator: Orchestrator) -> None:
    """The user and who acts for users set it; an operator reads it; nobody else does either."""
    path, body = "/orders/cancel-all-after", {"timeout_s": 60, "user_id": "alice"}
    acts = await api.call("PUT", path, json=body, user="desk", scope="orders:write orders:act-for-users")
    refused = [
        await api.call("PUT", path, json=body, user="mallory"),
        await api.call("PUT", path, json=body, user="ann", scope="orders:write orders:operate"),
        await api.call("PUT", path, json=body, scope="orders:read"),
        await api.get(path + "?user_id=alice", user="mallory"),
    ]
    assert [200, 403, 403, 403, 403] == [answer.status_code for answer in (acts, *refused)]
    assert 60 == (await api.get(path + "?user_id=alice", user="ann", scope="orders:operate")).json()["timeout_s"]
    twice = await api.get(path + "?user_id=alice&user_id=bob")
    strange = await api.get(path + "?user_id=@fees")
    assert [422, 422] == [twice.status_code, strange.status_code]
    assert [("alice", "desk")] == [
        tuple(row) for row in await orchestrator.run("SELECT user_id, caller FROM api.cancel_timers")
    ]


async def test_an_order_may_not_be_named_like_a_call(api: Api) -> None:
    """`cancel-all-after` is no order id, and the call on one order is another than that on the timer."""
    assert 404 == (await api.call("PUT", "/orders/cancel-all-after/cancel")).status_code
    assert 404 == (await api.get(f"/orders/{uuid4()}")).status_code
