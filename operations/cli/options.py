"""Options that several commands have: single ones, and groups that a command takes as one value.

A group is a dataclass whose fields are options. `grouped` gives a command the options of each group that it takes.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from operations.access.system import NUMBER_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from operations.repair.dead_letters import DeadLetterFilter
    from operations.repair.order_filter import OrderFilter
    from operations.repair.runs import Pace, Run

OPERATING: Final = "Operating"
TRADING: Final = "Trading"
"""Panels of `order-saga --help`."""


def finite(value: float) -> float:
    """Expect a number that can be counted with."""
    if not math.isfinite(value) or value > NUMBER_MAX:
        raise typer.BadParameter(f"{value:g} must be at most {NUMBER_MAX:g}")
    return value


By = Annotated[str, typer.Option(help="Who does it; kept with every item.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print for programs.")]
User = Annotated[str, typer.Option("--user", "-u", help="Who acts.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Which run it is and how it goes on."""

    everything: Annotated[bool, typer.Option("--all", help="Allow a run without any filter.")] = False
    dry_run: DryRun = False
    rate: Annotated[float, typer.Option(min=0.01, callback=finite, help="Items a second, at most.")] = 100.0
    limit: Annotated[int | None, typer.Option(min=1, help="Items of this run, at most.")] = None
    run_id: Annotated[str, typer.Option("--run", help="The id of a run that was broken off: go on with it.")] = ""
    by: By = "operator"
    yes: Yes = False
    json: Annotated[bool, typer.Option("--json", help="A JSON line for each item, and one for the whole.")] = False

    def run(self) -> Run:
        """Begin a run, or take up one that was broken off. Raises `WrongRequest` for a name that can't be."""
        from operations.repair.runs import name_run

        return name_run(self.run_id, self.by)

    @property
    def pace(self) -> Pace:
        """How the run goes on."""
        from operations.repair.runs import Pace

        return Pace(self.rate, self.limit, self.dry_run)


@dataclass(frozen=True, slots=True)
class OrderOptions:
    """Which orders; empty: any."""

    phase: Annotated[str, typer.Option(help="Orders in this phase, such as REFUNDING.")] = ""
    user: Annotated[str, typer.Option(help="Orders of this user.")] = ""
    asset: Annotated[str, typer.Option(help="Orders in this asset.")] = ""
    order_type: Annotated[str, typer.Option("--type", help="Orders of this type, such as STOP_LOSS_SELL.")] = ""
    waiting_for: Annotated[str, typer.Option(help="Orders that wait for an answer of: balance, assets.")] = ""
    older_than: Annotated[
        float, typer.Option(min=0, callback=finite, help="Orders that have not moved for this many seconds.")
    ] = 0.0

    def filter(self, parked_reason: str = "") -> OrderFilter:
        """Give what was chosen."""
        from operations.repair.order_filter import OrderFilter

        return OrderFilter(
            self.phase, self.user, self.asset, self.waiting_for, self.older_than, parked_reason, self.order_type
        )


ParkedReason = Annotated[str, typer.Option(help="Orders that were parked for a reason with this text in it.")]


@dataclass(frozen=True, slots=True)
class DeadLetterOptions:
    """Which dead letters; empty: any."""

    topic: Annotated[str, typer.Option(help="Dead letters from the topic of this name, or whose name ends in it.")] = ""
    reason: Annotated[str, typer.Option(help="Dead letters whose reason has this text in it.")] = ""
    older_than: Annotated[
        float, typer.Option(min=0, callback=finite, help="Dead letters that came at least so many seconds ago.")
    ] = 0.0

    def filter(self, state: str = "open") -> DeadLetterFilter:
        """Give what was chosen."""
        from operations.repair.dead_letters import DeadLetterFilter

        return DeadLetterFilter(self.topic, self.reason, self.older_than, state)


class DeadLetterState(StrEnum):
    """What may have become of a dead letter."""

    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"
    CLOSED = "closed"


class TopicFormat(StrEnum):
    """How the list of topics is written."""

    JSON = "json"
    COMMANDS = "commands"


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in the place of each parameter that is a group, the options of the group's fields."""
    own = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, Any] = {name: one.annotation for name, one in own.items() if is_dataclass(one.annotation)}
    parameters: dict[str, inspect.Parameter] = {}
    for name, one in own.items():
        if name in groups:
            options = inspect.signature(groups[name], eval_str=True).parameters
            parameters |= {option: each.replace(kind=each.KEYWORD_ONLY) for option, each in options.items()}
        else:
            parameters[name] = one.replace(kind=one.KEYWORD_ONLY)

    @wraps(command)
    def with_options(**given: Any) -> None:
        values = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **values)

    with_options.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    with_options.__annotations__ = {name: one.annotation for name, one in parameters.items()}
    return with_options
