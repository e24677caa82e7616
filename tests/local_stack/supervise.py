"""Print the process ids of three dummy services and supervise these, until a test kills this process."""

import asyncio
import json
import sys
from pathlib import Path

from local_stack.supervisor import Supervisor
from tests.local_stack.support import dummy


async def main(logs: Path) -> None:
    """Run until killed."""
    supervisor = Supervisor(logs)
    await supervisor.start(*map(dummy, ("one", "two", "three")))
    print(json.dumps(supervisor.pids), flush=True)  # noqa: T201  the test reads it
    await supervisor.lost()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
