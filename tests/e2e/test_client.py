"""The client against a whole system: each kind of call, by both clients, and as an installed package."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from contracts.decimals import Price
from local_stack.sample_data import SampleAsset
from operations.access.database import connected
from operations.demo.samples import sample_stores
from order_client import (
    AsyncClient,
    ChannelItem,
    Client,
    OrderStatus,
    OrderStatusChanged,
    OrderVersion,
    Retry,
    SnapshotEnd,
    problems,
)
from participants.assets.price_store import set_price
from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import CANCELLED, COMPLETED, Wanted
from tests.e2e.system import WITHIN_S, System
from tests.e2e.trader import Trader
from tests.support.wheels import build_ours, installed, run_in

pytestmark = pytest.mark.asyncio(loop_scope="package")

USER, BOT_USER = "client-user", "client-bot"
ASSET = SampleAsset("BOT-E2E", Decimal("100.00"))
BOT = Path(__file__).parents[2] / "docs" / "examples" / "bot.py"
LIMIT: dict[str, Any] = {"limit_price": Decimal("15.00")}
A_TRADERS_PROGRAM = """
import json, sys
from decimal import Decimal
from order_client import Client

with Client(sys.argv[1], sys.argv[2]) as client:
    order = client.submit_order("ACME", "MARKET_BUY", Decimal(1), wait_s=30)
    order = client.wait_for_end(order, 60)
print(json.dumps([str(order.order_id), order.status, str(order.average_price)]))
"""


@pytest.fixture
def blocking(system: System, trader: Trader) -> Iterator[Client]:
    """Give a client that blocks."""
    with Client(system.stack.api_url, lambda: trader.token(USER), retry=Retry(times=8)) as client:
        yield client


async def test_an_order_is_submitted_once_and_followed_to_its_end(
    system: System, trader: Trader, blocking: Client
) -> None:
    """The same key is the same order, and its history has every step; what it got is exact."""
    await system.endow([USER], {"USD": "10000.00", "ACME": "10"})

    def trade() -> Any:
        quote = blocking.preview_order("ACME", "MARKET_BUY", 2).quote
        order = blocking.submit_order("ACME", "MARKET_BUY", Decimal(2), idempotency_key="client-1", wait_s=30)
        order = blocking.wait_for_end(order, 60)
        again = blocking.submit_order("ACME", "MARKET_BUY", "2.0", idempotency_key="client-1")
        with pytest.raises(problems.IdempotencyKeyReusedError) as reused:
            blocking.submit_order("ACME", "MARKET_BUY", 3, idempotency_key="client-1")
        with pytest.raises(problems.OrderNotCancelableError) as late:
            blocking.cancel_order(order.order_id)
        assert quote is not None
        assert (order, order.order_id, OrderStatus.COMPLETED) == (again, reused.value.order_id, late.value.order_status)
        assert (quote.price, Decimal(2)) == (order.average_price, order.filled_quantity)
        names = [entry.name for entry in blocking.order_history(order.order_id)]
        state = blocking.read_order_status(order.order_id)
        assert (order.version, None) == (state.version, blocking.read_order_change(order.order_id, order.version))
        assert "OrderRequested" == names[0]
        assert "BalanceSettled" in names
        return order

    order = await asyncio.to_thread(trade)
    trader.accepted[str(order.order_id)] = Wanted(USER, "MARKET_BUY", "ACME", "2")


async def test_orders_that_rest_are_changed_listed_and_cancelled(system: System, trader: Trader) -> None:
    """Amended, held, released, found page by page and by their names, and all cancelled; errors are told apart."""
    await system.endow([USER], {"USD": "10000.00"})
    async with AsyncClient(system.stack.api_url, trader.token(USER), retry=Retry(times=8)) as client:
        names = [f"client-rests-{number}" for number in range(3)]
        orders = await asyncio.gather(
            *(client.submit_order("ACME", "LIMIT_BUY", 1, client_order_id=name, **LIMIT) for name in names)
        )
        first, *_ = [await client.wait_for_end(order, 60) for order in orders]
        amended = await client.amend_order(first.order_id, limit_price="14.50", if_version=first.version, wait_s=30)
        assert (Decimal("14.5"), "APPLIED") == (amended.limit_price, amended.amend and amended.amend.state)
        with pytest.raises(problems.VersionMismatchError):
            await client.amend_order(first.order_id, limit_price="14", if_version=first.version, wait_s=30)
        assert (await client.hold_order_by_client_id(names[0], wait_s=30)).on_hold
        assert not (await client.release_order(first.order_id, wait_s=30)).on_hold
        assert first.order_id == (await client.read_order_by_client_id(names[0])).order_id
        found = [order.client_order_id async for order in client.orders(page_size=2, open=True, asset_id="ACME")]
        assert set(names) <= set(found)
        timer = await client.set_cancel_timer(3600)
        assert (3600, True) == (timer.timeout_s, timer.fires_at is not None)
        assert 0 == (await client.set_cancel_timer(0)).timeout_s
        done, again = [await client.cancel_all_orders(asset_id="ACME", idempotency_key="client-all") for _ in "12"]
        assert done.mass_cancel_id == again.mass_cancel_id
        ended = [await client.wait_for_end(await client.cancel_order(order.order_id), 60) for order in orders]
        assert {OrderStatus.CANCELLED} == {order.status for order in ended}
        with pytest.raises(problems.InvalidRequestError, match="limit_price"):
            await client.submit_order("ACME", "LIMIT_BUY", 1)
        with pytest.raises(problems.OrderNotFoundError):
            await client.read_order("01a225ed-8291-7454-80a1-f84ea245f98b")
        with pytest.raises(problems.OtherUserError):
            await client.submit_order("ACME", "MARKET_BUY", 1, user_id="somebody-else")
        with pytest.raises(problems.InsufficientScopeError):
            await client.place_hold("somebody-else", "USD", 1, ended[0].updated_at)
        for order in ended:
            trader.accepted[str(order.order_id)] = Wanted(
                USER, "LIMIT_BUY", "ACME", "1", terms={"limit_price": "15"}, cancel=True, ends=CANCELLED
            )


async def _until_live(told: AsyncGenerator[ChannelItem, None], channels: set[str]) -> AsyncGenerator[ChannelItem, None]:
    """Give what channels tell, until these are live and the others have ended."""
    async for one in told:
        yield one
        ended = isinstance(one.item, OrderStatusChanged) and one.channel != "orders" and one.item.status.terminal
        if one.channel is not None and (ended or isinstance(one.item, SnapshotEnd)):
            channels.discard(one.channel)
        if not channels:
            return


async def test_streams_tell_of_orders_as_they_happen(system: System, trader: Trader) -> None:
    """From what is open on, live; of one order each version to its end, and to another user nothing."""
    await system.endow([USER], {"USD": "10000.00"})
    async with AsyncClient(system.stack.api_url, lambda: trader.token(USER)) as client:
        rests = sold = await client.submit_order("ACME", "LIMIT_BUY", 1, limit_price=12)
        await client.wait_for_end(rests, 60)
        seen: list[Any] = []
        async with asyncio.timeout(60), aclosing(client.events(prices=["ACME"])) as events:
            async for item in events:
                seen.append(item)
                if isinstance(item, SnapshotEnd):
                    sold = await client.submit_order("ACME", "MARKET_BUY", 1, client_order_id="client-streamed")
                if isinstance(item, OrderStatusChanged) and item.order_id == sold.order_id and item.status.terminal:
                    break
        snapshot = seen[: seen.index(SnapshotEnd())]
        assert rests.order_id in {item.order_id for item in snapshot if isinstance(item, OrderStatusChanged)}
        assert OrderStatus.COMPLETED == seen[-1].order.status
        assert await _versions(client.order_events(sold.order_id, after=0)) == [1, 2, 3, 4]
        assert await _versions(client.order_events_by_client_id("client-streamed", after=4)) == []
        channels = ["prices:ACME", f"order:{sold.order_id}"]
        async with asyncio.timeout(60), aclosing(client.subscribe(["orders", *channels])) as told:
            live = {one.channel: one.item async for one in _until_live(told, {"orders", *channels})}
        assert live.keys() == {"orders", *channels}
        last = live[channels[1]]
        assert isinstance(last, OrderStatusChanged)
        assert OrderStatus.COMPLETED == last.status
        cancelling = asyncio.create_task(_versions(client.order_events(rests.order_id)))
        await client.cancel_order(rests.order_id)
        ended = await client.wait_for_end(rests, 60)
        ended = ended if ended.status.terminal else await client.read_order(rests.order_id, wait_s=30)
        assert ended.version == (await asyncio.wait_for(cancelling, 60))[-1]
    async with AsyncClient(system.stack.api_url, trader.token("somebody-else")) as other:
        with pytest.raises(problems.OrderNotFoundError):
            await _versions(other.order_events(sold.order_id))
        with pytest.raises(problems.OtherUserError):
            await _versions(other.events(user_id=USER))
    trader.accepted[str(sold.order_id)] = Wanted(USER, "MARKET_BUY", "ACME", "1")
    terms = {"limit_price": "12"}
    trader.accepted[str(rests.order_id)] = Wanted(
        USER, "LIMIT_BUY", "ACME", "1", terms=terms, cancel=True, ends=CANCELLED
    )


async def _versions(stream: AsyncIterator[Any]) -> list[int]:
    return [item.version async for item in stream if isinstance(item, OrderStatusChanged | OrderVersion)]


async def test_the_bot_trades_with_the_installed_package(system: System, trader: Trader, tmp_path: Path) -> None:
    """It buys below the market and sells what it got above, once, and its orders end well."""
    await system.endow([BOT_USER], {"USD": "10000.00"})
    async with sample_stores(system.stack.logins["balance"], system.stack.logins["assets"]) as stores:
        await stores.put_asset(ASSET, answer_after_s=0)
    python = await asyncio.to_thread(lambda: installed(tmp_path / "client", build_ours(tmp_path), "order-saga-client"))
    bot = await asyncio.create_subprocess_exec(
        *(python, "-I", BOT, ASSET.asset_id, "1"),
        env={"ORDER_API_URL": system.stack.api_url, "ORDER_TOKEN": trader.token(BOT_USER)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        bought = await _said(bot, "buys 1 BOT-E2E at 99")
        await _price(system, "98.90")
        sold = await _said(bot, f"sells what {bought} bought, at 99.89")
        await _price(system, "101.00")
        await _said(bot, "buys 1 BOT-E2E at 99.99")
    finally:
        bot.terminate()
        await bot.wait()
    async with AsyncClient(system.stack.api_url, trader.token(BOT_USER)) as client:
        await client.cancel_all_orders()
        orders = [order async for order in client.orders()]
        for order in [await client.read_order(order.order_id, wait_s=30) for order in orders]:
            ends = COMPLETED if str(order.order_id) in {bought, sold} else CANCELLED
            assert ends == " ".join(filter(None, (order.status, order.reason_code)))
            trader.accepted[str(order.order_id)] = Wanted(
                BOT_USER,
                str(order.order_type),
                ASSET.asset_id,
                "1",
                terms={"limit_price": str(order.limit_price)},
                ends=ends,
            )
    await assert_all_is_well(system, trader)


async def _said(bot: asyncio.subprocess.Process, words: str) -> str:
    """Wait until the bot says this of an order; return the order's id."""
    assert bot.stdout is not None
    heard: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(WITHIN_S):
            while line := (await bot.stdout.readline()).decode():
                heard.append(line)
                order_id, _, said = line.strip().partition(" ")
                if words == said:
                    return order_id
    raise AssertionError(f"the bot never said: {words}, but {heard}")


async def _price(system: System, price: str) -> None:
    async with connected(system.stack.logins["assets"]) as engine:
        await set_price(engine, ASSET.asset_id, Price.parse(price))


async def test_the_service_tells_about_itself(system: System) -> None:
    """Without a token; and what needs one says so."""
    async with AsyncClient(system.stack.api_url) as client:
        assert ("ok", "ok") == ((await client.read_liveness()).status, (await client.read_readiness()).status)
        assert "Orders" == (await client.read_description())["info"]["title"]
        assert (await client.read_index()).orders.endswith("/orders")
        assert "order-not-found" in await client.list_problems()
        assert "No such order" in await client.read_problem("order-not-found")
        assert "http_server" in await client.read_metrics()
        with pytest.raises(problems.MissingTokenError):
            await client.list_orders()


async def test_the_installed_package_places_an_order(system: System, trader: Trader, tmp_path: Path) -> None:
    """In an environment that has the client and what it needs, and nothing else of ours."""
    await system.endow([USER], {"USD": "1000.00"})
    python = await asyncio.to_thread(lambda: installed(tmp_path / "client", build_ours(tmp_path), "order-saga-client"))
    ran = await asyncio.to_thread(
        run_in, python, A_TRADERS_PROGRAM, system.stack.api_url, trader.token(USER), timeout_s=120
    )
    assert ran.returncode == 0, ran.stderr
    order_id, status, price = json.loads(ran.stdout)
    assert ("COMPLETED", Decimal(20)) == (status, Decimal(price))
    trader.accepted[order_id] = Wanted(USER, "MARKET_BUY", "ACME", "1")
    await assert_all_is_well(system, trader)
