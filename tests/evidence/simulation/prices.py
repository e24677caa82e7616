"""The prices of a simulated market: what the asset service quotes, and the feed that tells the orchestrator of them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.assets import AssetPriceChanged, Trading
from contracts.codec import outgoing
from contracts.decimals import Money, Price, Quantity
from tests.evidence.simulation.database import EPOCH
from tests.evidence.simulation.scenario import How

if TYPE_CHECKING:
    from tests.evidence.simulation.scenario import TickPlan
    from tests.evidence.simulation.world import World

BEGIN: Final = {"BTC": 50_000.0, "HALT": 10.0, "WAVE": 100.0}
FEED: Final = ("BTC", "WAVE")
"""The assets whose prices are published, in a history with ticks."""
CONFIRM_S: Final = 4.0
LATE_S: Final = 20.0
STALE_S: Final = 60.0
_RULES: Final = (Price("0.01"), Quantity("0.00000001"), Quantity("0.001"), None, Money(10), Money(10_000), 10, "USD", 2)


class Moment(NamedTuple):
    """A price that an asset had, from when on, and whether it was traded."""

    sequence: int
    price: float
    as_of: datetime
    trading: Trading


class Prices:
    """Every price that there was, by asset; the newest is the last one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.known: dict[str, list[tuple[float, float]]] = {}
        """Each price that an asset had, and from when on in seconds."""
        self.moments: dict[str, list[Moment]] = {}
        self.confirmed: dict[str, bool] = {}

    def begin(self) -> None:
        """Have every asset at its first price."""
        for asset_id, price in BEGIN.items():
            self.known[asset_id], self.moments[asset_id], self.confirmed[asset_id] = [], [], True
            self._note(asset_id, price, Trading.OPEN)

    def move(self, asset_id: str, price: float) -> None:
        """Change a price, and publish that."""
        self._note(asset_id, price, self.moments[asset_id][-1].trading)
        self._publish(asset_id, self.moments[asset_id][-1])

    async def tick(self, plan: TickPlan) -> None:
        """Change a price or a trading state when its time has come, and publish that as is planned."""
        await asyncio.sleep(plan.at)
        asset_id, world = plan.asset_id, self._world
        if plan.how is not How.WELL:
            world.seen[f"tick {plan.how}"] += 1
        if plan.trading != Trading.OPEN:
            world.seen["tick in a halt"] += 1
        before = self.moments[asset_id]
        self._note(asset_id, float(plan.price), Trading(plan.trading))
        moment = before[-1]
        match plan.how:
            case How.MISSING:
                return
            case How.LATE:
                await asyncio.sleep(world.chance.uniform(0, LATE_S))
            case How.BACKWARD:
                moment = world.chance.choice(before[:-1])
        stale_s = STALE_S if plan.how is How.STALE else 0.0
        for _ in range(2 if plan.how is How.REPEATED else 1):
            self._publish(asset_id, moment, stale_s)

    async def confirm(self) -> None:
        """Confirm prices for ever, as their sources do, and publish each once more, every second time."""
        for number in count():
            await asyncio.sleep(CONFIRM_S)
            for asset_id, confirmed in self.confirmed.items():
                if confirmed and not self._world.database_is_away:
                    self._show(asset_id)
                    if number % 2:
                        self._publish(asset_id, self.moments[asset_id][-1])

    def _note(self, asset_id: str, price: float, trading: Trading) -> None:
        seconds, moments = self._world.loop.time(), self.moments[asset_id]
        self.known[asset_id].append((seconds, price))
        moments.append(Moment(len(moments) + 1, price, EPOCH + timedelta(seconds=seconds), trading))
        self._show(asset_id)

    def _show(self, asset_id: str) -> None:
        """Write the newest price down where the asset service reads it."""
        moment, now = self.moments[asset_id][-1], self._world.database.now()
        rules = (*_RULES, asset_id != "HALT", None, None, None, 1)
        price = (Price(str(moment.price)), moment.sequence, now, now, moment.trading.value)
        self._world.database.tables["assets"][asset_id] = {"rules": rules, "price": price}

    def _publish(self, asset_id: str, moment: Moment, stale_s: float = 0.0) -> None:
        world = self._world
        if asset_id not in FEED or not world.scenario.ticks or world.broker_is_away:
            return
        now = EPOCH + timedelta(seconds=world.loop.time() - stale_s)
        price = Price(str(moment.price))
        message = AssetPriceChanged(asset_id, moment.sequence, price, moment.as_of, now, moment.trading)
        message_id = f"{asset_id}:price:{moment.sequence}"
        world.broker.send(world, [outgoing(message, message_id=message_id, source="/assets", time=now)])
