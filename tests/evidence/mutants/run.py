"""Applies mutants, each in a copy of the tracked files, and runs the tests that must catch it.

Never in the working tree. Servers are shared: one PostgreSQL and one Kafka for the whole run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

from tests.evidence.mutants.mutant import Mutant
from tests.support.infrastructure import Session
from tests.support.project import ROOT, project_files

TIMEOUT_S: Final = 600
"""The time for one mutant. A test run that takes longer counts as a survivor, since only a failed test catches it."""
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
    with _copies(1) as copies, _servers() as servers:
        done = _pytest(copies.get(), list(killers), servers, fail_fast=False, timeout_s=TIMEOUT_S * 4)
    return None if done.returncode == 0 else done.stdout[-4000:]


def hunt(mutants: Sequence[Mutant], workers: int, told: Callable[[Verdict], None]) -> list[Verdict]:
    """Try all mutants, so many at once, and return verdicts in the order of the table; `told` gets each as it comes."""
    with _servers() as servers, _copies(workers) as copies, ThreadPoolExecutor(workers) as pool:

        def one(mutant: Mutant) -> Verdict:
            copy = copies.get()
            try:
                verdict = _try(mutant, copy, servers)
            finally:
                copies.put(copy)
            told(verdict)
            return verdict

        return list(pool.map(one, mutants))


def _try(mutant: Mutant, copy: Path, servers: Mapping[str, str]) -> Verdict:
    path, began = copy / mutant.file, time.monotonic()
    original = path.read_text()
    path.write_text(original.replace(mutant.old, mutant.new))
    _forget(path)
    try:
        done = _pytest(copy, list(mutant.killers), servers, fail_fast=True, timeout_s=TIMEOUT_S)
        failed = _FAILED.search(done.stdout)
        if done.returncode not in {0, 1}:
            caught_by = None  # no test ran: that catches nothing
        else:
            caught_by = failed[1].partition("::")[2] if failed and done.returncode else None
    except subprocess.TimeoutExpired:
        caught_by = None
    finally:
        path.write_text(original)
        _forget(path)
    return Verdict(mutant, caught_by, time.monotonic() - began)


def _forget(path: Path) -> None:
    """Remove a module's bytecode: size and time in seconds, by which it is known, may be those of another source."""
    Path(cache_from_source(path)).unlink(missing_ok=True)


def _pytest(
    copy: Path, tests: list[str], servers: Mapping[str, str], *, fail_fast: bool, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    words = ["-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", *(["-x"] if fail_fast else []), *tests]
    environment = os.environ | servers | {"PYTHONPATH": str(copy)}  # bytecode is kept, since compiling takes longest
    return subprocess.run(  # noqa: S603 - our own tests
        [sys.executable, *words],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


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
def _copies(number: int) -> Iterator[SimpleQueue[Path]]:
    """Copy the project's files, as they are now, so many times."""
    files = project_files()
    copies: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="order-saga-mutants-") as folder:
        for count in range(number):
            copy = Path(folder, str(count))
            for name in files:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, copy / name)
            copies.put(copy)
        yield copies
