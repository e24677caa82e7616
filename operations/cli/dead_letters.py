"""The commands `dead-letters`: look at the records that nobody could handle, send them again, or put them aside."""

from __future__ import annotations

import base64
import json as json_module
import re
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from operations.cli import runs
from operations.cli.reach import (
    Trouble,
    database,
    err,
    finite,
    kafka_settings,
    ledger_setting,
    out,
    plain,
    print_json,
    publishing,
    rows,
    run,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from operations.repair import Result
    from saga_kit.messaging.dead_letters import DeadLetter
    from saga_kit.messaging.publisher import Publisher

SCHEMAS: Final = ("orders", "balances", "assets")
REASON_SHOWN_MAX: Final = 100
_BEGUN: Final = """
    SELECT coalesce((SELECT min(at) FROM audit.repairs WHERE run_id = $1 AND action = $2), clock_timestamp()) AS at"""

commands = typer.Typer(no_args_is_help=True, help="Messages that could not be handled, kept with their bytes.")
Letters = Annotated[list[str] | None, typer.Argument(metavar="ID", help="As 'list' shows them: orders/17.")]
Topic = Annotated[str, typer.Option(help="Letters from the topic of this name, or whose name ends in it.")]
Reason = Annotated[str, typer.Option(help="Letters whose reason has this text in it.")]
OlderThan = Annotated[
    float, typer.Option(min=0, callback=finite, help="Letters that came at least so many seconds ago.")
]


class LetterState(StrEnum):
    """What may have become of a letter."""

    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"
    CLOSED = "closed"


State = Annotated[LetterState, typer.Option(help="Letters of which this became: closed is replayed or discarded.")]


class Filter(NamedTuple):
    """Which letters; empty: whichever."""

    topic: str = ""
    reason: str = ""
    older_than: float = 0.0
    state: str = "open"


class Found(NamedTuple):
    """A letter and whose it is."""

    schema: str
    letter: DeadLetter

    @property
    def name(self) -> str:
        """Name it as people do: orders/17."""
        return f"{self.schema}/{self.letter.dead_letter_id}"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(commands, name="dead-letters", rich_help_panel="Operating")


@commands.command("list")
def list_letters(
    topic: Topic = "",
    reason: Reason = "",
    older_than: OlderThan = 0.0,
    json: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """List what has been neither replayed nor discarded. Exit 1 when there is any."""
    if run(_list(Filter(topic, reason, older_than), json=json)):
        raise typer.Exit(1)


async def _list(wanted: Filter, *, json: bool) -> int:
    number = 0
    async with database() as engine:
        async for found in _matching(engine, wanted, datetime.max.replace(tzinfo=UTC)):
            number += 1
            if json:
                line = json_module.dumps({"id": found.name, **readable(found.letter)}, default=plain)
                sys.stdout.write(("[" if number == 1 else ",") + "\n" + line)
            else:
                letter = found.letter
                place = f"{letter.topic}/{letter.partition}@{letter.record_offset}"
                when = f"{letter.received_at:%Y-%m-%d %H:%M:%S}"
                out.print(f"{found.name}  {when}  {place}  {letter.reason[:REASON_SHOWN_MAX]}", markup=False)
    if json:
        sys.stdout.write("\n]\n" if number else "[]\n")
    else:
        out.print(f"{number} dead letters" if number else "[green]no dead letters[/]")
    return number


@commands.command("show")
def show_letter(letter: Annotated[str, typer.Argument(metavar="ID", help="As 'list' shows it: orders/17.")]) -> None:
    """Show one with its headers and its bytes (as text where they are UTF-8, else base64)."""

    async def work() -> Any:
        async with database() as engine:
            [found] = [one async for one in _named(engine, [_parse(letter)])]
            return found

    print_json(readable(run(work()).letter))


@commands.command("replay")
@runs.a_run
def replay_letters(
    letters: Letters = None,
    topic: Topic = "",
    reason: Reason = "",
    older_than: OlderThan = 0.0,
    *,
    pace: runs.Pace,
) -> None:
    """Publish letters again where they came from, byte for byte, and close them.

    One that fails again becomes a new letter, which this run leaves alone. Exit 1 when one could not be sent.
    """
    _close("replay", letters, Filter(topic, reason, older_than), pace)


@commands.command("discard")
@runs.a_run
def discard_letters(
    letters: Letters = None,
    topic: Topic = "",
    reason: Reason = "",
    older_than: OlderThan = 0.0,
    *,
    pace: runs.Pace,
) -> None:
    """Close letters that nobody needs; their bytes stay. Exit 1 when one was not open."""
    _close("discard", letters, Filter(topic, reason, older_than), pace)


@commands.command("purge")
@runs.a_run
def purge_letters(
    letters: Letters = None,
    topic: Topic = "",
    reason: Reason = "",
    older_than: OlderThan = 0.0,
    state: State = LetterState.CLOSED,
    *,
    pace: runs.Pace,
) -> None:
    """Delete letters with their bytes, for good: of those replayed or discarded, unless --state says otherwise.

    Exit 1 when one was not as --state says.
    """
    _close("purge", letters, Filter(topic, reason, older_than, state), pace)


def _close(action: str, letters: Sequence[str] | None, wanted: Filter, pace: runs.Pace) -> None:
    ids = [_parse(text) for text in letters or ()]
    runs.check_choice(pace, named=bool(ids), filtered=wanted != Filter(state=wanted.state))

    async def work() -> bool:
        async with database() as engine:
            [begun] = await rows(engine, _BEGUN, pace.run.run_id, action)
            if not ids:
                number = len([1 async for _ in _matching(engine, wanted, begun["at"])])
                runs.confirm(pace, f"{action} {min(number, pace.limit or number)} dead letters")
            found = _named(engine, ids) if ids else _matching(engine, wanted, begun["at"])
            left = await runs.left(engine, action, pace)
            if action == "purge":
                return await runs.work_off(found, _name, partial(_purge, engine, pace, wanted.state), left)
            if action == "discard":
                return await runs.work_off(found, _name, partial(_discard, engine, pace), left)
            async with publishing(kafka_settings()) as publisher:
                return await runs.work_off(found, _name, partial(_replay, engine, publisher, pace), left)

    if not run(work()):
        raise typer.Exit(1)


def _parse(letter: str) -> tuple[str, int]:
    schema, _, number = letter.partition("/")
    if not schema or schema not in {*SCHEMAS, ledger_setting()} or re.fullmatch("[0-9]{1,18}", number) is None:
        raise Trouble(f"'{letter}' is not a dead letter's id; 'order-saga dead-letters list' shows them", 2)
    return schema, int(number)


def _name(found: Found) -> str:
    return found.name


async def _discard(engine: AsyncEngine, pace: runs.Pace, found: Found) -> Result:
    from operations.repair import Result
    from saga_kit.messaging.dead_letters import DeadLetters

    note = _note("discard", pace, found, "discarded")
    if await DeadLetters(found.schema).discard(engine, found.letter.dead_letter_id, note=note):
        return Result(done=True, words="discarded")
    return await _why_not(engine, "discard", pace, found)


async def _replay(engine: AsyncEngine, publisher: Publisher, pace: runs.Pace, found: Found) -> Result:
    from operations.repair import Result
    from saga_kit.messaging.dead_letters import DeadLetters

    note = _note("replay", pace, found, "replayed")
    if await DeadLetters(found.schema).replay(engine, publisher, found.letter.dead_letter_id, note=note):
        return Result(done=True, words="replayed")
    return await _why_not(engine, "replay", pace, found)


async def _purge(engine: AsyncEngine, pace: runs.Pace, state: str, found: Found) -> Result:
    from operations.repair import DONE_BEFORE, Result
    from saga_kit.messaging.dead_letters import DeadLetters

    note = _note("purge", pace, found, "deleted")
    if await DeadLetters(found.schema).purge(engine, found.letter.dead_letter_id, state=state, note=note):
        return Result(done=True, words="deleted")
    if await DeadLetters(found.schema).get(engine, found.letter.dead_letter_id) is None:
        return DONE_BEFORE
    return Result(done=False, words=f"is not {state}")


async def _why_not(engine: AsyncEngine, action: str, pace: runs.Pace, found: Found) -> Result:
    """Say why a letter was not closed: by this run before, by somebody else, or not taken by the broker."""
    from operations.repair import DONE_BEFORE, Result
    from order_saga.worker.store import is_repaired
    from saga_kit.messaging.dead_letters import DeadLetters

    async with engine.begin() as tx:
        if await is_repaired(tx, pace.run.run_id, action, found.name):
            return DONE_BEFORE
    letter = await DeadLetters(found.schema).get(engine, found.letter.dead_letter_id)
    if letter is None or not letter.is_open:
        return Result(done=False, words="is not open")
    if action == "replay" and not letter.is_whole:
        return Result(done=False, words="can't be replayed: only a part of the record was kept")
    return Result(done=False, words="the broker did not take it")


def _note(action: str, pace: runs.Pace, found: Found, words: str) -> Callable[[AsyncConnection], Awaitable[None]]:
    from order_saga.worker.store import note_repair

    async def note(tx: AsyncConnection) -> None:
        await note_repair(tx, pace.run.run_id, action, found.name, pace.run.by, words)

    return note


# Which letters --------------------------------------------------------------------------------------------------------


async def _named(engine: AsyncEngine, ids: Sequence[tuple[str, int]]) -> AsyncIterator[Found]:
    from saga_kit.messaging.dead_letters import DeadLetters

    for schema, number in ids:
        letter = await DeadLetters(schema).get(engine, number)
        if letter is None:
            raise Trouble(f"there is no dead letter {schema}/{number}")
        yield Found(schema, letter)


async def _schemas(engine: AsyncEngine) -> tuple[str, ...]:
    """Name the schemas that have letters: ours, and that of the views of a balance service of somebody's own."""
    named = ledger_setting()
    if not named:
        return SCHEMAS
    [found] = await rows(engine, "SELECT to_regclass($1) IS NOT NULL AS there", f"{named}.dead_letters")
    if found["there"]:
        return (*SCHEMAS, named)
    err.print(f"[yellow]the letters of the balance service can't be seen here: LEDGER_VIEWS is {named}[/]")
    return SCHEMAS


async def _matching(engine: AsyncEngine, wanted: Filter, before: datetime) -> AsyncIterator[Found]:
    """Read open letters of all services page by page: those that came before a run began, and match."""
    from saga_kit.messaging.dead_letters import PAGE_MAX, DeadLetters

    before = min(before, datetime.now(UTC) - timedelta(seconds=wanted.older_than)) if wanted.older_than else before
    for schema in await _schemas(engine):
        after = 0
        while page := await DeadLetters(schema).page(engine, after=after, limit=PAGE_MAX, state=wanted.state):
            after = page[-1].dead_letter_id
            for letter in page:
                if _matches(wanted, letter) and letter.received_at < before:
                    yield Found(schema, letter)


def _matches(wanted: Filter, letter: DeadLetter) -> bool:
    of_topic = letter.topic == wanted.topic or letter.topic.endswith(f".{wanted.topic}") or not wanted.topic
    return of_topic and wanted.reason.lower() in letter.reason.lower()


def readable(letter: DeadLetter) -> dict[str, Any]:
    """Show bytes as text where they are UTF-8, else as base64."""
    shown = letter._asdict()
    for name in ("key", "value"):
        shown[name] = _text(shown[name])
    shown["headers"] = [[name, _text(value)] for name, value in letter.headers]
    return shown


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value or b"").decode()
