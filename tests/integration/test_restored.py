"""After a restore no order ends otherwise than was told, money at rest fits the end, and nothing moves twice."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Final

import pytest
from msgspec import structs

from contracts.vocabulary import HoldState, OrderStatus
from order_saga.core.phases import MOVES, TERMINAL
from order_saga.core.saga import Why
from tests.integration.restored import Shop, run

if TYPE_CHECKING:
    from contracts.orders import Order, OrderStatusChanged
    from order_saga.core.saga import Saga
    from tests.integration.restored import Saved

SEEDS: Final = 60
"""Histories of each part; a thousand were run when it was written."""


@pytest.mark.parametrize("part", range(5))
def test_whatever_was_told_stays_true(part: int) -> None:
    """Cut histories of orders at random moments, restore, read the commands again, and compare with what was told."""
    for seed in range(part * SEEDS, part * SEEDS + SEEDS):
        shop, backup = cut(seed)
        told = shop.told()
        versions = {order_id: saga.version for order_id, saga in backup.sagas.items()}
        shop.restore(backup)
        shop.come_to_an_end()
        for last in told.values():
            judge_told(shop, last, seed)
        for saga in shop.sagas.values():
            judge_money(shop, saga, seed)
            judge_path(shop, saga, versions.get(saga.order_id, 0), seed)


def test_what_is_not_behind_is_left_alone() -> None:
    """Of an order that knows all that Kafka has, nothing changes but its history."""
    left = 0
    for seed in range(SEEDS):
        shop, backup = cut(seed)
        behind = set(shop.restore(backup))
        for order_id in backup.sagas.keys() - behind:
            before, after = backup.sagas[order_id], shop.sagas[order_id]
            assert structs.replace(after, history_seq=before.history_seq) == before
            left += 1
    assert left > SEEDS


def test_to_be_brought_forward_twice_changes_nothing() -> None:
    """An operator whose command was broken off starts it again."""
    again: Counter[Why] = Counter()
    for seed in range(SEEDS):
        shop, backup = cut(seed)
        commands = list(shop.commands)
        for order_id in shop.restore(backup, sure=0):
            saga = shop.sagas[order_id]
            folded = shop.tell(shop.recovery(order_id, commands), published=False)
            again += folded.ignored
            assert structs.replace(shop.sagas[order_id], history_seq=saga.history_seq) == saga, (seed, saga)
    assert again.keys() <= {Why.DUPLICATE, Why.CONFLICT}
    assert again[Why.DUPLICATE] > SEEDS


def test_without_it_orders_end_otherwise_than_was_told() -> None:
    """To read the topics again is not enough: many of these histories break a promise then."""
    broken = 0
    for seed in range(SEEDS):
        shop, backup = cut(seed)
        told = shop.told()
        shop.restore(backup, forward=False)
        shop.come_to_an_end()
        try:
            for last in told.values():
                judge_told(shop, last, seed)
            for saga in shop.sagas.values():
                judge_money(shop, saga, seed)
        except AssertionError:
            broken += 1
    assert broken > SEEDS // 3


def cut(seed: int) -> tuple[Shop, Saved]:
    """Live through a history, and choose one of its backups."""
    rng = Random(seed)  # noqa: S311 - a seed is a history
    shop, saved = run(rng, rng.randrange(10, 160))
    shop.lose_the_last()
    return shop, rng.choice(saved)


def judge_told(shop: Shop, last: OrderStatusChanged, seed: int) -> None:
    """Expect that an end is the one that was told, under its version; and that a fill that was told stays."""
    saga = shop.sagas[last.order_id]
    if last.status is OrderStatus.PROCESSING:
        assert saga.status is OrderStatus.COMPLETED, (seed, saga)
    if not last.status.terminal:
        return
    assert saga.parked_reason is None, (seed, saga)
    assert (last.status, last.version, last.reason_code) == (saga.status, saga.version, saga.reason_code), (seed, saga)
    for event in shop.events:
        if (event.order_id, event.version) == (last.order_id, last.version):
            assert _timeless(event.order) == _timeless(last.order), (seed, event, last)


def _timeless(order: Order) -> Order:
    return structs.replace(order, updated_at=order.created_at)


def judge_money(shop: Shop, saga: Saga, seed: int) -> None:
    """Expect that every order ends, its hold with it, and that its money has moved once if it is completed."""
    hold = shop.ledger.holds.get(f"{saga.order_id}:reserve")
    booked = [one for one in shop.ledger.accounts.entries if one.order_id == str(saga.order_id)]
    assert saga.phase in TERMINAL, (seed, saga)
    if saga.status is OrderStatus.COMPLETED:
        assert hold is not None
        assert (hold.state, len(booked)) == (HoldState.SETTLED, 1), (seed, saga)
    else:
        assert hold is None or hold.state.nothing_held, (seed, saga, hold)
        assert not booked, (seed, saga)


def judge_path(shop: Shop, saga: Saga, version: int, seed: int) -> None:
    """Expect versions without a gap, and legal moves."""
    for at, move in shop.moves[saga.order_id]:
        assert at == version + 1, (seed, saga, shop.moves[saga.order_id])
        version = at
        before, _, after = move.partition(">")
        assert before == after or after in MOVES[OrderStatus(before) if before else None], (seed, move)
    assert version == saga.version
