"""What became of a change: of the order as it is shown, and of what its history says. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from contracts.amends import AmendRefusal, AmendState
from contracts.orders import Order
from contracts.vocabulary import OrderStatus, ReasonCode
from order_api.http.problems import Code, Problem
from order_api.orders.changes.store import Read
from order_api.orders.publication.messages import Wish

_ENDED: Final = "the order is {status}"
_NOT_YET: Final = "the order does not rest yet: it is PENDING"
_WHY_REFUSED: Final = {
    "too_early": (AmendRefusal.NOT_AMENDABLE, "the order did not rest yet"),
    "too_late": (AmendRefusal.TOO_LATE, "the order was fired, cancelled or had expired before"),
    "too_many": (AmendRefusal.TOO_MANY_AMENDS, "the order was amended as often as is allowed"),
}
"""The words of the history for an amend that the order does not show."""


def refuse_amend_by_status(order: Order) -> None:
    """Raise the problem when no amend of this order can be put in force: it does not rest yet, or no more."""
    if order.status is OrderStatus.PENDING:
        raise amend_refused(order, AmendRefusal.NOT_AMENDABLE, _NOT_YET)
    if order.status is not OrderStatus.CONFIRMED:
        raise amend_refused(order, AmendRefusal.TOO_LATE, _ENDED.format(status=order.status))
    if order.cancel_requested:
        raise amend_refused(order, AmendRefusal.TOO_LATE, "a cancel of the order is accepted")
    last = order.amend
    if last is not None and last.reason_code is AmendRefusal.TOO_MANY_AMENDS:
        raise amend_refused(order, last.reason_code, last.reason)


def amend_is_over(order: Order, amend_id: str) -> bool:
    """Tell whether an order shows what became of an amend, or can never be amended again."""
    if order.amend is not None and order.amend.amend_id == amend_id:
        return order.amend.state is not AmendState.PENDING
    return order.status not in {OrderStatus.PENDING, OrderStatus.CONFIRMED}


def amend_applied(order: Order, amend_id: str, history: Sequence[Read], headers: Mapping[str, str]) -> bool:
    """Return whether an amend is in force; raise the problem of one that was refused. Not yet known: False.

    The order shows one amend; of any other one the history tells.
    """
    shown = order.amend
    if shown is not None and shown.amend_id == amend_id:
        if shown.state is AmendState.REFUSED:
            assert shown.reason_code is not None  # noqa: S101 - a refusal has its code
            raise amend_refused(order, shown.reason_code, shown.reason, headers)
        return shown.state is AmendState.APPLIED
    for read in history:
        if read.kind == "amend_refused" and read.reason_code is not None:
            raise amend_refused(order, AmendRefusal(read.reason_code), read.reason, headers)
        if read.kind == "ignored" and read.why in _WHY_REFUSED:
            raise amend_refused(order, *_WHY_REFUSED[read.why], headers)
    ended = order.status not in {OrderStatus.PENDING, OrderStatus.CONFIRMED}
    if any(read.kind == "received" for read in history):
        return ended  # it was not refused; while the order rests it may still be under way
    if ended:
        raise amend_refused(order, *_WHY_REFUSED["too_late"], headers)
    return False


def amend_refused(
    order: Order, code: AmendRefusal, reason: str | None, headers: Mapping[str, str] | None = None
) -> Problem:
    """Make the problem of an amend that changes nothing."""
    return Problem(
        Code.AMEND_REFUSED,
        reason,
        headers=headers,
        order_id=order.order_id,
        order_status=order.status,
        amend_refusal=code,
    )


def refuse_unless_resting(order: Order, headers: Mapping[str, str] | None = None) -> None:
    """Raise the problem when an order can be neither held nor released: it does not rest yet, or no more."""
    if order.status is OrderStatus.PENDING:
        raise not_resting(order, _NOT_YET, headers)
    if order.status is not OrderStatus.CONFIRMED:
        raise not_resting(order, _ENDED.format(status=order.status), headers)
    if order.cancel_requested:
        raise not_resting(order, "a cancel of the order is accepted", headers)


def is_granted(order: Order, wish: Wish) -> bool:
    """Tell whether an order is as it was wished."""
    return order.on_hold is (wish is Wish.HOLD)


def wish_granted(order: Order, wish: Wish, history: Sequence[Read], headers: Mapping[str, str]) -> bool:
    """Return whether a hold or a release is done; raise the problem of one that was refused. Not yet known: False.

    Of several lines of one wish the first counts: the others are of the same message, published again.
    """
    if history and history[0].kind in {"held", "released", "ignored"}:
        if history[0].kind == "ignored" and history[0].why != "duplicate":
            _refuse_wish(order, wish, history[0], headers)
        return True
    refuse_unless_resting(order, headers)
    return False


def _refuse_wish(order: Order, wish: Wish, read: Read, headers: Mapping[str, str]) -> None:
    """Raise the problem of a wish that changed nothing. One that a later one overtook is granted by what stands now."""
    about: dict[str, Any] = {"headers": headers, "order_id": order.order_id, "order_status": order.status}
    if read.why == "late":
        if not is_granted(order, wish):
            stands = "the order is on hold" if order.on_hold else "the order is not on hold"
            raise Problem(Code.OVERTAKEN, stands, **about)
    elif read.why == "not_allowed":
        raise Problem(Code.HELD_BY_OPERATOR, **about)
    elif read.why == "too_many":
        raise Problem(Code.TOO_MANY_HOLDS, **about)
    elif read.why == "conflict":
        code = order.release_refused or ReasonCode.WOULD_TRIGGER_IMMEDIATELY
        raise Problem(Code.RELEASE_REFUSED, read.reason, release_refused=code, **about)
    else:
        raise not_resting(order, None, headers)


def not_resting(order: Order, detail: str | None, headers: Mapping[str, str] | None = None) -> Problem:
    """Make the problem of a hold or a release of an order that does not rest."""
    return Problem(Code.ORDER_NOT_RESTING, detail, headers=headers, order_id=order.order_id, order_status=order.status)
