"""After a restore no order ends otherwise than was told, money at rest fits the end, and nothing moves twice."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from contracts.vocabulary import HoldState, OrderStatus
from order_saga.core.phases import MOVES, TERMINAL
from tests.order_saga.core.restored import LOST, Shop, run

if TYPE_CHECKING:
    from uuid import UUID

    from contracts.orders import Order
    from order_saga.core.saga import Saga
    from tests.order_saga.core.restored import Saved


def _timeless(order: Order) -> Order:
    return structs.replace(order, updated_at=order.created_at)


@pytest.mark.parametrize("part", range(8))
def test_whatever_was_told_stays_true(part: int) -> None:
    """Cut histories of orders at random moments, restore, and compare with what was told and with the uncut ledger."""
    for seed in range(part * 100, part * 100 + 100):
        rng = Random(seed)
        shop, saved = run(rng, rng.randrange(10, 160))
        shop.lose_the_last()
        backup = rng.choice(saved)
        cut(shop, backup, seed)


def cut(shop: Shop, backup: Saved, seed: int) -> None:
    """Restore, let everything end, and judge."""
    told = shop.told()
    versions = {order_id: saga.version for order_id, saga in backup.sagas.items()}
    shop.restore(backup)
    shop.come_to_an_end()
    for order_id, last in told.items():
        saga = shop.sagas[order_id]
        if last.status.terminal or last.status is OrderStatus.PROCESSING:
            assert saga.parked_reason is None, (seed, saga)
        if last.status.terminal:
            assert (last.status, last.version, last.reason_code) == (saga.status, saga.version, saga.reason_code), (
                seed,
                last,
                saga,
            )
            again = [one for one in shop.events if (one.order_id, one.version) == (order_id, last.version)]
            for one in again:
                assert _timeless(one.order) == _timeless(last.order), (seed, one, last)
    for saga in shop.sagas.values():
        judge(shop, saga, seed)
        path(shop, saga, versions.get(saga.order_id, 0), seed)


def judge(shop: Shop, saga: Saga, seed: int) -> None:
    hold = shop.ledger.holds.get(f"{saga.order_id}:reserve")
    booked = [one for one in shop.ledger.accounts.entries if one.order_id == str(saga.order_id)]
    assert len(booked) <= 1, seed
    if saga.parked_reason is not None:
        return
    assert saga.phase in TERMINAL
    if saga.status is OrderStatus.COMPLETED:
        assert hold is not None and hold.state is HoldState.SETTLED and len(booked) == 1, (seed, saga)
    else:
        assert hold is None or hold.state.nothing_held, (seed, saga, hold)
        assert not booked


def path(shop: Shop, saga: Saga, version: int, seed: int) -> None:
    for at, move in shop.moves[saga.order_id]:
        assert at == version + 1, (seed, saga, shop.moves[saga.order_id])
        version = at
        before, _, after = move.partition(">")
        assert before == after or after in MOVES[OrderStatus(before) if before else None], (seed, move)
    assert version == saga.version
