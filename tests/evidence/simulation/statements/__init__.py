"""The product's SQL statements as Python functions on the simulated database, one for each, found by the SQL text.

A statement that changes in the product and not here is unknown and fails at once. `test_same_as_postgres.py` runs the
same work on PostgreSQL and compares the results. A module for each room: orders, resting orders, the feed of prices,
participants, and the outbox of each.
"""

from __future__ import annotations

from typing import Final

from saga_kit.messaging.batch import SHORT_LOCK_TIMEOUT
from saga_kit.messaging.locked_rows import LOCK_TIMEOUT_MS
from tests.evidence.simulation.database import Result, Statement, Transaction
from tests.evidence.simulation.statements.feed import feed_statements
from tests.evidence.simulation.statements.orders import order_statements
from tests.evidence.simulation.statements.outbox import outbox_statements
from tests.evidence.simulation.statements.participants import participant_statements
from tests.evidence.simulation.statements.resting import resting_statements

SCHEMAS: Final = ("orders", "balances", "assets")


def statements() -> dict[str, Statement]:
    """Map the text of every statement that the simulation can run to what it does."""
    known: dict[str, Statement] = {
        SHORT_LOCK_TIMEOUT: hurry,
        **order_statements(),
        **resting_statements(),
        **feed_statements(),
        **participant_statements(),
    }
    for schema in SCHEMAS:
        known |= outbox_statements(schema)
    return known


async def hurry(tx: Transaction) -> Result:
    """Wait for no lock longer than a moment."""
    tx.lock_timeout_s = LOCK_TIMEOUT_MS / 1000
    return Result()
