"""The commands `recover`: what an operator runs when PostgreSQL or Kafka stands at an earlier time than the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from operations.access.system import database as connected
from operations.access.system import kafka_settings
from operations.cli.options import OPERATING, By, DryRun, Json, Yes
from operations.cli.printing import err, out, print_json_line
from operations.cli.running import ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from operations.recovery.database import Plan, Progress
    from operations.recovery.groups import Rewound
    from operations.repair.runs import ItemResult

commands = typer.Typer(
    no_args_is_help=True, help="After a restore: bring the database and Kafka to one state (docs/backup.md)."
)
Since = Annotated[str, typer.Option(metavar="TIME", help="From when on, such as 2026-01-31T12:00:00Z.")]
ENTER: str = (
    "deposits and withdrawals since then are not in Kafka: enter them again before the balance service starts."
    " Idempotency keys since then are forgotten. Then start the services, and see 'order-saga audit'"
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(commands, name="recover", rich_help_panel=OPERATING)


@commands.command("database")
def database(
    since: Since = "",
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Go on although topics no longer have all since then.")
    ] = False,
    dry_run: DryRun = False,
    by: By = "operator",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Bring a restored database to what Kafka has told already. Run it after the restore, before any service starts.

    Orders that Kafka knows more of than the database are brought forward, each in one decision of its saga. Then the
    services' consumer groups go back to that time, so that they handle again what the database has forgotten. Without
    --since it is an hour before the newest thing that the database knows. Broken off, it is started again. DATABASE_URL
    is the owner's. Exit 1 when an order could not be brought forward.

    Examples: order-saga recover database --dry-run, or order-saga recover database --since 2026-01-31T12:00:00Z --yes
    """
    from operations.access.words import instant
    from operations.repair.runs import name_run

    run, asked = name_run("", by), instant("--since", since) if since else None

    async def work() -> bool:
        from operations.recovery.database import go_back, plan, recover

        settings = kafka_settings()
        async with connected() as engine:
            found = await plan(engine, settings, asked, incomplete=incomplete)
            _say_plan(found)
            if not (yes or dry_run):
                ask("bring orders forward and set the consumer groups back")
            tally = _Tally(json=json, dry_run=dry_run)
            with err.status("reading ...") as status:

                def show(seen: Progress) -> None:
                    status.update(f"reading ... {seen.records} records")

                async for result in recover(engine, settings, found.since, run, dry_run=dry_run, progress=show):
                    tally.add(result)
            tally.rewound(await go_back(engine, settings, found.since, dry_run=dry_run))
        tally.close(run.run_id, ENTER)
        return not tally.refused

    if not asyncio.run(work()):
        raise typer.Exit(1)


@commands.command("kafka")
def kafka(
    since: Since,
    dry_run: DryRun = False,
    by: By = "operator",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Tell Kafka again what it has lost: it stands at an earlier time than the database. No service may run meanwhile.

    The newest version of each order that changed since then is told again, and what became of each service's hold; the
    outboxes send them when the services start. The consumer groups go back to that time, or to the end of a topic that
    has become shorter. Broken off, it is started again. DATABASE_URL is the owner's.

    Example: order-saga recover kafka --since 2026-01-31T12:00:00Z --yes
    """
    from operations.access.words import instant
    from operations.repair.runs import name_run

    run, asked = name_run("", by), instant("--since", since)

    async def work() -> bool:
        from operations.recovery.groups import check_nobody_reads, rewind
        from operations.recovery.kafka import count, tell_again

        settings = kafka_settings()
        async with connected() as engine:
            await check_nobody_reads(settings)
            found = await count(engine, asked)
            if not (yes or dry_run):
                ask(f"tell {found.orders} orders and {found.holds} holds again, and set the consumer groups back")
            tally = _Tally(json=json, dry_run=dry_run)
            if dry_run:
                tally.told(found._asdict())
            else:
                with err.status("telling ...") as status:
                    async for told in tell_again(engine, asked, run):
                        status.update(f"telling ... {told.orders} orders, {told.holds} holds")
                        found = told
                tally.told(found._asdict())
            tally.rewound(await rewind(settings, asked, every_topic=True, dry_run=dry_run))
        tally.close(run.run_id, "start the services, and see 'order-saga audit'")
        return True

    if not asyncio.run(work()):
        raise typer.Exit(1)


def _say_plan(found: Plan) -> None:
    from operations.access.words import full_time

    newest = "nothing" if found.newest is None else f"nothing after {full_time(found.newest)}"
    err.print(f"the database knows {newest}; Kafka is read from {full_time(found.since)} (UTC) on", markup=False)
    if found.lost:
        err.print(f"[yellow]topics have lost records since then, and have only {found.lost}[/]")


class _Tally:
    """Prints what is done, and a summary."""

    def __init__(self, *, json: bool, dry_run: bool) -> None:
        self._json, self._dry_run = json, dry_run
        self.done = self.refused = 0
        self._more: dict[str, Any] = {}

    def add(self, result: ItemResult) -> None:
        """Print what became of an order."""
        self.done, self.refused = self.done + result.done, self.refused + (not result.done)
        if self._json:
            print_json_line(result._asdict())
        else:
            out.print(f"{result.item}: {result.result}", markup=False)

    def told(self, numbers: dict[str, int]) -> None:
        """Keep how much is told again."""
        self._more |= numbers
        if not self._json:
            words = "would be" if self._dry_run else "are"
            out.print(f"{numbers['orders']} orders and {numbers['holds']} holds {words} told again", markup=False)

    def rewound(self, groups: Sequence[Rewound]) -> None:
        """Print which groups read again."""
        words = "would read" if self._dry_run else "reads"
        self._more["groups"] = [one._asdict() for one in groups]
        for one in groups if not self._json else ():
            out.print(f"{one.group} {words} {one.records} records of {one.topic} again", markup=False)

    def close(self, run_id: str, then: str) -> None:
        """Print the summary."""
        if self._json:
            words = "would be done" if self._dry_run else "done"
            summary = {words: self.done, "not done": self.refused, **self._more}
            print_json_line({"run": run_id, "summary": summary})
            return
        words = "would be brought forward" if self._dry_run else "brought forward"
        err.print(f"{self.done} orders {words}, {self.refused} could not be", markup=False)
        if not self._dry_run:
            err.print(then, markup=False)
