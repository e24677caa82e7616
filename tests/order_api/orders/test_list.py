"""`GET /orders`: every order once, newest first, whatever happens between two pages; and orders by their names."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from order_api.orders.listing import Wanted
from order_api.orders.store import _LIST
from tests.order_api.support import Api, Orchestrator, until

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = ("COMPLETED", "CANCELLED", "FAILED")
_INSERT = """
    INSERT INTO orders.orders (order_id, user_id, asset_id, order_type, quantity, phase, status, version, reason_code,
        cancel_requested, filled_quantity, fee, progress, parked_reason, history_seq, created_at, updated_at)
    SELECT gen_random_uuid(), $1, asset_id, order_type, 1,
        CASE status WHEN 'PENDING' THEN 'VALIDATING' WHEN 'PROCESSING' THEN 'SETTLING' ELSE status END, status, 1,
        CASE WHEN status IN ('FAILED', 'CANCELLED') THEN 'OPERATOR' END, false, 0, 0, '{}', 'test', 0, at, at
    FROM unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[]) AS n (asset_id, order_type, status, at)
    RETURNING order_id, asset_id, order_type, status, created_at"""


async def _orders(orchestrator: Orchestrator, count: int, user: str = "alice", seed: int = 1) -> list[Any]:
    """Make orders at few different times, so that many share one; return them as a list should have them."""
    chance = random.Random(seed)  # noqa: S311 - the same orders every time
    columns = [
        [chance.choice(("BTC", "ETH")) for _ in range(count)],
        [chance.choice(("MARKET_BUY", "MARKET_SELL")) for _ in range(count)],
        [chance.choice(("PENDING", "PROCESSING", *ENDS)) for _ in range(count)],
        [T0 + timedelta(microseconds=chance.randrange(5)) for _ in range(count)],
    ]
    rows = await orchestrator.run(_INSERT.replace("$1", "$1::text"), user, *columns)
    return sorted(rows, key=lambda row: (row["created_at"], row["order_id"]), reverse=True)


async def _walk(api: Api, limit: int = 3, **query: Any) -> list[str]:
    """Read all pages; each but the last is full, and only the last has nothing behind it."""
    found: list[str] = []
    cursor = None
    while True:
        params = {"limit": limit, **query, **({"cursor": cursor} if cursor else {})}
        answer = await api.get("/orders", params=params)
        assert 200 == answer.status_code, answer.text
        page = answer.json()
        found += [order["order_id"] for order in page["orders"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            return found
        assert limit == len(page["orders"])
        cursor = page["next_cursor"]


def _ids(rows: Sequence[Any]) -> list[str]:
    return [str(row["order_id"]) for row in rows]


@pytest.mark.parametrize("limit", [1, 2, 3, 29, 30, 31, 200])
async def test_pages_hold_every_order_once(api: Api, orchestrator: Orchestrator, limit: int) -> None:
    """Thirty orders at five times, in pages of any size: all, in order, once; `has_more` is right at the very end."""
    rows = await _orders(orchestrator, 30)
    await _orders(orchestrator, 5, user="bob")

    assert _ids(rows) == await _walk(api, limit)


async def test_what_comes_between_two_pages_moves_nothing(api: Api, orchestrator: Orchestrator) -> None:
    """New orders, also at the very time of a page's last one, neither repeat nor hide what was there."""
    before = set(_ids(await _orders(orchestrator, 20)))
    page = (await api.get("/orders", params={"limit": 7})).json()
    found = [order["order_id"] for order in page["orders"]]
    for seed in (2, 3):
        await _orders(orchestrator, 10, seed=seed)
    while page["has_more"]:
        page = (await api.get("/orders", params={"limit": 7, "cursor": page["next_cursor"]})).json()
        found += [order["order_id"] for order in page["orders"]]

    assert len(found) == len(set(found))
    assert before <= set(found)


FILTERS: tuple[tuple[dict[str, Any], Any], ...] = (
    ({"status": "FAILED"}, lambda row: row["status"] == "FAILED"),
    ({"status": ["FAILED", "PENDING"]}, lambda row: row["status"] in {"FAILED", "PENDING"}),
    ({"open": "true"}, lambda row: row["status"] not in ENDS),
    ({"open": "false"}, lambda row: row["status"] in ENDS),
    ({"asset_id": "ETH"}, lambda row: row["asset_id"] == "ETH"),
    ({"order_type": "MARKET_SELL"}, lambda row: row["order_type"] == "MARKET_SELL"),
    ({"created_from": "2026-01-01T00:00:00.000002Z"}, lambda row: row["created_at"] >= T0 + timedelta(microseconds=2)),
    (
        {"created_to": "2026-01-01T01:00:00.000002+01:00"},
        lambda row: row["created_at"] < T0 + timedelta(microseconds=2),
    ),
    ({"open": "true", "asset_id": "BTC"}, lambda row: row["status"] not in ENDS and row["asset_id"] == "BTC"),
    ({"open": "true", "status": "FAILED"}, lambda _: False),
    ({"asset_id": "XRP"}, lambda _: False),
)


@pytest.mark.parametrize(("query", "fits"), FILTERS, ids=lambda value: str(value) if isinstance(value, dict) else "")
async def test_a_filter_lets_through_what_fits(
    api: Api, orchestrator: Orchestrator, query: dict[str, Any], fits: Any
) -> None:
    """Each filter, alone and with another, gives exactly the orders that a look at all of them finds."""
    rows = await _orders(orchestrator, 40)

    assert _ids([row for row in rows if fits(row)]) == await _walk(api, 4, **query)


async def test_an_accepted_order_is_in_the_list_at_once(api: Api, orchestrator: Orchestrator) -> None:
    """A claim stands in the list before the orchestrator has it, as PENDING, version 0, and afterwards once."""
    rows = await _orders(orchestrator, 5)
    first = (await api.submit()).json()
    second = (await api.submit({"asset_id": "ETH", "order_type": "MARKET_SELL"})).json()
    assert [second["order_id"], first["order_id"], *_ids(rows)] == await _walk(api, 2)
    assert second == (await api.get("/orders", params={"limit": 1})).json()["orders"][0]

    for query, claims in (
        ({"asset_id": "ETH"}, [second]),
        ({"order_type": "MARKET_BUY"}, [first]),
        ({"status": "PENDING"}, [second, first]),
        ({"status": "FAILED"}, []),
        ({"open": "false"}, []),
        ({"open": "true"}, [second, first]),
        ({"created_to": first["created_at"]}, []),
        ({"created_from": second["created_at"]}, [second]),
    ):
        listed = await _walk(api, 2, **query)
        assert [claim["order_id"] for claim in claims] == [i for i in listed if i not in set(_ids(rows))], query

    await orchestrator.shows(first["order_id"])
    await orchestrator.run("UPDATE orders.orders SET created_at = $1::text::timestamptz WHERE order_id = $2",
                           first["created_at"], UUID(first["order_id"]))  # fmt: skip
    assert [second["order_id"], first["order_id"], *_ids(rows)] == await _walk(api, 2)


async def test_an_order_whose_id_was_taken_stays_in_its_user_s_list(api: Api, orchestrator: Orchestrator) -> None:
    """Accepted is never forgotten: the claim shows as FAILED / ORDER_ID_TAKEN, and the taker has an order."""
    order_id = (await api.submit()).json()["order_id"]
    await orchestrator.shows(order_id, user_id="bob")
    for _ in range(2):
        mine = (await api.get("/orders", params={"status": "FAILED"})).json()["orders"]
        assert [(order_id, "ORDER_ID_TAKEN", "alice")] == [
            (order["order_id"], order["reason_code"], order["user_id"]) for order in mine
        ]
        [his] = (await api.get("/orders", user="bob")).json()["orders"]
        assert (order_id, "PENDING", "bob") == (his["order_id"], his["status"], his["user_id"])
        assert [] == (await api.get("/orders", params={"open": "true"})).json()["orders"]
        # and when the sweeper has seen it, too:
        await orchestrator.run("UPDATE api.claims SET settled = true, taken = true")


async def test_the_sweeper_marks_a_claim_whose_id_was_taken(api: Api, orchestrator: Orchestrator) -> None:
    """It is settled, because nothing is left to publish, and marked, because the list must not lose it."""
    taken, made = [(await api.submit()).json()["order_id"] for _ in range(2)]
    await orchestrator.shows(taken, user_id="bob")
    await orchestrator.shows(made)
    await orchestrator.run("UPDATE api.claims SET next_publish_at = now()")

    await until(lambda: orchestrator.run("SELECT 1 WHERE NOT EXISTS (SELECT FROM api.claims WHERE NOT settled)"))

    marks = {str(r["order_id"]): r["taken"] for r in await orchestrator.run("SELECT order_id, taken FROM api.claims")}
    assert {taken: True, made: False} == marks


async def test_whose_orders_are_listed(api: Api, orchestrator: Orchestrator) -> None:
    """One's own; another's with a scope for it, by name; else 403: a user's name is no secret, an order is."""
    rows = await _orders(orchestrator, 3)
    query = {"user_id": "alice"}

    assert [] == (await api.get("/orders", user="bob")).json()["orders"]
    assert 403 == (await api.get("/orders", user="bob", params=query)).status_code
    assert 403 == (await api.get("/orders", scope="orders:write")).status_code
    for scope in ("orders:read orders:act-for-users", "orders:operate"):
        answer = await api.get("/orders", user="backoffice", scope=scope, params=query)
        assert _ids(rows) == [order["order_id"] for order in answer.json()["orders"]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=1_0", "limit"),
        ("limit=%D9%A1", "limit"),
        ("status=pending", "status"),
        ("open=1", "open"),
        ("asset_id=@x", "asset_id"),
        ("order_type=OCO_SELL", "order_type"),
        ("created_from=2026-01-01T00:00:00", "created_from"),
        ("created_to=yesterday", "created_to"),
        ("created_to=0001-01-01T00:00:00%2B14:00", "created_to"),
        ("cursor=x", "cursor"),
        ("cursor=%F0%9F%92%A5", "cursor"),
        (
            "cursor=WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwiMDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwIl0",
            "cursor",
        ),
        ("cursor=" + "A" * 5000, "cursor"),
        ("limit=1&limit=2", "limit"),
        ("sort=asc", "sort"),
        ("user_id=a%00b", "user_id"),
    ],
)
async def test_a_query_that_breaks_a_rule_is_told_which(api: Api, query: str, field: str) -> None:
    """422 with the parameter and its rule; nothing is guessed."""
    answer = await api.get(f"/orders?{query}")

    assert 422 == answer.status_code
    assert [field] == [error["field"] for error in answer.json()["errors"]]


async def test_a_page_costs_the_same_however_many_orders_there_are(orchestrator: Orchestrator) -> None:
    """Any page, and the open orders behind 20,000 ended ones, are found by an index, not by looking at all."""
    await orchestrator.run(
        "INSERT INTO orders.orders (order_id, user_id, phase, status, version, cancel_requested, filled_quantity, fee,"
        " progress, history_seq, created_at, updated_at) SELECT gen_random_uuid(), 'alice', 'COMPLETED', 'COMPLETED',"
        " 4, false, 0, 0, '{}', 0, now() - n * interval '1 second', now() FROM generate_series(1, 20000) AS n"
    )
    await orchestrator.run("ANALYZE orders.orders")
    wanted = Wanted()
    values = ("alice", wanted.after.created_at, wanted.after.order_id, 51, None, None, None, None, None)
    for only in (None, True):
        plan = await orchestrator.run(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT TEXT) {_LIST[only]}", *values)
        text = "\n".join(row[0] for row in plan)
        assert "Seq Scan on orders" not in text, text
        touched = max(int(float(line.split("rows=")[2].split()[0])) for line in text.splitlines() if "(actual" in line)
        assert touched <= 60, text


async def test_an_order_is_found_by_its_user_s_name_for_it(api: Api, orchestrator: Orchestrator) -> None:
    """From the first moment, by its own user and who may see that user's orders; to others it does not exist."""
    order = (await api.submit({"client_order_id": "my:order-1"})).json()
    path = "/orders/by-client-id/my:order-1"

    found = await api.get(path)
    assert (200, order) == (found.status_code, found.json())
    assert 404 == (await api.get(path, user="bob")).status_code
    assert 404 == (await api.get(path, user="bob", params={"user_id": "alice"})).status_code
    assert 404 == (await api.get("/orders/by-client-id/another")).status_code
    assert 404 == (await api.get("/orders/by-client-id/%40%00")).status_code
    for scope in ("orders:read orders:act-for-users", "orders:operate"):
        answer = await api.get(path, user="backoffice", scope=scope, params={"user_id": "alice"})
        assert order == answer.json()
    await orchestrator.shows(order["order_id"], version=3, client_order_id="my:order-1")
    known = await api.get(path, headers={"If-None-Match": '"3"'})
    assert (304, '"3"') == (known.status_code, known.headers["etag"])


async def test_an_order_that_came_by_kafka_is_found_by_name_too(api: Api, orchestrator: Orchestrator) -> None:
    """Of several with one name the one that counts is shown: not the duplicate, and not a claim that lost to it."""
    first, duplicate = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
    await orchestrator.shows(first, client_order_id="x")
    await orchestrator.shows(
        duplicate, phase="FAILED", version=2, client_order_id="x", reason_code="DUPLICATE_CLIENT_ORDER_ID"
    )
    claimed = (await api.submit({"client_order_id": "x"})).json()["order_id"]

    assert first == (await api.get("/orders/by-client-id/x")).json()["order_id"]
    assert claimed == (await api.get(f"/orders/{claimed}")).json()["order_id"]


async def test_an_order_is_cancelled_by_its_user_s_name_for_it(api: Api, orchestrator: Orchestrator) -> None:
    """The same answers as by its id: 202, then 200 when it is cancelled, 409 when it has ended otherwise, 404."""
    order_id = (await api.submit({"client_order_id": "x"})).json()["order_id"]
    path = "/orders/by-client-id/x/cancel"

    accepted = await api.call("PUT", path)
    assert (202, True) == (accepted.status_code, accepted.json()["cancel_requested"])
    assert 404 == (await api.call("PUT", path, user="bob")).status_code
    assert (
        202
        == (await api.call("PUT", path, user="ops", scope="orders:operate", params={"user_id": "alice"})).status_code
    )
    for phase, status in (("CANCELLED", 200), ("COMPLETED", 409), ("SETTLING", 409)):
        await orchestrator.shows(order_id, phase=phase, version=3, client_order_id="x")
        assert status == (await api.call("PUT", path)).status_code
