"""Start processes that end when we do, keep their output, and find the line that says why one failed."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from local_stack.errors import StackError

Account: TypeAlias = tuple[int, int]
"""A user id and a group id of the operating system."""

_CHILD = Path(__file__).with_name("child.py")
_LOG_BYTES_MAX = 10_000_000


async def spawn(
    argv: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    account: Account | None = None,
    orphan_signal: signal.Signals = signal.SIGKILL,
) -> tuple[Process, int]:
    """Start a process in a session of its own, so that Ctrl-C signals only us.

    Its output is appended to `log`; returned are the process and the position in `log` where its output begins. `env`
    None: ours; `account`: the user to run as when we are root; `orphan_signal`: sent when our thread ends (Linux).
    """
    uid, gid = account or (os.getuid(), os.getgid())
    become = (str(_CHILD), *map(str, (os.getpid(), int(orphan_signal), uid, gid)))
    _shorten(log)
    with log.open("ab") as output:
        log_start = output.tell()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", *become, *argv),
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return process, log_start


async def run_to_end(
    name: str, argv: Sequence[str], logs: Path, *, env: Mapping[str, str] | None = None, account: Account | None = None
) -> None:
    """Run a command that ends by itself, with its output in `logs`; raise `StackError` if it fails."""
    log = logs / f"{name}.log"
    process, log_start = await spawn(argv, log, env=env, account=account)
    try:
        if await process.wait() != 0:
            raise StackError(f"{name} failed: {reason_in_log(log, log_start)} (log: {log})")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def side_by_side(*work: Coroutine[Any, Any, None]) -> None:
    """Do all of `work` at once; the first error cancels the rest and is raised as it is, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


def reason_in_log(log: Path, start: int) -> str:
    """Return the line after `start` that says why a process ended: its last error line, else its last line."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").split("\n")
    lines_said = [line.strip() for line in lines if line.strip()] or ["it said nothing"]
    errors = [line for line in lines_said if any(word in line for word in ("FATAL:", "PANIC:", "error:"))]
    return (errors or lines_said)[-1]


def _shorten(log: Path) -> None:
    """Rename a log that is long, so that a new one begins."""
    if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
        log.replace(log.with_suffix(".log.old"))
