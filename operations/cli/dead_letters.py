"""The commands `dead-letters`: list, show, replay, discard and purge."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from operations.access.system import database, kafka_settings, ledger_setting, publishing
from operations.cli.options import OPERATING, DeadLetterOptions, DeadLetterState, Json, RunOptions, grouped
from operations.cli.printing import JsonArray, err, log_to_stderr, out, print_json
from operations.cli.running import ask, print_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.repair.dead_letters import DeadLetterFilter, DeadLetterTables, FoundDeadLetter

REASON_SHOWN_MAX: Final = 100

commands = typer.Typer(no_args_is_help=True, help="Messages that could not be handled, kept with their bytes.")
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="As 'list' shows them: orders/17.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(commands, name="dead-letters", rich_help_panel=OPERATING)


@commands.command("list")
@grouped
def list_(*, which: DeadLetterOptions, json: Json = False) -> None:
    """List what has been neither replayed nor discarded. Exit 1 when there is any.

    Examples: order-saga dead-letters list --topic balance.commands, or order-saga dead-letters list --json
    """
    if asyncio.run(_list(which.filter(), json=json)):
        raise typer.Exit(1)


async def _list(wanted: DeadLetterFilter, *, json: bool) -> int:
    from operations.repair.dead_letters import matching, readable

    number = 0
    async with database() as engine:
        where = await _tables(engine)
        with JsonArray() if json else nullcontext() as array:
            async for found in matching(engine, wanted, where):
                number += 1
                if array is None:
                    _print_line(found)
                else:
                    array.add({"id": found.name, **readable(found.letter)})
    if not json:
        out.print(f"{number} dead letters" if number else "[green]no dead letters[/]")
    return number


def _print_line(found: FoundDeadLetter) -> None:
    letter = found.letter
    place = f"{letter.topic}/{letter.partition}@{letter.record_offset}"
    when = f"{letter.received_at:%Y-%m-%d %H:%M:%S}"
    out.print(f"{found.name}  {when}  {place}  {letter.reason[:REASON_SHOWN_MAX]}", markup=False)


@commands.command("show")
def show(letter: Annotated[str, typer.Argument(metavar="ID", help="As 'list' shows it: orders/17.")]) -> None:
    """Show one with its headers and its bytes (as text where they are UTF-8, else base64).

    Example: order-saga dead-letters show orders/17
    """
    from operations.repair.dead_letters import named, parse, readable

    wanted = parse(letter, ledger_setting())

    async def work() -> Any:
        async with database() as engine:
            [found] = [one async for one in named(engine, [wanted])]
            return found.letter

    print_json(readable(asyncio.run(work())))


@commands.command("replay")
@grouped
def replay(letters: Ids = None, *, which: DeadLetterOptions, run: RunOptions) -> None:
    """Publish dead letters again where they came from, byte for byte, and close them.

    One that fails again becomes a new dead letter, which this run leaves alone. Exit 1 when one could not be sent.

    Examples: order-saga dead-letters replay orders/17, or order-saga dead-letters replay --reason overflow --dry-run
    """
    _close("replay", letters, which.filter(), run)


@commands.command("discard")
@grouped
def discard(letters: Ids = None, *, which: DeadLetterOptions, run: RunOptions) -> None:
    """Close dead letters that nobody needs; their bytes stay. Exit 1 when one was not open.

    Examples: order-saga dead-letters discard orders/17, or order-saga dead-letters discard --topic requests --yes
    """
    _close("discard", letters, which.filter(), run)


@commands.command("purge")
@grouped
def purge(
    letters: Ids = None,
    *,
    which: DeadLetterOptions,
    state: Annotated[
        DeadLetterState, typer.Option(help="Dead letters of which this became: closed is replayed or discarded.")
    ] = DeadLetterState.CLOSED,
    run: RunOptions,
) -> None:
    """Delete dead letters with their bytes, for good: of those replayed or discarded, unless --state says otherwise.

    Exit 1 when one was not as --state says.

    Example: order-saga dead-letters purge --older-than 2592000 --dry-run
    """
    _close("purge", letters, which.filter(state), run)


def _close(action: str, letters: Sequence[str] | None, wanted: DeadLetterFilter, options: RunOptions) -> None:
    from operations.repair import dead_letters
    from operations.repair.runs import check_choice

    run = options.run()
    ids = [dead_letters.parse(text, ledger_setting()) for text in letters or ()]
    check_choice(named=bool(ids), filtered=wanted.chooses, everything=options.everything)

    async def work() -> bool:
        async with database() as engine:
            where = await _tables(engine) if not ids else dead_letters.DeadLetterTables(())
            chosen = ids or await dead_letters.fixed(engine, wanted, run, action)
            if isinstance(chosen, dead_letters.DeadLetterFilter):
                await _confirm(engine, action, chosen, where, options)
            closing = publishing(kafka_settings()) if action == "replay" else nullcontext()
            log_to_stderr()
            async with closing as publisher:
                doing = dead_letters.Work(engine, run, publisher, wanted.state)
                return await print_results(dead_letters.close(doing, action, chosen, where, options.pace), run, options)

    if not asyncio.run(work()):
        raise typer.Exit(1)


async def _confirm(
    engine: AsyncEngine, action: str, wanted: DeadLetterFilter, where: DeadLetterTables, options: RunOptions
) -> None:
    from operations.repair.dead_letters import count

    if not (options.yes or options.dry_run):
        number = await count(engine, wanted, where)
        ask(f"{action} {min(number, options.limit or number)} dead letters")


async def _tables(engine: AsyncEngine) -> DeadLetterTables:
    from operations.repair.dead_letters import tables

    found = await tables(engine, ledger_setting())
    if found.hidden:
        err.print(f"[yellow]{escape(found.hidden)}[/]")
    return found
