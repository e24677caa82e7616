"""The command `audit`: check the invariants on the live system, once or again and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from operations.access.errors import WrongRequest
from operations.access.system import database_url, kafka_settings, ledger_setting, notified_operators
from operations.cli.options import OPERATING, Json, finite
from operations.cli.printing import err, out, print_json, print_table

if TYPE_CHECKING:
    from datetime import datetime

    from operations.audit.look import Audited, Finding

PORT = 8004


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel=OPERATING)(audit)


def audit(
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and audit again and again until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option(min=0.1, callback=finite, help="With --watch: seconds from one run's begin to the next.")
    ] = 300,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="With --watch: where /metrics is; 0 takes a free one.")
    ] = PORT,
    host: Annotated[str, typer.Option(help="With --watch: the address that /metrics listens on.")] = "127.0.0.1",
    told: Annotated[
        bool, typer.Option("--told", help="Compare with orders.events, too: has an order been told more than is known?")
    ] = False,
    since: Annotated[str, typer.Option(metavar="TIME", help="With --told: from when on it is read.")] = "",
) -> None:
    """Check the invariants I1 to I13 on the live system. Exit 1 and each order's name when one does not hold.

    It reads the auditors' views and writes nothing; the auditor's login will do. What may be a message on its way is
    looked at again for up to 40 s. Every run reads everything: an old row can be corrupted as well as a new one. What
    the database can't tell is whether a consumer of orders.events has got what the broker has acknowledged.

    With --watch the exit status is the last run's, and Prometheus finds audit_findings{invariant}, audit_orders,
    audit_duration_seconds, audit_last_success_timestamp_seconds and audit_runs_total{result} (clean, findings, failed).

    With --told it also names each order that orders.events has told further than the database knows: the database was
    restored, and not recovered (order-saga recover database). It reads from an hour before what is known last.

    New findings are told to the channels of NOTIFY_URLS, too (order-saga notify test).

    Examples: order-saga audit --json, or order-saga audit --told, or order-saga audit --watch --every 600 --port 9100
    """
    if (since and not told) or (told and watch):
        raise WrongRequest("--since is an option of --told, which is done once")
    if watch:
        raise typer.Exit(asyncio.run(_watch(host, port, every)))
    done = asyncio.run(_once())
    if told:
        from operations.access.words import instant

        further = asyncio.run(_told(instant("--since", since) if since else None))
        done = done._replace(findings=[*done.findings, *further])
    if done.hidden:
        err.print(f"[yellow]{escape(_unseen(done.hidden))}[/]")
    if json:
        print_json([{"invariant": f.invariant, "order_id": f.order_id, "what": f.what} for f in done.findings])
    else:
        _print(done)
    if done.findings:
        raise typer.Exit(1)


def _print(done: Audited) -> None:
    if done.findings:
        table = Table("invariant", "order", "what is wrong", title="audit")
        for finding in done.findings:
            table.add_row(finding.invariant, str(finding.order_id or ""), escape(finding.what))
        print_table(table)
    elif done.hidden:
        out.print("[green]audit: what can be seen holds[/]")
    else:
        out.print("[green]audit: I1 to I13 hold[/]")


def _unseen(why: str) -> str:
    from operations.audit.checks import CHECKS

    of_ledger = {check.invariant for check in CHECKS if check.of_ledger}
    return f"the ledger can't be seen here, so nothing is said of {', '.join(sorted(of_ledger))}: {why}"


async def _once() -> Audited:
    from operations.access.database import naming
    from operations.audit.look import audit_on, connection_to

    def show(orders: int) -> None:
        status.update(f"auditing ... {orders} orders read")

    address = database_url()
    with err.status("auditing ...") as status, naming(address):
        async with connection_to(address) as connection:
            return await audit_on(connection, progress=show, ledger=ledger_setting())


async def _told(since: datetime | None) -> list[Finding]:
    from operations.access.database import naming
    from operations.audit.look import connection_to
    from operations.audit.told import told_ahead

    def show(records: int) -> None:
        status.update(f"comparing ... {records} events read")

    address, settings = database_url(), kafka_settings()
    with err.status("comparing ...") as status, naming(address):
        async with connection_to(address) as connection:
            return await told_ahead(connection, settings, since, show)


async def _watch(host: str, port: int, every_s: float) -> int:
    from operations.audit.serve import serve

    def listening(port: int) -> None:
        err.print(f"auditing every {every_s:g} s; metrics at http://{host}:{port}/metrics; Ctrl-C ends it")

    def say(line: str) -> None:
        out.print(line, markup=False)

    operators = notified_operators()

    def alarm(findings: str) -> None:
        if operators is not None:
            operators.tell("Order Saga: the audit has findings", findings)

    try:
        return await serve(
            database_url(), host, port,
            every_s=every_s, ledger=ledger_setting(), listening=listening, say=say, alarm=alarm,
        )  # fmt: skip
    finally:
        if operators is not None:
            operators.close()
