"""A process that has imported what every test run imports, and forks one for each run: that saves most of its start.

Run as a script, once for each worker. It must not import anything of the project: each run has sources of its own. A
line of JSON comes in for each run (`Errand`), and a line with its exit status goes out when it has ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Final, NamedTuple

import pytest

BROKEN: Final = 70
"""The exit status when pytest itself could not run."""
PRELOADED: Final = (
    *("pytest_asyncio", "hypothesis", "docker", "asyncpg", "sqlalchemy.ext.asyncio", "alembic.command"),
    *("aiokafka.admin", "faststream.kafka", "pydantic_settings", "starlette.applications", "uvicorn", "httpx2", "jwt"),
    *("msgspec", "structlog", "prometheus_client", "typer", "rich.console", "rich.table", "yaml", "psutil"),
)
"""Packages of others alone."""


class Errand(NamedTuple):
    """A run of pytest: its folder, its words, its environment, and the file that takes what it prints."""

    folder: str
    words: list[str]
    environment: dict[str, str]
    output: str


def run(errand: Errand) -> int:
    """Fork, run pytest in the child, and return its exit status; a negative one names the signal that ended it."""
    if (child := os.fork()) == 0:
        status = BROKEN
        try:
            status = _pytest(errand)
        except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _pytest(errand: Errand) -> int:
    with Path(errand.output).open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.chdir(errand.folder)
    os.environ.clear()
    os.environ.update(errand.environment)
    sys.path[0] = errand.folder  # it was this script's
    status = int(pytest.main(errand.words))
    sys.stdout.flush()
    return status


def main() -> None:
    """Import, then serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks for the runs ends them
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the children share it, as long as no collector looks at it
    for line in sys.stdin:
        sys.stdout.write(f"{run(Errand(*json.loads(line)))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
