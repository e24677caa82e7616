"""Doing one thing to many items: in a run that has an id, at a bounded rate, with a result per item, once for each.

What was done to an item is committed with the deed, so a run that was killed is started again with its id and goes on.
Items come from a stream and results go out as they are known: any number of items in little memory.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import secrets
import sys
import time
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeVar

import typer

from operations.cli.reach import Trouble, err, finite, out, rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.repair import Result, Run

T = TypeVar("T")
TRIES_MAX: Final = 5
_DONE: Final = "SELECT count(*) AS items FROM audit.repairs WHERE run_id = $1 AND action = $2"

By = Annotated[str, typer.Option(help="Who does it; kept with every item.")]
_OPTIONS: Final[dict[str, tuple[Any, object]]] = {
    "everything": (Annotated[bool, typer.Option("--all", help="Allow a run without any filter.")], False),
    "dry_run": (Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")], False),
    "rate": (Annotated[float, typer.Option(min=0.01, callback=finite, help="Items a second, at most.")], 100.0),
    "limit": (Annotated[int | None, typer.Option(min=1, help="Items of this run, at most.")], None),
    "run_id": (Annotated[str, typer.Option("--run", help="The id of a run that was broken off: go on with it.")], ""),
    "by": (By, "operator"),
    "yes": (Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")], False),
    "json": (Annotated[bool, typer.Option("--json", help="A JSON line for each item, and one for the whole.")], False),
}


class Pace(NamedTuple):
    """Which run it is and how it goes on: `rate` in items a second; `limit` of items in the whole run."""

    run: Run
    everything: bool
    dry_run: bool
    rate: float
    limit: int | None
    yes: bool
    json: bool


def a_run(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes a `pace` the options of every run instead."""
    own = inspect.signature(command, eval_str=True).parameters
    more = {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in _OPTIONS.items()
    }
    parameters = {name: one.replace(kind=one.KEYWORD_ONLY) for name, one in own.items() if name != "pace"} | more

    @wraps(command)
    def with_options(**given: Any) -> None:
        options = {name: given.pop(name) for name in _OPTIONS}
        command(**given, pace=_begin(**options))

    with_options.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    with_options.__annotations__ = {name: one.annotation for name, one in parameters.items()}
    return with_options


def _begin(*, run_id: str, by: str, **options: Any) -> Pace:
    """Begin a run, or take up one that was broken off. Raises `Trouble` for a name that is none."""
    return Pace(name_run(run_id, by), **options)


def name_run(run_id: str, by: str) -> Run:
    """Name a run, by the time and a little chance unless it has a name. Raises `Trouble`."""
    from contracts.vocabulary import NAME_PATTERN, NAME_RULE
    from operations.repair import Run

    for option, value in (("--by", by), ("--run", run_id or by)):
        if re.fullmatch(NAME_PATTERN, value) is None:
            raise Trouble(f"{option} must be {NAME_RULE}", 2)
    return Run(run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", by)


def check_choice(pace: Pace, *, named: bool, filtered: bool) -> None:
    """Expect names or a filter, not both; neither only with --all. Raises `Trouble`."""
    if named and (filtered or pace.everything):
        raise Trouble("name them one by one, or say which by filter; not both", 2)
    if not named and not filtered and not pace.everything:
        raise Trouble("which ones? name them, or give a filter, or --all", 2)


def confirm(pace: Pace, what: str) -> None:
    """Ask the person in front of us; without one, or with a no, do nothing. Raises `Trouble`."""
    if not (pace.yes or pace.dry_run):
        ask(what)


def ask(what: str) -> None:
    """Do the same where nothing has said yes. Raises `Trouble`."""
    if not sys.stdin.isatty():
        raise Trouble(f"this would {what}: say --yes, or look first with --dry-run", 2)
    if not typer.confirm(f"{what}?", err=True):
        raise Trouble("nothing is done")


async def left(engine: AsyncEngine, action: str, pace: Pace) -> Pace:
    """Take from a run's limit what it had done when it was broken off."""
    if pace.limit is None:
        return pace
    [found] = await rows(engine, _DONE, pace.run.run_id, action)
    return pace._replace(limit=max(0, pace.limit - int(found["items"])))


async def work_off(
    items: AsyncIterator[T], named: Callable[[T], str], act: Callable[[T], Awaitable[Result]], pace: Pace
) -> bool:
    """Do it to every item and tell each result; True when all that was wanted is done."""
    from operations.repair import Result

    if not pace.dry_run:
        run_id = pace.run.run_id
        err.print(f"run {run_id}; if it is broken off: the same command with --run {run_id}", markup=False)
    begun, done, refused = time.monotonic(), 0, 0
    async for item in items:
        if pace.limit is not None and done + refused >= pace.limit:
            break
        wait_s = begun + (done + refused) / pace.rate - time.monotonic()
        if wait_s > 0 and not pace.dry_run:
            await asyncio.sleep(wait_s)
        result = Result(done=True, words="would be done") if pace.dry_run else await _surely(act, item)
        done, refused = done + result.done, refused + (not result.done)
        _tell(pace, {"item": named(item), "done": result.done, "result": result.words})
    _sum_up(pace, done, refused)
    return not refused


async def _surely(act: Callable[[T], Awaitable[Result]], item: T) -> Result:
    """Do it again when the world was at fault; what is the item's own fault is its result."""
    from operations.repair import Result
    from saga_kit.runtime.errors import classify, describe

    for tried in range(1, TRIES_MAX + 1):
        try:
            return await act(item)
        except Exception as error:
            cause = classify(error)
            if cause == "poison":
                return Result(done=False, words=f"can't be done: {describe(error)}")
            if cause == "locked":
                return Result(done=False, words="somebody holds its row locked: try again, or see 'order-saga stuck'")
            if tried == TRIES_MAX:
                raise
            await asyncio.sleep(0.2 * 2**tried)
    raise AssertionError("unreachable")


def _tell(pace: Pace, line: dict[str, Any]) -> None:
    if pace.json:
        sys.stdout.write(json.dumps({"run": pace.run.run_id, **line}) + "\n")
    else:
        out.print(f"{line['item']}: {line['result']}", markup=False)
    sys.stdout.flush()


def _sum_up(pace: Pace, done: int, refused: int) -> None:
    words = "would be done" if pace.dry_run else "done"
    if pace.json:
        sys.stdout.write(json.dumps({"run": pace.run.run_id, "summary": {words: done, "not done": refused}}) + "\n")
    else:
        err.print(f"{done} {words}, {refused} not done", markup=False)
