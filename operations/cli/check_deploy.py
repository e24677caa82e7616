"""The command `check-deploy`: could this code, here, go on with what the live system has in flight? It changes nothing.

Run it with the new version against the live database, before the deploy. It reads in streams: any number of orders.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from operations.cli.reach import connected, database_url, err, naming, out, print_json, print_table, run, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

EXAMPLES_MAX: Final = 3
PROGRESS_S: Final = 2.0
OUTBOX: Final = "SELECT '{schema}/' || outbox_id AS item, payload FROM {schema}.outbox"
CLAIMS: Final = "SELECT order_id AS item, request FROM api.claims WHERE NOT settled"
SCHEMAS: Final = ("orders", "balances", "assets")


class Report:
    """What was looked at, and what could not be handled: counts by reason, with examples."""

    def __init__(self) -> None:
        self.looked_at = dict.fromkeys(("orders", "messages", "claims"), 0)
        self.problems: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self._told_at = time.monotonic()

    def add(self, what: str, item: object, reason: str | None) -> None:
        """Count one thing that was looked at, and its problem if it has one."""
        self.looked_at[what] += 1
        if reason is not None:
            count, examples = self.problems.get((what, reason), (0, []))
            self.problems[what, reason] = (count + 1, [*examples, str(item)][:EXAMPLES_MAX])
        if time.monotonic() - self._told_at > PROGRESS_S:
            self._told_at = time.monotonic()
            err.print(", ".join(f"{number} {name}" for name, number in self.looked_at.items()))


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("check-deploy", rich_help_panel="Operating")(check_deploy)


def check_deploy(json: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False) -> None:
    """Try whether this version could go on with everything that is in flight. Run it before a deploy.

    Each order is loaded and told whatever may come next, each message in an outbox is decoded, the schema's revision is
    compared; nothing is changed. Exit 1 when anything could not be handled.
    """
    from migrations import current, known

    url = database_url()
    with naming(url):
        there, expected = current(url), known()
    missing = expected[expected.index(there) + 1 :] if there in expected else [] if there else expected
    unknown = [there] if there and there not in expected else []
    report = Report()
    run(_check(url, report))
    problems = [
        {"what": what, "reason": reason, "count": count, "examples": examples}
        for (what, reason), (count, examples) in sorted(report.problems.items(), key=lambda one: -one[1][0])
    ]
    schema = {"revision": there, "missing": missing, "unknown": unknown}
    if json:
        print_json({"schema": schema, "looked_at": report.looked_at, "problems": problems})
    else:
        _print(schema, report.looked_at, problems)
    if missing or unknown or problems:
        raise typer.Exit(1)


async def _check(url: str, report: Report) -> None:
    from sqlalchemy.exc import ProgrammingError

    from saga_kit.runtime.errors import describe

    async with connected(url) as engine:
        for look in (_orders, _outboxes, _claims):
            try:
                async for what, item, reason in look(engine):
                    report.add(what, item, reason)
            except ProgrammingError as error:  # a table or a column that this code reads is not there
                report.add(look.__name__.strip("_").replace("outboxes", "messages"), "schema", describe(error))


async def _orders(engine: AsyncEngine) -> AsyncIterator[tuple[str, Any, str | None]]:
    from operations.rehearsal import obstacle
    from order_saga.worker import store
    from saga_kit.runtime.errors import describe

    async for row in store.in_flight(engine):
        try:
            saga = store.read(row)
        except Exception as error:  # noqa: BLE001 - a row of a shape that this code does not know
            yield "orders", row[0], f"can't be loaded: {describe(error)}"
            continue
        yield "orders", saga.order_id, obstacle(saga, datetime.now(UTC))


async def _outboxes(engine: AsyncEngine) -> AsyncIterator[tuple[str, Any, str | None]]:
    import msgspec

    from contracts.envelope import Outgoing
    from saga_kit.runtime.errors import describe

    for schema in SCHEMAS:
        async for row in stream(engine, OUTBOX.format(schema=schema)):
            try:
                messages = msgspec.msgpack.decode(row["payload"], type=list[Outgoing])
            except msgspec.MsgspecError as error:
                yield "messages", row["item"], f"can't be unpacked: {describe(error)}"
                continue
            for message in messages:
                yield "messages", f"{row['item']} {message.id}", _unreadable(message.headers, message.value)


def _unreadable(headers: list[tuple[str, bytes]], value: bytes) -> str | None:
    """Say why whoever consumes a message could not read it, or None."""
    from contracts.codec import decode
    from contracts.envelope import UnreadableMessage, read_envelope

    try:
        decode(read_envelope(headers).type, value)
    except UnreadableMessage as error:
        return str(error)
    return None


async def _claims(engine: AsyncEngine) -> AsyncIterator[tuple[str, Any, str | None]]:
    from contracts.codec import decode
    from contracts.envelope import UnreadableMessage

    async for row in stream(engine, CLAIMS):
        reason = None
        try:
            decode("OrderRequested", row["request"])
        except UnreadableMessage as error:
            reason = str(error)
        yield "claims", row["item"], reason


def _print(schema: dict[str, Any], looked_at: dict[str, int], problems: list[dict[str, Any]]) -> None:
    out.print(f"schema: {schema['revision'] or 'nothing'}")
    if schema["missing"]:
        out.print(f"[red]this version needs {', '.join(schema['missing'])}: 'order-saga migrate' first[/]")
    if schema["unknown"]:
        out.print(f"[red]this version does not know {', '.join(schema['unknown'])}: it is older than the database[/]")
    out.print("looked at " + ", ".join(f"{number} {name}" for name, number in looked_at.items()))
    if not problems:
        out.print("[green]all of them can be handled[/]")
        return
    table = Table("what", "how many", "why this version can't handle them", "such as", title="check-deploy")
    for problem in problems:
        table.add_row(
            problem["what"], str(problem["count"]), escape(problem["reason"]), escape("\n".join(problem["examples"]))
        )
    print_table(table)
