"""Names the gate of an asset: the advisory lock that puts its ticks and its orders in one order.

A batch of ticks takes the gates of its assets exclusively, a batch of orders shares those of the assets on which its
orders rest. Both take them before any lock of a row, in ascending order of the number.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

GATE: Final = 0x6761_7465
"""The first number of every gate; the second is `gate_key`."""
_SIGN: Final = 1 << 31


def gate_key(asset_id: str) -> int:
    """Return the second number of an asset's gate, as PostgreSQL's signed int4. Two assets may share one, harmlessly.

    SQL: `pg_advisory_xact_lock(GATE, key)`, or `pg_advisory_xact_lock_shared(GATE, key)`.
    """
    return (crc32(asset_id.encode()) ^ _SIGN) - _SIGN
