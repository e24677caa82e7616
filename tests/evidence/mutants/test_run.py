"""A run of tests in a copy: what it finds, and that one that hangs is ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.evidence.mutants.run import Worker


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """Make a worker whose sources are an empty folder."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    one = Worker(copy)
    yield one
    one.close()


def _run(worker: Worker, source: str, timeout_s: float = 60) -> tuple[int, str]:
    (worker.copy / "mutated.py").write_text(source)
    (worker.copy / "test_it.py").write_text("import mutated\n\ndef test_it() -> None:\n    assert mutated.one() == 1\n")
    ran = worker.pytest(["test_it.py"], {}, fail_fast=True, timeout_s=timeout_s)
    return ran.returncode, ran.stdout


def test_each_run_imports_the_sources_as_they_are_then(worker: Worker) -> None:
    """The process that all runs are forked from has imported none of them."""
    right, wrong = "def one():\n    return 1\n", "def one():\n    return 12\n"
    assert [0, 1, 0] == [_run(worker, source)[0] for source in (right, wrong, right)]
    assert "FAILED test_it.py::test_it" in _run(worker, wrong)[1]


def test_a_run_that_hangs_is_ended_with_all_its_processes(worker: Worker) -> None:
    """It counts as a survivor, and the next run is as good as any."""
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(TimeoutError):
        _run(worker, "import threading\n\ndef one():\n    threading.Event().wait()\n", timeout_s=3)
    assert [] == [one for one in set(psutil.Process().children(recursive=True)) - before if one.is_running()]
    assert _run(worker, "def one():\n    return 1\n")[0] == 0
