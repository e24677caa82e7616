"""The commands `amend`, `hold` and `release`: change orders that rest, one or many, as an operator or as their user."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from operations.access.errors import OutcomeUnknown, WrongRequest
from operations.access.system import api
from operations.cli.options import OPERATING, OrderOptions, RunOptions, grouped
from operations.cli.printing import describe_order, err, out
from operations.cli.repair import OrderIds, repair

AsUser = Annotated[str, typer.Option("--as", help="Ask by REST, as this user would who owns the order.")]
Wait = Annotated[float, typer.Option(min=0, max=30, help="With --as: seconds to wait for what becomes of it.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (amend, hold, release):
        app.command(rich_help_panel=OPERATING)(command)


@dataclass(frozen=True, slots=True)
class ChangeOptions:
    """What an amend changes, by the names of the REST API; None: as it is."""

    quantity: Annotated[str | None, typer.Option(help="The new whole, not what is added.")] = None
    limit_price: Annotated[str | None, typer.Option(help="The new limit, of an order that has one.")] = None
    trigger_price: Annotated[str | None, typer.Option(help="The new trigger of a STOP_LOSS or TAKE_PROFIT.")] = None
    trail_amount: Annotated[str | None, typer.Option(help="The new trail in cash, of a TRAILING_STOP.")] = None
    trail_bps: Annotated[int | None, typer.Option(help="The new trail in 1/10,000, of a TRAILING_STOP.")] = None
    slippage_bps: Annotated[
        int | None, typer.Option(help="How far above its trigger a BUY stop may fill, in 1/10,000.")
    ] = None
    time_in_force: Annotated[str | None, typer.Option(help="GTC, or GTD with --expires-at.")] = None
    expires_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", show_default=False, help="2026-01-31T12:00:00Z, or +90s, +30m, +2h, +7d."),
    ] = None

    def fields(self) -> dict[str, Any]:
        """Give what changes, as the REST API wants it. Raises `WrongRequest` for nothing, and for what is no time."""
        from operations.access.words import moment

        given = {name: value for name, value in asdict(self).items() if value is not None}
        if self.expires_at is not None:
            given["expires_at"] = moment("--expires-at", self.expires_at)
            given.setdefault("time_in_force", "GTD")
        if not given:
            raise WrongRequest("what is to be changed? give at least one of the new terms, such as --limit-price")
        return given


@grouped
def amend(
    order_ids: OrderIds = None,
    *,
    changes: ChangeOptions,
    orders: OrderOptions,
    as_user: AsUser = "",
    key: Annotated[str, typer.Option(help="With --as: the idempotency key; the same key amends once.")] = "",
    wait: Wait = 10.0,
    run: RunOptions,
) -> None:
    """Change the terms of orders that rest. The old terms count until the new ones do; a refused amend changes nothing.

    As an operator it sends the amend, and each order judges it: inspect tells what became of it. A run amends an order
    once, however often it is started. With --as it goes by REST, and tells what became of it: exit 1 when refused.

    Examples: order-saga amend ORDER_ID --limit-price 48500 --as alice, or
    order-saga amend --type LIMIT_BUY --asset BTC --expires-at +7d --by ann --dry-run
    """
    from operations.repair.changes import read_changes
    from operations.repair.orders import Asked

    given = changes.fields()
    if not as_user:
        _only_with_as(key=key)
        repair("amend", order_ids, orders.filter(), run, Asked(read_changes(given)))
        return
    _no_filter(orders, run)
    _amend_by_rest(order_ids or [], as_user, given, key or str(uuid.uuid4()), wait)


@grouped
def hold(
    order_ids: OrderIds = None,
    *,
    orders: OrderOptions,
    reason: Annotated[str, typer.Option(help="Why; inspect shows it. Not with --as.")] = "",
    as_user: AsUser = "",
    wait: Wait = 10.0,
    run: RunOptions,
) -> None:
    """Put orders that rest on hold: no price fires them until they are released. What they hold stays held.

    What an operator has put on hold only an operator can release; so it takes the place of a user's own hold. Each
    order judges by itself whether it comes in time. Exit 1 when a hold could not be sent.

    Examples: order-saga hold ORDER_ID --reason "wrong price", or order-saga hold --asset BTC --by ann --dry-run
    """
    from operations.repair.orders import Asked

    if not as_user:
        repair("hold", order_ids, orders.filter(), run, Asked(reason=reason or None))
        return
    if reason:
        raise WrongRequest("--reason is an operator's: it does not go with --as")
    _no_filter(orders, run)
    _suspend_by_rest(order_ids or [], as_user, "hold", wait)


@grouped
def release(
    order_ids: OrderIds = None, *, orders: OrderOptions, as_user: AsUser = "", wait: Wait = 10.0, run: RunOptions
) -> None:
    """Release orders that are on hold: they rest again as if they were accepted now, prices from before do not count.

    A LIMIT that the market meets is filled; any other order is not released into its own trigger: it stays on hold, and
    inspect says so. Exit 1 when a release could not be sent.

    Examples: order-saga release ORDER_ID --as alice, or order-saga release --asset BTC --by ann --rate 50 --yes
    """
    if not as_user:
        repair("release", order_ids, orders.filter(), run)
        return
    _no_filter(orders, run)
    _suspend_by_rest(order_ids or [], as_user, "release", wait)


def _only_with_as(*, key: str) -> None:
    if key:
        raise WrongRequest("--key goes with --as; an operator's amend is named by its run: --run")


def _no_filter(orders: OrderOptions, run: RunOptions) -> None:
    if orders != OrderOptions() or run != RunOptions():
        raise WrongRequest("with --as, orders are changed one by one, as their owner would: it takes no filter, no run")


def _ids(order_ids: list[str], user: str) -> list[uuid.UUID]:
    from operations.access import words

    words.check_name("--as", user)
    if not order_ids:
        raise WrongRequest("which ones? --as takes orders by their ids")
    return [words.order_id(text) for text in order_ids]


def _amend_by_rest(order_ids: list[str], user: str, changes: dict[str, Any], key: str, wait_s: float) -> None:
    from operations.access import rest

    rest.check_key(key)
    for order_id in _ids(order_ids, user):
        err.print(f"to do this again, with no second amend: --key {key}", markup=False, soft_wrap=True)
        try:
            order = rest.amend(api(), user, order_id, changes, key, wait_s)
        except OutcomeUnknown as trouble:
            raise OutcomeUnknown(f"{trouble}; to go on, with no second amend: --key {key}") from None
        state = (order["amend"] or {}).get("state") if (order["amend"] or {}).get("amend_id") == key else "PENDING"
        done = "done" if state == "APPLIED" else "accepted, not decided yet"
        out.print(f"order {order['order_id']}: {describe_order(order)}; amend {done}")


def _suspend_by_rest(order_ids: list[str], user: str, wish: str, wait_s: float) -> None:
    from operations.access import rest

    for order_id in _ids(order_ids, user):
        order = rest.suspend(api(), user, order_id, wish, wait_s)
        done = order["on_hold"] is (wish == "hold")
        words = "done" if done else "accepted, not decided yet"
        out.print(f"order {order['order_id']}: {describe_order(order)}; {wish} {words}")
