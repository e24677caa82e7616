"""Weighs changes of a resting order: what stops an amend, what its terms need, and what the market says to them. Pure.

Nothing here changes a saga: `transition` puts terms in force, and `advance` says when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import structs

from contracts.amends import AmendRefusal, changes_of
from contracts.decimals import plain_text
from contracts.terms import EXPIRES_WITHIN, faults
from contracts.vocabulary import OrderKind, ReasonCode, Side, TimeInForce
from order_saga.core.commands import required_hold
from order_saga.core.entry import trail_out_of_range, trail_start, uncarried_terms
from order_saga.core.levels import levels, worst_price
from order_saga.core.phases import AMENDS_MAX
from order_saga.core.revision import TIMES, as_request
from order_saga.core.saga import Fire, Mark, Phase, Rest, Saga
from order_saga.core.trail import trail_reached

if TYPE_CHECKING:
    from datetime import datetime

    from contracts.amends import OrderAmendRequested
    from contracts.decimals import Price

_PRICES: Final = ("limit_price", "trigger_price", "trail_amount", "trail_bps")
_TRIGGERED: Final = "trigger_price: the trigger was met, and is not tested again"


class AmendRefused(NamedTuple):
    """Why an amend is refused."""

    code: AmendRefusal
    reason: str


class Judged(NamedTuple):
    """What the market says to new terms that may be put in force now."""

    fire: Fire | None
    """The mark meets them: the order fills at it."""
    rest: Rest
    """From where on the market counts under them."""


class Unreleasable(NamedTuple):
    """Why an order stays on hold."""

    code: ReasonCode
    reason: str


def refusal_at_once(saga: Saga, asked: OrderAmendRequested, now: datetime) -> AmendRefused | None:
    """Say why an amend of a resting order is refused before anybody is asked, or None."""
    progress = saga.progress
    if len(progress.amend_ids) >= AMENDS_MAX:
        return AmendRefused(AmendRefusal.TOO_MANY_AMENDS, f"the order was amended {AMENDS_MAX} times")
    if progress.amending is not None or saga.phase is Phase.LOWERING:
        return AmendRefused(AmendRefusal.AMEND_IN_PROGRESS, "another amend is not done yet")
    if saga.parked_reason is not None:
        return AmendRefused(AmendRefusal.NOT_AMENDABLE, "the order waits for an operator")
    expected = asked.expected_versions
    if expected is not None and saga.version not in expected:
        others = f"not {expected[0]}" if len(expected) == 1 else f"none of the {len(expected)} that were expected"
        return AmendRefused(AmendRefusal.VERSION_MISMATCH, f"the order's version is {saga.version}, {others}")
    return _overtaken(saga, now) or _unfit(saga, changes_of(asked)) or _expiry_out_of_range(changes_of(asked), now)


def _overtaken(saga: Saga, now: datetime) -> AmendRefused | None:
    """Say that the order's own time has come, by the terms in force: it only waits to be ended."""
    ends_at = saga.expires_at
    if ends_at is None or ends_at > now:
        return None
    return AmendRefused(AmendRefusal.TOO_LATE, f"the order's expires_at {ends_at.isoformat()} has come")


def _unfit(saga: Saga, changes: dict[str, Any]) -> AmendRefused | None:
    """Say which change the order can't take, by what it was asked with, or which fields would not fit together."""
    if not changes:
        return AmendRefused(AmendRefusal.INVALID_ORDER, "nothing is to be changed")
    if why := _unchangeable(saga, changes):
        return AmendRefused(AmendRefusal.NOT_AMENDABLE, why)
    if found := faults(as_request(saga, changes)):
        return AmendRefused(AmendRefusal.INVALID_ORDER, "; ".join(f"{fault.field}: {fault.rule}" for fault in found))
    return None


def _unchangeable(saga: Saga, changes: dict[str, Any]) -> str | None:
    """Name what no amend changes: the fields that the order was asked without, and whether it waits at all."""
    assert saga.terms is not None and saga.order_type is not None  # noqa: S101, PT018 - a resting order has both
    if saga.order_type.kind is OrderKind.MARKET and (more := changes.keys() - {"expires_at"}):
        return f"{min(more)}: of a queued market order only its expires_at can change"
    lacking = [name for name in _PRICES if name in changes and getattr(saga.terms, name) is None]
    if lacking:
        return f"{lacking[0]}: the order has none, and an amend adds none"
    if "trigger_price" in changes and saga.progress.triggered:
        return _TRIGGERED
    force = changes.get("time_in_force")
    possible = force in {None, TimeInForce.GTC, TimeInForce.GTD}
    return None if possible else f"time_in_force: a resting order can't become {force}"


def _expiry_out_of_range(changes: dict[str, Any], now: datetime) -> AmendRefused | None:
    expires_at = changes.get("expires_at")
    if expires_at is None:
        return None
    if expires_at <= now:
        return AmendRefused(AmendRefusal.EXPIRED, f"expires_at {expires_at.isoformat()} has come")
    if expires_at > now + EXPIRES_WITHIN:
        return AmendRefused(AmendRefusal.INVALID_ORDER, f"expires_at: must be within {EXPIRES_WITHIN.days} days")
    return None


def only_time_changes(asked: OrderAmendRequested) -> bool:
    """Tell whether an amend needs nobody's consent: it changes only how long the order may wait."""
    return all(name in TIMES for name in changes_of(asked))


def objection_to_change(saga: Saga, new: Saga, now: datetime) -> AmendRefused | None:
    """Say what keeps new terms from ever being put in force: what became of the order meanwhile, or their sums."""
    return _overtaken(saga, now) or _triggered_meanwhile(saga, new) or _not_carried(new)


def _triggered_meanwhile(saga: Saga, new: Saga) -> AmendRefused | None:
    assert saga.terms is not None and new.terms is not None  # noqa: S101, PT018 - a resting order has terms
    if not saga.progress.triggered or new.terms.trigger_price == saga.terms.trigger_price:
        return None
    return AmendRefused(AmendRefusal.NOT_AMENDABLE, _TRIGGERED)


def _not_carried(new: Saga) -> AmendRefused | None:
    """Say what is wrong with new terms at the quote by which they were approved, or None."""
    terms, quote = new.terms, new.progress.quote
    assert terms is not None and quote is not None  # noqa: S101, PT018 - a resting order has both
    began_at = new.progress.trails_from
    if began_at is not None and (why := trail_out_of_range(new, began_at)):
        return AmendRefused(AmendRefusal.PRICE_OUT_OF_RANGE, why)
    if found := uncarried_terms(new):
        return AmendRefused(AmendRefusal[found[0]], found[1] or "")
    return None


def needs_more(new: Saga) -> bool:
    """Tell whether an order under new terms must hold more than it surely does."""
    hold = new.progress.hold
    assert hold is not None  # noqa: S101 - a resting order holds money
    return required_hold(new).amount > min((hold.amount, *new.progress.unconfirmed))


def judge(saga: Saga, new: Saga, mark: Mark, watermark: Price | None, now: datetime) -> Judged | AmendRefused:
    """Decide whether new terms may be put in force now, and from where on the market counts under them.

    `mark` is the newest that is known of the market (`entry.newest`). No price from before counts: what moves an order
    in the queue starts at the mark. A trailing stop keeps its watermark, and so its place.
    """
    terms, order_type, rest = new.terms, new.order_type, saga.progress.rest
    assert terms is not None and order_type is not None and rest is not None  # noqa: S101, PT018 - it rests
    if new.expires_at is not None and new.expires_at <= now:
        return AmendRefused(AmendRefusal.EXPIRED, f"expires_at {new.expires_at.isoformat()} has come")
    if mark.sequence < rest.from_sequence:  # the market as it was before the order rested
        return Judged(None, rest)
    waits_for = levels(order_type, terms, triggered=saga.progress.triggered)
    if not waits_for:
        best = watermark or rest.watermark
        reached = best is not None and trail_reached(new.side, mark.price, best, terms.trail_amount, terms.trail_bps)
    else:
        reached = any(level.is_reached(mark.price) for level in waits_for)
    if reached and not _waits_for_its_limit(new):
        return AmendRefused(AmendRefusal.WOULD_TRIGGER_IMMEDIATELY, f"the price {mark.price:f} meets the new trigger")
    if reached and mark.live and saga.progress.suspended is None:
        return Judged(Fire(mark.sequence, mark.price, mark.as_of), rest)
    return Judged(None, rest if not waits_for or _keeps_its_place(saga, new) else _from_mark(mark, now))


def _waits_for_its_limit(saga: Saga) -> bool:
    """Tell whether an order that is met may fill: any other one waits for a trigger."""
    return saga.order_type is not None and (saga.order_type.kind is OrderKind.LIMIT or saga.progress.triggered)


def _keeps_its_place(saga: Saga, new: Saga) -> bool:
    """Tell whether new terms ask no more of the market: only a smaller quantity, or another time."""
    same = all(getattr(saga.terms, name) == getattr(new.terms, name) for name in _PRICES)
    same = same and saga.slippage_bps == new.slippage_bps
    assert saga.quantity is not None and new.quantity is not None  # noqa: S101, PT018 - a resting order has one
    return same and new.quantity <= saga.quantity


def _from_mark(mark: Mark, now: datetime) -> Rest:
    """Begin to rest at the mark. One that could not fire counts once more when it is repeated."""
    return Rest(mark.sequence if mark.live else max(0, mark.sequence - 1), now)


def judge_release(saga: Saga, mark: Mark, now: datetime) -> Judged | Unreleasable:
    """Decide what becomes of a suspended order that is released: a new acceptance, or why it is not possible.

    No order is released into its own trigger. A trailing stop's watermark begins anew, where its trail leads to a
    price that it can be filled at, and a limit that the market meets is filled.
    """
    terms, order_type, rest = saga.terms, saga.order_type, saga.progress.rest
    assert terms is not None and order_type is not None and rest is not None  # noqa: S101, PT018 - it rests
    if mark.sequence < rest.from_sequence:  # the market as it was before the order rested
        return Judged(None, structs.replace(rest, entered_at=now))
    if order_type.kind is OrderKind.MARKET:  # it waits for an opening
        met = Fire(mark.sequence, mark.price, mark.as_of) if mark.live else None
        return Judged(met, rest if mark.live else _from_mark(mark, now))
    waits_for = levels(order_type, terms, triggered=saga.progress.triggered)
    if not waits_for:
        return _trail_anew(saga, mark, now)
    if any(level.is_reached(mark.price) for level in waits_for):
        if not _waits_for_its_limit(saga):
            why = f"the price {mark.price:f} meets the trigger already"
            return Unreleasable(ReasonCode.WOULD_TRIGGER_IMMEDIATELY, why)
        if mark.live:
            return Judged(Fire(mark.sequence, mark.price, mark.as_of), rest)
    return Judged(None, _from_mark(mark, now))


def _trail_anew(saga: Saga, mark: Mark, now: datetime) -> Judged | Unreleasable:
    """Begin to trail at the mark, unless no fire from there could be filled: by its trail, or by what a BUY holds."""
    why = trail_out_of_range(saga, mark.price)
    level, most = trail_start(saga, mark.price), worst_price(saga)
    if why is None and saga.side is Side.BUY and level > most:
        why = f"the trail leads from {mark.price:f} to {plain_text(level)}, and it holds money for {plain_text(most)}"
    if why is not None:
        return Unreleasable(ReasonCode.PRICE_OUT_OF_RANGE, why)
    return Judged(None, Rest(mark.sequence, now, mark.price))
