"""Dead letters of all services: find them, replay them, discard them, delete them.

Each is named `<schema>/<number>`: `orders/17`. What was done to one is noted in the transaction that did it.
"""

from __future__ import annotations

import base64
import re
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from operations.access import schemas
from operations.access.database import rows
from operations.access.errors import Trouble, WrongRequest
from operations.repair.runs import DONE_BEFORE, NO_RUN, Result, rest_of, work_off
from order_saga.worker.store import is_repaired, note_repair
from saga_kit.messaging.dead_letters import PAGE_MAX, DeadLetters
from saga_kit.runtime.transactions import begin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.repair.runs import ItemResult, Pace, Run
    from saga_kit.messaging.dead_letters import DeadLetter
    from saga_kit.messaging.publisher import Publisher
    from saga_kit.runtime.transactions import Transaction

# All by the database's clock, which wrote when a dead letter was received.
_BEFORE: Final = """
    SELECT least(
        (SELECT min(at) FROM audit.repairs WHERE run_id = $1 AND action = $2),
        clock_timestamp() - make_interval(secs => $3)) AS before"""


class DeadLetterFilter(NamedTuple):
    """Which dead letters; an empty field matches every one. `state` is one of the kit's `STATES`.

    `received_before` is set by `fixed`.
    """

    topic: str = ""
    reason: str = ""
    older_than_s: float = 0.0
    state: str = "open"
    received_before: datetime | None = None

    @property
    def chooses(self) -> bool:
        """Whether it asks for more than a state."""
        return self != DeadLetterFilter(state=self.state)


class Id(NamedTuple):
    """Names a dead letter: the schema of its table, and its number there."""

    schema: str
    number: int


class FoundDeadLetter(NamedTuple):
    """A dead letter, and the schema of its table."""

    schema: str
    letter: DeadLetter

    @property
    def name(self) -> str:
        """Name it in results and notes: orders/17."""
        return f"{self.schema}/{self.letter.dead_letter_id}"


class DeadLetterTables(NamedTuple):
    """The schemas that have dead letters, and why those of the balance service can't be seen, if so."""

    schemas: tuple[str, ...]
    hidden: str = ""


def parse(text: str, ledger: str) -> Id:
    """Read a dead letter's name; `ledger`: the schema of another team's views, if any. Raises `WrongRequest`."""
    schema, _, number = text.partition("/")
    if not schema or schema not in {*schemas.CONSUMERS, ledger} or re.fullmatch("[0-9]{1,18}", number) is None:
        raise WrongRequest(f"'{text}' is not a dead letter's id; 'order-saga dead-letters list' shows them")
    return Id(schema, int(number))


async def tables(engine: AsyncEngine, ledger: str) -> DeadLetterTables:
    """Name the schemas that have dead letters: our own, and that of another team's balance service if it shows them."""
    if not ledger:
        return DeadLetterTables(schemas.CONSUMERS)
    [found] = await rows(engine, "SELECT to_regclass($1) IS NOT NULL AS there", f"{ledger}.dead_letters")
    if found["there"]:
        return DeadLetterTables((*schemas.CONSUMERS, ledger))
    return DeadLetterTables(
        schemas.CONSUMERS, f"the dead letters of the balance service can't be seen here: LEDGER_VIEWS is {ledger}"
    )


async def named(engine: AsyncEngine, ids: Sequence[Id]) -> AsyncIterator[FoundDeadLetter]:
    """Read dead letters by their names, with all that is kept of them. Raises `Trouble` for one that is not there."""
    for schema, number in ids:
        letter = await DeadLetters(schema).get(engine, number)
        if letter is None:
            raise Trouble(f"there is no dead letter {schema}/{number}")
        yield FoundDeadLetter(schema, letter)


async def fixed(engine: AsyncEngine, wanted: DeadLetterFilter, run: Run, action: str) -> DeadLetterFilter:
    """Fix what a run is about: what came before its first start. It leaves alone what fails again meanwhile."""
    [limit] = await rows(engine, _BEFORE, run.run_id, action, wanted.older_than_s)
    return wanted._replace(received_before=limit["before"])


async def matching(
    engine: AsyncEngine, wanted: DeadLetterFilter, where: DeadLetterTables
) -> AsyncIterator[FoundDeadLetter]:
    """Read the dead letters that match, page by page; their keys and values are cut."""
    if wanted.older_than_s and wanted.received_before is None:
        wanted = await fixed(engine, wanted, NO_RUN, "")
    for schema in where.schemas:
        after = 0
        while page := await DeadLetters(schema).page(engine, after=after, limit=PAGE_MAX, state=wanted.state):
            after = page[-1].dead_letter_id
            for letter in page:
                if _matches(wanted, letter):
                    yield FoundDeadLetter(schema, letter)


def _matches(wanted: DeadLetterFilter, letter: DeadLetter) -> bool:
    of_topic = letter.topic == wanted.topic or letter.topic.endswith(f".{wanted.topic}") or not wanted.topic
    in_time = wanted.received_before is None or letter.received_at < wanted.received_before
    return of_topic and wanted.reason.lower() in letter.reason.lower() and in_time


async def count(engine: AsyncEngine, wanted: DeadLetterFilter, where: DeadLetterTables) -> int:
    """Count the dead letters that match."""
    return len([1 async for _ in matching(engine, wanted, where)])


# What is done with them -----------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """The run, and what it needs to close a dead letter; `publisher` for a replay, `state` for a purge."""

    engine: AsyncEngine
    run: Run
    publisher: Publisher | None = None
    state: str = "closed"


async def close(
    work: Work, action: str, chosen: Sequence[Id] | DeadLetterFilter, where: DeadLetterTables, pace: Pace
) -> AsyncIterator[ItemResult]:
    """Replay, discard or purge the dead letters of these names, or those that match a filter.

    A result comes for each, done or not. Started again with the same run, it goes on.
    """
    if isinstance(chosen, DeadLetterFilter):
        fix = chosen if chosen.received_before else await fixed(work.engine, chosen, work.run, action)
        found = matching(work.engine, fix, where)
    else:
        found = named(work.engine, chosen)
    act = {"replay": _replay, "discard": _discard, "purge": _purge}[action]
    rest = await rest_of(work.engine, work.run, action, pace)
    async for result in work_off(found, partial(act, work), rest):
        yield result


async def _discard(work: Work, found: FoundDeadLetter) -> Result:
    note = _note(work.run, "discard", found, "discarded")
    if await DeadLetters(found.schema).discard(work.engine, found.letter.dead_letter_id, note=note):
        return Result(done=True, words="discarded")
    return await _why_not(work, "discard", found)


async def _replay(work: Work, found: FoundDeadLetter) -> Result:
    note = _note(work.run, "replay", found, "replayed")
    if work.publisher is None:
        raise ValueError("a replay needs a publisher")
    if await DeadLetters(found.schema).replay(work.engine, work.publisher, found.letter.dead_letter_id, note=note):
        return Result(done=True, words="replayed")
    return await _why_not(work, "replay", found)


async def _purge(work: Work, found: FoundDeadLetter) -> Result:
    note = _note(work.run, "purge", found, "deleted")
    letters, number = DeadLetters(found.schema), found.letter.dead_letter_id
    if await letters.purge(work.engine, number, state=work.state, note=note):
        return Result(done=True, words="deleted")
    if await letters.get(work.engine, number) is None:
        return DONE_BEFORE
    return Result(done=False, words=f"is not {work.state}")


async def _why_not(work: Work, action: str, found: FoundDeadLetter) -> Result:
    """Say why one was not closed: by this run before, by somebody else, or not taken by the broker."""
    async with begin(work.engine) as tx:
        if await is_repaired(tx, work.run.run_id, action, found.name):
            return DONE_BEFORE
    letter = await DeadLetters(found.schema).get(work.engine, found.letter.dead_letter_id)
    if letter is None or not letter.is_open:
        return Result(done=False, words="is not open")
    if action == "replay" and not letter.is_whole:
        return Result(done=False, words="can't be replayed: only a part of the record was kept")
    return Result(done=False, words="the broker did not take it")


def _note(run: Run, action: str, found: FoundDeadLetter, words: str) -> Callable[[Transaction], Awaitable[None]]:
    async def note(tx: Transaction) -> None:
        await note_repair(tx, run.run_id, action, found.name, run.by, words)

    return note


def readable(letter: DeadLetter) -> dict[str, Any]:
    """Give all fields, with bytes as text where they are UTF-8, else as base64."""
    fields = letter._asdict()
    for name in ("key", "value"):
        fields[name] = _text(fields[name])
    fields["headers"] = [[name, _text(value)] for name, value in letter.headers]
    return fields


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value or b"").decode()
