"""The demo shows every outcome that it announces, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import psutil

from tests.e2e.system import command

OUTCOMES = {
    "COMPLETED",
    "CANCELLED USER_REQUESTED",
    "CANCELLED OPERATOR",
    "CANCELLED EXPIRED",
    "FAILED INSUFFICIENT_BALANCE",
    "FAILED ACCOUNT_NOT_FOUND",
    "FAILED ASSET_NOT_FOUND",
    "FAILED ASSET_NOT_TRADABLE",
    "FAILED ASSET_UNAVAILABLE",
    "FAILED STALE_PRICE",
    "FAILED SLIPPAGE_EXCEEDED",
    "FAILED INVALID_STEP",
    "FAILED INVALID_TICK",
    "FAILED QUANTITY_OUT_OF_RANGE",
    "FAILED NOTIONAL_OUT_OF_RANGE",
    "FAILED TIMED_OUT",
    "FAILED INVALID_ORDER",
    "FAILED DUPLICATE_CLIENT_ORDER_ID",
}

TOLD = ["PENDING, CONFIRMED, PROCESSING, COMPLETED", "snapshot-end, COMPLETED", "order.completed", "500, 204"]
"""What streams and webhooks tell of one order: every version, its end, once more what a receiver failed to take."""


async def test_the_demo_shows_every_outcome_and_leaves_nothing(tmp_path: Path) -> None:
    """It exits with 0, each order ends as announced, every outcome occurs, and no process or file remains."""
    output = await command("demo", "--json", env={"TMPDIR": str(tmp_path)})
    shown = json.loads(output.out)
    assert [] == [each for each in shown if each["announced"] != each["ended"]]
    assert 0 == output.code, output.err
    assert OUTCOMES <= {each["ended"] for each in shown}
    [order_id] = {each["order_id"] for each in shown[-len(TOLD) :]}
    assert TOLD == [each["ended"] for each in shown if each["order_id"] == order_id]
    assert ([], []) == _left_in(tmp_path)


def _left_in(folder: Path) -> tuple[list[Path], list[list[str]]]:
    """List files and processes of a demo that had this folder."""
    return list(folder.iterdir()), [one.cmdline() for one in psutil.process_iter() if _is_of(one, folder)]


def _is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        return str(folder) in " ".join(process.cmdline()) or process.environ().get("TMPDIR") == str(folder)
    except psutil.Error:
        return False
