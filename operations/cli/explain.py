"""Puts an order's story into words: a timeline that a person understands. Pure, but for the printing at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape
from rich.table import Table

from operations.cli.reach import amount, colour_of, out, print_table
from operations.why import told

if TYPE_CHECKING:
    from datetime import datetime

ASKED: Final = {
    "check": "assets: is this order allowed, and at which quote?",
    "reserve": "balance: reserve what it can cost",
    "settle": "balance: settle both legs",
    "refund": "balance: refund whatever is held",
}


def sentence(entry: dict[str, Any]) -> str:  # noqa: PLR0911 - one for each kind of entry
    """Say one line of history."""
    name, detail = entry["name"], entry["detail"] or {}
    match entry["kind"]:
        case "status":
            colour = colour_of(name)
            reason = f" {detail['reason_code']}" if detail.get("reason_code") else ""
            return f"[bold {colour}]{name}[/]{reason} [dim]version {entry['version']}[/]"
        case "asked":
            again = f" [yellow](attempt {detail['attempt']})[/]" if "attempt" in detail else ""
            return f"asks {ASKED[name]}{again}"
        case "answered":
            return f"{name} {_told(detail)}".rstrip()
        case "ignored":
            return f"[dim]ignored {name}: {detail.get('why')}[/]"
        case "waits":
            return f"[yellow]waits: {name} paused[/]"
        case "timed_out":
            return f"[yellow]gives up on {name} after {detail.get('attempts')} attempts[/]"
        case "parked":
            return f"[bold red]PARKED[/] {escape(str(detail.get('reason')))}"
        case "overdue":
            return f"[bold yellow]OVERDUE[/] {name}, {detail.get('attempts')} attempts"
        case _:
            return f"{entry['kind']} {name} {_told(detail)}".rstrip()


def _told(detail: dict[str, Any]) -> str:
    told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in detail.items() if value is not None)
    return escape(told)


def print_story(story: dict[str, Any]) -> None:
    """Print an order's header, timeline and money."""
    order = story["order"]
    if order is None:
        claim = story["claim"]
        out.print(
            f"order {claim['order_id']} of {claim['user_id']}: accepted by the API, not yet seen by the orchestrator"
        )
        _print_requests(story["requests"])
        return
    _print_header(order, told(order, story["questions"], story["pauses"]))
    _print_requests(story["requests"])
    _print_timeline(story["history"])
    _print_money(story)
    if story["events_unsent"]:
        versions = ", ".join(str(event["version"]) for event in story["events_unsent"])
        out.print(f"[yellow]events not yet acknowledged by the broker: versions {versions}[/]")


def _print_header(order: dict[str, Any], waits: str) -> None:
    colour = colour_of(order["status"])
    out.print(f"order [bold]{order['order_id']}[/]  {order['order_type']} {order['asset_id']} of {order['user_id']}")
    line = f"[bold {colour}]{order['status']}[/] in phase {order['phase']}, version {order['version']}"
    if order["average_price"] is not None:
        filled, price, fee = (amount(order[name]) for name in ("filled_quantity", "average_price", "fee"))
        line += f", filled {filled} at {price}, fee {fee}"
    if order["reason_code"]:
        line += f", {order['reason_code']}"
    out.print(line)
    if order["due_at"] or order["parked_reason"]:
        out.print(f"[yellow]{escape(waits)}[/]")
    if order["archived_at"]:
        out.print(f"[dim]archived {order['archived_at']:%Y-%m-%d %H:%M:%S}[/]")


def _print_requests(requests: list[dict[str, Any]]) -> None:
    """Say who asked for what by REST, from where, with which token."""
    for request in requests:
        told = [f"{request['at']:%H:%M:%S}", f"{request['action']} by [bold]{escape(request['caller'])}[/]"]
        told += [f"from {request['address']}"] if request["address"] else []
        told += [f"token {escape(request['token_id'])}"] if request["token_id"] else []
        told += [f"trace {request['trace_id']}"] if request["trace_id"] else []
        out.print(f"[dim]{', '.join(told)}:[/] {request['outcome']}")


def _print_timeline(history: list[dict[str, Any]]) -> None:
    table = Table("#", "at", "after", "what happened", title="timeline", title_justify="left")
    begun: datetime | None = None
    for entry in history:
        begun = begun or entry["at"]
        after = f"+{(entry['at'] - begun).total_seconds():.3f} s"
        table.add_row(str(entry["seq"]), f"{entry['at']:%H:%M:%S.%f}"[:-3], after, sentence(entry))
    print_table(table)


def _print_money(story: dict[str, Any]) -> None:
    if story["ledger_unseen"]:
        out.print(f"[dim]its hold and its journal can't be seen here: {escape(story['ledger_unseen'])}[/]")
    for hold in story["holds"]:
        out.print(
            f"hold {hold['state']}: {amount(hold['amount'])} {hold['asset_id']} of {hold['user_id']}, "
            f"captured {amount(hold['captured'])}, refunded {amount(hold['refunded'])}"
        )
    if story["journal"]:
        table = Table("entry", "account", "asset", "amount", title="journal", title_justify="left")
        table.columns[3].justify = "right"
        for line in story["journal"]:
            table.add_row(
                line["entry_id"],
                line["account"],
                line["asset_id"],
                f"{'+' if line['amount'] > 0 else ''}{amount(line['amount'])}",
            )
        print_table(table)
