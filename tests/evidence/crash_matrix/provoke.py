"""Provokes a type of message: for each type, by an order or a forged message that must lead to it.

Some messages need a forged one: a settlement is refused when another producer has refunded the hold, a refund when the
hold was settled before. The forged messages come by Kafka, as from any producer with the right to write the topic.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from contracts.decimals import Price
from local_stack.sample_data import ASSETS, SampleAsset
from operations.access.database import connected
from operations.demo.samples import sample_stores
from order_saga.worker.market import RestingPoint
from participants.assets.price_store import set_price
from saga_kit.runtime.crash_points import CrashPoint
from tests.e2e.orders import Wanted, buy, sell
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader, cancel_of, request_of
from tests.e2e.wire import Message, message
from tests.evidence.crash_matrix.cells import EXPIRY, FIRE, PRICE, RELAY, RESTING, RISING, TIMER, Cell

USERS: Final = [f"matrix-{number}" for number in range(10)]
HOLDINGS: Final = {"USD": "1000000.00", "ACME": "10000", "SLOW": "10000", RISING: "100000"}
SLOW_ANSWER_S: Final = 1.5
"""The delay of an answer about SLOW: time to send a forged message, and for a timer to find the order."""
TICKER: Final = SampleAsset("TICK", Decimal("10.00"))
"""An asset that nobody trades, whose price moves."""
RISE: Final = SampleAsset(RISING, Decimal("10.00"), price_max=Decimal(100_000), notional_max=Decimal(10) ** 10)
FIRST_SEQUENCE: Final = 1_000_000
"""The forged ticks are newer than all that the reference service publishes of their asset."""
OF_A_TICK: Final = 3
"""Orders that fire at each tick: a full round and one more."""
REPEAT_S: Final = 5.0
EXPIRES_AFTER_S: Final = 2.0
MORE: Final = "2"
TOO_MUCH: Final = "100001"
"""More of the asset than anybody has."""
AMENDED_WITHIN_S: Final = 8.0
ENDS_WITHIN_S: Final = 3.0
"""Most changes are done by then; one whose message was set aside never is."""
SETTLEMENT_REFUSED: Final = "FAILED EXECUTION_FAILED"


class Provoker:
    """Trades in one system so that a wanted type of message is sent."""

    def __init__(self, system: System, trader: Trader) -> None:
        self._system = system
        self._trader = trader
        self._users = itertools.cycle(USERS)
        self._prices = itertools.count(11)
        self._ticks = itertools.count(11)
        self._newest: Mapping[str, object] | None = None
        self._repeated_at = 0.0
        self.planned: dict[str, Decimal] = {}
        """By order: the price of the tick that must fire it."""
        buys = dict.fromkeys(_OF_A_GOOD_ORDER, self._good)
        self._ways: Mapping[str, Callable[[], Awaitable[None]]] = {
            **buys,
            "OrderCancelRequested": self._cancelled,
            "AssetRefused": self._refused_sale,
            "RefundBalance": self._refused_sale,
            "BalanceRefunded": self._refused_sale,
            "BalanceRefused": self._poor,
            "SettlementRefused": self._snatched,
            "RefundRefused": self._refunded_too_late,
            "AssetPriceChanged": self._price_moves,
            TIMER: self._slow,
            RESTING: self._fires,
            FIRE: self._fires,
            EXPIRY: self._expires,
            **dict.fromkeys(_OF_A_RAISE, self._raises),
            "AdjustmentRefused": lambda: self._raises(TOO_MUCH),
            **dict.fromkeys(("OrderHoldRequested", "OrderReleaseRequested"), self._suspends),
        }

    async def prepare(self) -> None:
        """Give the users their holdings, and set the assets up."""
        await self._system.endow(USERS, HOLDINGS)
        logins = self._system.stack.logins
        slow = next(asset for asset in ASSETS if asset.asset_id == "SLOW")
        async with sample_stores(logins["balance"], logins["assets"]) as stores:
            await stores.put_asset(slow, answer_after_s=SLOW_ANSWER_S)
            await stores.put_asset(TICKER, answer_after_s=0)
            await stores.put_asset(RISE, answer_after_s=0)

    async def provoke(self, cell: Cell) -> None:
        """Do once what leads to the cell's message."""
        if cell.service == "orchestrator" and cell.message == "RefundRefused":
            await self._lied_to()
        elif cell.service == "orchestrator" and cell.message == PRICE:
            await self._fires()
        elif cell.point is RestingPoint.GATES_SHARED:
            await self._of_a_resting_order(cell.message)
        elif cell.point is CrashPoint.SWEPT and cell.message == "BalanceReserved":
            await self._slow_sale()  # else the settlement's batch deletes the row before it is swept
        elif cell.point is CrashPoint.SWEPT and cell.message in {"BalanceAdjusted", "AdjustmentRefused"}:
            await self._raises(MORE if cell.message == "BalanceAdjusted" else TOO_MUCH, expires=True)  # the same
        else:
            await self._ways[cell.message]()

    async def _good(self) -> None:
        await self._trader.produce(buy(next(self._users), "ACME", "1"))

    async def _slow(self) -> None:
        await self._trader.produce(buy(next(self._users), "SLOW", "1"))

    async def _poor(self) -> None:
        await self._trader.produce(buy("carol", "ACME", "5", ends="FAILED INSUFFICIENT_BALANCE"))

    async def _refused_sale(self) -> None:
        await self._trader.produce(sell(next(self._users), "ACME", "1.5", ends="FAILED INVALID_STEP"))

    async def _cancelled(self) -> None:
        await self._trader.produce(sell(next(self._users), "SLOW", "1", cancel=True))

    async def _slow_sale(self, **more: str) -> Wanted:
        wanted = sell(next(self._users), "SLOW", "1", **more)
        await self._trader.produce(wanted)
        return wanted

    async def _snatched(self) -> None:
        """Refund the hold of an order that waits for its check, so that its settlement finds no hold."""
        wanted = await self._slow_sale(ends=SETTLEMENT_REFUSED)
        await self._is_reserved(wanted)
        await self._say(_refund(wanted))

    async def _refunded_too_late(self) -> None:
        """Refund the hold of an order that is settled."""
        wanted = sell(next(self._users), "ACME", "1")
        await self._trader.produce(wanted)
        await self._trader.ended([wanted.order_id])
        await self._say(_refund(wanted))

    async def _lied_to(self) -> None:
        """Cancel an order and forge an answer to its refund: it parks, unless the true answer came first."""
        wanted = replace(sell(next(self._users), "SLOW", "1"), cancel=True)
        self._trader.note(wanted)
        await self._say(request_of(wanted))
        await self._is_reserved(wanted)
        await self._say(cancel_of(wanted), _refund_refused(wanted))

    async def _fires(self) -> None:
        """Let orders rest, then publish the tick that fires them. No other tick has its price."""
        number = next(self._ticks)
        orders = [self._limit(Decimal(number) - Decimal("0.5")) for _ in range(OF_A_TICK)]
        await self._trader.produce(*orders)
        await self._rest(orders)
        self.planned |= {one.order_id: Decimal(number) for one in orders}
        body = {"asset_id": RISING, "sequence": FIRST_SEQUENCE + number, "price": str(number)}
        await self._tick({**body, "as_of": datetime.now(UTC).isoformat(), "trading": "OPEN"})

    async def _of_a_resting_order(self, what: str) -> None:
        at_rest = {"OrderCancelRequested": self._cancels_resting}
        changing = {EXPIRY, "AdjustmentRefused", "OrderHoldRequested", "OrderReleaseRequested", *_OF_A_RAISE}
        await (self._ways[what] if what in changing else at_rest.get(what, self._fires))()

    async def repeat(self) -> None:
        """Confirm the newest tick from time to time, as each feed must, so that it fires after a long restart too."""
        if self._newest is not None and time.monotonic() - self._repeated_at > REPEAT_S:
            await self._tick({**self._newest, "confirmed_at": datetime.now(UTC).isoformat()})

    async def _tick(self, body: Mapping[str, object]) -> None:
        self._newest, self._repeated_at = body, time.monotonic()
        await self._say(message("assets.prices", RISING, PRICE, dict(body)))

    async def _expires(self) -> None:
        await self._trader.produce(self._limit(Decimal(9_000), ends="CANCELLED EXPIRED", **_until(EXPIRES_AFTER_S)))

    async def _cancels_resting(self) -> None:
        wanted = self._limit(Decimal(9_000), ends="CANCELLED USER_REQUESTED")
        await self._trader.produce(wanted)
        await self._rest([wanted])
        await self._say(cancel_of(wanted))

    async def _raises(self, quantity: str = MORE, *, expires: bool = False) -> None:
        """Amend a resting order, so that it must hold more; cancel it when that is decided, or have it expire later."""
        wanted = self._limit(Decimal(9_000), ends="CANCELLED USER_REQUESTED")
        if expires:
            wanted = self._limit(Decimal(9_000), ends="CANCELLED EXPIRED", **_until(AMENDED_WITHIN_S))
        await self._trader.produce(wanted)
        await self._rest([wanted])
        await self._say(_change(wanted, "OrderAmendRequested", amend_id="more", quantity=quantity))
        await self._has_noted(wanted, "amended", "amend_refused")
        if not expires:
            await self._say(cancel_of(wanted))

    async def _suspends(self) -> None:
        """Suspend and release a resting order, and cancel it."""
        wanted = self._limit(Decimal(9_000), ends="CANCELLED USER_REQUESTED")
        await self._trader.produce(wanted)
        await self._rest([wanted])
        await self._say(_change(wanted, "OrderHoldRequested"), _change(wanted, "OrderReleaseRequested"))
        await self._has_noted(wanted, "released")
        await self._say(cancel_of(wanted))

    async def _has_noted(self, wanted: Wanted, *kinds: str) -> None:
        """Wait a while for a line of an order's history."""
        statement = "SELECT 1 FROM audit.history WHERE order_id = $1::text::uuid AND kind = ANY($2::text[])"

        async def noted() -> bool:
            return bool(await self._system.rows(statement, wanted.order_id, list(kinds)))

        with suppress(AssertionError):
            await eventually(noted, f"{wanted.order_id} is {kinds}", within_s=ENDS_WITHIN_S, poll_s=0.05)

    def _limit(self, limit: Decimal, ends: str = "COMPLETED", **times: str) -> Wanted:
        terms = {"limit_price": str(limit), **times}
        return Wanted(next(self._users), "LIMIT_SELL", RISING, "1", ends=ends, terms=terms)

    async def _rest(self, orders: Sequence[Wanted]) -> None:
        statement = "SELECT count(*) FROM audit.orders WHERE order_id = ANY($1::uuid[]) AND phase = 'WORKING'"

        async def rest() -> bool:
            counted = await self._system.rows(statement, [one.order_id for one in orders])
            return bool(counted[0]["count"] == len(orders))

        await eventually(rest, f"{len(orders)} orders rest", poll_s=0.05)

    async def _price_moves(self) -> None:
        async with connected(self._system.stack.logins["assets"]) as engine:
            await set_price(engine, TICKER.asset_id, Price(Decimal(next(self._prices))))

    async def _say(self, *messages: Message) -> None:
        await self._system.producer.send(*messages)

    async def _is_reserved(self, wanted: Wanted) -> None:
        """Wait until the saga has the answer to its reservation, so that it does not repeat the question."""
        statement = "SELECT 1 FROM audit.history WHERE order_id = $1::text::uuid AND name = 'BalanceReserved'"

        async def reserved() -> bool:
            return bool(await self._system.rows(statement, wanted.order_id))

        await eventually(reserved, f"order {wanted.order_id} holds its money", poll_s=0.02)


def wait_s(cell: Cell) -> float:
    """Return the seconds until the next attempt: a relay and a sweep need time, and a sweep an idle service."""
    if cell.point in RELAY:
        return 7.0  # longer than the grace of a row
    if cell.message == EXPIRY:
        return 2 * EXPIRES_AFTER_S
    return 3.0 if cell.point is CrashPoint.SWEPT else 2.0


_OF_A_GOOD_ORDER: Final = (
    *("OrderRequested", "CheckAsset", "AssetApproved", "ReserveBalance", "BalanceReserved", "SettleBalance"),
    *("BalanceSettled", "OrderStatusChanged"),
)

_OF_A_RAISE: Final = ("OrderAmendRequested", "AdjustBalance", "BalanceAdjusted")


def _until(seconds: float) -> dict[str, str]:
    """Give the fields of an order that expires so much later."""
    return {"time_in_force": "GTD", "expires_at": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()}


def _change(wanted: Wanted, name: str, **fields: str) -> Message:
    """Make the message that changes an order, from its user."""
    body = {"order_id": wanted.order_id, "user_id": wanted.user_id, "requested_by": wanted.user_id, **fields}
    return message("orders.changes", wanted.order_id, name, body)


def _refund(wanted: Wanted) -> Message:
    """Forge a refund command with the terms of the order's own hold (for a sale: the quantity)."""
    body = {
        "command_id": f"{wanted.order_id}:refund",
        "order_id": wanted.order_id,
        "hold_id": f"{wanted.order_id}:reserve",
        "user_id": wanted.user_id,
        "asset_id": wanted.asset_id,
        "amount": wanted.quantity,
    }
    return message("balance.commands", wanted.user_id, "RefundBalance", body)


def _refund_refused(wanted: Wanted) -> Message:
    """Forge an answer that the balance service never gives about such an order."""
    body = {
        "command_id": f"{wanted.order_id}:refund",
        "order_id": wanted.order_id,
        "hold_id": f"{wanted.order_id}:reserve",
        "hold_state": "SETTLED",
        "reason_code": "CLOSED",
        "reason": "a lie",
    }
    return message("balance.replies", wanted.order_id, "RefundRefused", body)
