"""The engine and its tables against the oracle: nothing is remembered between two batches but what is stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID

import pytest

from order_saga.triggers.feed import Tick
from tests.order_saga.triggers.market import TRAIL, StoredMarket, tick
from tests.order_saga.triggers.oracle import Oracle
from tests.order_saga.triggers.scenario import BEGIN, Leaves, Life, Passes, Rests, Retrails, cut, life, placed


@pytest.mark.parametrize("part", range(3))
async def test_the_stored_engine_does_what_the_oracle_does(market: StoredMarket, part: int) -> None:
    """Random lives, each on an asset of its own, in random batches and rounds; all state is in the tables alone."""
    fired = 0
    for seed in range(part * 50, part * 50 + 50):
        random = Random(seed)  # noqa: S311 - the same lives in every run
        oracle = await _live(market, f"A{seed}", random)
        assert oracle.outcomes == await market.outcomes(f"A{seed}")
        fired += sum(outcome.fired is not None for outcome in oracle.outcomes.values())
    assert fired > 50


async def _live(market: StoredMarket, asset_id: str, random: Random) -> Oracle:
    """Live a life in both; every batch is judged by a member that has just started."""
    both = _Both(market, asset_id)
    drawn = life(random, random.randint(2, 7))
    for step in drawn.steps:
        if isinstance(step, list):
            await both.judge(step, random)
        elif isinstance(step, Rests):
            await both.rest(drawn, step)
        elif isinstance(step, Leaves):
            await both.leave(step)
        elif isinstance(step, Retrails):
            await both.retrail(step)
        else:
            await both.wait(step)
    return both.oracle


class _Both:
    """The oracle, and an asset in the database."""

    def __init__(self, market: StoredMarket, asset_id: str) -> None:
        self.oracle = Oracle()
        self._market, self._asset_id, self._now = market, asset_id, BEGIN
        self._first = int(asset_id[1:]) * 1_000

    async def judge(self, ticks: list[Tick], random: Random) -> None:
        """Tell both the same ticks."""
        for one in ticks:
            self.oracle.tick(one.sequence, one.price, self._now, live=one.live)
        for batch in cut(ticks, random):
            prices = [
                tick(one.sequence, one.price, stale=not one.live, trading=one.trading, asset_id=self._asset_id)
                for one in batch
            ]
            await self._market.judge(*prices, member=self._market.member(random.choice((1, 2, 2_000))))

    async def rest(self, drawn: Life, step: Rests) -> None:
        """Let an order rest, that has expired already or will not during the test."""
        order, quote = placed(drawn, step, self.oracle)
        ends = order.expires_at
        order.expires_at = ends and datetime.now(UTC) + timedelta(hours=1 if ends > self._now else -1)
        await self._market.rest(self._first + step.number, order, quote, self._asset_id)
        order.expires_at = ends
        self.oracle.rest(self._first + step.number, order, quote)

    async def leave(self, step: Leaves) -> None:
        """Cancel an order that still rests."""
        if self.oracle.resting.pop(self._first + step.number, None) is not None:
            await self._change("live = false", self._first + step.number)

    async def wait(self, step: Passes) -> None:
        """Let the time pass, and have orders expire."""
        self._now += timedelta(seconds=step.seconds)
        for number, order in self.oracle.resting.items():
            if order.expires_at is not None and order.expires_at <= self._now:
                await self._change("expires_at = now() - interval '1 h'", number)

    async def retrail(self, step: Retrails) -> None:
        """Do what an amend of the trail does."""
        number = self._first + step.number
        order = self.oracle.resting.get(number)
        if order is None or order.watermark is None:
            return
        order.amount, order.bps = step.amount, step.bps
        await self._change("trail_amount = $2, trail_bps = $3", number, step.amount, step.bps)
        kind, trail = ("amount", step.amount) if step.bps is None else ("bps", Decimal(step.bps))
        await self._market.execute(TRAIL, self._asset_id, order.side.value, kind, trail, order.start)

    async def _change(self, what: str, number: int, *values: object) -> None:
        await self._market.execute(f"UPDATE orders.resting SET {what} WHERE order_id = $1", UUID(int=number), *values)
