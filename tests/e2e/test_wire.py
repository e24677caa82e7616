"""What any client sees: an order by a plain Kafka producer, events as the schema says, a GET right after a POST."""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from pathlib import Path

import jsonschema
import pytest

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import HOLDINGS, buy, mixed
from tests.e2e.system import System
from tests.e2e.trader import Trader
from tests.e2e.wire import message

pytestmark = pytest.mark.asyncio(loop_scope="package")
SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "OrderStatusChanged.json"


async def test_a_plain_kafka_client_s_order_runs_to_its_end(system: System, trader: Trader) -> None:
    """A producer needs only headers and a JSON body; the events publish the four versions of a good buy."""
    [order_id] = await trader.produce(buy("alice", "BTC", "0.01"))
    assert {order_id: "COMPLETED"} == await trader.ended([order_id])
    assert ["PENDING", "CONFIRMED", "PROCESSING", "COMPLETED"] == system.events.statuses(order_id)
    order = system.events.of(order_id)[-1]["order"]
    assert ("0.01", "50000", "0.5") == (order["filled_quantity"], order["average_price"], order["fee"])


async def test_a_request_that_breaks_a_rule_is_answered_on_the_wire(system: System, trader: Trader) -> None:
    """An event says FAILED / INVALID_ORDER, with the field, the rule and the value that came instead."""
    wanted = buy("alice", "BTC", "1e3", ends="FAILED INVALID_ORDER")
    [order_id] = await trader.produce(wanted)
    assert {order_id: wanted.ends} == await trader.ended([order_id])
    told = system.events.of(order_id)[-1]["order"]
    assert (None, "BTC") == (told["quantity"], told["asset_id"])
    assert told["reason"].startswith("quantity: must be a decimal as a string")
    assert '"1e3"' in told["reason"]


async def test_every_event_is_as_the_checked_in_schema_says(system: System, trader: Trader) -> None:
    """Every event, of every kind of order, is valid by docs/schemas and has the order id as its key."""
    users = await system.endow([f"schema-{number}" for number in range(5)], HOLDINGS)
    wanted = list(islice(mixed(users, seed=1), 60))
    ends = await trader.ended(await trader.trade(wanted))
    assert {"COMPLETED", "CANCELLED", "FAILED"} == {end.split(" ")[0] for end in ends.values()}
    schema = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()), format_checker=jsonschema.FormatChecker())
    for record in system.events.records:
        schema.validate(record.body)
        event = record.body
        headers = dict(record.headers)
        assert event["order_id"].encode() == record.key
        assert (b"OrderStatusChanged", b"1.0", b"application/json") == (
            headers["ce_type"], headers["ce_specversion"], headers["content-type"],
        )  # fmt: skip
        assert f"{event['order_id']}:v{event['version']}".encode() == headers["ce_id"]
    await assert_all_is_well(system, trader)


async def test_a_trace_is_kept_from_the_request_to_the_last_event(system: System, trader: Trader) -> None:
    """The request's traceparent is on every event of its order."""
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    wanted = buy("alice", "ACME", "1")
    body = {"order_id": wanted.order_id, "user_id": wanted.user_id, **wanted.body}
    request = message("orders.requests", wanted.order_id, "OrderRequested", body)
    await system.producer.send(request._replace(headers=[*request.headers, ("traceparent", trace)]))
    trader.note(wanted)
    await trader.ended([wanted.order_id])
    found = [
        dict(each.headers).get("traceparent") for each in system.events.records if each.key == wanted.order_id.encode()
    ]
    assert [trace] * 4 == found


async def test_a_get_right_after_a_post_finds_the_order(system: System, trader: Trader) -> None:
    """Named test 15: hundreds of GETs right after a POST are never a 404, and the creation time never changes."""
    await system.endow(["eager"], HOLDINGS)
    limit = asyncio.Semaphore(15)

    async def submit_and_look() -> tuple[int, int, bool]:
        async with limit:
            wanted = buy("eager", "ACME", "1")
            accepted = await trader.call("eager", "POST", "/orders", json=wanted.body)
            found = await trader.call("eager", "GET", accepted.headers["location"])
            trader.accepted[accepted.json()["order_id"]] = wanted
            return accepted.status_code, found.status_code, _same(accepted.json(), found.json())

    assert {(202, 200, True)} == set(await asyncio.gather(*(submit_and_look() for _ in range(200))))
    mine = [order_id for order_id, wanted in trader.accepted.items() if wanted.user_id == "eager"]
    assert {"COMPLETED"} == set((await trader.ended(mine)).values())


def _same(accepted: dict[str, object], found: dict[str, object]) -> bool:
    kept = ("order_id", "user_id", "asset_id", "order_type", "quantity", "created_at")
    return [accepted[name] for name in kept] == [found.get(name) for name in kept]
