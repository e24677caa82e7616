"""How an order changes its phase: the way that the table in `phases` names, and what it does on arrival.

Pure, as `advance` is. Entering the market is a way of its own: it leads to a fill, to rest, or to an end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from contracts.amends import AmendRefusal, AmendState, OrderAmendment, changes_of
from contracts.decimals import Exact, Money, Price
from contracts.vocabulary import OrderStatus, ReasonCode, id_text
from order_saga.core.asking import ask_all, ask_anew
from order_saga.core.commands import asked_for, fill_price, fill_sums, required_hold, settlement_terms
from order_saga.core.entry import enter, newest, unfillable
from order_saga.core.judgement import expired_outcome, is_stale
from order_saga.core.levels import levels
from order_saga.core.phases import (
    MAX_QUOTE_AGE_S,
    PASSED,
    PHASES,
    RESTING,
    Change,
    EntryAction,
    Way,
    entered,
    target,
)
from order_saga.core.revision import revised
from order_saga.core.saga import Answer, Fill, Fire, Mark, Outcome, Phase, Saga, Step
from order_saga.core.weighing import AmendRefused, Judged, judge, needs_more, objection_to_change

if TYPE_CHECKING:
    from collections.abc import Callable

    from order_saga.core.draft import Draft


def enter_phase(draft: Draft, leads_to: Phase | Way | None, outcome: Outcome | None) -> None:
    """Go where the table leads, and ask what that phase asks. `outcome` says how an order ends that does not fill."""
    phase = next_phase(leads_to, outcome)
    row = PHASES[phase]
    if row.entry:
        _PASSES[phase](draft)
        return
    if row.stale is not None and (stale := unfillable(draft.saga) or _stale_quote(draft)):
        enter_phase(draft, row.stale, stale)
        return
    overtaken = draft.saga.phase in RESTING and phase not in RESTING and _stop_changing(draft)
    arrive(draft, phase, outcome)
    if overtaken and not draft.events:
        draft.show()
    if row.passed_if_nothing_held and nothing_held(draft.saga):
        enter_phase(draft, target(phase, draft.saga.side), outcome)
    else:
        ask_all(draft)


def _enter_market(draft: Draft) -> None:
    """Fill an order that the market meets, and lay any other one to rest."""
    saga = draft.saga
    quote, mark = saga.progress.quote, draft.marks.get(saga.asset_id or "")
    fresh = quote is not None and not is_stale(draft, quote.made_at)
    entered_as = enter(saga, mark, draft.now, quote_is_fresh=fresh)
    known = saga.progress
    draft.learn(
        fire=entered_as.fire,
        rest=entered_as.rest or known.rest,
        ends_at=known.ends_at if entered_as.rest is None or saga.expires_at is not None else entered_as.ends_at,
        triggered=entered_as.triggered or known.triggered,
    )
    if entered_as.fire is not None:
        told = {"sequence": entered_as.fire.sequence, "price": entered_as.fire.price, "as_of": entered_as.fire.as_of}
        draft.note("fired", "Entry", **told)
    if entered_as.rest is not None:
        note_rest(draft)
        if saga.phase in RESTING:  # resumed: what it asked there it asks again
            ask_anew(draft)
            return
    enter_phase(draft, entered(Phase.ENTRY, entered_as.entry), expired_outcome(entered_as.ends_at, draft.now))


def _revise(draft: Draft) -> None:
    """Put approved terms in force, have more money held first, or refuse them; and hold less if they need less."""
    saga, amending = draft.saga, draft.saga.progress.amending
    assert amending is not None  # noqa: S101 - only an open amend leads here
    watermark = None if saga.progress.rest is None else saga.progress.rest.watermark
    watermark = draft.watermarks.get(saga.order_id, watermark)
    if amending.trails_from is None and watermark is not None:  # fixed, so that a raise is asked for once
        amending = structs.replace(amending, trails_from=watermark)
        draft.learn(amending=amending)
    new = revised(saga, amending)
    found = objection_to_change(saga, new, draft.now)
    if found is None and needs_more(new):
        enter_phase(draft, entered(Phase.REVISING, Change.RAISES), None)
        return
    judged = found or judge(saga, new, market(draft, new), watermark, draft.now)
    if isinstance(judged, AmendRefused):
        end_amend(draft, judged)
    else:
        put_in_force(draft, new, judged)
    draft.show()
    if not isinstance(judged, AmendRefused) and judged.fire is not None:
        fire(draft, judged.fire, entered(Phase.REVISING, Change.FILLS))
    else:
        rest_with_what_is_needed(draft)


def market(draft: Draft, saga: Saga) -> Mark:
    """Give the newest that is known of an order's market: its asset's mark, or the quote of its terms."""
    quote = saga.progress.quote
    assert quote is not None  # noqa: S101 - an order rests after its approval
    return newest(quote, draft.marks.get(saga.asset_id or ""), quote_is_fresh=not is_stale(draft, quote.made_at))


def rest_with_what_is_needed(draft: Draft) -> None:
    """Go on resting by the terms in force; what is held beyond them goes back."""
    saga = draft.saga
    needed, hold = required_hold(saga), saga.progress.hold
    lowers = hold is not None and (needed.amount < hold.amount or bool(saga.progress.unconfirmed))
    enter_phase(draft, entered(Phase.REVISING, Change.LOWERS if lowers else Change.RESTS), None)


def put_in_force(draft: Draft, new: Saga, judged: Judged) -> None:
    """Let new terms count from here on."""
    amending = draft.saga.progress.amending
    assert amending is not None  # noqa: S101 - an amend is open
    moved = judged.rest != draft.saga.progress.rest
    draft.set(quantity=new.quantity, slippage_bps=new.slippage_bps, terms=new.terms)
    known = new.progress
    draft.learn(
        quote=known.quote,
        trails_from=known.trails_from,
        revision=known.revision,
        as_requested=known.as_requested,
        ends_at=known.ends_at,
        rest=judged.rest,
        amending=None,
        amend=structs.replace(amending.asked, state=AmendState.APPLIED),
    )
    draft.note("amended", "Amended", revision=known.revision, **changes_of(amending.asked))
    if moved:
        note_rest(draft)


def end_amend(draft: Draft, refusal: AmendRefused) -> None:
    """Refuse the amend that is open; the terms in force stay."""
    amending = draft.saga.progress.amending
    assert amending is not None  # noqa: S101 - an amend is open
    refuse(draft, amending.asked, refusal)
    draft.learn(amending=None)


def refuse(draft: Draft, asked: OrderAmendment, refusal: AmendRefused) -> None:
    """Have the order show that an amend was refused, and why."""
    code, reason = refusal
    shown = structs.replace(asked, state=AmendState.REFUSED, reason_code=code, reason=reason or None)
    draft.note("amend_refused", "AmendRefused", amend_id=asked.amend_id, reason_code=code, reason=reason)
    draft.learn(amend=shown)


def fire(draft: Draft, met: Fire, leads_to: Phase | None) -> None:
    """Bind an order to the mark that it meets on entering the market, or entering it anew."""
    draft.note("fired", "Entry", sequence=met.sequence, price=met.price, as_of=met.as_of)
    draft.learn(fire=met)
    enter_phase(draft, leads_to, None)


def _stop_changing(draft: Draft) -> bool:
    """Have a resting order ask for nothing more: it was fired, cancelled or has expired. Tell if an amend was open.

    It is too late. What the hold was to be stays unconfirmed.
    """
    for question in draft.saga.progress.open():
        draft.put(structs.replace(question, answer=Answer.ABANDONED))
    draft.set(overdue_since=None)
    if draft.saga.progress.amending is None:
        return False
    end_amend(draft, AmendRefused(AmendRefusal.TOO_LATE, "the order was fired, cancelled or had expired before"))
    return True


def next_phase(leads_to: Phase | Way | None, outcome: Outcome | None = None) -> Phase:
    """Name the phase that a target of the table means for this order."""
    if isinstance(leads_to, Phase):
        return leads_to
    assert leads_to is Way.BY_OUTCOME  # noqa: S101 - `contradiction` parks, and what can't end a phase is not handled
    assert outcome is not None  # noqa: S101 - fixed on entry into the phase that leads there
    return Phase(outcome.status)


def arrive(draft: Draft, phase: Phase, outcome: Outcome | None = None) -> None:
    """Do what the table says of entering a phase, and show its statuses. It asks nothing yet."""
    row = PHASES[phase]
    draft.set(phase=phase)
    for status in row.via:
        if status is not draft.saga.status:
            draft.show(status)
    for action in row.on_entry:
        _ACTIONS[action](draft, outcome)
    if row.status is not None and row.status is not draft.saga.status:
        draft.show(row.status)


def _stale_quote(draft: Draft) -> Outcome | None:
    """Say how an order ends whose quote has grown too old to be traded on, or None while it has not."""
    quote = draft.saga.progress.quote
    if draft.saga.progress.fire is not None or (quote is not None and not is_stale(draft, quote.made_at)):
        return None  # the age of a tick that fires is judged when it fires
    age = f"the quote was older than {draft.scaled(MAX_QUOTE_AGE_S).total_seconds():g} s at the fill"
    return Outcome(OrderStatus.FAILED, ReasonCode.STALE_PRICE, age)


def nothing_held(saga: Saga) -> bool:
    """Tell whether no money can be held: RESERVE was never sent, or was refused."""
    reserve = saga.progress.question(Step.RESERVE)
    return reserve is None or reserve.answer is Answer.NO or not reserve.sent


def _record_fill(draft: Draft, _outcome: Outcome | None) -> None:
    """Record the fill at the quote, or at the tick that fired the order; that fixes the terms of the settlement."""
    saga = draft.saga
    price = fill_price(saga)
    _, quantity = asked_for(saga)
    fee = fill_sums(saga).fee
    draft.fill = Fill(f"{id_text(saga.order_id)}:fill", saga.order_id, quantity, price, fee)
    draft.learn(settlement=settlement_terms(saga))
    draft.set(filled_quantity=Money(quantity), average_price=Exact(price), fee=fee)


def park(draft: Draft, reason: str) -> None:
    """Leave an order alone until an operator resumes it."""
    draft.note("parked", "Parked", reason=reason)
    draft.set(parked_reason=reason)


def note_rest(draft: Draft) -> None:
    """Say from where on the market counts."""
    saga = draft.saga
    rest, terms = saga.progress.rest, saga.terms
    assert rest is not None and terms is not None and saga.order_type is not None  # noqa: S101, PT018 - `enter` says so
    told: dict[str, Any] = {"from_sequence": rest.from_sequence}
    waits_for = levels(saga.order_type, terms, triggered=saga.progress.triggered)
    told |= zip(("level", "other_level"), (level.price for level in waits_for), strict=False)
    if rest.watermark is not None:
        told["watermark"] = rest.watermark
    draft.note("rests", "Rests", **told)


def _fix_outcome(draft: Draft, outcome: Outcome | None) -> None:
    """Fix how the order will end, and stop waiting for what is open."""
    for question in draft.saga.progress.open():
        draft.put(structs.replace(question, answer=Answer.ABANDONED))
    draft.learn(outcome=outcome)


def _take_back_fill(draft: Draft, _outcome: Outcome | None) -> None:
    """Take a fill back, if there is one: its row stays, marked, and the order shows that nothing was filled."""
    saga = draft.saga
    if saga.average_price is None:
        return
    _, quantity = asked_for(saga)
    price = Price(saga.average_price)
    draft.fill = Fill(f"{id_text(saga.order_id)}:fill", saga.order_id, quantity, price, saga.fee, busted=True)
    draft.set(filled_quantity=Money(0), average_price=None, fee=Money(0))


def _give_reason(draft: Draft, outcome: Outcome | None) -> None:
    """Show why the order ends."""
    assert outcome is not None  # noqa: S101 - an order fails or is cancelled only with an outcome
    draft.set(reason_code=outcome.reason_code, reason=outcome.reason)


_ACTIONS: Final[dict[EntryAction, Callable[[Draft, Outcome | None], None]]] = {
    EntryAction.RECORD_FILL: _record_fill,
    EntryAction.FIX_OUTCOME: _fix_outcome,
    EntryAction.TAKE_BACK_FILL: _take_back_fill,
    EntryAction.GIVE_REASON: _give_reason,
}
_PASSES: Final[dict[Phase, Callable[[Draft], None]]] = {Phase.ENTRY: _enter_market, Phase.REVISING: _revise}
assert _PASSES.keys() == PASSED  # noqa: S101 - each phase that asks nothing and is left at once has its way out
