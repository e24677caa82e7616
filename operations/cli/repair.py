"""Commands that repair orders, one or many: resume, cancel, ask-again. Whom, by id or by filter; what, by `repair`."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from operations.cli import runs
from operations.cli.reach import Trouble, check_name, database, finite, rows, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.repair import Result

PANEL: Final = "Operating"
PAGE: Final = 1_000

OrderIds = Annotated[list[str] | None, typer.Argument(metavar="ORDER_ID", help="Orders; or say which by filter.")]
PhaseOption = Annotated[str, typer.Option(help="Orders in this phase, such as REFUNDING.")]
UserOption = Annotated[str, typer.Option(help="Orders of this user.")]
AssetOption = Annotated[str, typer.Option(help="Orders in this asset.")]
WaitingFor = Annotated[str, typer.Option(help="Orders that wait for an answer of: balance, assets.")]
OlderThan = Annotated[
    float, typer.Option(min=0, callback=finite, help="Orders that have not moved for this many seconds.")
]
ParkedReason = Annotated[str, typer.Option(help="Orders that were parked for a reason with this text in it.")]

APPLIES_TO: Final = {
    "resume": "o.parked_reason IS NOT NULL",
    "cancel": "o.status IN ('PENDING', 'CONFIRMED') AND (o.due_at IS NOT NULL OR o.parked_reason IS NOT NULL)",
    "ask-again": "o.due_at IS NOT NULL AND o.parked_reason IS NULL",
}
"""What a run by filter is about; an order that is named by its id is tried, whatever it is."""
_MATCHING: Final = """
    FROM audit.orders AS o WHERE {applies} AND o.order_id > $1
        AND ($2 = '' OR o.phase = $2) AND ($3 = '' OR o.user_id = $3) AND ($4 = '' OR o.asset_id = $4)
        AND ($5 = '' OR EXISTS (SELECT FROM audit.questions AS q
            WHERE q.order_id = o.order_id AND q.answer = 'OPEN' AND q.participant = $5))
        AND o.updated_at <= clock_timestamp() - make_interval(secs => $6)
        AND ($7 = '' OR position(lower($7) IN lower(o.parked_reason)) > 0)
        AND NOT EXISTS (SELECT FROM audit.repairs AS r
            WHERE r.run_id = $8 AND r.action = $9 AND r.item = o.order_id::text)"""
_PAGE: Final = "SELECT o.order_id, o.user_id {matching} ORDER BY o.order_id LIMIT $10"
_COUNT: Final = "SELECT count(*) AS orders {matching}"
_BY_ID: Final = """
    SELECT coalesce(o.user_id, c.user_id) AS user_id
    FROM (VALUES ($1::uuid)) AS wanted (order_id)
    LEFT JOIN audit.orders AS o USING (order_id) LEFT JOIN audit.claims AS c USING (order_id)"""


class Filter(NamedTuple):
    """Which orders; empty: whichever."""

    phase: str = ""
    user: str = ""
    asset: str = ""
    waiting_for: str = ""
    older_than: float = 0.0
    parked_reason: str = ""


class Target(NamedTuple):
    """An order to repair, and its user; None: nobody knows the order."""

    order_id: uuid.UUID
    user_id: str | None


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (resume, cancel):
        app.command(rich_help_panel=PANEL)(command)
    app.command("ask-again", rich_help_panel=PANEL)(ask_again)


@runs.a_run
def resume(
    order_ids: OrderIds = None,
    phase: PhaseOption = "",
    user: UserOption = "",
    asset: AssetOption = "",
    waiting_for: WaitingFor = "",
    older_than: OlderThan = 0.0,
    parked_reason: ParkedReason = "",
    *,
    pace: runs.Pace,
) -> None:
    """Let parked orders go on: their open questions are asked again, a cancel that came meanwhile is carried out.

    Exit 1 when one could not.
    """
    wanted = Filter(phase, user, asset, waiting_for, older_than, parked_reason)
    _repair("resume", order_ids, wanted, pace)


@runs.a_run
def cancel(  # noqa: PLR0913 - options
    order_ids: OrderIds = None,
    phase: PhaseOption = "",
    user: UserOption = "",
    asset: AssetOption = "",
    waiting_for: WaitingFor = "",
    older_than: OlderThan = 0.0,
    parked_reason: ParkedReason = "",
    as_user: Annotated[str, typer.Option("--as", help="Ask by REST, as this user would who owns the order.")] = "",
    *,
    pace: runs.Pace,
) -> None:
    """Ask for the cancellation of orders as an operator; each order judges by itself whether it still can.

    Exit 1 when a cancel could not be sent.
    """
    if as_user:
        _cancel_by_rest(order_ids or [], as_user)
        return
    wanted = Filter(phase, user, asset, waiting_for, older_than, parked_reason)
    _repair("cancel", order_ids, wanted, pace)


@runs.a_run
def ask_again(
    order_ids: OrderIds = None,
    phase: PhaseOption = "",
    user: UserOption = "",
    asset: AssetOption = "",
    waiting_for: WaitingFor = "",
    older_than: OlderThan = 0.0,
    *,
    pace: runs.Pace,
) -> None:
    """Have orders ask their open questions again at once, without waiting for their time. Exit 1 when one could not."""
    wanted = Filter(phase, user, asset, waiting_for, older_than)
    _repair("ask-again", order_ids, wanted, pace)


def _repair(action: str, order_ids: list[str] | None, wanted: Filter, pace: runs.Pace) -> None:
    ids = [as_uuid(text) for text in order_ids or ()]
    runs.check_choice(pace, named=bool(ids), filtered=wanted != Filter())
    _check(wanted)

    async def work() -> bool:
        async with database() as engine:
            if not ids:
                runs.confirm(pace, f"{action} {await _count(engine, action, wanted, pace)} orders")
            targets = _named(engine, ids) if ids else _matching(engine, action, wanted, pace)
            left = await runs.left(engine, action, pace)
            return await runs.work_off(targets, _name, partial(_act, engine, action, pace), left)

    if not run(work()):
        raise typer.Exit(1)


def as_uuid(text: str) -> uuid.UUID:
    """Read an order's id. Raises `Trouble`."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise Trouble(f"'{text}' is not an order id: it must be a UUID", 2) from None


def _check(wanted: Filter) -> None:
    from order_saga.core.saga import Participant, Phase

    if wanted.waiting_for and wanted.waiting_for not in set(Participant):
        raise Trouble(f"--waiting-for must be one of {', '.join(sorted(Participant))}", 2)
    if wanted.phase and wanted.phase not in set(Phase):
        raise Trouble(f"--phase must be one of {', '.join(Phase)}", 2)


def _name(target: Target) -> str:
    return str(target.order_id)


async def _act(engine: AsyncEngine, action: str, pace: runs.Pace, target: Target) -> Result:
    from operations import repair

    if target.user_id is None:
        return repair.Result(done=False, words="there is no such order")
    if action == "cancel":
        return await repair.cancel(engine, pace.run, target.order_id, target.user_id)
    act = {"resume": repair.resume, "ask-again": repair.ask_again}[action]
    return await act(engine, pace.run, target.order_id)


async def _named(engine: AsyncEngine, ids: list[uuid.UUID]) -> AsyncIterator[Target]:
    for order_id in ids:
        [found] = await rows(engine, _BY_ID, order_id)
        yield Target(order_id, found["user_id"])


async def _matching(engine: AsyncEngine, action: str, wanted: Filter, pace: runs.Pace) -> AsyncIterator[Target]:
    """Read the orders page by page, by id: a run may take hours, and no transaction shall."""
    statement = _PAGE.format(matching=_MATCHING.format(applies=APPLIES_TO[action]))
    after = uuid.UUID(int=0)
    while page := await rows(engine, statement, after, *wanted, pace.run.run_id, action, PAGE):
        for row in page:
            yield Target(row["order_id"], row["user_id"])
        after = page[-1]["order_id"]


async def _count(engine: AsyncEngine, action: str, wanted: Filter, pace: runs.Pace) -> int:
    statement = _COUNT.format(matching=_MATCHING.format(applies=APPLIES_TO[action]))
    [found] = await rows(engine, statement, uuid.UUID(int=0), *wanted, pace.run.run_id, action)
    return min(int(found["orders"]), pace.limit or int(found["orders"]))


def _cancel_by_rest(order_ids: list[str], user: str) -> None:
    from operations.cli.reach import out
    from operations.cli.trading import call, told

    check_name("--as", user)
    if not order_ids:
        raise Trouble("which ones? --as takes orders by their ids", 2)
    for order_id in map(as_uuid, order_ids):
        order: dict[str, Any] = call(user, "PUT", f"/orders/{order_id}/cancel")
        out.print(f"order {order['order_id']}: {told(order)}, cancel requested")
