"""The plan of a history: orders, what users and operators do, prices, and every fault, each a value.

A scenario is plain data, so that `shrink` can leave out parts of a failing one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from order_saga.triggers.process import TriggerPoint
from order_saga.worker.market import RestingPoint
from saga_kit.runtime.crash_points import CrashPoint

GROUPS: Final = {
    "orchestrator": ("orchestrator", "cancels", "triggers"),
    "balance": ("balance",),
    "assets": ("assets",),
}
"""The consumer groups of each service: each process is a member of all of them."""
REPLICAS: Final = {"orchestrator": 2, "balance": 2, "assets": 1}
NODES: Final = tuple(f"{service}-{number}" for service, count in REPLICAS.items() for number in range(count))
USERS: Final = ("alice", "bob", "carol")
HOLDINGS: Final = {
    **{(user, "USD"): "1500" for user in USERS},
    **{(user, "BTC"): "0.03" for user in ("alice", "bob")},
    **{(user, "WAVE"): "9" for user in ("alice", "bob")},
}
"""What users hold at the beginning: enough for some of the orders. The first asset that carol buys makes an account."""
ROUND_MOST: Final = 2_000
"""Rows that one round of the trigger engine may find, as in production."""
BUSY_S: Final = 120.0
"""Orders are made, and faults begin, within this time."""
SETTING_ASIDE: Final = {CrashPoint.SET_ASIDE_WRITTEN, CrashPoint.SET_ASIDE_COMMITTED}
"""Crash points that only a message that can't be written leads to."""
_BY_PARTICIPANTS: Final = tuple(point for point in CrashPoint if point not in {CrashPoint.TIMERS_FOUND, *SETTING_ASIDE})
POINTS: Final = {"orchestrator": tuple(CrashPoint), "balance": _BY_PARTICIPANTS, "assets": _BY_PARTICIPANTS}
"""The crash points that each service passes here: only messages of orders are ever poisoned."""


class Cancel(msgspec.Struct, frozen=True):
    """A cancel, `at` seconds after the beginning."""

    at: float
    by: str


class Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a conditional order waits for; the fields of its request. `expires_after_s` counts from its `at`.

    Of a market order: that it waits for the opening while its asset does not trade.
    """

    kind: str
    limit_price: str | None = None
    trigger_price: str | None = None
    trail_amount: str | None = None
    trail_bps: int | None = None
    slippage_bps: int | None = None
    time_in_force: str | None = None
    expires_after_s: float | None = None
    queue_when_closed: bool | None = None


class What(StrEnum):
    """What a change asks for."""

    AMEND = "amend"
    HOLD = "hold"
    RELEASE = "release"


class Expects(StrEnum):
    """Which version of its order an amend expects."""

    ANY = ""
    NEWEST = "newest"
    """The newest one that was published when it is sent."""
    OLDER = "older"


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change of an order, `at` seconds after the beginning: an amend, a suspension or a release.

    An amend asks for the fields from `quantity` on. Of two with one `amend_id` only one may count.
    """

    at: float
    what: What
    by: str
    copies: int = 1
    """How many times it is sent at once."""
    amend_id: str = ""
    expects: Expects = Expects.ANY
    quantity: str | None = None
    limit_price: str | None = None
    trigger_price: str | None = None
    trail_amount: str | None = None
    trail_bps: int | None = None
    slippage_bps: int | None = None
    time_in_force: str | None = None
    expires_after_s: float | None = None
    """From its own `at` on."""


class OrderPlan(msgspec.Struct, frozen=True):
    """One order and what its user does. `stamped_off_s`: how wrong the clock is that writes `requested_at`."""

    order_id: UUID
    user_id: str
    asset_id: str
    side: str
    quantity: str
    price: str | None
    client_order_id: str | None
    at: float
    stamped_off_s: float = 0.0
    copies: int = 1
    """How many times it is sent at once."""
    sent_with_other_words: bool = False
    """Whether a second request with the same id asks for something else."""
    invalid: bool = False
    trusting: bool = False
    """Whether the user sends the request again only while the broker has not acknowledged it."""
    cancels: tuple[Cancel, ...] = ()
    terms: Terms | None = None
    """Of a conditional order; a market order has none."""
    changes: tuple[Change, ...] = ()


class How(StrEnum):
    """How a tick reaches the broker."""

    WELL = "well"
    MISSING = "missing"
    """Nobody publishes it; its repetition may come later."""
    REPEATED = "repeated"
    LATE = "late"
    """After some seconds, so that it may come behind newer ones."""
    STALE = "stale"
    """Its source confirmed it long ago."""
    BACKWARD = "backward"
    """An older tick comes again in its place, as if it were news."""


class TickPlan(msgspec.Struct, frozen=True):
    """A new price of an asset, or a new trading state, `at` seconds after the beginning."""

    at: float
    asset_id: str
    price: str
    trading: str = "OPEN"
    how: How = How.WELL


class Kind(StrEnum):
    """The faults that begin at a moment."""

    CRASH = "crash"
    """A process dies when it passes a crash point for the nth time."""
    KILL = "kill"
    """A process dies wherever it is."""
    FREEZE = "freeze"
    """A process stands still, and goes on as if nothing had been."""
    SILENT = "silent"
    """All processes of a service stand still."""
    DATABASE_AWAY = "database away"
    DATABASE_READ_ONLY = "database read-only"
    """The primary takes no writes for a time: what reads works, what locks or writes is refused."""
    LOCKED_ROW = "locked row"
    """Another session locks one account, or one order, for a time."""
    BROKER_AWAY = "broker away"
    CLOCK_JUMP = "clock jump"
    """The database's clock is set."""
    BROKER_CLOCK = "broker clock"
    REBALANCE = "rebalance"
    PRICE = "price"
    """The price of an asset changes."""
    NO_PRICE = "no price"
    """The price source of an asset says nothing."""
    PAUSE = "pause"
    """An operator pauses a participant for a time."""
    ASK_AGAIN = "ask again"
    """An operator has an order's questions asked at once."""
    ARCHIVE = "archive"
    """An operator archives whatever has ended, however young, again and again for a time."""
    POISON = "poison"
    """A message of an order can't be written, for a time; an operator resumes the order afterwards."""


class Fault(msgspec.Struct, frozen=True):
    """One fault. `target` is a node, a service, an asset, an order's number, or an account as user/asset."""

    kind: Kind
    target: str = ""
    at: float = 0.0
    for_s: float = 0.0
    point: CrashPoint | TriggerPoint | RestingPoint | None = None
    nth: int = 0
    amount: float = 0.0


class Rates(msgspec.Struct, frozen=True):
    """Chances, each of a single message, statement or commit."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    late_s: float = 0.0
    not_acknowledged: float = 0.0
    """A publish that stored some or all of the messages and reports a failure."""
    commit_unknown: float = 0.0
    connection_lost: float = 0.0
    slow: float = 0.0
    batch_most: int = 500


class Scenario(msgspec.Struct, frozen=True):
    """A whole history's plan."""

    seed: int
    orders: tuple[OrderPlan, ...]
    faults: tuple[Fault, ...]
    rates: Rates
    breaker_opens_after: int = 100
    """The number of repeated questions without an answer that opens the circuit breaker of a participant."""
    ticks: tuple[TickPlan, ...] = ()
    """Of the feed; without any, nobody publishes prices."""
    round_most: int = ROUND_MOST
    """Rows that one round of the trigger engine may find."""
