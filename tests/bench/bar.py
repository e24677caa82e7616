"""A progress bar for a long measurement, on a terminal only. Lines may be printed above it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn


@contextmanager
def bar(out: Console, steps: int, what: str = "measurements") -> Iterator[Callable[[], None]]:
    """Show a bar; the caller calls the yielded function after each step."""
    columns = (BarColumn(), MofNCompleteColumn(), "{task.description}", TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task(what, total=steps)
        yield lambda: progress.advance(task)
