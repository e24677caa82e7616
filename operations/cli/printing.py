"""How commands print: data to stdout, progress and complaints to stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console
from rich.markup import escape
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

    from rich.table import Table

CUT: Final = "…"
"""Where the terminal's library cuts a word."""
out: Final = Console(highlight=False, soft_wrap=True)
err: Final = Console(stderr=True, highlight=False)
_COLOURS: Final = {"COMPLETED": "green", "FAILED": "red", "CANCELLED": "yellow"}


def print_json(data: object) -> None:
    """Print data for programs: times in RFC 3339, decimals as plain strings."""
    out.print_json(json.dumps(data, default=plain))


class JsonArray:
    """Prints a JSON array of any length, an item a line, inside `with`; it must be closed even when it is empty."""

    def __init__(self) -> None:
        self._empty = True

    def __enter__(self) -> Self:
        return self

    def add(self, item: object) -> None:
        """Print one item."""
        sys.stdout.write(("[" if self._empty else ",") + "\n" + json.dumps(item, default=plain))
        self._empty = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            sys.stdout.write("[]\n" if self._empty else "\n]\n")


def print_json_line(data: object) -> None:
    """Print one JSON document in one line, at once."""
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


def print_table(table: Table) -> None:
    """Print a table; where it would cut words, an order's id for one, print a line for each row instead."""
    for column in table.columns:  # whose cells are single words: let others give way first
        column.no_wrap = column.no_wrap or not any(" " in str(cell) for cell in column.cells)
    narrow = out.width < out.measure(table, options=out.options.update(max_width=1_000)).minimum
    if not narrow and not any(CUT in segment.text for line in out.render_lines(table) for segment in line):
        out.print(table)
        return
    if table.title:
        out.print(table.title)
    for row in zip(*(column.cells for column in table.columns), strict=True):
        out.print(Text.from_markup("- " + " · ".join(str(cell) for cell in row if cell)), soft_wrap=False)


def plain(value: Any) -> object:
    """Write a value that JSON does not know."""
    from datetime import datetime
    from decimal import Decimal

    from contracts.envelope import format_time
    from operations.access.words import amount

    if isinstance(value, Decimal):
        return amount(value)
    return format_time(value) if isinstance(value, datetime) else str(value)


def status_colour(status: str) -> str:
    """Name the colour of an order's status."""
    return _COLOURS.get(status, "cyan")


def describe_order(order: dict[str, Any]) -> str:
    """Say in a line how an order stands, as the REST API shows it."""
    status = order["status"]
    line = f"[{status_colour(status)}]{status}[/]"
    if order.get("average_price"):
        line += f" {order['filled_quantity']} {order['asset_id']} at {order['average_price']}, fee {order['fee']}"
    if order.get("on_hold"):
        line += ", on hold"
    if order.get("reason_code"):
        line += f" {order['reason_code']}" + (f" ({escape(order['reason'])})" if order.get("reason") else "")
    return line


def log_to_stderr() -> None:
    """Have libraries log to stderr, like everything that is not data."""
    import structlog

    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))  # stderr at the time of a line
