"""Run a PostgreSQL in a folder twice, as root without these capabilities: `run_postgres.py FOLDER CAPABILITY...`.

The first run writes, the second reads and prints what was written, and removes it. For tests.
"""

# ruff: noqa: T201 - the test reads it

import asyncio
import ctypes
import os
import sys
from pathlib import Path

import asyncpg

from local_stack.errors import StackError
from local_stack.ports import free_ports
from local_stack.postgres import Postgres
from local_stack.supervisor import Supervisor

CAPABILITIES = {"chown": 0, "dac_override": 1, "dac_read_search": 2, "setgid": 6, "setuid": 7, "setpcap": 8}
_PR_CAPBSET_DROP = 24
_CAPABILITIES_V3 = 0x20080522


def give_away(*names: str) -> None:
    """Take these capabilities from this process and all that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()
    for name in names:
        assert libc.prctl(_PR_CAPBSET_DROP, CAPABILITIES[name], 0, 0, 0) == 0, name
    assert libc.capget(header, held) == 0
    for place in range(3):
        held[place] &= ~sum(1 << CAPABILITIES[name] for name in names)
    assert libc.capset(header, held) == 0


async def run(folder: Path, statement: str) -> object:
    """Start it, run one query, stop it."""
    postgres, supervisor = Postgres(folder / "postgres", free_ports(1)[0]), Supervisor(folder)
    await postgres.prepare(folder)
    try:
        await supervisor.start(postgres.spec())
        connection = await asyncpg.connect(postgres.database_url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()
    finally:
        await supervisor.stop()


async def main(folder: Path) -> None:
    """Print what the second run reads of the first, and where the data were, and remove them."""
    await run(folder, "CREATE TABLE kept AS SELECT 42 AS answer")
    print(await run(folder, "SELECT answer FROM kept"))
    postgres = Postgres(folder / "postgres", 0)
    print(place := postgres.outside)
    await postgres.remove(folder)
    print(place and place.exists())


if __name__ == "__main__":
    give_away(*sys.argv[2:])
    os.umask(0o077)
    try:
        asyncio.run(main(Path(sys.argv[1])))
    except StackError as error:
        sys.exit(str(error))
