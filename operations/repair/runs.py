"""Do one thing to many items: in a run that has an id, at a bounded rate, once for each item, with a result for each.

What was done to an item is committed together with its note in `orders.repairs`. So a run that was killed is started
again with its id and goes on. Items come from a stream and results go out as they are known: any number of items needs
little memory.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from contracts.vocabulary import NAME_PATTERN, NAME_RULE
from operations.access.database import rows
from operations.access.errors import WrongRequest
from saga_kit.runtime.errors import classify, describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

TRIES_MAX: Final = 5
RATE: Final = 100.0
_DONE: Final = "SELECT count(*) AS items FROM audit.repairs WHERE run_id = $1 AND action = $2"


class Run(NamedTuple):
    """The id of a run, and who works."""

    run_id: str
    by: str


NO_RUN: Final = Run("", "")
"""What is only looked at belongs to no run."""


class Result(NamedTuple):
    """What became of an item: whether what was wanted is done, now or before, and that in words."""

    done: bool
    words: str


DONE_BEFORE: Final = Result(done=True, words="done before")
WOULD_BE_DONE: Final = Result(done=True, words="would be done")


class Named(Protocol):
    """An item of a run."""

    @property
    def name(self) -> str:
        """Name it in results and notes: an order's id, or `orders/17` for a dead letter."""


T = TypeVar("T", bound=Named)


class ItemResult(NamedTuple):
    """The result of one item, by the item's name."""

    item: str
    done: bool
    result: str


class Pace(NamedTuple):
    """How a run goes on: so many items a second, at most `limit` items in all its starts, or none done at all."""

    rate: float = RATE
    limit: int | None = None
    dry_run: bool = False


def name_run(run_id: str, by: str) -> Run:
    """Name a run: by the time and a random part unless it has an id already. Raises `WrongRequest`."""
    for option, value in (("--by", by), ("--run", run_id or by)):
        if re.fullmatch(NAME_PATTERN, value) is None:
            raise WrongRequest(f"{option} must be {NAME_RULE}")
    return Run(run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", by)


def check_choice(*, named: bool, filtered: bool, everything: bool) -> None:
    """Expect names or a filter, not both; neither only with `everything`. Raises `WrongRequest`."""
    if named and (filtered or everything):
        raise WrongRequest("name them one by one, or say which by filter; not both")
    if not named and not filtered and not everything:
        raise WrongRequest("which ones? name them, or give a filter, or --all")


async def rest_of(engine: AsyncEngine, run: Run, action: str, pace: Pace) -> Pace:
    """Take from a run's limit what its earlier starts have done."""
    if pace.limit is None:
        return pace
    [found] = await rows(engine, _DONE, run.run_id, action)
    return pace._replace(limit=max(0, pace.limit - int(found["items"])))


async def work_off(
    items: AsyncIterator[T], act: Callable[[T], Awaitable[Result]], pace: Pace
) -> AsyncIterator[ItemResult]:
    """Do it to every item, and give the result of each as soon as it is known.

    What an earlier start has done counts for the rate and not for the limit, from which `rest_of` has taken it already.
    """
    begun, number, counted = time.monotonic(), 0, 0
    async for item in items:
        if pace.limit is not None and counted >= pace.limit:
            break
        wait_s = begun + number / pace.rate - time.monotonic()
        if wait_s > 0 and not pace.dry_run:
            await asyncio.sleep(wait_s)
        result = WOULD_BE_DONE if pace.dry_run else await _repeat(act, item)
        number += 1
        counted += result != DONE_BEFORE
        yield ItemResult(item.name, *result)


async def _repeat(act: Callable[[T], Awaitable[Result]], item: T) -> Result:
    """Try again after a failure of the infrastructure; a failure of the item itself is its result."""
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
