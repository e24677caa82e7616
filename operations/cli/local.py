"""The commands `demo` and `up`: the whole system on this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from operations.access.errors import WrongRequest
from operations.access.system import signer, without_ledger
from operations.cli.options import finite
from operations.cli.printing import out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_stack.stack import LocalStack

PANEL: Final = "The whole system on this machine"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel=PANEL)(demo)
    app.command(rich_help_panel=PANEL)(up)


def demo(
    here: Annotated[bool, typer.Option(help="Play against the system that runs, and leave it running.")] = False,
    keep: Annotated[bool, typer.Option(help="Keep the folder with data and logs.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the outcomes for programs.")] = False,
) -> None:
    """Show everything: start a system of its own, submit an order for every outcome, audit, and leave nothing behind.

    One order is told live, by streams and by a webhook to a receiver of the demo. A system that runs already (--here)
    may refuse to send webhooks to this machine; that scene is then left out. Exit 1 when not all is as announced.
    """
    from operations.cli.demo import run_demo, run_here

    raise typer.Exit(asyncio.run(run_here(json=json) if here else run_demo(keep=keep, json=json)))


def up(
    folder: Annotated[Path, typer.Option(help="Where data, secrets and logs are kept.")] = Path(".local"),
    free_ports: Annotated[
        bool, typer.Option(help="Take free ports instead of 8000 to 8003 and 9092, once, and keep them.")
    ] = False,
    time_scale: Annotated[
        float, typer.Option(min=0.01, max=1000, callback=finite, help="Multiplies the saga's patience.")
    ] = 1.0,
    without: Annotated[
        list[str] | None, typer.Option(help="Run all but this service, which is yours: balance or assets.")
    ] = None,
) -> None:
    """Run PostgreSQL, a Kafka-protocol broker and all services until Ctrl-C; data is kept in .local/."""
    from local_stack.stack import FIXED_PORTS, REPLACEABLE, StackOptions
    from local_stack.stack import up as run_stack

    if wrong := sorted(set(without or ()) - set(REPLACEABLE)):
        raise WrongRequest(f"--without {wrong[0]}: it must be one of {', '.join(REPLACEABLE)}")

    async def samples(logins: Mapping[str, str]) -> None:
        from operations.demo.samples import load_samples

        await load_samples(logins, time_scale)

    options = StackOptions(
        ports={} if free_ports else FIXED_PORTS,
        time_scale=time_scale,
        load_samples=samples,
        without=frozenset(without or ()),
        ledger_views=without_ledger() if "balance" in (without or ()) else "",
    )
    if status := run_stack(folder, options, _greet, out):
        raise typer.Exit(status)


def _greet(stack: LocalStack) -> None:
    from operations.access.tokens import SCOPES

    token = signer(stack.jwt_secret).sign("alice", SCOPES, 86_400)
    out.print(f"\n[bold green]Order Saga runs[/]   API {stack.api_url}, to try out in a browser: {stack.api_url}/docs")
    out.print(f"Kafka {stack.kafka_bootstrap_servers}   PostgreSQL {stack.logins['auditor']} (schema audit)")
    out.print("users alice, bob, carol; assets BTC, ETH, ACME and some that make trouble. Ctrl-C ends it.\n")
    for service in sorted(stack.options.without):
        _greet_owner_of(stack, service)
    out.print("Another terminal:")
    out.print("  .venv/bin/order-saga submit MARKET_BUY BTC 0.01 --user alice")
    out.print("or, without any of our tools:")
    body = '{"asset_id": "BTC", "order_type": "MARKET_BUY", "quantity": "0.01"}'
    out.print(
        f"  curl -s {stack.api_url}/orders -H 'Authorization: Bearer {token}' "
        f"-H 'Content-Type: application/json' -d '{body}'\n",
        markup=False,
    )


def _greet_owner_of(stack: LocalStack, service: str) -> None:
    """Say what a service of the user's own needs to take the place of ours."""
    from contracts.topics import TOPICS

    commands, replies = (f"{service}.{kind}" for kind in ("commands", "replies"))
    partitions = next(topic.partitions for topic in TOPICS if topic.name == commands)
    out.print(f"[bold yellow]{service} is yours to run[/]: until it answers, orders wait, and give up after 30 s.")
    out.print(f"  export KAFKA_BOOTSTRAP_SERVERS={stack.kafka_bootstrap_servers}", markup=False)
    out.print(f"  export DATABASE_URL={stack.database_url}  # the owner's; or a database of yours", markup=False)
    out.print(f"it reads {commands} ({partitions} partitions) in a group of its own, and writes {replies}:")
    out.print("docs/own-balance-service.md\n")
