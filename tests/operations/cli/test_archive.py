"""The command `archive`: it asks first, says what it does, and may be interrupted at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Final

import pytest

from tests.operations.cli.support import Terminal
from tests.operations.retention.archiving import ended, number_of, shown, without_archived_at
from tests.support.signals import heed_ctrl_c


async def test_a_dry_run_does_nothing(db: Terminal) -> None:
    """It says how many rows would go, for people and for programs; a run says how many went."""
    await ended(db, 1)
    dry = await db.cli("archive", "--dry-run", "--json")
    expected = {"older_than_days": 30.0, "dry_run": True, "stopped": False, "rows": {"orders": 1, "holds": 0}}
    assert expected == json.loads(dry.out)
    assert (0, "1 orders and 0 holds to archive\n") == (dry.code, (await db.cli("archive", "--dry-run")).out)
    assert 0 == await number_of(db, "orders.archive")
    assert "1 orders and 0 holds archived\n" == (await db.cli("archive", "--yes")).out


async def test_two_runs_share_the_work(db: Terminal) -> None:
    """Each order is archived once, by one of the two."""
    await ended(db, *range(1, 41))
    runs = [await _begun(db, "--batch", "3", "--json") for _ in range(2)]
    assert 40 == sum([json.loads((await one.communicate())[0])["rows"]["orders"] for one in runs])
    assert 40 == await number_of(db, "orders.archive")


async def _begun(db: Terminal, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "operations.cli", "archive", "--yes", *words),
        env={**os.environ, "DATABASE_URL": db.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=heed_ctrl_c,
    )


SLOWLY: Final = (
    "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END'",
    "CREATE TRIGGER slowly BEFORE INSERT ON orders.archive FOR EACH ROW EXECUTE FUNCTION slowly()",
)
"""A hundred orders take twenty seconds, so the signal comes in the middle even on a slow machine."""
AT_WORK: Final = """
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
        AND state <> 'idle' AND pid <> pg_backend_pid()"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_a_run_that_is_broken_off_leaves_each_order_whole(db: Terminal, how: signal.Signals) -> None:
    """After a signal each order is whole, in its tables or in the archive, and the next run archives the rest."""
    await ended(db, *range(1, 101))
    before = await shown(db)
    for statement in SLOWLY:
        await db.execute(statement)
    process = await _begun(db, "--batch", "1")
    until = time.monotonic() + 90
    while await number_of(db, "orders.archive") < 3 and time.monotonic() < until:
        await asyncio.sleep(0.01)
    process.send_signal(how)
    said = b"".join(await process.communicate()).decode()
    async with asyncio.timeout(60):  # the server may still be at its last commit
        while await db.rows(AT_WORK):
            await asyncio.sleep(0.02)
    archived = await number_of(db, "orders.archive")
    assert 3 <= archived < 100
    assert without_archived_at(before) == without_archived_at(await shown(db))
    if how is signal.SIGINT:
        assert (1, True) == (process.returncode, "stopped before the end; the next run goes on" in said)
        assert f"{archived} orders and 0 holds archived" in said
    await db.execute("DROP TRIGGER slowly ON orders.archive")
    last = await db.cli("archive", "--yes")
    assert f"{100 - archived} orders and 0 holds archived\n" == last.out
    assert without_archived_at(before) == without_archived_at(await shown(db))


@pytest.mark.parametrize("days", ["29.99", "0", "-40"])
async def test_nothing_goes_before_the_horizon(db: Terminal, days: str) -> None:
    """A shorter time is wrong usage, and says which is the shortest."""
    await ended(db, 1)
    refused = await db.cli("archive", "--yes", "--older-than", days)
    assert (2, "") == (refused.code, refused.out)
    assert "--older-than must be at least 30 days, the replay horizon" in refused.err
    assert 0 == await number_of(db, "orders.archive")


async def test_a_horizon_that_is_no_number_is_wrong_usage(db: Terminal) -> None:
    """Nothing is archived."""
    await ended(db, 1)
    refused = await db.cli("archive", "--yes", "--older-than", "nan")
    assert (2, "", True) == (refused.code, refused.out, "--older-than" in refused.err)
    assert 0 == await number_of(db, "orders.archive")


async def test_it_asks_where_nobody_has_said_yes(db: Terminal) -> None:
    """Without a terminal to ask at, it does nothing and ends with 2."""
    await ended(db, 1)
    asked = await db.cli("archive")
    assert (2, 0) == (asked.code, await number_of(db, "orders.archive"))
    assert "this would archive 1 orders and 0 holds: say --yes, or look first with --dry-run" in asked.err
