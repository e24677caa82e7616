"""A database that goes back in time beside a Kafka that does not, and the reverse: by the commands of docs/backup.md.

One system works through a story on servers of its own, until a power cut takes everything. PostgreSQL's data and
Kafka's are kept as they were in mid-story and at its end, and each test starts the system on another pair of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from uuid import uuid4

import pytest
import pytest_asyncio

from contracts.decimals import Price
from local_stack.sample_data import DEPOSITS, SampleAsset
from operations.access.database import connected
from operations.demo.samples import sample_stores
from participants.assets.price_store import set_price
from tests.e2e.disaster import Site
from tests.e2e.orders import COMPLETED, HOLDINGS, Wanted, buy, mixed, sell
from tests.e2e.restored import RESTING, Facts, Told, judge, merged
from tests.e2e.system import System, eventually
from tests.e2e.trader import ENDED, Trader
from tests.e2e.wire import Follower, Message, message
from tests.evidence.chaos.books import read
from tests.support.cluster import brokers
from tests.support.postgres_machine import machine

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.apache_kafka]

WAVE = SampleAsset("WAVE", Decimal("100.00"))
USERS = [f"user-{number}" for number in range(6)]
WAITER = "waiter"
"""A user whose orders rest, and whose money a service holds."""
LATE, LATE_USD = "late", "5000.00"
"""A user whose money came after the restore point."""
HOLDS = {number: str(uuid4()) for number in (1, 2)}
"""Holds of a service: the first is placed before the restore point and captured after it, the second comes later."""
CAPTURED = 30
RESTORE_POINT, THE_END = "restore-point", "end"
"""What was kept of the servers' disks."""
ORDERS = 60
"""How many market orders run to their end before the restore point, and as many after it."""


@dataclass
class Story:
    """What happened until the power cut."""

    site: Site
    accepted: dict[str, Wanted] = field(default_factory=dict)
    rests: dict[str, str] = field(default_factory=dict)
    """The orders that rest at the restore point, by what becomes of them afterwards."""
    told: Told = field(default_factory=dict)
    paid_in: dict[tuple[str, str], Fraction] = field(default_factory=dict)
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    """A moment shortly before the restore point."""
    point: datetime = field(default_factory=lambda: datetime.now(UTC))
    """The restore point, by the database's clock."""
    after: set[str] = field(default_factory=set)
    """The orders that came after it."""
    open: set[str] = field(default_factory=set)
    """Those of them that are in flight at the end."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Story]:
    """Play the story; nothing runs afterwards, and what the servers had is kept."""
    async with machine(1) as servers:
        with brokers(1) as kafka:
            site = Site(servers, kafka, tmp_path_factory.mktemp("restore"))
            await servers.make(site.place)
            await site.type("archive")
            await kafka.ready()
            told = Story(site)
            async with site.running(samples=True) as system, Trader(system) as trader:
                await _play(told, system, trader)
            await site.keep(THE_END)
            yield told


async def _play(story: Story, system: System, trader: Trader) -> None:
    await story.site.type("base-backup")
    await system.endow([*USERS, WAITER], HOLDINGS | {WAVE.asset_id: "100"})
    async with sample_stores(system.stack.logins["balance"], system.stack.logins["assets"]) as stores:
        await stores.put_asset(WAVE, answer_after_s=0)
    market = mixed(USERS, seed=22)
    ids = await trader.trade(list(islice(market, ORDERS)))
    story.since = datetime.now(UTC)
    story.rests = await _rest(system, trader)
    await system.producer.send(_hold(1, "HoldRequested", expires_at=_in_an_hour()))
    await trader.ended(ids)
    await eventually(lambda: _hold_is(system, 1, "HELD"), "the money of a service is held")
    with system.paused("balance"):
        in_flight = await _in_flight(system, trader)
        await story.site.type("restore-point")
        [row] = await system.owner_rows("SELECT now() AS point")
        story.point = row["point"]
        await story.site.snapshot(RESTORE_POINT)
    before = set(trader.accepted)
    await _go_on(story, system, trader)
    ids += in_flight + await trader.trade(list(islice(market, ORDERS)))
    await trader.ended(ids)
    with system.paused("balance"):
        story.open = set(await _in_flight(system, trader))
        story.told = merged(system.events.told())
        story.accepted = dict(trader.accepted)
        story.after = set(trader.accepted) - before
        story.paid_in = {(one.user_id, one.asset_id): Fraction(one.amount) for one in DEPOSITS}
        story.paid_in |= {key: Fraction(amount) for key, amount in system.deposits.items()}
        story.paid_in |= {(LATE, "USD"): Fraction(LATE_USD)}
        story.paid_in[WAITER, "USD"] -= CAPTURED
        await story.site.kill_servers()


async def _rest(system: System, trader: Trader) -> dict[str, str]:
    """Submit orders that wait for a price, by what becomes of them after the restore point."""
    wanted = {
        "fires": _wave("LIMIT_SELL", limit_price="108"),
        "is cancelled": _wave("LIMIT_BUY", limit_price="90"),
        "is amended": _wave("LIMIT_BUY", limit_price="80"),
        "is suspended": _wave("LIMIT_BUY", limit_price="70"),
        "rests on": _wave("LIMIT_SELL", limit_price="115"),
    }
    await trader.produce(*wanted.values())
    rests = {what: one.order_id for what, one in wanted.items()}
    await eventually(lambda: _count(system, "phase = 'WORKING'", rests.values()), "all of them rest")
    return rests


async def _in_flight(system: System, trader: Trader) -> list[str]:
    """Submit orders that can't go on, since the balance service does not answer; return when it was asked for all."""
    ids = await trader.produce(*(make(user, "BTC", "0.01") for user in USERS[:3] for make in (buy, sell)))
    with Follower(system.stack.kafka_bootstrap_servers, f"{system.prefix}balance.commands") as commands:

        async def asked() -> bool:
            asked_for = {record.body["order_id"] for record in tuple(commands.records)}
            return asked_for.issuperset(ids) and all(system.events.statuses(order_id) for order_id in ids)

        await eventually(asked, "orders in flight were told, and their money was asked for")
    return ids


async def _go_on(story: Story, system: System, trader: Trader) -> None:
    """Do what a database loses that goes back to the restore point."""
    rests = story.rests
    assert 202 == await trader.cancel(rests["is cancelled"])
    for path, method, body in (("", "PATCH", {"limit_price": "85"}), ("/hold", "PUT", None)):
        where = f"/orders/{rests['is suspended' if path else 'is amended']}{path}"
        answer = await trader.call(WAITER, method, where, json=body, headers={"Prefer": "wait=20"})
        assert 200 == answer.status_code, answer.text
    await _price(system, "110")
    await _deposit(story.site)
    await trader.ended([*await trader.produce(buy(LATE, "BTC", "0.01")), rests["fires"], rests["is cancelled"]])
    capture = _hold(1, "HoldCaptureRequested", capture=str(CAPTURED), to="@external")
    await system.producer.send(capture, _hold(2, "HoldRequested", expires_at=_in_an_hour()))
    await eventually(lambda: _hold_is(system, 1, "SETTLED"), "a service has captured its hold")
    await eventually(lambda: _hold_is(system, 2, "HELD"), "a service holds more")


async def _deposit(site: Site) -> None:
    """Enter the deposit that came after the restore point; its id makes it count once."""
    entered = await site.cli("deposit", LATE, "USD", LATE_USD, "--id", "late-1")
    assert 0 == entered.code, entered.err


# What the tests look at -----------------------------------------------------------------------------------------------


async def facts(story: Story, system: System) -> Facts:
    """Read everything that is judged."""
    now = merged(system.events.told())
    return Facts(
        merged(story.told, now), now, frozenset(story.accepted), await read(system.stack.database_url), story.paid_in
    )


async def settled(story: Story, system: System) -> list[str]:
    """Wait until there is no finding, and return those that stay."""
    found: list[str] = []

    async def none() -> bool:
        found[:] = [str(one) for one in judge(await facts(story, system))]
        return not found

    with suppress(AssertionError):
        await eventually(none, "all is well", within_s=60, poll_s=0.5)
    return found


async def _price(system: System, price: str) -> None:
    async with connected(system.stack.logins["assets"]) as engine:
        await set_price(engine, WAVE.asset_id, Price(price))


async def _count(system: System, condition: str, ids: Iterable[str]) -> bool:
    wanted = list(ids)
    statement = f"SELECT count(*) FROM audit.orders WHERE order_id = ANY($1::uuid[]) AND {condition}"
    [row] = await system.rows(statement, wanted)
    return bool(row["count"] == len(wanted))


async def _hold_is(system: System, number: int, state: str) -> bool:
    rows = await system.owner_rows("SELECT state FROM balances.holds WHERE hold_id = $1", f"hold:{HOLDS[number]}")
    return [state] == [row["state"] for row in rows]


def _wave(order_type: str, **terms: str) -> Wanted:
    return Wanted(WAITER, order_type, WAVE.asset_id, "1", terms=terms)


def _hold(number: int, kind: str, **more: str) -> Message:
    terms = {"hold_id": HOLDS[number], "user_id": WAITER, "asset_id": "USD", "amount": "75"}
    return message("holds.requests", WAITER, kind, terms | more)


def _in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


# The tests ------------------------------------------------------------------------------------------------------------


async def test_what_becomes_of_it_when_nobody_recovers(story: Story) -> None:
    """The harm that the page states: orders are gone, money is held for them, and others end in another way.

    The audit finds the money, and by itself it can't know what was told.
    """
    async with story.site.on(restored=True, kafka=THE_END), story.site.running() as system:
        await _price(system, "112")
        fired = story.rests["fires"]
        await eventually(lambda: _is_told_twice(system, fired), "the end of an order is told for the second time")
        await eventually(lambda: _all_ended_or_rest(system), "orders in flight end again")
        looked = await facts(story, system)
        found = judge(looked)
        audited = await system.audit()
        compared = await story.site.cli("audit", "--told")
    lost = story.accepted.keys() - looked.books.orders.keys()
    assert story.after - story.open <= lost <= story.after  # a request that was read just before may be read again
    assert {"110", "112"} == {each["order"]["average_price"] for each in looked.told[fired][4]}
    assert "CONFIRMED" == looked.books.orders[story.rests["is cancelled"]]["status"]
    assert {"lost", "money", "outcome", "wire"} == {one.kind for one in found}
    assert {"I8"} == {one.invariant for one in audited}
    assert {str(one.order_id) for one in audited} <= story.after
    assert 1 == compared.code
    assert [] == [order_id for order_id in lost if order_id not in compared.out]


async def test_an_older_database_is_brought_to_what_was_told(story: Story) -> None:
    """Whatever was told stays true, the rest ends, every cent is there, and the system goes on."""
    since = story.since.isoformat()
    async with story.site.on(restored=story.point, kafka=THE_END):
        before = await read(story.site.database_url)
        planned = await story.site.recover("database", "--since", since, "--dry-run")
        assert before == await read(story.site.database_url)
        assert story.after | set(story.rests.values()) - {story.rests["rests on"]} <= _named(planned.out)
        await story.site.recover("database", "--yes", "--by", "ann")
        await _deposit(story.site)
        async with story.site.running() as system:
            assert [] == await settled(story, system)
            assert [] == await system.audit()
            await _life_goes_on(story, system)


async def test_an_older_kafka_is_told_again(story: Story) -> None:
    """Whoever reads the topic from its beginning learns the newest version of each order; nothing is done twice."""
    async with story.site.on(restored=False, kafka=RESTORE_POINT):
        await story.site.recover("kafka", "--since", story.since.isoformat(), "--yes", "--by", "ann")
        async with story.site.running() as system:
            assert [] == await settled(story, system)
            assert [] == await system.audit()
            await _life_goes_on(story, system)


async def _life_goes_on(story: Story, system: System) -> None:
    """Trade once more: an order that rested through it all fires, and a new one completes."""
    rests = story.rests["rests on"]
    async with Trader(system) as trader:
        bought = await trader.post(buy(WAITER, "BTC", "0.01"))
        await _price(system, "120")
        ends = await trader.ended([bought, rests])
    assert {bought: COMPLETED, rests: COMPLETED} == ends
    assert "120" == system.events.of(rests)[-1]["order"]["average_price"]
    assert [] == await settled(story, system)
    compared = await story.site.cli("audit", "--told")
    assert 0 == compared.code, compared.out


def _named(printed: str) -> set[str]:
    """Find the orders that a command has printed a line about."""
    return {line.partition(":")[0] for line in printed.splitlines()}


async def _is_told_twice(system: System, order_id: str) -> bool:
    """Tell whether the end of a filled order was told in two lives."""
    return len(system.events.versions(order_id).get(4, [])) > 1


async def _all_ended_or_rest(system: System) -> bool:
    books = await read(system.stack.database_url)
    return all(row["status"] in ENDED or row["phase"] in RESTING for row in books.orders.values())
