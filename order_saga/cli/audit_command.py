"""The command `audit`: do the invariants hold on the live system? It says what it finds and repairs nothing."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from order_saga.cli.reach import database, err, out, print_json, run


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Operating")(audit)


def audit(json: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False) -> None:
    """Check the invariants I1 to I11 on the live system. Exit 1 and each order's name when one does not hold."""
    from order_saga.audit import audit as check

    async def work() -> list[Any]:
        async with database() as engine:
            return list(await check(engine))

    with err.status("auditing ..."):
        findings = run(work())
    if json:
        print_json([{"invariant": f.invariant, "order_id": f.order_id, "what": f.what} for f in findings])
    elif findings:
        table = Table("invariant", "order", "what is wrong", title="audit")
        for finding in findings:
            table.add_row(finding.invariant, str(finding.order_id or ""), finding.what)
        out.print(table)
    else:
        out.print("[green]audit: I1 to I11 hold[/]")
    if findings:
        raise typer.Exit(1)
