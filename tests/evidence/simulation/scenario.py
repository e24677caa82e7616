"""The plan of a history, drawn from its seed: orders, what users and operators do, and every fault, each a value.

A scenario is plain data, so that `shrink` can leave out parts of a failing one.
"""

from __future__ import annotations

from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from saga_kit.runtime.crash_points import CrashPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

REPLICAS: Final = {"orchestrator": 2, "balance": 2, "assets": 1}
NODES: Final = tuple(f"{service}-{number}" for service, count in REPLICAS.items() for number in range(count))
USERS: Final = ("alice", "bob", "carol")
HOLDINGS: Final = {
    **{(user, "USD"): "1500" for user in USERS},
    **{(user, "BTC"): "0.03" for user in ("alice", "bob")},
}
"""What users hold at the beginning: enough for some of the orders. The first asset that carol buys makes an account."""
BUSY_S: Final = 120.0
"""Orders are made, and faults begin, within this time."""
READ_ONLY_CHANCE: Final = 0.15
LOCKED_ROW_CHANCE: Final = 0.3
SETTING_ASIDE: Final = {CrashPoint.SET_ASIDE_WRITTEN, CrashPoint.SET_ASIDE_COMMITTED}
"""Crash points that only a message that can't be written leads to."""
_BY_PARTICIPANTS: Final = tuple(point for point in CrashPoint if point not in {CrashPoint.TIMERS_FOUND, *SETTING_ASIDE})
POINTS: Final = {"orchestrator": tuple(CrashPoint), "balance": _BY_PARTICIPANTS, "assets": _BY_PARTICIPANTS}
"""The crash points that each service passes here: only messages of orders are ever poisoned."""


class Cancel(msgspec.Struct, frozen=True):
    """A cancel, `at` seconds after the beginning."""

    at: float
    by: str


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
    point: CrashPoint | None = None
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


def draw(seed: int) -> Scenario:
    """Draw the plan of a history."""
    chance = Random(seed)  # noqa: S311 - repeatable on purpose
    orders = tuple(_order(chance, number) for number in range(chance.choice((1, 1, 2, 2, 3, 4, 6))))
    faults = tuple(_fault(chance, len(orders)) for _ in range(chance.choice((0, 1, 1, 2, 2, 3, 4, 6, 9))))
    faults += tuple(_poison(chance, len(orders)) for fault in faults if fault.point in SETTING_ASIDE)
    rates, breaker_opens_after = _rates(chance), chance.choice((1, 3, 100))
    if chance.random() < READ_ONLY_CHANCE:
        faults += (Fault(Kind.DATABASE_READ_ONLY, "", chance.uniform(0, BUSY_S), chance.choice((0.3, 3.0, 20.0))),)
    if chance.random() < LOCKED_ROW_CHANCE:
        faults += tuple(_locked_row(chance, orders) for _ in range(chance.choice((1, 1, 2))))
    return Scenario(seed, orders, faults, rates, breaker_opens_after)


def _order(chance: Random, number: int) -> OrderPlan:
    at = chance.choice((0.0, chance.uniform(0, 1), chance.uniform(0, BUSY_S)))
    side = chance.choice(("BUY", "SELL"))
    slip = chance.choice((0, 0, 0, 1))
    return OrderPlan(
        order_id=UUID(int=chance.getrandbits(128)),
        user_id=chance.choice((*USERS, *USERS, *USERS, "nobody")),
        asset_id=chance.choice(("BTC",) * 8 + ("HALT", "NONE")),
        side=side,
        quantity=chance.choice(("0.01",) * 6 + ("0.01234567",) * 4 + ("0.02",) * 3 + ("0.012345678", "0.0001", "0.19")),
        price=chance.choice((None, "50000", "50000", "50000", "49000" if slip else "50100")),
        client_order_id=chance.choice((None, None, f"client-{number}", "client-same")),
        at=at,
        stamped_off_s=chance.choice((0.0,) * 6 + (-50.0, -59.5, -61.0, 90.0)),
        copies=chance.choice((1, 1, 1, 2, 3)),
        sent_with_other_words=chance.random() < 0.05,
        invalid=chance.random() < 0.03,
        trusting=chance.random() < 0.5,
        cancels=tuple(_cancel(chance, at) for _ in range(chance.choice((0, 0, 0, 1, 1, 2)))),
    )


def _cancel(chance: Random, at: float) -> Cancel:
    after = chance.choice((0.0, chance.uniform(-2, 2), chance.uniform(0, 0.1), chance.uniform(0, 90)))
    return Cancel(max(0.0, at + after), chance.choice(("user", "user", "user", "operator", "another user")))


_DRAWN: Final = tuple(kind for kind in Kind if kind not in {Kind.DATABASE_READ_ONLY, Kind.LOCKED_ROW})
"""Kinds that are drawn one by one; newer kinds are drawn last, so that the histories of known seeds do not change."""


def _fault(chance: Random, orders: int) -> Fault:  # noqa: PLR0911 - one for each kind
    kind = chance.choice((Kind.CRASH,) * 5 + (Kind.KILL,) * 2 + _DRAWN)
    at = chance.choice((chance.uniform(0, 2), chance.uniform(0, BUSY_S)))
    for_s = chance.choice((0.0, 0.3, chance.uniform(0, 12), chance.uniform(0, 100)))
    match kind:
        case Kind.CRASH:
            node = chance.choice(NODES)
            point = chance.choice(POINTS[node.partition("-")[0]])
            nth = 1 if point in SETTING_ASIDE else chance.choice((1, 1, 1, 2, 2, 3, 4, 6))
            return Fault(kind, node, 0.0, for_s, point, nth)
        case Kind.KILL | Kind.FREEZE:
            return Fault(kind, chance.choice(NODES), at, for_s)
        case Kind.SILENT | Kind.REBALANCE:
            return Fault(kind, chance.choice(tuple(REPLICAS)), at, for_s)
        case Kind.CLOCK_JUMP | Kind.BROKER_CLOCK:
            return Fault(kind, "", at, 0.0, amount=chance.choice((-40.0, -3.0, 2.5, 31.0, 400.0)))
        case Kind.PAUSE:
            return Fault(kind, chance.choice(("assets", "balance")), at, for_s)
        case Kind.PRICE:
            return Fault(kind, "BTC", at, 0.0, amount=chance.choice((49_000.0, 49_400.0, 50_400.0, 50_600.0)))
        case Kind.NO_PRICE:
            return Fault(kind, "BTC", at, for_s)
        case Kind.ASK_AGAIN:
            return Fault(kind, str(chance.randrange(orders)), at)
        case Kind.POISON:
            return _poison(chance, orders)
        case _:
            return Fault(kind, "", at, for_s)


def _poison(chance: Random, orders: int) -> Fault:
    at = chance.choice((0.0, chance.uniform(0, 2), chance.uniform(0, BUSY_S)))
    return Fault(Kind.POISON, str(chance.randrange(orders)), at, 5 + chance.choice((0.0, chance.uniform(0, 100))))


def _locked_row(chance: Random, orders: Sequence[OrderPlan]) -> Fault:
    number = chance.randrange(len(orders))
    if early := [plan for plan in orders if any(cancel.at < plan.at for cancel in plan.cancels)]:
        # The row exists before its request, which is sent only once: a message that must not be dropped meets a lock.
        plan = chance.choice(early)
        at = min(cancel.at for cancel in plan.cancels)
        return Fault(Kind.LOCKED_ROW, str(orders.index(plan)), at, chance.choice((1.0, 12.0, 50.0)))
    account = f"{orders[number].user_id}/{chance.choice(('USD', 'BTC'))}"
    at = max(0.0, orders[number].at + chance.choice((-1.0, 0.0, chance.uniform(0, 1), chance.uniform(0, 60))))
    return Fault(Kind.LOCKED_ROW, chance.choice((account, str(number))), at, chance.choice((1.0, 12.0, 100.0)))


def _rates(chance: Random) -> Rates:
    def sometimes(*values: float) -> float:
        return chance.choice((0.0, 0.0, *values))

    return Rates(
        lost=sometimes(0.02, 0.2, 0.5),
        doubled=sometimes(0.05, 0.5),
        late=sometimes(0.05, 0.3),
        late_s=chance.choice((0.5, 5.0, 40.0, 200.0)),
        not_acknowledged=sometimes(0.05, 0.3),
        commit_unknown=sometimes(0.02, 0.2),
        connection_lost=sometimes(0.005, 0.03),
        slow=sometimes(0.02, 0.1),
        batch_most=chance.choice((1, 2, 3, 500)),
    )
