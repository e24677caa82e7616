"""A run at the terminal: ask before it, print each result as it comes, and a summary at its end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from operations.access.errors import Trouble, WrongRequest
from operations.cli.printing import err, out, print_json_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from operations.cli.options import RunOptions
    from operations.repair.runs import ItemResult, Run


def ask(what: str) -> None:
    """Ask the person at the terminal. Raises `WrongRequest` when there is none, `Trouble` for a no."""
    if not sys.stdin.isatty():
        raise WrongRequest(f"this would {what}: say --yes, or look first with --dry-run")
    if not typer.confirm(f"{what}?", err=True):
        raise Trouble("nothing is done")


async def print_results(results: AsyncIterator[ItemResult], run: Run, options: RunOptions) -> bool:
    """Print the result of each item and a summary; True when all that was wanted is done."""
    if not options.dry_run:
        err.print(f"run {run.run_id}; if it is broken off: the same command with --run {run.run_id}", markup=False)
    done = refused = 0
    async for result in results:
        done, refused = done + result.done, refused + (not result.done)
        if options.json:
            print_json_line({"run": run.run_id, **result._asdict()})
        else:
            out.print(f"{result.item}: {result.result}", markup=False)
            sys.stdout.flush()
    words = "would be done" if options.dry_run else "done"
    if options.json:
        print_json_line({"run": run.run_id, "summary": {words: done, "not done": refused}})
    else:
        err.print(f"{done} {words}, {refused} not done", markup=False)
    return not refused
