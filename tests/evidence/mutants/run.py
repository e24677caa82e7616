"""Applies mutants, each in a copy of the tracked files, and runs the tests that must catch it.

Never in the working tree. Servers are shared: one PostgreSQL and one Kafka for the whole run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue
from select import select
from typing import Final, NamedTuple

from tests.evidence.mutants import nursery
from tests.evidence.mutants.mutant import Mutant
from tests.support.infrastructure import Session
from tests.support.project import ROOT, project_files

TIMEOUT_S: Final = 600
"""The time for one mutant. A test run that takes longer counts as a survivor, since only a failed test catches it."""
PLUGINS_ARE_IMPORTED: Final = "ignore::pytest.PytestAssertRewriteWarning"
"""pytest would like to rewrite their assertions first."""
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


class Verdict(NamedTuple):
    """The result of a mutant: the test that failed (None: it survived) and the duration."""

    mutant: Mutant
    caught_by: str | None
    seconds: float


def stale(mutants: Sequence[Mutant], root: Path = ROOT) -> list[str]:
    """List mutants whose text does not stand in its file exactly once."""
    found = ((mutant, (root / mutant.file).read_text().count(mutant.old)) for mutant in mutants)
    return [f"{mutant.name}: its text stands {count} times in {mutant.file}" for mutant, count in found if count != 1]


def failing(killers: Sequence[str]) -> str | None:
    """Run tests on the code as it is; return what pytest said when one fails: it would catch every mutant."""
    with _workers(1) as workers, _servers() as servers:
        done = workers.get().pytest(list(killers), servers, fail_fast=False, timeout_s=TIMEOUT_S * 4)
    return None if done.returncode == 0 else done.stdout[-4000:]


def hunt(mutants: Sequence[Mutant], workers: int, told: Callable[[Verdict], None]) -> list[Verdict]:
    """Try all mutants, so many at once, and return verdicts in the order of the table; `told` gets each as it comes."""
    with _servers() as servers, _workers(workers) as idle, ThreadPoolExecutor(workers) as pool:

        def one(mutant: Mutant) -> Verdict:
            worker = idle.get()
            try:
                verdict = _try(mutant, worker, servers)
            finally:
                idle.put(worker)
            told(verdict)
            return verdict

        return list(pool.map(one, mutants))


def _try(mutant: Mutant, worker: Worker, servers: Mapping[str, str]) -> Verdict:
    path, began = worker.copy / mutant.file, time.monotonic()
    original = path.read_text()
    path.write_text(original.replace(mutant.old, mutant.new))
    _forget(path)
    try:
        done = worker.pytest(list(mutant.killers), servers, fail_fast=True, timeout_s=TIMEOUT_S)
        failed = _FAILED.search(done.stdout)
        if done.returncode not in {0, 1}:
            caught_by = None  # no test ran: that catches nothing
        else:
            caught_by = failed[1].partition("::")[2] if failed and done.returncode else None
    except TimeoutError:
        caught_by = None
    finally:
        path.write_text(original)
        _forget(path)
    return Verdict(mutant, caught_by, time.monotonic() - began)


def _forget(path: Path) -> None:
    """Remove a module's bytecode: size and time in seconds, by which it is known, may be those of another source."""
    Path(cache_from_source(path)).unlink(missing_ok=True)


class Ran(NamedTuple):
    """How a run of pytest ended, and what it said."""

    returncode: int
    stdout: str


class Worker:
    """Runs pytest in a copy of the sources, one run after the other (`nursery`)."""

    def __init__(self, copy: Path) -> None:
        self.copy = copy
        self._nursery: subprocess.Popen[str] | None = None

    def pytest(self, tests: list[str], servers: Mapping[str, str], *, fail_fast: bool, timeout_s: float) -> Ran:
        """Run these tests. Raise TimeoutError, with all of the run's processes ended, when it takes too long."""
        words = ["-q", "--tb=no", "-p", "no:cacheprovider", "-W", PLUGINS_ARE_IMPORTED, *tests]
        words += ["-x"] if fail_fast else []
        environment = os.environ | servers | {"PYTHONPATH": str(self.copy)}  # bytecode is kept: compiling takes longest
        output = self.copy.with_suffix(".txt")
        parent = self._started()
        assert parent.stdin is not None
        assert parent.stdout is not None
        print(json.dumps([str(self.copy), words, environment, str(output)]), file=parent.stdin, flush=True)
        if not select([parent.stdout], [], [], timeout_s)[0]:
            self.close()
            raise TimeoutError
        return Ran(int(parent.stdout.readline()), output.read_text(errors="replace"))

    def close(self) -> None:
        """End the processes of a run that is under way, and the one that they are forked from."""
        if self._nursery is not None:
            os.killpg(self._nursery.pid, signal.SIGKILL)
            self._nursery.communicate()
            self._nursery = None

    def _started(self) -> subprocess.Popen[str]:
        if self._nursery is None:
            self._nursery = subprocess.Popen(  # noqa: S603 - our own script
                [sys.executable, nursery.__file__],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
        return self._nursery


@contextmanager
def _servers() -> Iterator[dict[str, str]]:
    """Start what the tests need, or use what the environment names."""
    session = Session()
    servers = session.start()
    try:
        yield {
            "DATABASE_URL": servers.database_url_admin,
            "KAFKA_BOOTSTRAP_SERVERS": servers.kafka_bootstrap_servers,
        }
    finally:
        session.close()


@contextmanager
def _workers(number: int) -> Iterator[SimpleQueue[Worker]]:
    """Make so many workers, each with a copy of the project's files as they are now."""
    files = project_files()
    idle: SimpleQueue[Worker] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="order-saga-mutants-") as folder, ExitStack() as stack:
        for count in range(number):
            copy = Path(folder, str(count))
            for name in files:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, copy / name)
            worker = Worker(copy)
            stack.callback(worker.close)
            idle.put(worker)
        yield idle
