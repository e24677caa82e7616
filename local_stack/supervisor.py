"""Start processes, wait until each is ready, restart those that end, and stop all of them.

A `ProcessSpec` says what to run; the supervisor knows nothing else of it. It ends only processes that it started. These
end with it: in reverse order by `stop`, or by the kernel when the supervisor itself is killed (Linux; see `child`). The
kernel watches the *thread* that started a process, so a supervisor must be used on one thread.
"""

import asyncio
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from local_stack.errors import StackError
from local_stack.probes import Ready
from local_stack.processes import Account, reason_in_log, side_by_side, spawn

_POLL_S = 0.05
_PAUSE_MIN_S = 0.2
_STEADY_S = 30.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """Says what to run and how to know that it works.

    `ready` is called again and again while the process starts; it returns false rather than raise. `env` is the whole
    environment (None: ours). `vital`: when it ends it is not restarted, but reported by `Supervisor.lost`.
    """

    name: str
    argv: Sequence[str]
    ready: Ready
    env: Mapping[str, str] | None = None
    account: Account | None = None
    vital: bool = False
    ready_within_s: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class _Running:
    spec: ProcessSpec
    process: Process
    since: float


class Supervisor:
    """Runs processes, each with a log file in `logs`; calls `say` with what happens and `changed` after a restart.

    The pause before a restart doubles each time when a process ends soon after its start, up to `pause_max_s`.
    """

    def __init__(
        self,
        logs: Path,
        *,
        say: Callable[[str], None] = print,
        changed: Callable[[], None] = lambda: None,
        grace_s: float = 10.0,
        pause_max_s: float = 5.0,
    ) -> None:
        self._logs, self._say, self._changed, self._grace_s = logs, say, changed, grace_s
        self._pause_max_s = pause_max_s
        self._running: dict[str, _Running] = {}
        self._watches: list[asyncio.Task[None]] = []
        self._lost: asyncio.Queue[str] = asyncio.Queue()

    @property
    def pids(self) -> dict[str, list[int]]:
        """The process ids by name, in the order of starting."""
        return {name: [running.process.pid] for name, running in self._running.items()}

    async def start(self, *specs: ProcessSpec) -> None:
        """Start `specs` side by side and return when all are ready.

        Raise `StackError` as soon as one cannot be; the others run on until `stop`.
        """
        await side_by_side(*(self._launch(spec) for spec in specs))
        self._watches += [asyncio.create_task(self._watch(spec), name=f"watch {spec.name}") for spec in specs]

    async def lost(self) -> str:
        """Wait until a vital process dies; return its name."""
        return await self._lost.get()

    async def stop(self) -> None:
        """End everything, last started first: each gets its stop signal, and is killed after `grace_s` seconds."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for running in reversed(self._running.values()):
            await self._end(running)
        self._watches.clear()
        self._running.clear()

    async def _watch(self, spec: ProcessSpec) -> None:
        pause_s = 0.0
        while True:
            running = self._running[spec.name]
            how = _how_it_ended(await running.process.wait())
            if spec.vital:
                self._say(f"{spec.name} {how}")
                self._lost.put_nowait(spec.name)
                return
            self._say(f"{spec.name} {how}; it is started again")
            steady = time.monotonic() - running.since > _STEADY_S
            pause_s = _PAUSE_MIN_S if steady or not pause_s else min(pause_s * 2, self._pause_max_s)
            await asyncio.sleep(pause_s)
            try:
                await self._launch(spec)
                self._changed()
            except (StackError, OSError) as error:
                self._say(str(error))
                await self._end(self._running[spec.name])

    async def _launch(self, spec: ProcessSpec) -> None:
        log = self._logs / f"{spec.name}.log"
        process, log_start = await spawn(
            spec.argv, log, env=spec.env, account=spec.account, orphan_signal=spec.orphan_signal
        )
        self._running[spec.name] = _Running(spec, process, time.monotonic())
        try:
            async with asyncio.timeout(spec.ready_within_s):
                while process.returncode is not None or not await spec.ready():
                    if process.returncode is not None:
                        raise StackError(f"{spec.name} did not start: {reason_in_log(log, log_start)} (log: {log})")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise StackError(f"{spec.name} is not ready after {spec.ready_within_s:g} s (log: {log})") from None

    async def _end(self, running: _Running) -> None:
        process, offspring = running.process, _offspring(running.process)
        with suppress(ProcessLookupError):
            process.send_signal(running.spec.stop_signal)
        try:
            async with asyncio.timeout(self._grace_s):
                await process.wait()
        except TimeoutError:
            self._say(f"{running.spec.name} did not stop within {self._grace_s:g} s and is killed")
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for child in offspring:
            with suppress(psutil.NoSuchProcess):
                child.kill()


def _offspring(process: Process) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True) if process.returncode is None else []
    except psutil.NoSuchProcess:
        return []


def _how_it_ended(code: int) -> str:
    return f"died ({signal.strsignal(-code) or -code})" if code < 0 else f"ended with exit code {code}"
