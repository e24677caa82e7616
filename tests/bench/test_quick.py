"""`make bench` works: a run of a few orders, with the system and all of its peers."""

from __future__ import annotations

import asyncio
import json
import sys

from tests.bench.__main__ import OWN_PROCESSES


async def test_quick_run() -> None:
    """Everybody carries every order, and the last line tells programs all figures."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench", "--quick"), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    data = json.loads(output.splitlines()[-1])
    [turns] = data["rounds"]
    assert set(OWN_PROCESSES) == set(turns)
    for name, own in OWN_PROCESSES.items():
        assert data["figures"][f"{name}, orders/s"]["median"] > 0
        assert {*own, "postgres", "load"} <= set(turns[name]["cpu_us_per_order"])
    assert {f"system / {name}" for name in ("lean", "naive", "dbos")} <= set(data["figures"])
