"""Opens and writes a batch of orders, those that rest on a market included. No other module locks orders.

Order of locks: the gates of the assets on which the batch's orders rest, shared; then the orders' rows. So ticks and
orders of an asset are in one order: whoever commits first has won, a cancel against a fire as well as an acceptance
against a tick. A batch of ticks takes the same gates exclusively, before any row (`order_saga.triggers`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from order_saga.worker import resting_store, store
from saga_kit.runtime.crash_points import reached
from saga_kit.runtime.errors import Contention

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime
    from uuid import UUID

    from order_saga.core.fold import Folded
    from order_saga.worker.resting_store import Market
    from order_saga.worker.store import Taken
    from saga_kit.runtime.transactions import Transaction


class RestingPoint(StrEnum):
    """Places in the work on resting orders between two effects: see `saga_kit.runtime.crash_points`."""

    GATES_SHARED = "gates shared"
    """A batch shares the gates of its orders' assets; no row is locked."""
    FIRES_FOUND = "fires found"
    """Fired orders are listed and their rows are free again; none is executed."""
    EXPIRIES_FOUND = "expiries found"
    """Orders whose time has come are listed and their rows are free again; none has ended."""


class Opened(NamedTuple):
    """What a batch works on: its orders, locked, and what their market says."""

    taken: Taken
    market: Market


async def open_batch(tx: Transaction, order_ids: Collection[UUID], names: Sequence[tuple[str, str]] = ()) -> Opened:
    """Share the gates that the orders need, then lock and load the orders, then read their market.

    The statement that locks orders finds out whether any of them rests, and locks none then; so a batch of market
    orders pays for no look-up. Raises `Contention` when an order began to wait for a market meanwhile.
    """
    taken = await store.take(tx, order_ids, names)
    assets = taken.rests_on
    if assets:
        await resting_store.share_gates(tx, assets)
        reached(RestingPoint.GATES_SHARED, order_ids)
        taken = await store.take(tx, order_ids, names, gates_held=True)
    waiting = [saga for saga in taken.known.values() if resting_store.has_row(saga)]
    if any(saga.asset_id not in assets for saga in waiting):
        raise Contention("an order of this batch entered its market this instant")
    if not waiting:
        return Opened(taken, resting_store.NO_MARKET)
    market = await resting_store.look(tx, [saga.order_id for saga in waiting], assets, taken.now)
    known = {order_id: resting_store.renumbered(saga, market) for order_id, saga in taken.known.items()}
    return Opened(taken._replace(known=known), market)


def save_batch(tx: Transaction, opened: Opened, folded: Folded, at: datetime) -> None:
    """Have everything written that a batch decided: orders, history, fills, and the rows by which orders wait."""
    store.save(tx, opened.taken.known, folded, at)
    resting_store.save(tx, opened.taken.known, folded, opened.market)
