"""Conditional orders of every kind and side, the prices that tell their histories apart, and a walk over each of them.

A price matters in four ways only: it fires the order and may be paid, it fires but breaks the limit, it fires but is
beyond what the order pays at all, or it does nothing. A bracket has a fifth, beyond its limit on the other side.
`PRICES` names one price of each, away from the quote of 50,000 by so much in the direction in which the order waits.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import structs

from contracts.assets import Trading
from contracts.decimals import Price, Quantity
from contracts.vocabulary import OrderKind, OrderType, Side, TimeInForce
from order_saga.core.saga import Fire, Fired, Mark, Phase, Requested
from tests.order_saga.core import sample
from tests.order_saga.core.walker import EXPIRES_AT, Explored, Walk, explore
from tests.order_saga.core.world import HELD, REFUNDED, REFUSED, SETTLED, TOMBSTONE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contracts.assets import AssetApproved
    from order_saga.core.saga import Incoming

QUOTE: Final = 50_000
MARKET, LIMIT, STOP_LOSS, TAKE_PROFIT, TRAILING_STOP, BRACKET = (
    OrderKind.MARKET,
    OrderKind.LIMIT,
    OrderKind.STOP_LOSS,
    OrderKind.TAKE_PROFIT,
    OrderKind.TRAILING_STOP,
    OrderKind.BRACKET,
)
GTC, GTD, IOC, FOK = TimeInForce.GTC, TimeInForce.GTD, TimeInForce.IOC, TimeInForce.FOK
DAY: Final = TimeInForce.DAY

PRICES: Final = {
    MARKET: {"fires": 100, "breaks the limit": 100, "too far": 600, "neither": 100},
    LIMIT: {"fires": 1_050, "breaks the limit": 900, "too far": 900, "neither": 500},
    STOP_LOSS: {"fires": 1_100, "breaks the limit": 1_400, "too far": 1_600, "neither": 500},
    TAKE_PROFIT: {"fires": 1_300, "breaks the limit": 1_100, "too far": 900, "neither": 500},
    TRAILING_STOP: {"fires": 600, "breaks the limit": 600, "too far": 1_600, "neither": 100},
    BRACKET: {
        "fires": 1_100,
        "breaks the limit": 1_100,
        "too far": 1_600,
        "neither": 500,
        "fires by its limit": -1_100,
    },
}


class Case(NamedTuple):
    """A conditional order: its type, whether a stop becomes a limit order, and for how long it waits.

    A market order of these may queue, and its asset is closed; with GTD it names its end, with GTC it names none.
    """

    order_type: OrderType
    has_limit: bool
    time_in_force: TimeInForce

    def __str__(self) -> str:
        """Name the case in a report of tests."""
        return f"{self.order_type}{' with a limit' if self.has_limit else ''}, {self.time_in_force}"

    @property
    def rises(self) -> bool:
        """Whether the order waits for a higher price; of a bracket, whether its stop does.

        Of one that queues: whether a higher price is the worse one.
        """
        return (self.order_type.side is Side.BUY) is (
            self.order_type.kind in {MARKET, STOP_LOSS, TRAILING_STOP, BRACKET}
        )

    @property
    def rests_in(self) -> Phase | None:
        """In which phase the order waits, if it does."""
        if self.time_in_force is IOC:
            return None
        return Phase.QUEUED if self.order_type.kind is MARKET else Phase.WORKING

    def approved(self, price: str = str(QUOTE), *, is_open: bool = True) -> AssetApproved:
        """Approve the order at a quote; its asset has sessions if the order is to end with one."""
        trading = Trading.OPEN if is_open else Trading.CLOSED
        ends_at = EXPIRES_AT if self.time_in_force is DAY else None
        return sample.approved(price, trading=trading, session_ends_at=ends_at)

    def at(self, name: str) -> Price:
        """Return the price of this name, as far from the quote as `PRICES` says."""
        return self.away(PRICES[self.order_type.kind][name])

    def away(self, distance: int) -> Price:
        """Return the price that is so far from the quote, where the order waits."""
        return Price(QUOTE + distance if self.rises else QUOTE - distance)

    def regions(self) -> list[str]:
        """List the names of the prices that differ for this order."""
        every = PRICES[self.order_type.kind]
        names = {self.at(name): name for name in reversed(every)}
        return [name for name in every if name in names.values()]

    def terms(self) -> dict[str, Any]:
        """Give the fields of the request."""
        kind, terms = self.order_type.kind, dict[str, Any]()
        expires = {"expires_at": EXPIRES_AT} if self.time_in_force is GTD else {}
        if kind is MARKET:
            return {"price": Price(QUOTE), "queue_when_closed": True, **expires}
        if kind is LIMIT:
            terms["limit_price"] = self.away(1_000)
        elif kind is TRAILING_STOP:
            terms |= {"trail_bps": 100} if self.order_type.side is Side.BUY else {"trail_amount": Price(500)}
        else:
            terms["trigger_price"] = self.away(1_000)
            if self.order_type.kind is BRACKET:
                terms["limit_price"] = self.away(-1_000)
            elif self.has_limit:
                terms["limit_price"] = self.away(1_200)
        return {**terms, "time_in_force": self.time_in_force, **expires}

    def requested(self, **changes: Any) -> Requested:
        """Wrap a request for the order."""
        return sample.conditional(self.order_type, **{**self.terms(), **changes})

    def fired(self, name: str) -> Fired:
        """Report that a tick at the price of this name has fired the order."""
        watermark = Price(QUOTE) if self.order_type.kind is TRAILING_STOP else None
        return Fired(sample.ORDER_ID, Fire(12, self.at(name), sample.NOW, watermark))

    def marks(self) -> dict[str, Mark]:
        """List how the market may stand when the order reaches it: newer or older than its quote, live or not."""
        stands = {f"the market {name}": Mark(9, self.at(name), sample.NOW, live=True) for name in self.regions()}
        fires = self.at("fires")
        return stands | {
            "the market fired before the quote": Mark(3, fires, sample.NOW, live=True),
            "the market fires, but is not live": Mark(9, fires, sample.NOW, live=False),
        }


def _cases() -> Iterator[Case]:
    for side in Side:
        for time_in_force in (GTC, GTD, DAY, IOC):
            yield Case(OrderType[f"LIMIT_{side}"], has_limit=True, time_in_force=time_in_force)
        yield Case(OrderType[f"MARKET_{side}"], has_limit=False, time_in_force=GTC if side is Side.BUY else GTD)
        for kind, has_limit in product((STOP_LOSS, TAKE_PROFIT), (False, True)):
            waits = GTD if has_limit is (side is Side.BUY) else GTC
            yield Case(OrderType[f"{kind}_{side}"], has_limit, waits)
        yield Case(OrderType[f"BRACKET_{side}"], has_limit=False, time_in_force=GTD)
        yield Case(OrderType[f"TRAILING_STOP_{side}"], has_limit=False, time_in_force=GTD)


CASES: Final = tuple(_cases())
ENTERS: Final = {Side.BUY: ("reserved", "resume"), Side.SELL: ("reserved", "approved", "resume")}
"""The messages that can take an order to the market."""
DURING_PAUSES: Final = ("reserved", "approved", "fired at fires", "timer", "resume", "cancel by the user", "refunded")


def messages(case: Case) -> dict[str, Incoming]:
    """List what may come to a conditional order, whatever the market does."""
    told: dict[str, Incoming] = {
        "request": case.requested(),
        "request with other content": case.requested(quantity=Quantity("0.02")),
        "request that is one too many": structs.replace(case.requested(), too_many_open=200),
        "request that breaks a rule": sample.invalid(),
        "cancel by the user": sample.cancel(),
        "cancel by an operator": sample.cancel(sample.OPERATOR),
        "cancel by another user": sample.cancel(sample.OTHER_USER),
        "timer": sample.timer(),
        "park": sample.park(),
        "resume": sample.resume(),
        "ask again": sample.ask_again(),
        "recovery of what is known": sample.recovery(),
        "approved": case.approved(is_open=case.order_type.kind is not MARKET),
        "approved while open, without sessions": sample.approved(),
        "approved where it fires": case.approved(str(case.at("fires"))),
        "approved near it": case.approved(str(case.at("neither"))),
        "asset refused": sample.not_approved(),
        "reserved": sample.reserved(),
        "not reserved": sample.not_reserved(),
        "settled": sample.settled(SETTLED),
        "not settled": sample.not_settled(),
        "refunded": sample.refunded(REFUNDED),
        "refunded: tombstone": sample.refunded(TOMBSTONE),
        "refunded: refused": sample.refunded(REFUSED),
        "not refunded": sample.not_refunded(),
        "reserved, to another command": structs.replace(sample.reserved(HELD), command_id="another:command"),
        "expiry due": sample.expiry_due(),
        "triggered": sample.triggered(str(case.at("breaks the limit"))),
    }
    return told | {f"fired at {name}": case.fired(name) for name in case.regions()}


@cache
def walked_conditional(case: Case) -> tuple[Walk, Explored[int]]:
    """Walk all states of a conditional order, with every stand of the market on each way to it."""
    told, marks = messages(case), case.marks()
    entering = {
        f"{name}, {stand}": (told[name], mark) for name in ENTERS[case.order_type.side] for stand, mark in marks.items()
    }
    walk = Walk(
        {**told, **{name: message for name, (message, _) in entering.items()}},
        during_pauses=DURING_PAUSES,
        marks={name: mark for name, (_, mark) in entering.items()},
    )
    return walk, explore(0, walk.successors)
