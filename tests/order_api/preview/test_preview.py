"""`POST /orders/preview`: what it answers is what an order would get, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from msgspec import structs

from contracts.assets import AssetApproved, Trading, is_for_preview
from contracts.decimals import Price
from order_api.preview import inquiry
from order_api.settings import ApiSettings
from tests.order_api.orders.changes.support import rests
from tests.order_api.preview.support import AssetService, Reply, message_of
from tests.order_api.support import BUY, LIMIT, Api, Orchestrator, running, until

OPEN = ["ACCOUNT_NOT_FOUND", "INSUFFICIENT_BALANCE"]
OPEN_RESTING = [*OPEN, "TOO_MANY_OPEN_ORDERS"]
SELL = {"order_type": "MARKET_SELL"}
TRAIL = {"order_type": "TRAILING_STOP_BUY", "trail_bps": 300}


async def _preview(api: Api, body: dict[str, Any] | None = None, **more: Any) -> httpx2.Response:
    return await api.call("POST", "/orders/preview", json={**BUY, **(body or {})}, **more)


TABLE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {},
        {"status": "PROCESSING", "held_asset_id": "USD", "held_amount": "500.5", "fee": "0.5", "notional": "500",
         "price": "50000", "credit_asset_id": "BTC", "credit": "0.01", "worst_price": None, "not_checked": OPEN},
    ),
    (
        SELL,
        {"status": "PROCESSING", "held_asset_id": "BTC", "held_amount": "0.01", "fee": "0.5", "notional": "500",
         "credit_asset_id": "USD", "credit": "499.5", "not_checked": OPEN},
    ),
    (
        LIMIT,
        {"status": "CONFIRMED", "held_asset_id": "USD", "held_amount": "480.48", "price": "48000", "fee": "0.48",
         "worst_price": "48000", "limit_price": "48000", "not_checked": OPEN_RESTING},
    ),
    (
        {"order_type": "LIMIT_BUY", "limit_price": "51000"},
        {"status": "PROCESSING", "held_amount": "510.51", "price": "50000", "notional": "500", "fee": "0.5",
         "worst_price": "51000"},
    ),
    (
        {"order_type": "STOP_LOSS_BUY", "trigger_price": "52000"},
        {"status": "CONFIRMED", "held_amount": "525.73", "trigger_price": "52000", "worst_price": "52520"},
    ),
    (
        {"order_type": "STOP_LOSS_SELL", "trigger_price": "47000"},
        {"status": "CONFIRMED", "held_asset_id": "BTC", "held_amount": "0.01", "worst_price": None, "price": "47000"},
    ),
    (
        TRAIL,
        {"status": "CONFIRMED", "trigger_price": "51500", "worst_price": "52015", "held_amount": "520.68"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), TABLE)
async def test_what_would_be_held_charged_and_credited(
    api: Api, assets: AssetService, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    """By hand: gross at the price, fee 10 bps rounded up, the hold at the worst price."""
    answer = await _preview(api, body)
    found = answer.json()
    assert (200, []) == (answer.status_code, found["refusals"])
    assert expected == {name: found[name] for name in expected}
    quote = found["quote"]
    assert ("50000", 7, "OPEN", 10, "USD") == tuple(
        quote[name] for name in ("price", "sequence", "trading", "fee_bps", "cash_asset_id")
    )
    assert 1_900 < quote["age_ms"] < 10_000
    [asked] = assets.asked
    assert is_for_preview(asked.command_id)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"asset_id": "NONE"}, "ASSET_NOT_FOUND"),
    ({"asset_id": "HALT"}, "ASSET_NOT_TRADABLE"),
    ({"quantity": "0.0100000001"}, "INVALID_STEP"),
    ({"quantity": "0.0001"}, "QUANTITY_OUT_OF_RANGE"),
    ({"quantity": "1"}, "NOTIONAL_OUT_OF_RANGE"),
    ({"price": "49000", "slippage_bps": 100}, "SLIPPAGE_EXCEEDED"),
    ({**LIMIT, "limit_price": "48000.001"}, "INVALID_TICK"),
    ({**LIMIT, "time_in_force": "IOC"}, "UNFILLED"),
    ({"order_type": "STOP_LOSS_BUY", "trigger_price": "49000"}, "WOULD_TRIGGER_IMMEDIATELY"),
    ({"order_type": "TRAILING_STOP_SELL", "trail_amount": "50000"}, "PRICE_OUT_OF_RANGE"),
]


@pytest.mark.parametrize(("body", "code"), REFUSED)
async def test_a_refusal_that_can_be_known_is_told(
    api: Api, assets: AssetService, body: dict[str, Any], code: str
) -> None:
    """By the asset's rules, and by the saga's at the quote: with the code that the order would end with; no hold."""
    found = (await _preview(api, body)).json()
    assert [code] == [refusal["reason_code"] for refusal in found["refusals"]]
    assert found["refusals"][0]["reason"]
    assert (None, None, None) == (found["held_amount"], found["fee"], found["credit"])
    assert ("CANCELLED" if code == "UNFILLED" else "FAILED") == found["status"]
    assert code not in found["not_checked"]
    assert set(OPEN) <= set(found["not_checked"])
    assert 1 == len(assets.asked)


async def test_a_stale_or_closed_market_is_told(api: Api, assets: AssetService) -> None:
    """As the asset service sees it at this moment."""
    assets.confirmed_before = timedelta(minutes=1)
    assert ["STALE_PRICE"] == [one["reason_code"] for one in (await _preview(api)).json()["refusals"]]
    assets.confirmed_before, assets.trading = timedelta(), Trading.CLOSED
    assert ["ASSET_NOT_TRADABLE"] == [one["reason_code"] for one in (await _preview(api)).json()["refusals"]]


SHAPES: list[Any] = [
    {"quantity": 0.01},
    {"order_type": "LIMIT_BUY"},
    {"limit_price": "1"},
    {"nonsense": "1"},
    {**LIMIT, "time_in_force": "GTD"},
    {**LIMIT, "time_in_force": "GTD", "expires_at": "2020-01-01T00:00:00Z"},
    {**LIMIT, "time_in_force": "GTD", "expires_at": (datetime.now(UTC) + timedelta(days=31)).isoformat()},
]


@pytest.mark.parametrize("body", SHAPES)
async def test_what_an_order_may_not_be_a_preview_may_not(api: Api, assets: AssetService, body: dict[str, Any]) -> None:
    """The same problem as `POST /orders` gives, member by member but for the time that it names; nobody is asked."""
    posted, previewed = await api.submit(body), await _preview(api, body)
    assert (422, 422) == (posted.status_code, previewed.status_code)
    one, other = posted.json(), previewed.json()
    assert one["code"] == other["code"]
    assert [error["field"] for error in one["errors"]] == [error["field"] for error in other["errors"]]
    assert [] == assets.asked


async def test_who_may_preview(api: Api, assets: AssetService) -> None:
    """Whoever may submit: others are refused before anybody is asked."""
    refused = [
        await _preview(api, {"user_id": "bob"}),
        await _preview(api, scope="orders:read"),
        await api.client.post("/orders/preview", json=BUY),
        await api.call("POST", "/orders/preview", content=b"{", headers={"Content-Type": "application/json"}),
        await api.call("POST", "/orders/preview", content=b"a=1"),
    ]
    assert [403, 403, 401, 422, 415] == [answer.status_code for answer in refused]
    assert [] == assets.asked
    acts = await _preview(api, {"user_id": "bob"}, user="desk", scope="orders:write orders:act-for-users")
    assert (200, "bob") == (acts.status_code, acts.json()["user_id"])


@pytest.mark.usefixtures("assets")
async def test_a_name_that_another_producer_has_taken_is_told(api: Api, orchestrator: Orchestrator) -> None:
    """An order by Kafka has it, so a new one would fail; another user's name is free."""
    by_kafka = str(uuid4())
    await orchestrator.shows(by_kafka, client_order_id="theirs")
    taken = (await _preview(api, {"client_order_id": "theirs"})).json()
    [refusal] = taken["refusals"]
    assert ("DUPLICATE_CLIENT_ORDER_ID", "FAILED", None, None) == (
        refusal["reason_code"], taken["status"], taken["held_amount"], taken["existing_order_id"],
    )  # fmt: skip
    assert by_kafka in refusal["reason"]
    assert [] == (await _preview(api, {"client_order_id": "theirs"}, user="bob")).json()["refusals"]


async def test_an_order_that_was_submitted_before_is_told(
    api: Api, assets: AssetService, orchestrator: Orchestrator
) -> None:
    """The same order under the same name is answered as it is, as `POST /orders` answers it; nobody is asked."""
    body = {**LIMIT, "client_order_id": "mine", "quantity": "0.01"}
    first = (await api.submit(body)).json()["order_id"]
    await orchestrator.shows(str(uuid4()), client_order_id="mine")
    for status, held in (("PENDING", None), ("CONFIRMED", "480.48")):
        if held is not None:
            await rests(orchestrator, first, progress={"hold": {"asset_id": "USD", "amount": held}})
        answer = await _preview(api, {**body, "quantity": "0.010"})
        found = answer.json()
        assert (200, first, status, "48000", held) == (
            answer.status_code, found["existing_order_id"], found["status"], found["limit_price"], found["held_amount"],
        )  # fmt: skip
        assert [None, [], []] == [found[name] for name in ("quote", "refusals", "not_checked")]
    assert [] == assets.asked


async def test_a_name_that_is_used_for_another_order_is_refused(api: Api, assets: AssetService) -> None:
    """With the very problem that `POST /orders` gives."""
    await api.submit({"client_order_id": "mine"})
    other = {"client_order_id": "mine", "quantity": "0.02"}
    posted, previewed = await api.submit(other), await _preview(api, other)
    assert (409, "client-order-id-reused") == (previewed.status_code, previewed.json()["code"])
    assert posted.json() | {"instance": None} == previewed.json() | {"instance": None}
    assert [] == assets.asked


async def test_an_order_that_was_in_time_is_told_later_too(api: Api, assets: AssetService) -> None:
    """Its time is over, and it exists all the same."""
    body = {**LIMIT, "time_in_force": "GTD", "expires_at": (datetime.now(UTC) + timedelta(seconds=6)).isoformat()}
    first = (await api.submit({**body, "client_order_id": "mine"})).json()["order_id"]

    async def is_over() -> bool:
        return (await _preview(api, body)).status_code == 422

    await until(is_over)
    before = len(assets.asked)
    assert first == (await _preview(api, {**body, "client_order_id": "mine"})).json()["existing_order_id"]
    assert before == len(assets.asked)


async def test_it_leaves_no_trace(api: Api, assets: AssetService, orchestrator: Orchestrator) -> None:
    """No row in any table, no message but the question, not counted, not in the list; however often."""
    before = await _rows(orchestrator)
    answers = await asyncio.gather(*(_preview(api, {"client_order_id": f"c{n}"}, headers=_KEY) for n in range(20)))
    assert {200} == {answer.status_code for answer in answers}
    assert before == await _rows(orchestrator)
    assert {"assets.commands"} == {message.topic for message in api.wire.asked}
    assert 20 == len(assets.asked) == len({command.order_id for command in assets.asked})
    assert [] == (await api.get("/orders")).json()["orders"]
    assert 0.0 == await api.metric("orders_accepted_total")


_KEY = {"Idempotency-Key": "k"}


async def _rows(orchestrator: Orchestrator) -> dict[str, int]:
    """Count the rows of every table."""
    tables = await orchestrator.run("SELECT format('%I.%I', schemaname, relname) FROM pg_stat_user_tables")
    counts = {}
    for (table,) in tables:
        [(counts[table],)] = await orchestrator.run(f"SELECT count(*) FROM {table}")
    assert counts
    return counts


async def test_an_asset_service_that_is_away(settings: ApiSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer in time: what is known without it is told, and all else is named as not checked."""
    monkeypatch.setattr(inquiry, "ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr(inquiry, "BEGIN_WITHIN_S", 25.0)
    async with running(settings) as api:
        buy, sell = (await _preview(api)).json(), (await _preview(api, SELL)).json()
    assert (None, "PENDING", []) == (buy["quote"], buy["status"], buy["refusals"])
    assert (None, "0.01") == (buy["held_amount"], sell["held_amount"])
    assert {"STALE_PRICE", "ASSET_NOT_FOUND", "SLIPPAGE_EXCEEDED", *OPEN} <= set(buy["not_checked"])


async def test_a_broker_that_is_away(api: Api, assets: AssetService) -> None:
    """The question could not be sent: 503, as for any call that can't be served now."""
    api.wire.works = False
    answer = await _preview(api)
    assert (503, "unavailable") == (answer.status_code, answer.json()["code"])
    assert [] == assets.asked


def _changed(changes: dict[str, Any], reply: Reply) -> list[Reply]:
    return [structs.replace(reply, **changes)]


async def test_answers_that_can_not_be_believed(
    api: Api, assets: AssetService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage, another asset's answer, a price of itself in itself: no answer. Of two good ones the first counts."""

    def garbage(reply: Reply) -> list[Any]:
        return [structs.replace(message_of(reply), value=b"{"), reply]

    def twice(reply: Reply) -> list[Any]:
        assert isinstance(reply, AssetApproved)
        return [reply, structs.replace(reply, price=Price("1"))]

    for answers in (garbage, twice):
        assets.answers = answers
        assert "50000" == (await _preview(api)).json()["quote"]["price"]
    monkeypatch.setattr(inquiry, "ANSWER_WITHIN_S", 1.0)
    for changes in ({"asset_id": "ETH"}, {"cash_asset_id": "BTC"}):
        assets.answers = partial(_changed, changes)
        found = (await _preview(api)).json()
        assert (None, "PENDING") == (found["quote"], found["status"])


async def test_answers_are_followed_while_somebody_asks(api: Api, assets: AssetService) -> None:
    """The answers to all orders are none of the API's business until somebody previews."""
    assert not api.app.state.inquiry.following
    assert 200 == (await _preview(api)).status_code
    assert api.app.state.inquiry.following
    assert 1 == len(assets.asked)


async def test_they_are_followed_no_more_after_a_while(
    settings: ApiSettings, assets: AssetService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again when somebody asks again."""
    monkeypatch.setattr(inquiry, "IDLE_S", 0.3)
    monkeypatch.setattr(inquiry.Inquiry.__init__, "__kwdefaults__", {"idle_s": 0.3})
    async with running(settings) as api:
        for _ in range(2):
            assert [] == (await _preview(api)).json()["refusals"]
            await until(lambda: not api.app.state.inquiry.following)
    assert 2 == len(assets.asked)


async def test_who_waits_for_an_answer_is_not_idle(
    settings: ApiSettings, assets: AssetService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are followed as long as a question waits, and a question that comes when that just ends is answered."""
    monkeypatch.setattr(inquiry.Inquiry.__init__, "__kwdefaults__", {"idle_s": 0.01})
    assets.may_answer.clear()
    async with running(settings) as api:
        asking = asyncio.create_task(_preview(api))
        await until(lambda: assets.asked)
        ended, _ = await asyncio.wait({asking}, timeout=0.5)  # many times as long as nobody asks
        assert (set(), True) == (ended, api.app.state.inquiry.following)
        assets.may_answer.set()
        assert [] == (await asking).json()["refusals"]
        while not api.app.state.inquiry._resting.is_set():  # noqa: SLF001 - this very moment
            await asyncio.sleep(0)
        assert await api.app.state.inquiry.ask(assets.asked[0], datetime.now(UTC)) is not None


async def test_each_process_hears_its_own(settings: ApiSettings, assets: AssetService) -> None:
    """Two processes ask at the same time: nobody gets another's answer."""
    async with running(settings) as one, running(settings) as other:
        answers = await asyncio.gather(
            *(_preview(api, {"quantity": f"0.0{n}"}) for api in (one, other) for n in range(1, 10))
        )
    assert [f"0.0{n}" for _ in range(2) for n in range(1, 10)] == [answer.json()["credit"] for answer in answers]
    assert 18 == len(assets.asked)


async def test_too_many_at_once(api: Api, assets: AssetService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait are bounded: further ones are told to come again, and no order is refused by that."""
    monkeypatch.setattr(inquiry, "WAITING_MAX", 3)
    assets.answers = lambda _: []
    monkeypatch.setattr(inquiry, "ANSWER_WITHIN_S", 5.0)
    answers = await asyncio.gather(*(_preview(api) for _ in range(8)), api.submit())
    assert [200] * 3 + [202] + [503] * 5 == sorted(answer.status_code for answer in answers)


async def test_no_user_takes_the_places_of_others(
    settings: ApiSettings, assets: AssetService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's further previews are refused, another user's are not; a service for many users is not limited."""
    monkeypatch.setattr(inquiry, "ANSWER_WITHIN_S", 5.0)
    assets.answers = lambda _: []
    async with running(settings.model_copy(update={"api_waits_per_user_max": 2})) as api:
        many = {"user": "desk", "scope": "orders:write orders:act-for-users"}
        mine, theirs, of_many = await asyncio.gather(
            asyncio.gather(*(_preview(api) for _ in range(5))),
            asyncio.gather(*(_preview(api, user=user) for user in ("bob", "carol"))),
            asyncio.gather(*(_preview(api, {"user_id": "dave"}, **many) for _ in range(5))),
        )
        assert [200] * 2 + [503] * 3 == sorted(answer.status_code for answer in mine)
        assert {"overloaded"} == {answer.json()["code"] for answer in mine if answer.status_code == 503}
        assert {200} == {answer.status_code for answer in (*theirs, *of_many)}
        assert 200 == (await _preview(api)).status_code


async def test_a_preview_that_reads_the_database_is_in_flight(
    api: Api, assets: AssetService, orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes of the database counts as for any request; only while it waits for an answer it counts out."""
    monkeypatch.setattr(inquiry, "ANSWER_WITHIN_S", 5.0)
    assets.answers = lambda _: []

    async def in_flight() -> float:
        return await api.metric("http_server_in_flight_requests")

    async with orchestrator.locking("api.claims"):
        asking = asyncio.create_task(_preview(api, {"client_order_id": "mine"}))
        await until(partial(orchestrator.run, _STANDS_AT_A_LOCK))
        assert 1.0 == await in_flight()
    await until(lambda: assets.asked)
    assert 0.0 == await in_flight()
    assert 200 == (await asking).status_code


_STANDS_AT_A_LOCK = (
    "SELECT FROM pg_locks WHERE NOT granted AND relation = 'api.claims'::regclass AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)
