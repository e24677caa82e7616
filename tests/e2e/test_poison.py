"""Poison messages disturb no other message: each is stored as a dead letter with all its bytes, to be replayed."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import CANCELLED, COMPLETED, HOLDINGS, Wanted, buy, sell
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader, cancel_of, request_of
from tests.e2e.wire import Headers, Message, Place, cloud_event, message

pytestmark = pytest.mark.asyncio(loop_scope="package")
PARTITION = 7
MOST = "9" * 18


def unreadable(topic: str) -> list[Message]:
    """Make messages that must become dead letters on any topic."""
    json_body = b'{"order_id": "00000000-0000-4000-8000-000000000000", "user_id": "alice"}'
    requested = cloud_event("OrderRequested")
    broken: list[tuple[bytes, Headers]] = [
        (b"\xff\xfe\x00 this is no JSON", requested),
        (b"{", requested),
        (b"", requested),
        (b"[" * 100_000, requested),
        (b'"a string"', requested),
        (b'{"order_id": "no uuid", "user_id": "alice"}', requested),
        (b'{"order_id": "00000000-0000-4000-8000-000000000000", "user_id": "@fees"}', requested),
        (json_body, cloud_event("OrderBlessed")),
        (json_body, cloud_event("OrderCancelRequested")),
        (json_body, cloud_event("ReserveBalance")),
        (json_body, []),
        (json_body, [(name, b"\xff\xfe" if name == "ce_id" else value) for name, value in requested]),
        (json_body, [(name, b"\xc3(" if name == "ce_type" else value) for name, value in requested]),
        (json_body, [(name, b"2.0" if name == "ce_specversion" else value) for name, value in requested]),
        (json_body, [*cloud_event("OrderBlessed"), ("x-bytes", bytes(range(256)))]),
    ]
    return [
        Message(topic, f"key-{number}", value, headers, PARTITION) for number, (value, headers) in enumerate(broken)
    ]


async def test_poison_between_good_requests(system: System, trader: Trader) -> None:
    """Named test 11: in one batch of a partition each good order runs, and each bad message becomes a dead letter."""
    [user] = await system.endow(["neighbour"], HOLDINGS)
    poison = unreadable("orders.requests")
    good: list[Wanted] = [buy(user, "ACME", "1") for _ in poison]
    invalid = buy(user, "ACME", "-1", ends="FAILED INVALID_ORDER")
    mixed = [
        part for pair in zip(poison, good, strict=True) for part in (pair[0], request_of(pair[1], partition=PARTITION))
    ]
    places = await system.producer.send(request_of(invalid, partition=PARTITION), *mixed)
    trader.note(invalid, *good)
    ends = {invalid.order_id: invalid.ends} | {one.order_id: COMPLETED for one in good}
    assert ends == await trader.ended(ends)
    await _assert_kept(system, "orders", poison, places[1::2])
    await assert_all_is_well(system, trader)


@pytest.mark.parametrize(
    ("topic", "schema"),
    [
        ("balance.replies", "orders"),
        ("assets.replies", "orders"),
        ("balance.commands", "balances"),
        ("holds.requests", "balances"),
        ("assets.commands", "assets"),
    ],
)
async def test_poison_on_every_other_topic(system: System, trader: Trader, topic: str, schema: str) -> None:
    """On every topic a service stores what it can't handle as a dead letter and goes on with the next message."""
    poison = unreadable(topic)
    places = await system.producer.send(*poison)
    await _assert_kept(system, schema, poison, places)
    ids = await trader.produce(*(sell("bob", "ACME", "1") for _ in range(5)))
    assert dict.fromkeys(ids, COMPLETED) == await trader.ended(ids)


async def test_a_row_that_can_not_be_stored(system: System, trader: Trader) -> None:
    """A settlement whose sum overflows a column fails alone: others settle, and it does once the balance is lower."""
    neighbours = await system.endow([f"small-{number}" for number in range(20)], {"ACME": "1"})
    await system.endow(["whale"], {"ACME": "10"})
    await system.endow(["whale"], {"USD": MOST}, times=100)  # to just below what numeric(38,18) holds
    wanted = [sell("whale", "ACME", "10"), *(sell(user, "ACME", "1") for user in neighbours)]
    whale, *others = await trader.produce(*wanted)
    assert dict.fromkeys(others, COMPLETED) == await trader.ended(others)
    kept = "SELECT reason FROM balances.dead_letters WHERE key = 'whale' AND convert_from(value, 'UTF8') LIKE $1"

    async def set_aside() -> bool:
        return bool(await system.owner_rows(kept, f"%{whale}:settle%"))

    await eventually(set_aside, "the settlement is a dead letter")
    assert "numeric field overflow" in (await system.owner_rows(kept, f"%{whale}:settle%"))[0]["reason"]
    assert ["PROCESSING"] == system.events.statuses(whale)[-1:]
    [spent] = await trader.produce(buy("whale", "ETH", "3"))
    assert dict.fromkeys((whale, spent), COMPLETED) == await trader.ended([whale, spent])
    await assert_all_is_well(system, trader)


async def test_a_parked_order_waits_for_a_person_and_resumes(system: System, trader: Trader) -> None:
    """An impossible answer parks only its own order, with the reason; after `resume` the order completes."""
    parked, neighbour = sell("alice", "BTC", "0.01"), sell("bob", "BTC", "0.01")
    with system.paused("balance"), system.paused("assets"):  # so that both questions are open, and asked again
        await trader.produce(parked, neighbour)
        await _asked(system, parked.order_id, "reserve")
        await system.producer.send(_reply(parked, "BalanceReserved", "reserve", hold_state="SETTLED", amount="0.01"))
        await _parked(system, parked.order_id)
    assert {neighbour.order_id: COMPLETED} == await trader.ended([neighbour.order_id])

    stuck = await system.cli("stuck", "--older-than", "3600", "--json")
    [found] = [order for order in json.loads(stuck.out) if order["order_id"] == parked.order_id]
    assert (1, True) == (stuck.code, f"order-saga resume {parked.order_id}" in found["why"])
    assert "hold that is SETTLED" in found["why"]
    told = await system.cli("inspect", parked.order_id)
    assert (0, True, "") == (told.code, "PARKED" in told.out, told.err)

    resumed = await system.cli("resume", parked.order_id, "--by", "ops")
    assert (0, f"{parked.order_id}: goes on\n") == (resumed.code, resumed.out)
    assert {parked.order_id: COMPLETED} == await trader.ended([parked.order_id])
    again = await system.cli("resume", parked.order_id)
    assert (1, f"{parked.order_id}: is not parked\n") == (again.code, again.out)
    await assert_all_is_well(system, trader)


async def test_a_cancel_of_a_parked_order_is_carried_out_when_it_resumes(system: System, trader: Trader) -> None:
    """The cancel only sets a flag, which is published; after `resume` come the refund and then the end."""
    wanted = sell("alice", "BTC", "0.01", ends=CANCELLED)
    with system.paused("balance"):
        await trader.produce(wanted)
        await _asked(system, wanted.order_id, "reserve")
        await system.producer.send(_reply(wanted, "BalanceReserved", "reserve", hold_state="REFUNDED", amount="0.01"))
        await _parked(system, wanted.order_id)
    await system.producer.send(cancel_of(wanted))

    async def told() -> bool:
        return ["PENDING", "PENDING"] == system.events.statuses(wanted.order_id)

    await eventually(told, "the cancel is told")
    assert system.events.of(wanted.order_id)[-1]["order"]["cancel_requested"]
    assert 0 == (await system.cli("resume", wanted.order_id)).code
    assert {wanted.order_id: CANCELLED} == await trader.ended([wanted.order_id])
    await assert_all_is_well(system, trader)


async def test_a_dead_letter_is_listed_shown_replayed_and_closed(system: System, trader: Trader) -> None:
    """A reply to an unknown order is a dead letter; once the order exists, replay delivers the same bytes to it."""
    wanted = buy("alice", "ACME", "1")
    reply = _reply(wanted, "BalanceRefunded", "refund", hold_state="TOMBSTONE", refunded="0")
    [place] = await system.producer.send(reply)
    await _assert_kept(system, "orders", [reply], [place])
    await trader.produce(wanted)
    assert {wanted.order_id: COMPLETED} == await trader.ended([wanted.order_id])

    listed = await system.cli("dead-letters", "list", "--json")
    [dead_letter] = [each for each in json.loads(listed.out) if wanted.order_id in (each["value"] or "")]
    assert (1, f"there is no order {wanted.order_id}") == (listed.code, dead_letter["reason"])
    shown = json.loads((await system.cli("dead-letters", "show", dead_letter["id"])).out)
    assert (reply.value.decode(), [list(header) for header in _as_text(reply)]) == (shown["value"], shown["headers"])

    replayed = await system.cli("dead-letters", "replay", dead_letter["id"])
    assert (0, f"{dead_letter['id']}: replayed\n") == (replayed.code, replayed.out)
    noted = "SELECT detail->>'why' AS why FROM audit.history WHERE order_id = $1::uuid AND name = 'BalanceRefunded'"
    await eventually(lambda: _found(system, noted, wanted.order_id), "the replayed reply reaches its order")
    assert ["unknown"] == [row["why"] for row in await system.rows(noted, wanted.order_id)]
    again = await system.cli("dead-letters", "replay", dead_letter["id"])
    assert (1, f"{dead_letter['id']}: is not open\n") == (again.code, again.out)


async def _assert_kept(system: System, schema: str, poison: Sequence[Message], places: Sequence[Place]) -> None:
    """Wait for the dead letters of these messages; compare every byte."""
    expected = {
        (system.prefix + one.topic, place.partition, place.offset, one.key.encode(), one.value, tuple(one.headers))
        for one, place in zip(poison, places, strict=True)
    }
    topic = system.prefix + poison[0].topic
    statement = f"SELECT * FROM {schema}.dead_letters WHERE topic = $1 AND record_offset >= $2"

    async def kept() -> set[tuple[Any, ...]]:
        rows = await system.owner_rows(statement, topic, min(place.offset for place in places))
        return {
            (
                row["topic"],
                row["partition"],
                row["record_offset"],
                row["key"],
                row["value"] or b"",
                _headers(row["headers"]),
            )
            for row in rows
        }

    async def all_kept() -> bool:
        return expected <= await kept()

    try:
        await eventually(all_kept, "all are dead letters")
    except AssertionError:
        assert expected == await kept()


def _headers(packed: str) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, base64.b64decode(value)) for name, value in json.loads(packed))


def _as_text(one: Message) -> list[tuple[str, str]]:
    return [(name, value.decode()) for name, value in one.headers]


def _reply(wanted: Wanted, kind: str, step: str, **more: str) -> Message:
    """Forge a reply of the balance service."""
    known = {
        "command_id": f"{wanted.order_id}:{step}",
        "order_id": wanted.order_id,
        "hold_id": f"{wanted.order_id}:reserve",
    }
    return message("balance.replies", wanted.order_id, kind, known | more)


async def _asked(system: System, order_id: str, step: str) -> None:
    statement = "SELECT 1 FROM audit.history WHERE order_id = $1::uuid AND kind = 'asked' AND name = $2"
    await eventually(lambda: _found(system, statement, order_id, step), f"{step} is asked")


async def _parked(system: System, order_id: str) -> None:
    statement = "SELECT 1 FROM audit.orders WHERE order_id = $1::uuid AND parked_reason IS NOT NULL"
    await eventually(lambda: _found(system, statement, order_id), "the order is parked")


async def _found(system: System, statement: str, *arguments: object) -> bool:
    return bool(await system.rows(statement, *arguments))
