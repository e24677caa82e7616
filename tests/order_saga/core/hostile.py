"""Every message of the right type that an order can get, also false ones, as faulty participants would send."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from msgspec import structs

from contracts.assets import AssetRefusal
from contracts.balance import BalanceRefusal
from contracts.vocabulary import HoldState, Side
from tests.order_saga.core import sample
from tests.order_saga.core.walker import Explored, Walk, explore
from tests.order_saga.core.world import always, replies

if TYPE_CHECKING:
    from order_saga.core.saga import Incoming, Reply

_NO_BUSINESS = (BalanceRefusal.INSUFFICIENT_BALANCE, BalanceRefusal.CLOSED, BalanceRefusal.HOLD_CONFLICT)
"""A reason that can end an order, one that only the balance service uses, and the one that parks the order."""


@cache
def walked(side: Side) -> tuple[Walk, Explored[int]]:
    """Walk all states of an order that gets any message; during pauses only the messages of `always` come."""
    walk = Walk(lies(side), during_pauses={*always(side)})
    return walk, explore(0, walk.successors)


def lies(side: Side) -> dict[str, Incoming]:
    """List each reply with each hold state, each reason that makes a difference, and the ids of other commands."""
    told: dict[str, Incoming] = {**always(side), **replies(side)}
    told["approved, but the fee takes all"] = sample.approved(fee_bps=10_000)
    told |= {f"asset refused: {code}": sample.not_approved(code) for code in AssetRefusal}
    for state in HoldState:
        told[f"reserved {state}"] = sample.reserved(state)
        told[f"settled {state}"] = sample.settled(state)
        told[f"refunded {state}"] = sample.refunded(state)
        for code in _NO_BUSINESS:
            told[f"not reserved {state} {code}"] = sample.not_reserved(code, state)
            told[f"not settled {state} {code}"] = sample.not_settled(code, state)
            told[f"not refunded {state} {code}"] = sample.not_refunded(code, state)
    told |= {"amend": sample.amend(quantity="0.02"), "hold": sample.suspend(), "release": sample.release()}
    told |= {"fired": sample.fired("50000"), "triggered": sample.triggered("50000"), "expiry due": sample.expiry_due()}
    for reply in one_of_each():
        told[f"{type(reply).__name__} to another command"] = structs.replace(reply, command_id="another:command")
    return told


def one_of_each() -> tuple[Reply, ...]:
    """Return one plausible reply of each type."""
    return (
        sample.approved(),
        sample.not_approved(),
        sample.reserved(),
        sample.not_reserved(),
        sample.settled(),
        sample.not_settled(),
        sample.refunded(),
        sample.not_refunded(),
        sample.adjusted(),
        sample.not_adjusted(),
    )
