"""Set the mark of an asset by an operator's decision, when its feed began to number anew below it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from operations.access.database import rows
from operations.access.errors import Trouble
from operations.access.words import check_name
from order_saga.triggers.store import wait_for_gate
from order_saga.worker.store import note_repair
from saga_kit.runtime.transactions import begin

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.repair.runs import Run

_TICKS: Final = "SELECT DISTINCT ON (asset_id) asset_id, tick FROM assets.assets ORDER BY asset_id, rules_version DESC"

# Not live, so that the repetition of this price may still fire what it reaches.
_RESET: Final = """
    INSERT INTO orders.marks (asset_id, sequence, price, as_of, confirmed_at, appended_at, trading, live)
    SELECT asset_id, sequence, price, as_of, coalesce(confirmed_at, as_of), clock_timestamp(), trading, false
    FROM assets.prices WHERE asset_id = $1
    ON CONFLICT (asset_id) DO UPDATE SET
        sequence = excluded.sequence, price = excluded.price, as_of = excluded.as_of,
        confirmed_at = excluded.confirmed_at, appended_at = excluded.appended_at, trading = excluded.trading,
        live = excluded.live
    RETURNING sequence, price"""
# An order with a level may be fired by that repetition; a trailing stop takes its start from the price. What triggered
# a stop is behind it, by whichever number.
_REST_ANEW: Final = """
    UPDATE orders.resting
    SET from_sequence = CASE WHEN num_nonnulls(trail_amount, trail_bps) = 0 THEN greatest($2 - 1, 0) ELSE $2 END,
        triggered_sequence = CASE WHEN triggered_sequence IS NOT NULL THEN least(triggered_sequence, $2 - 1) END
    WHERE asset_id = $1 AND from_sequence IS NOT NULL AND fired_sequence IS NULL"""
_BEGIN_STEPS_ANEW: Final = "DELETE FROM orders.peaks WHERE asset_id = $1"
_BEGIN_TRAILS_ANEW: Final = "UPDATE orders.trails SET oldest = $2 WHERE asset_id = $1"


async def ticks(engine: AsyncEngine) -> dict[str, Decimal]:
    """Read the tick of every asset of the reference asset service."""
    return {row["asset_id"]: row["tick"] for row in await rows(engine, _TICKS)}


async def reset(engine: AsyncEngine, asset_id: str, run: Run) -> dict[str, Any]:
    """Make the asset's price and sequence its mark; return both, and how many orders wait from there on.

    It holds the asset's lock, so no tick is judged meanwhile. Every resting order that has not fired begins to wait
    anew at the mark. Raises `Trouble` for an asset without a price.
    """
    check_name("ASSET", asset_id)
    async with begin(engine) as tx:
        await wait_for_gate(tx, asset_id)
        mark = await tx.fetchrow(_RESET, asset_id)
        if mark is None:
            raise Trouble(f"{asset_id} has no price here: see 'order-saga prices'")
        sequence, price = int(mark[0]), mark[1]
        orders = await tx.execute(_REST_ANEW, asset_id, sequence)
        await tx.execute(_BEGIN_STEPS_ANEW, asset_id)
        await tx.execute(_BEGIN_TRAILS_ANEW, asset_id, sequence)
        result = f"mark {sequence}, {orders} orders rest anew"
        await note_repair(tx, run.run_id, "feed reset", asset_id, run.by, result)
    return {"asset_id": asset_id, "sequence": sequence, "price": price, "orders": orders}
