"""One key, one order: the header, the client's own id, both together, and twins at the same instant."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from order_api.settings import ApiSettings
from tests.order_api.support import Api, Orchestrator, running
from tests.support.infrastructure import Database


async def test_the_same_key_and_intent_give_the_same_order_again(api: Api) -> None:
    """A repeated request is answered with the first one's order, and says so."""
    first = await api.submit(key="k1")
    again = await api.submit(key="k1")
    assert (202, "true") == (again.status_code, again.headers["idempotency-replayed"])
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    assert 1 == await api.metric("orders_accepted_total")


@pytest.mark.parametrize("keys", [{"key": "k"}, {"body": {"client_order_id": "c"}}], ids=["header", "client id"])
async def test_equal_intents_may_be_written_differently(api: Api, keys: dict[str, Any]) -> None:
    """1.0 equals 1.00, and a default that is spelled out equals one that is left out."""
    body = keys.pop("body", {})
    first = await api.submit({**body, "quantity": "1.0", "price": "7"}, **keys)
    again = await api.submit(
        {**body, "quantity": "1.00", "price": "7.000", "slippage_bps": 100, "user_id": "alice"}, **keys
    )
    assert (202, first.json()["order_id"]) == (again.status_code, again.json()["order_id"])
    assert "true" == again.headers["idempotency-replayed"]


OTHER_INTENTS: list[dict[str, Any]] = [
    {"quantity": "0.02"},
    {"asset_id": "ETH"},
    {"order_type": "MARKET_SELL"},
    {"price": "50000"},
    {"slippage_bps": 99},
]


async def test_the_same_key_with_another_intent_is_refused(api: Api) -> None:
    """Whatever differs, it is a 422 for the header and a 409 for the client's id, naming the order that has the key."""
    first = (await api.submit({"client_order_id": "c1"}, key="k1")).json()["order_id"]
    for other in OTHER_INTENTS:
        by_key = await api.submit({**other, "client_order_id": "c1"}, key="k1")
        assert (422, "idempotency-key-reused") == (by_key.status_code, by_key.json()["code"]), other
        by_client_id = await api.submit({**other, "client_order_id": "c1"})
        assert (409, "client-order-id-reused") == (by_client_id.status_code, by_client_id.json()["code"]), other
        assert {first} == {by_key.json()["order_id"], by_client_id.json()["order_id"]}
    for other in ({}, {"client_order_id": "c2"}):
        assert 422 == (await api.submit(other, key="k1")).status_code
    assert 202 == (await api.submit({"client_order_id": "c2"})).status_code  # a refused request takes no key


async def test_a_claim_that_somebody_holds_locked_holds_up_nobody(api: Api, database: Database) -> None:
    """Claims that come together share a statement: it does not wait for a row that is there, whoever has locked it."""
    first = await api.submit(key="k1")
    bystander = await asyncpg.connect(database.url)
    async with bystander.transaction():
        assert 1 == len(await bystander.fetch("SELECT FROM api.claims FOR UPDATE"))
        answers = await asyncio.gather(*(api.submit(key=f"k{number}") for number in range(1, 21)))
        assert {202} == {answer.status_code for answer in answers}  # whoever waits for the row fails
    await bystander.close()
    assert first.json()["order_id"] == answers[0].json()["order_id"]


async def test_keys_of_two_different_orders_are_a_409(api: Api) -> None:
    """A request whose header points to one order and whose client id points to another names both."""
    one = (await api.submit(key="k1")).json()["order_id"]
    two = (await api.submit({"client_order_id": "c2"})).json()["order_id"]
    answer = await api.submit({"client_order_id": "c2"}, key="k1")
    assert (409, "keys-disagree") == (answer.status_code, answer.json()["code"])
    assert {one, two} == set(answer.json()["order_ids"])


async def test_a_client_order_id_is_enough_without_the_header(api: Api) -> None:
    """The client's own id makes a repeat safe, with or without a header beside it."""
    first = await api.submit({"client_order_id": "c1"})
    for key in (None, "new"):
        again = await api.submit({"client_order_id": "c1"}, key=key)
        assert (202, first.json()["order_id"]) == (again.status_code, again.json()["order_id"])


async def test_equal_keys_of_other_users_are_other_keys(api: Api) -> None:
    """Keys belong to the order's user: an equal key of somebody else neither replays nor refuses."""
    alices = await api.submit({"client_order_id": "c"}, key="k")
    bobs = await api.submit({"client_order_id": "c", "quantity": "5"}, key="k", user="bob")
    assert [202, 202] == [alices.status_code, bobs.status_code]
    assert alices.json()["order_id"] != bobs.json()["order_id"]
    assert "idempotency-replayed" not in bobs.headers
    again = await api.submit({"client_order_id": "c", "quantity": "5"}, key="k", user="bob")
    assert (bobs.json()["order_id"], "true") == (again.json()["order_id"], again.headers["idempotency-replayed"])


async def test_without_keys_each_request_is_an_order(api: Api) -> None:
    """Nothing is deduplicated that did not ask for it."""
    assert 2 == len({(await api.submit()).json()["order_id"] for _ in range(2)})


async def test_a_malformed_key_is_refused(api: Api) -> None:
    """A key is one header of 1 to 255 visible ASCII characters."""
    for key in ("", "x" * 256, "a b", "schlüssel".encode()):
        answer = await api.call("POST", "/orders", json={}, headers={"Idempotency-Key": key})
        assert ("invalid-request", "Idempotency-Key") == (answer.json()["code"], answer.json()["errors"][0]["field"])
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    token = (await api.submit()).request.headers["authorization"]
    twice = await api.client.post("/orders", json={}, headers=[*headers, ("authorization", token)])
    assert (422, "Idempotency-Key") == (twice.status_code, twice.json()["errors"][0]["field"])
    assert 202 == (await api.submit(key="x" * 255)).status_code


@pytest.mark.parametrize("keys", [{"key": "k"}, {"body": {"client_order_id": "c"}}], ids=["header", "client id"])
async def test_twins_at_the_same_instant_make_one_order(
    settings: ApiSettings, api: Api, orchestrator: Orchestrator, keys: dict[str, Any]
) -> None:
    """50 equal requests at once, over two processes: one order, and whatever is published is the same message."""
    async with running(settings) as other:
        answers = await asyncio.gather(*([api, other][n % 2].submit(**keys) for n in range(50)))
        assert {202} == {answer.status_code for answer in answers}
        [order_id] = {answer.json()["order_id"] for answer in answers}
        assert 49 == sum("idempotency-replayed" in answer.headers for answer in answers)
        assert 1 == len(await orchestrator.run("SELECT FROM api.claims"))
        [first, *more] = [*api.wire.asked, *other.wire.asked]
        assert (order_id, [first] * len(more)) == (first.key, more)


async def test_twins_with_different_intents_make_one_order(settings: ApiSettings, api: Api) -> None:
    """Of two intents under one key at the same instant one wins; all requests of the other are refused, naming it."""
    async with running(settings) as other:
        quantities = [str(1 + n % 2) for n in range(40)]
        answers = await asyncio.gather(
            *([api, other][n % 3 % 2].submit({"quantity": quantity}, key="k") for n, quantity in enumerate(quantities))
        )
    assert 1 == len({answer.json()["order_id"] for answer in answers})
    assert {(202, 20), (422, 20)} == {(status, [a.status_code for a in answers].count(status)) for status in (202, 422)}
    assert 1 == len({quantity for quantity, a in zip(quantities, answers, strict=True) if a.status_code == 202})


async def test_a_replay_shows_the_order_as_it_is_now(api: Api, orchestrator: Orchestrator) -> None:
    """The same order again means its state of today; once the orchestrator has it, nothing is published again."""
    order_id = (await api.submit(key="k")).json()["order_id"]
    await orchestrator.shows(order_id, phase="COMPLETED", version=4, filled_quantity="0.01", average_price="50000")
    again = await api.submit(key="k")
    assert (202, "COMPLETED", "50000") == (again.status_code, again.json()["status"], again.json()["average_price"])
    assert 1 == len(api.wire.asked)


async def test_a_repeat_of_what_was_not_published_publishes_it(api: Api) -> None:
    """Whoever is told "accepted" has seen it published: a repeat after a 503 is a 503 until the broker takes it."""
    api.wire.works = False
    answers = [await api.submit(key="k") for _ in range(2)]
    assert [503, 503] == [answer.status_code for answer in answers]
    api.wire.works = True
    again = await api.submit(key="k")
    assert (202, "true") == (again.status_code, again.headers["idempotency-replayed"])
    assert {again.json()["order_id"]} == {answer.json()["order_id"] for answer in answers}
    first, *more = api.wire.asked
    assert [first, first] == more


async def test_a_service_that_acts_for_a_user_shares_the_users_keys(api: Api) -> None:
    """A key belongs to the user whose order it makes, whoever sends it."""
    first = await api.submit(key="k")
    scope = "orders:write orders:act-for-users"
    again = await api.submit({"user_id": "alice"}, key="k", user="broker", scope=scope)
    assert (first.json()["order_id"], "true") == (again.json()["order_id"], again.headers["idempotency-replayed"])


async def test_a_key_is_kept_for_its_time_and_no_longer(api: Api, orchestrator: Orchestrator) -> None:
    """Up to 30 days a key gives its order again; after that it is free, and the old order stays what it is."""
    first = (await api.submit({"client_order_id": "mine"}, key="k")).json()["order_id"]
    age = "UPDATE api.claims SET created_at = now() - interval '{}'"
    await orchestrator.run(age.format("29 days 23 hours"))
    assert first == (await api.submit({"client_order_id": "mine"}, key="k")).json()["order_id"]
    await orchestrator.run(age.format("30 days 1 hour"))

    twins = await asyncio.gather(*(api.submit({"quantity": "0.02"}, key="k") for _ in range(5)))

    assert {202} == {answer.status_code for answer in twins}
    [second] = {answer.json()["order_id"] for answer in twins}
    assert first != second
    assert 200 == (await api.get(f"/orders/{first}")).status_code
    used = await api.submit({"quantity": "0.03", "client_order_id": "mine"}, key="other")
    assert (409, "client-order-id-reused") == (used.status_code, used.json()["code"])  # a name is never free again
