"""Processes are ready when their start returns, are restarted when they die, and never outlive the supervisor."""

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from local_stack.errors import StackError
from local_stack.processes import run_to_end
from local_stack.supervisor import ProcessSpec
from tests.local_stack.support import ENVIRONMENT, HERE, Supervised, dummy, eventually, is_gone

pytestmark = pytest.mark.asyncio

OBSTINATE = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
)
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(99)'])"


def python(name: str, program: str, log: Path, says: str = "") -> ProcessSpec:
    """Describe a Python program that is ready when it has printed something."""

    async def ready() -> bool:
        return await asyncio.to_thread(lambda: says.encode() in log.read_bytes())

    return ProcessSpec(name=name, argv=[sys.executable, "-c", program], ready=ready)


async def test_a_killed_process_is_started_again_and_reported(supervised: Supervised) -> None:
    """A service that dies is replaced, ready before it is reported; the others are left alone."""
    await supervised.supervisor.start(dummy("one"), dummy("two"))
    before = supervised.supervisor.pids
    os.kill(supervised.pid("one"), signal.SIGKILL)
    await eventually(lambda: len(supervised.replaced) == 1)
    [after] = supervised.replaced
    assert after["one"] != before["one"]
    assert after["two"] == before["two"]
    assert supervised.said == ["one died (Killed); it is started again"]


async def test_a_process_that_keeps_dying_is_retried_ever_more_slowly(supervised: Supervised) -> None:
    """The pause doubles with each failure, so a broken service takes little of the machine."""
    marker = supervised.logs / "broken"
    program = (
        f"import pathlib, sys, time; pathlib.Path({str(marker)!r}).exists() and sys.exit('no luck'); time.sleep(99)"
    )
    await supervised.supervisor.start(python("moody", program, supervised.logs / "moody.log"))
    marker.touch()
    started = time.monotonic()
    os.kill(supervised.pid("moody"), signal.SIGKILL)
    await eventually(lambda: sum("did not start" in line or "exit code 1" in line for line in supervised.said) >= 3)
    assert time.monotonic() - started >= 0.2 + 0.4 + 0.8
    marker.unlink()
    await eventually(lambda: not is_gone(supervised.pid("moody")))


async def test_a_process_that_does_not_start_says_why_in_one_line(supervised: Supervised) -> None:
    """The error names the process, repeats its last line, and says where the log is."""
    spec = dummy("broken")
    spec = replace(spec, env={**(spec.env or {}), "DUMMY_FAILS": "broken"})
    with pytest.raises(StackError) as error:
        await supervised.supervisor.start(spec)
    log = supervised.logs / "broken.log"
    assert str(error.value) == f"broken did not start: broken: it does not work today (log: {log})"


async def test_a_process_that_never_becomes_ready_is_an_error(supervised: Supervised) -> None:
    """The wait for readiness ends with an error."""
    log = supervised.logs / "silent.log"
    spec = replace(python("silent", "import time; time.sleep(99)", log, says="up"), ready_within_s=0.3)
    with pytest.raises(StackError, match=r"silent is not ready after 0\.3 s"):
        await supervised.supervisor.start(spec)
    pid = supervised.pid("silent")
    await supervised.supervisor.stop()
    assert is_gone(pid)


async def test_stop_ends_all_in_reverse_order_and_kills_the_obstinate(tmp_path: Path) -> None:
    """What was started last is stopped first; a process that ignores its signal is killed after `grace_s`.

    That is long enough for the others to end in on a busy machine.
    """
    supervised = Supervised(tmp_path / "logs", grace_s=4)
    log = supervised.logs / "obstinate.log"
    await supervised.supervisor.start(dummy("first"), python("obstinate", OBSTINATE, log, says="up"), dummy("last"))
    first, obstinate, last = (supervised.pid(name) for name in ("first", "obstinate", "last"))
    stopping = asyncio.create_task(supervised.supervisor.stop())
    await eventually(lambda: is_gone(last))
    assert [is_gone(first), is_gone(obstinate)] == [False, False]
    await stopping
    assert [is_gone(first), is_gone(obstinate)] == [True, True]
    assert supervised.said == ["obstinate did not stop within 4 s and is killed"]


async def test_stop_ends_what_a_process_started_itself(supervised: Supervised) -> None:
    """A child of a supervised process does not outlive it."""
    await supervised.supervisor.start(python("parent", PARENT, supervised.logs / "parent.log"))
    parent = psutil.Process(supervised.pid("parent"))
    await eventually(lambda: bool(parent.children()))
    [grandchild] = parent.children()
    await supervised.supervisor.stop()
    await eventually(lambda: is_gone(grandchild.pid))


async def test_a_vital_process_is_reported_and_not_replaced(supervised: Supervised) -> None:
    """A vital process is reported and not restarted."""
    await supervised.supervisor.start(replace(dummy("heart"), vital=True))
    os.kill(supervised.pid("heart"), signal.SIGKILL)
    assert await supervised.supervisor.lost() == "heart"
    assert supervised.replaced == []


async def test_a_killed_supervisor_leaves_nothing_running(tmp_path: Path) -> None:
    """The kernel ends every process of a supervisor that got SIGKILL."""
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "supervise.py"), str(tmp_path)),
        env=ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert supervisor.stdout is not None
    pids = [pid for [pid] in json.loads(await supervisor.stdout.readline()).values()]
    assert [is_gone(pid) for pid in pids] == [False, False, False]
    supervisor.kill()
    await supervisor.communicate()
    await eventually(lambda: all(is_gone(pid) for pid in pids))


async def test_a_command_that_fails_says_why_and_one_that_is_cancelled_ends(tmp_path: Path) -> None:
    """A command that ends by itself is judged by its exit status, with its last line in the error."""
    with pytest.raises(StackError) as error:
        await run_to_end("migrate", [sys.executable, "-c", "import sys; sys.exit('no table')"], tmp_path)
    assert str(error.value) == f"migrate failed: no table (log: {tmp_path / 'migrate.log'})"
    log = tmp_path / "slow.log"
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(99)"
    command = asyncio.create_task(run_to_end("slow", [sys.executable, "-c", program], tmp_path))
    await eventually(lambda: log.exists() and log.read_text().endswith("\n"))
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    assert is_gone(int(log.read_text()))
