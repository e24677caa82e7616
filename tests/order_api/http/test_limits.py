"""Limits of users and of the whole process, CORS, proxies: each rule and who tries to get around it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr, ValidationError

from order_api.http import limits
from order_api.http.limits import InFlight, RateLimit
from order_api.orders.service import OrderService
from order_api.settings import ApiSettings
from tests.order_api.support import TRADER, Api, Orchestrator, running, token, until

NOBODY = "/orders/00000000-0000-0000-0000-000000000000"
HEADERS = {"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "ratelimit-policy"}


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def _allowed(limit: RateLimit, asked: int, user: str = "alice") -> int:
    return sum(limit.spend(user).allowed for _ in range(asked))


def test_a_user_gets_so_many_requests_in_a_second() -> None:
    """All at once or spread, the limit is what a second holds, and each user has an own one."""
    clock = Clock(1000.0)
    limit = RateLimit(10, clock)
    assert (10, 10) == (_allowed(limit, 50), _allowed(limit, 50, "bob"))
    clock.now += 0.9
    assert 0 == _allowed(limit, 5)
    clock.now += 1.1
    assert 10 == _allowed(limit, 50)


def test_the_turn_of_a_second_gives_no_double_burst() -> None:
    """Around the end of a second a user gets one limit and not two; older requests count less and less."""
    clock = Clock(1000.9375)
    limit = RateLimit(100, clock)
    burst = _allowed(limit, 200)
    clock.now = 1001.0625
    assert (100, 7) == (burst, _allowed(limit, 200))
    clock.now = 1001.5625
    assert 50 == _allowed(limit, 200)


def test_over_any_time_a_user_gets_no_more_than_the_limit() -> None:
    """Whoever asks without a pause is served at the limit's rate, neither more nor, for having been refused, less."""
    clock = Clock(1000.0)
    limit = RateLimit(10, clock)
    served = 0
    for _ in range(10_000):
        clock.now += 0.001
        served += _allowed(limit, 1)
    assert 95 <= served <= 115


def test_a_clock_that_jumps_locks_nobody_out() -> None:
    """Backwards or far ahead: the counts begin anew."""
    clock = Clock(1000.5)
    limit = RateLimit(10, clock)
    for now in (1000.6, 3.2, 5e9, 1000.7):
        clock.now = now
        assert 10 == _allowed(limit, 20)


def test_users_are_forgotten() -> None:
    """Memory holds who asked in the last two seconds, and nobody else."""
    clock = Clock(1000.0)
    limit = RateLimit(10, clock)
    for number in range(10_000):
        limit.spend(f"user-{number}")
    assert 10_000 == limit.users
    clock.now += 2
    limit.spend("alice")
    assert 1 == limit.users


async def test_who_is_too_fast_hears_when_to_come_back(settings: ApiSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 429 with Retry-After and the RateLimit headers, before the body is read; other users notice nothing."""
    monkeypatch.setattr("order_api.app.RateLimit", partial(RateLimit, clock=Clock(1000.0)))
    async with running(settings.model_copy(update={"api_rate_limit_per_s": 3})) as api:
        answers = await asyncio.gather(*(api.get(NOBODY) for _ in range(30)))
        allowed = [answer for answer in answers if answer.status_code == 404]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert (3, 27) == (len(allowed), len(refused))
        for answer in answers:
            assert ("3", "3;w=1", "1") == tuple(answer.headers[f"ratelimit-{n}"] for n in ("limit", "policy", "reset"))
        assert "2" in {answer.headers["ratelimit-remaining"] for answer in allowed}
        for answer in refused:
            assert ("rate-limited", "1", "0") == (
                answer.json()["code"],
                answer.headers["retry-after"],
                answer.headers["ratelimit-remaining"],
            )
        assert 404 == (await api.get(NOBODY, user="bob")).status_code
        unread = await _flood(api, lambda: api.call("POST", "/orders", content=b"no order at all"))
        assert {429} == unread
        assert 0 == await api.metric("orders_accepted_total")


async def _flood(api: Api, ask: Any) -> set[int]:
    assert api.port
    return {answer.status_code for answer in await asyncio.gather(*(ask() for _ in range(20)))}


async def test_without_a_good_token_nothing_is_counted(settings: ApiSettings) -> None:
    """Nobody uses up another's requests by a forged token, and what needs no token has no limit."""
    async with running(settings.model_copy(update={"api_rate_limit_per_s": 1})) as api:
        forged = {"authorization": "Bearer " + "x" * 50}
        answers = [await api.client.get(NOBODY, headers=forged) for _ in range(5)]
        assert {(401, False)} == {(a.status_code, bool(HEADERS & a.headers.keys())) for a in answers}
        assert {200} == {(await api.client.get("/health/live")).status_code for _ in range(5)}
        assert 404 == (await api.get(NOBODY)).status_code


async def test_trusted_services_and_a_limit_of_zero_are_not_limited(settings: ApiSettings) -> None:
    """A token that acts for users speaks for many; 0 switches the limit off, headers included."""
    for per_s, scope in ((1, TRADER + " orders:act-for-users"), (0, TRADER)):
        async with running(settings.model_copy(update={"api_rate_limit_per_s": per_s})) as api:
            answers = [await api.get(NOBODY, scope=scope) for _ in range(10)]
            assert {(404, False)} == {(a.status_code, bool(HEADERS & a.headers.keys())) for a in answers}


class _Stuck:
    """The reading of orders, held up until the event is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_go_on = asyncio.Event()
        original = OrderService.order

        async def held(service: OrderService, *given: Any) -> Any:
            await self.may_go_on.wait()
            return await original(service, *given)

        monkeypatch.setattr(OrderService, "order", held)


async def test_more_than_can_be_worked_on_is_refused_at_once(
    settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the cap it is a 503 that nothing was done; health and metrics answer; a place that is free is taken."""
    stuck = _Stuck(monkeypatch)
    async with running(settings.model_copy(update={"api_in_flight_max": 3})) as api:
        working = [asyncio.create_task(api.get(NOBODY)) for _ in range(3)]
        await until(lambda: _in_flight(api, 3))
        for ask in (api.get(NOBODY), api.submit(), api.client.get("/orders"), api.client.delete("/ordersx")):
            answer = await ask  # while the others are stuck
            assert (503, "overloaded", "1") == (
                answer.status_code,
                answer.json()["code"],
                answer.headers["retry-after"],
            )
        for path in ("/health", "/health/live", "/metrics", "/openapi.json", "/problems/overloaded"):
            assert 200 == (await api.client.get(path)).status_code, path
        assert 4 == await api.metric("http_server_shed_requests_total")
        assert 0 == await api.metric("orders_accepted_total")
        stuck.may_go_on.set()
        assert {404} == {answer.status_code for answer in await asyncio.gather(*working)}
        assert 202 == (await api.submit()).status_code
        assert await _in_flight(api, 0)


async def _in_flight(api: Api, number: int) -> bool:
    return number == await api.metric("http_server_in_flight_requests")


async def test_who_waits_takes_no_place(settings: ApiSettings, orchestrator: Orchestrator) -> None:
    """Any number may wait for an order; meanwhile, and while all of them wake, others are served."""
    async with running(settings.model_copy(update={"api_in_flight_max": 2})) as api:
        order_id = (await api.submit()).json()["order_id"]
        ask = {"headers": {"prefer": "wait=20"}}
        waiting = [asyncio.create_task(api.get(f"/orders/{order_id}", **ask)) for _ in range(2)]
        await until(lambda: api.app.state.waiters.waiting == 2)
        waiting += [asyncio.create_task(api.get(f"/orders/{order_id}", **ask)) for _ in range(2)]
        await until(lambda: api.app.state.waiters.waiting == 4)
        assert await _in_flight(api, 0)
        assert 202 == (await api.submit()).status_code
        await orchestrator.shows(order_id, phase="COMPLETED", version=5)
        api.app.state.waiters.notify_all()
        assert {200} == {answer.status_code for answer in await asyncio.gather(*waiting)}
        await until(lambda: _in_flight(api, 0))


async def test_who_sends_slowly_takes_no_place(settings: ApiSettings) -> None:
    """A body that dribbles in keeps nobody else from being served; at its deadline it is a 408."""
    async with running(settings.model_copy(update={"api_in_flight_max": 1})) as api:
        head = f"POST /orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token()}\r\nContent-Length: 99\r\n"
        slow = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(3)]
        for _, writer in slow:
            writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n{")
        await asyncio.sleep(0.3)
        assert 202 == (await api.submit()).status_code
        assert 0 == await api.metric("http_server_shed_requests_total")
        for reader, writer in slow:
            assert (await reader.read()).startswith(b"HTTP/1.1 408")
            writer.close()


async def test_a_client_that_hangs_up_gives_its_place_back(
    settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No place is lost, whether a request ends well, badly or not at all."""
    stuck = _Stuck(monkeypatch)
    async with running(settings.model_copy(update={"api_in_flight_max": 5})) as api:
        asking = [asyncio.create_task(api.get(NOBODY)) for _ in range(3)]
        await until(lambda: _in_flight(api, 3))
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)
        stuck.may_go_on.set()
        await until(lambda: _in_flight(api, 0))


async def test_a_request_that_takes_too_long_is_ended(settings: ApiSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has a last moment; then its outcome is unknown, and the answer says where to look."""
    _Stuck(monkeypatch)
    monkeypatch.setattr(limits, "REQUEST_S", 0.3)
    async with running(settings) as api:
        answer = await api.get(NOBODY)
        assert (503, "unavailable", NOBODY) == (
            answer.status_code,
            answer.json()["code"],
            answer.json()["instance"],
        )
        assert await _in_flight(api, 0)


def test_places_are_counted_exactly() -> None:
    """Who enters leaves, and who waits comes back even when no place is left."""
    places = InFlight(2, registry=CollectorRegistry())
    assert [True, True, False] == [places.enter() for _ in range(3)]
    with places.waiting():
        assert [True, False] == [places.enter() for _ in range(2)]
    assert (3, False) == (places.working, places.enter())
    for _ in range(3):
        places.leave()
    assert (0, True) == (places.working, places.enter())


async def test_no_other_origin_may_call_by_default(api: Api) -> None:
    """Without origins in the settings no answer allows any, not to a question in advance either."""
    for origin in ("https://trade.example", "null", "http://localhost:3000"):
        asks = {"origin": origin, "access-control-request-method": "POST"}
        for answer in (await api.client.options("/orders", headers=asks), await api.get(NOBODY, headers=asks)):
            assert [] == [name for name in answer.headers if name.startswith("access-control-")]


async def test_only_the_named_origins_may_call(settings: ApiSettings) -> None:
    """A named origin gets its own name back, never `*`, and may read the headers that it needs; nobody else."""
    named = settings.model_copy(update={"api_cors_origins": "https://trade.example, http://localhost:3000"})
    async with running(named) as api:
        for origin, known in (
            ("https://trade.example", True), ("http://localhost:3000", True), ("https://trade.example.b.at", False),
            ("https://evil.example", False), ("http://trade.example", False), ("null", False), ("*", False),
        ):  # fmt: skip
            asks = {"origin": origin, "access-control-request-method": "POST"}
            wants = asks | {"access-control-request-headers": "authorization,idempotency-key,prefer,content-type"}
            before = await api.client.options("/orders", headers=wants)
            answer = await api.get(NOBODY, headers={"origin": origin})
            expected = origin if known else None
            assert expected == answer.headers.get("access-control-allow-origin")
            assert expected == before.headers.get("access-control-allow-origin")
            assert (200 if known else 400) == before.status_code
            for one in (before, answer):
                assert "access-control-allow-credentials" not in one.headers
        exposed = (await api.get(NOBODY, headers={"origin": "https://trade.example"})).headers
        assert {"location", "etag", "retry-after", "idempotency-replayed", "preference-applied", *HEADERS} <= set(
            exposed["access-control-expose-headers"].split(", ")
        )
        assert "Origin" in exposed["vary"]
        assert 401 == (await api.client.get(NOBODY, headers={"origin": "https://trade.example"})).status_code


async def test_a_script_may_read_that_the_service_is_away(settings: ApiSettings) -> None:
    """A failure of the hot route and of any other has the headers of CORS, so a script learns that it may try again."""
    origin = {"origin": "https://trade.example"}
    away = {
        "api_cors_origins": origin["origin"],
        "database_url": SecretStr("postgresql://api:x@127.0.0.1:1/x"),
    }
    async with running(settings.model_copy(update=away)) as api:
        for answer in (await api.submit(headers=origin), await api.get(NOBODY, headers=origin)):
            assert (503, "unavailable") == (answer.status_code, answer.json()["code"])
            assert origin["origin"] == answer.headers["access-control-allow-origin"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"api_cors_origins": "*"}, "must be origins"),
        ({"api_cors_origins": "https://a.example/path"}, "must be origins"),
        ({"api_cors_origins": "https://a.example,null"}, "must be origins"),
        ({"api_cors_origins": "https://*.example"}, "must be origins"),
        ({"api_trusted_proxies": "*"}, "must be addresses"),
        ({"api_trusted_proxies": "proxy"}, "must be addresses"),
        ({"api_trusted_proxies": "10.0.0.0/33"}, "must be addresses"),
        ({"api_trusted_proxies": "10.0.0.1/8"}, "must be addresses"),
        ({"api_rate_limit_per_s": -1}, "greater than or equal to 0"),
        ({"api_in_flight_max": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_limit_is_refused(wrong: dict[str, Any], why: str) -> None:
    """A limit that lets everybody through, or nobody, is no setting."""
    with pytest.raises(ValidationError, match=why):
        ApiSettings(
            database_url=SecretStr("postgresql://a:b@h/c"),
            kafka_bootstrap_servers="h:1",
            jwt_secret=SecretStr("s" * 32),
            **wrong,
        )


async def _address(api: Api, orchestrator: Orchestrator, *forwarded: str) -> str:
    """Return the address that the trail has for an order that came with these headers."""
    headers = httpx2.Headers([("x-forwarded-for", value) for value in forwarded] + [("forwarded", "for=6.6.6.6")])
    authorization = (await api.submit()).request.headers["authorization"]
    headers["authorization"] = authorization
    order = {"asset_id": "BTC", "order_type": "MARKET_BUY", "quantity": "0.01"}
    order_id = (await api.client.post("/orders", json=order, headers=headers)).json()["order_id"]
    statement = "SELECT host(address::inet) AS address FROM api.requests WHERE order_id = $1::text::uuid"
    [row] = await orchestrator.run(statement, order_id)
    return str(row["address"])


async def test_an_address_is_only_believed_from_a_trusted_proxy(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """The trail has the peer's own address, unless a proxy that is trusted says for whom it asks."""
    async with running(settings) as api:
        for spoofed in (("1.2.3.4",), ("1.2.3.4, 5.6.7.8",), ("127.0.0.1",), ("1.2.3.4", "5.6.7.8")):
            assert "127.0.0.1" == await _address(api, orchestrator, *spoofed)
    for trusted in ("10.0.0.0/8", "127.0.0.2,10.1.1.1"):
        async with running(settings.model_copy(update={"api_trusted_proxies": trusted})) as api:
            assert "127.0.0.1" == await _address(api, orchestrator, "1.2.3.4")
    async with running(settings.model_copy(update={"api_trusted_proxies": "127.0.0.0/8, 10.9.9.9"})) as api:
        assert "127.0.0.1" == await _address(api, orchestrator)
        assert "1.2.3.4" == await _address(api, orchestrator, "1.2.3.4")
        # What stands left of the address that our proxy saw was sent by that client itself.
        assert "5.6.7.8" == await _address(api, orchestrator, "1.2.3.4, 5.6.7.8")
        assert "5.6.7.8" == await _address(api, orchestrator, "1.2.3.4", "5.6.7.8, 10.9.9.9")


async def test_metrics_and_headers_name_no_version(settings: ApiSettings) -> None:
    """Which Python and which server run here is for nobody to know."""
    async with running(settings) as api:
        text = (await api.client.get("/metrics")).text
        assert "python_info" not in text
        for path in ("/health/live", "/metrics", "/orders", "/nowhere"):
            assert {"server", "x-powered-by", "via"}.isdisjoint((await api.client.get(path)).headers)
