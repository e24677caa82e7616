"""The cells of the matrix: which service can be at which crash point with which type of message, and why not the rest.

The types come from the topics, so a new message is in the matrix as soon as it is in the contracts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatch
from typing import Final, NamedTuple, Self

from contracts.topics import (
    ASSETS_COMMANDS,
    ASSETS_PRICES,
    ASSETS_REPLIES,
    BALANCE_COMMANDS,
    BALANCE_REPLIES,
    HOLDS_EVENTS,
    HOLDS_REQUESTS,
    ORDERS_CANCELS,
    ORDERS_CHANGES,
    ORDERS_EVENTS,
    ORDERS_REQUESTS,
    Topic,
)
from order_saga.triggers.process import TriggerPoint
from order_saga.worker.market import RestingPoint
from participants.assets.feed import FeedPoint
from projections.webhooks.sender import SendPoint
from saga_kit.runtime.crash_points import CrashPoint

TIMER, FIRE, EXPIRY = "TimerDue", "FireDue", "ExpiryDue"
OWN: Final = (TIMER, FIRE, EXPIRY)
"""The orchestrator's own messages, which come by no topic. The product's name of a fire is `TimerDue`, too."""
RESTING: Final = "OrderRequested-resting"
"""The request of a conditional order."""
PRICE: Final = "AssetPriceChanged"
RISING: Final = "RISE"
"""The asset on which the matrix lets orders rest. The matrix writes its ticks itself."""

POINTS: Final[tuple[StrEnum, ...]] = (*CrashPoint, *TriggerPoint, *RestingPoint, *FeedPoint, *SendPoint)
_BY_NAME: Final = {point.name: point for point in POINTS}


def _types(*topics: Topic) -> tuple[str, ...]:
    return tuple(message.__name__ for topic in topics for message in topic.messages)


RECEIVED: Final = {
    "orchestrator": (
        *_types(ORDERS_REQUESTS),
        RESTING,
        *_types(ORDERS_CANCELS, ORDERS_CHANGES, ASSETS_REPLIES, BALANCE_REPLIES, ASSETS_PRICES),
        *OWN,
    ),
    "balance": _types(BALANCE_COMMANDS, HOLDS_REQUESTS),
    "assets": _types(ASSETS_COMMANDS),
    "webhooks": _types(ORDERS_EVENTS),
}
SENT: Final = {
    "orchestrator": _types(ASSETS_COMMANDS, BALANCE_COMMANDS, ORDERS_EVENTS),
    "balance": _types(BALANCE_REPLIES, HOLDS_EVENTS),
    "assets": _types(ASSETS_REPLIES, ASSETS_PRICES),
    "webhooks": (),
}
SERVICES: Final = tuple(RECEIVED)

RELAY: Final = {CrashPoint.RELAY_CLAIMED, CrashPoint.RELAY_PUBLISHED, CrashPoint.RELAY_DELETED}
SET_ASIDE: Final = {CrashPoint.SET_ASIDE_WRITTEN, CrashPoint.SET_ASIDE_COMMITTED}
OUTBOX: Final = {*RELAY, CrashPoint.SWEPT}
PUBLISHING: Final = {*OUTBOX, CrashPoint.PUBLISH_BEGUN}
TIMERS: Final = {CrashPoint.TIMERS_FOUND}
BATCH: Final = set(CrashPoint) - PUBLISHING - TIMERS
_FOUND: Final = {CrashPoint.TIMERS_FOUND: TIMER, RestingPoint.FIRES_FOUND: FIRE, RestingPoint.EXPIRIES_FOUND: EXPIRY}
_TOUCH_RESTING: Final = {
    *("BalanceReserved", "AssetApproved", "BalanceAdjusted", "AdjustmentRefused", "OrderCancelRequested"),
    *(*_types(ORDERS_CHANGES), FIRE, EXPIRY),
}
"""What comes for an order that enters a market, or rests on it."""


class Cell(NamedTuple):
    """A case to test: this service dies at this point while it handles a message of this type."""

    service: str
    point: StrEnum
    message: str

    @property
    def name(self) -> str:
        """The cell's name on the command line."""
        return f"{self.service}:{self.point.name.lower().replace('_', '-')}:{self.message}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Make the cell of a name."""
        service, point, message = name.split(":")
        return cls(service, _BY_NAME[point.upper().replace("-", "_")], message)


class Rule(NamedTuple):
    """Cells that cannot happen, and the reason. `messages` by service."""

    reason: str
    points: Collection[StrEnum]
    messages: Mapping[str, Collection[str]]

    def forbids(self, cell: Cell) -> bool:
        """Tell whether the rule is about this cell."""
        return cell.point in self.points and cell.message in self.messages.get(cell.service, ())


def _everything(service: str) -> set[str]:
    return {*RECEIVED[service], *SENT[service]}


def _all_of(*services: str) -> dict[str, set[str]]:
    return {service: _everything(service) for service in services}


RULES: Final = (
    Rule("a batch is made of what a service receives, not of what it sends", BATCH, SENT),
    Rule("what a service receives, it does not publish", PUBLISHING, RECEIVED),
    Rule("a timer is no record of Kafka, it has no offset", {CrashPoint.OFFSETS_COMMITTED}, {"orchestrator": OWN}),
    Rule(
        "a question is kept in the saga and asked again until it is answered: it has no row in the outbox",
        OUTBOX,
        {"orchestrator": _types(ASSETS_COMMANDS, BALANCE_COMMANDS)},
    ),
    Rule(
        "whoever sets a price leaves it to the relay, which deletes what it has sent by itself",
        {CrashPoint.SWEPT},
        {"assets": _types(ASSETS_PRICES)},
    ),
    *(
        Rule(
            f"'{point}' lists orders for {message}, nothing else",
            {point},
            {"orchestrator": _everything("orchestrator") - {message}},
        )
        for point, message in _FOUND.items()
    ),
    Rule(
        "only a batch with an order that enters a market or rests on it shares its gate",
        {RestingPoint.GATES_SHARED},
        {"orchestrator": _everything("orchestrator") - _TOUCH_RESTING},
    ),
    Rule(
        "only ticks are judged by the trigger engine",
        set(TriggerPoint),
        {"orchestrator": _everything("orchestrator") - {PRICE}},
    ),
    Rule(
        "only the feed of prices leases and moves them",
        set(FeedPoint),
        {"assets": _everything("assets") - {PRICE}, **_all_of("orchestrator", "balance", "webhooks")},
    ),
    Rule(
        "only the orchestrator has timers and resting orders",
        {*TIMERS, *RestingPoint, *TriggerPoint},
        _all_of("balance", "assets", "webhooks"),
    ),
    Rule(
        "only the webhook process has deliveries to send",
        set(SendPoint),
        _all_of("orchestrator", "balance", "assets"),
    ),
)
"""Every cell of the full product that is not in the matrix is here."""


def why_not(cell: Cell) -> str | None:
    """Say why a cell cannot happen; None when it can."""
    return next((rule.reason for rule in RULES if rule.forbids(cell)), None)


def messages(service: str) -> tuple[str, ...]:
    """List the types of messages that a service holds: first what it receives, then what it sends."""
    return (*RECEIVED[service], *SENT[service])


def all_cells() -> list[Cell]:
    """List every cell that can happen, by service and point."""
    every = (Cell(service, point, message) for service in SERVICES for point in POINTS for message in messages(service))
    return [cell for cell in every if why_not(cell) is None]


def chosen(patterns: Iterable[str]) -> list[Cell]:
    """List the cells whose names fit one of the patterns (`*` stands for anything)."""
    wanted = list(patterns)
    return [cell for cell in all_cells() if any(fnmatch(cell.name, pattern) for pattern in wanted)]


def sample() -> list[Cell]:
    """Choose a few cells that cover every crash point, with services and message types that vary."""
    cells = []
    for number, point in enumerate(POINTS):
        here = [cell for cell in all_cells() if cell.point is point]
        services = sorted({cell.service for cell in here}, key=SERVICES.index)
        of_one = [cell for cell in here if cell.service == services[number % len(services)]]
        cells.append(of_one[number % len(of_one)])
    return cells


def rounds(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Group cells of different services into rounds; cells that need long or idle waits come first."""
    by_service: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=_patience):
        by_service.setdefault(cell.service, []).append(cell)
    lanes = sorted(by_service.values(), key=len, reverse=True)
    return [[lane[number] for lane in lanes if number < len(lane)] for number in range(len(lanes[0]) if lanes else 0)]


def _patience(cell: Cell) -> int:
    return 0 if cell.point in RELAY else 1 if cell.point is CrashPoint.SWEPT else 2
