"""The command `hand-over`: close the reference balance service's ledger."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from operations.access.system import database
from operations.cli.options import OPERATING
from operations.cli.printing import out

if TYPE_CHECKING:
    from operations.deployment.hand_over import HandedOver


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("hand-over", rich_help_panel=OPERATING)(hand_over)


def hand_over(
    successor: Annotated[str, typer.Argument(help="What takes over; whoever meets the closed ledger is told.")],
) -> None:
    """Close the reference balance service's ledger for good. DATABASE_URL is the owner's.

    From then on no money of it moves, and the service does not start again: see docs/own-balance-service.md. Exit 1
    when it was handed over before.

    Example: order-saga hand-over wallet
    """
    from operations.deployment.hand_over import check_successor, close

    check_successor(successor)

    async def work() -> HandedOver:
        async with database() as engine:
            return await close(engine, successor)

    done = asyncio.run(work())
    out.print(f"the ledger is closed: {done.accounts} accounts, {done.held} active holds for {successor} to take over")
