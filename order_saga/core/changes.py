"""Handles what changes an order that rests: amends, suspensions and releases. Pure, as `advance` is, which calls it.

Each is for an order in a resting phase that is not bound to end. Who is too early or too late is told so in the
history alone; what was judged is shown on the order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import structs

from contracts.amends import (
    AmendState,
    OrderAmendment,
    OrderAmendRequested,
    OrderHoldRequested,
    OrderReleaseRequested,
    changes_of,
)
from contracts.envelope import format_time
from contracts.vocabulary import OPERATOR_PREFIX
from order_saga.core.judgement import cancel_outcome, created_at, expired_outcome
from order_saga.core.phases import AMENDS_MAX, PHASES, RESTING, SUSPENSIONS_MAX
from order_saga.core.revision import revised
from order_saga.core.saga import Amending, Ignored, LastWish, Phase, Rest, Suspension, Why
from order_saga.core.transition import enter_phase, fire, market, note_rest, put_in_force, refuse
from order_saga.core.weighing import Judged, Unreleasable, judge_release, only_time_changes, refusal_at_once

if TYPE_CHECKING:
    from datetime import datetime

    from order_saga.core.draft import Draft
    from order_saga.core.saga import ChangeRequested, Saga


def amend(draft: Draft, message: OrderAmendRequested) -> Ignored | None:
    """Refuse an amend where everybody sees it, put it in force, or ask about it."""
    saga, name, detail = draft.saga, "OrderAmendRequested", _by(message) | {"amend_id": message.amend_id}
    known = saga.progress.amend_ids
    if message.amend_id in known:
        return Ignored(Why.DUPLICATE, name, detail)
    if ignored := _not_now(draft, message, detail):
        return ignored
    if len(known) > AMENDS_MAX:
        return Ignored(Why.TOO_MANY, name, detail)
    refusal = refusal_at_once(saga, message, draft.now)
    asked = OrderAmendment(message.amend_id, AmendState.PENDING, **changes_of(message))
    draft.note("received", name, **detail, **changes_of(message))
    draft.learn(amend_ids=(*known, message.amend_id))
    if refusal is not None:
        refuse(draft, asked, refusal)
        draft.show()
        return None
    amending = Amending(asked)
    draft.learn(amend=asked, amending=amending)
    if only_time_changes(message):
        assert saga.progress.rest is not None  # noqa: S101 - it rests
        put_in_force(draft, revised(draft.saga, amending), Judged(None, saga.progress.rest))
        draft.show()
        return None
    draft.show()
    enter_phase(draft, Phase.AMENDING, None)
    return None


def hold(draft: Draft, message: OrderHoldRequested) -> Ignored | None:
    """Suspend a resting order. An operator's suspension takes the place of its user's."""
    saga, name, detail = draft.saga, "OrderHoldRequested", _wish(message)
    known = saga.progress
    if ignored := _not_now(draft, message, detail) or _overtaken(draft, message, detail):
        return ignored
    _note_wish(draft, message)
    by_operator = _is_operator(message.requested_by)
    if known.suspended is not None and (_is_operator(known.suspended.requested_by) or not by_operator):
        return _changes_nothing(draft, message, Why.DUPLICATE, detail)
    if known.suspensions >= SUSPENSIONS_MAX and not by_operator:
        return _changes_nothing(draft, message, Why.TOO_MANY, detail)
    draft.note("held", name, **detail, **({} if message.reason is None else {"reason": message.reason}))
    shows = known.suspended is None or known.release_refused is not None
    draft.learn(
        suspended=Suspension(message.requested_by, message.reason),
        suspensions=known.suspensions + 1,
        release_refused=None,
        rest=_stands_still(draft),
    )
    if shows:
        draft.show()
    return None


def release(draft: Draft, message: OrderReleaseRequested) -> Ignored | None:
    """Let a suspended order rest again as if it were accepted now, or say why that is not possible."""
    saga, name, detail = draft.saga, "OrderReleaseRequested", _wish(message)
    ignored = _not_now(draft, message, detail) or _overtaken(draft, message, detail)
    if ignored := ignored or _not_released_by(saga, message, detail):
        return ignored
    _note_wish(draft, message)
    if saga.progress.suspended is None:
        return _changes_nothing(draft, message, Why.DUPLICATE, detail)
    expired = expired_outcome(saga.expires_at, draft.now)
    if expired is not None and saga.parked_reason is None:  # a parked order expires when it is resumed
        draft.note("expired", name)
        enter_phase(draft, PHASES[saga.phase].expiry, expired)
        return None
    found = judge_release(saga, market(draft, saga), draft.now)
    if isinstance(found, Unreleasable):
        detail |= {"reason": found.reason}
        if saga.progress.release_refused is found.code:  # everybody sees that already
            return _changes_nothing(draft, message, Why.CONFLICT, detail)
        draft.note("ignored", name, why=Why.CONFLICT, **detail)
        draft.learn(release_refused=found.code)
        draft.show()
        return None
    draft.note("released", name, **detail)
    draft.learn(suspended=None, release_refused=None, rest=found.rest)
    if found.fire is not None and saga.parked_reason is None:
        fire(draft, found.fire, PHASES[saga.phase].fired)
    else:
        note_rest(draft)
    if not draft.events:
        draft.show()
    return None


def _stands_still(draft: Draft) -> Rest | None:
    """Fix the best price of a trailing stop: on hold no tick moves it, and an amend counts from there."""
    rest, watermark = draft.saga.progress.rest, draft.watermarks.get(draft.saga.order_id)
    return rest if rest is None or watermark is None else structs.replace(rest, watermark=watermark)


def _not_released_by(saga: Saga, message: OrderReleaseRequested, detail: dict[str, Any]) -> Ignored | None:
    """Say that an operator has suspended the order, and its user would release it; else None."""
    suspended, name = saga.progress.suspended, type(message).__name__
    if suspended is None or not _is_operator(suspended.requested_by) or _is_operator(message.requested_by):
        return None
    return Ignored(Why.NOT_ALLOWED, name, detail | {"suspended_by": suspended.requested_by})


def _overtaken(
    draft: Draft, message: OrderHoldRequested | OrderReleaseRequested, detail: dict[str, Any]
) -> Ignored | None:
    """Say that the same requester has asked for something else since: a message that was held up comes too late.

    Times of different requesters are by different clocks, and are not compared.
    """
    known, asked_at = draft.saga.progress.wish, _asked_at(draft, message)
    if known is None or asked_at is None or known.requested_by != message.requested_by:
        return None
    return Ignored(Why.LATE, type(message).__name__, detail) if asked_at < known.requested_at else None


def _note_wish(draft: Draft, message: OrderHoldRequested | OrderReleaseRequested) -> None:
    """Keep when its requester has asked for something last."""
    if (asked_at := _asked_at(draft, message)) is not None:
        draft.learn(wish=LastWish(message.requested_by, asked_at))


def _asked_at(draft: Draft, message: OrderHoldRequested | OrderReleaseRequested) -> datetime | None:
    """Say when a wish was asked for. One from far ahead must not make all that follow too late: it counts as of now."""
    return None if message.requested_at is None else created_at(message.requested_at, draft.now)


def _changes_nothing(
    draft: Draft, message: OrderHoldRequested | OrderReleaseRequested, why: Why, detail: dict[str, Any]
) -> Ignored | None:
    """Say why nothing comes of a wish. If it has a time it is kept all the same: an older one may come yet."""
    name = type(message).__name__
    if message.requested_at is None:
        return Ignored(why, name, detail)
    draft.note("ignored", name, why=why, **detail)
    return None


def _not_now(draft: Draft, message: ChangeRequested, detail: dict[str, Any]) -> Ignored | None:
    """Say why nobody, or not this requester, can change the order now, or None: it rests, and is not bound to end."""
    saga, name = draft.saga, type(message).__name__
    if cancel_outcome(message.user_id, message.requested_by, saga.user_id) is None:
        return Ignored(Why.NOT_ALLOWED, name, detail)
    if saga.phase not in RESTING:
        too_early = saga.phase is Phase.NEW or PHASES[saga.phase].cancel is not None
        return Ignored(Why.TOO_EARLY if too_early else Why.TOO_LATE, name, detail)
    ends = saga.progress.fire is not None or saga.cancel_requested
    return Ignored(Why.TOO_LATE, name, detail) if ends else None


def _by(message: ChangeRequested) -> dict[str, Any]:
    return {"requested_by": message.requested_by}


def _wish(message: OrderHoldRequested | OrderReleaseRequested) -> dict[str, Any]:
    """Say whose a hold or release is, and which of theirs: these have no id, and one may be read after a later one."""
    at = message.requested_at
    return _by(message) | ({} if at is None else {"requested_at": format_time(at)})


def _is_operator(requested_by: str) -> bool:
    return requested_by.startswith(OPERATOR_PREFIX)
