"""The commands `resume`, `cancel` and `ask-again`: repair one order, or many by filter."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from operations.access.errors import WrongRequest
from operations.access.system import api, database
from operations.cli.options import OPERATING, OrderOptions, ParkedReason, RunOptions, grouped
from operations.cli.printing import describe_order, out
from operations.cli.running import ask, print_results

if TYPE_CHECKING:
    from operations.repair.order_filter import OrderFilter
    from operations.repair.orders import Asked

OrderIds = Annotated[list[str] | None, typer.Argument(metavar="ORDER_ID", help="Orders; or say which by filter.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (resume, cancel):
        app.command(rich_help_panel=OPERATING)(command)
    app.command("ask-again", rich_help_panel=OPERATING)(ask_again)


@grouped
def resume(
    order_ids: OrderIds = None, *, orders: OrderOptions, parked_reason: ParkedReason = "", run: RunOptions
) -> None:
    """Let parked orders go on: their open questions are asked again, a cancel that came meanwhile is carried out.

    Exit 1 when one could not.

    Examples: order-saga resume ORDER_ID, or order-saga resume --parked-reason overflow --by ann --dry-run
    """
    repair("resume", order_ids, orders.filter(parked_reason), run)


@grouped
def cancel(
    order_ids: OrderIds = None,
    *,
    orders: OrderOptions,
    parked_reason: ParkedReason = "",
    as_user: Annotated[str, typer.Option("--as", help="Ask by REST, as this user would who owns the order.")] = "",
    run: RunOptions,
) -> None:
    """Ask for the cancellation of orders as an operator; each order judges by itself whether it still can.

    Exit 1 when a cancel could not be sent.

    Examples: order-saga cancel ORDER_ID --as alice, or order-saga cancel --user alice --asset BTC --yes
    """
    if not as_user:
        repair("cancel", order_ids, orders.filter(parked_reason), run)
    elif parked_reason or orders != OrderOptions() or run != RunOptions():
        raise WrongRequest("with --as, orders are cancelled one by one, as their owner would: it takes no other option")
    else:
        _cancel_by_rest(order_ids or [], as_user)


@grouped
def ask_again(order_ids: OrderIds = None, *, orders: OrderOptions, run: RunOptions) -> None:
    """Have orders ask their open questions again at once, without waiting for their time. Exit 1 when one could not.

    Examples: order-saga ask-again ORDER_ID, or order-saga ask-again --waiting-for balance --rate 50 --yes
    """
    repair("ask-again", order_ids, orders.filter(), run)


def repair(
    action: str,
    order_ids: list[str] | None,
    wanted: OrderFilter,
    options: RunOptions,
    asked: Asked | None = None,
) -> None:
    """Do it to the orders of these ids or of this filter, and print what became of each. Raises `typer.Exit`."""
    from operations.access import words
    from operations.repair import order_filter
    from operations.repair.orders import PLAINLY
    from operations.repair.orders import repair as work_off
    from operations.repair.runs import check_choice

    run = options.run()
    ids = [words.order_id(text) for text in order_ids or ()]
    check_choice(named=bool(ids), filtered=wanted != order_filter.OrderFilter(), everything=options.everything)
    order_filter.check(wanted)

    async def work() -> bool:
        async with database() as engine:
            if not (ids or options.yes or options.dry_run):
                number = await order_filter.count(engine, action, wanted, run.run_id)
                ask(f"{action} {min(number, options.limit or number)} orders")
            results = work_off(engine, action, ids or wanted, run, options.pace, asked or PLAINLY)
            return await print_results(results, run, options)

    if not asyncio.run(work()):
        raise typer.Exit(1)


def _cancel_by_rest(order_ids: list[str], user: str) -> None:
    from operations.access import rest, words

    words.check_name("--as", user)
    if not order_ids:
        raise WrongRequest("which ones? --as takes orders by their ids")
    for order_id in map(words.order_id, order_ids):
        order = rest.cancel(api(), user, order_id)
        out.print(f"order {order['order_id']}: {describe_order(order)}, cancel requested")
