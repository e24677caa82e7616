"""Put an order's story into words: lines of text, each a row of spans with a tone. Pure.

Whoever shows them chooses how a tone looks: a colour in a terminal, a class in a page.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from contracts.amends import CHANGES, AmendState
from operations.access.conditions import condition, levels, money
from operations.access.words import amount, full_time, time_of_day
from operations.diagnosis.why import waits_for
from order_saga.core.phases import RESTING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from operations.access.conditions import Level

    Row: TypeAlias = Mapping[str, Any]

QUESTIONS: Final = {
    "check": "assets: is this order allowed, and at which quote?",
    "reserve": "balance: reserve what it can cost",
    "settle": "balance: settle both legs",
    "refund": "balance: refund whatever is held",
    "recheck": "assets: are the new terms allowed?",
    "raise": "balance: hold more, for the new terms",
    "lower": "balance: hold no more than the terms need",
}


MINUTE_S: Final = 60.0
CONFIRMED_LATER_S: Final = 1.0
"""A source that stands by an older price says so later than this."""


class Tone(StrEnum):
    """How a span is meant."""

    PLAIN = "plain"
    STRONG = "strong"
    FAINT = "faint"
    WARNING = "warning"
    STRONG_FAINT = "strong faint"
    STRONG_WARNING = "strong warning"
    STATUS = "status"
    """The words are the status of an order."""
    ALARM = "alarm"


class Span(NamedTuple):
    """Some words of one tone."""

    text: str
    tone: Tone = Tone.PLAIN


Line: TypeAlias = tuple[Span, ...]


class TimelineEntry(NamedTuple):
    """One line of an order's timeline; `after_s`: since its first."""

    seq: int
    at: datetime
    after_s: float
    what: Line


class Posting(NamedTuple):
    """One line of the journal, as text."""

    entry: str
    account: str
    asset: str
    amount: str


class Explanation(NamedTuple):
    """An order's story in words. `timeline` is None while the orchestrator has not seen the order."""

    header: list[Line]
    timeline: list[TimelineEntry] | None
    money: list[Line]
    journal: list[Posting]
    unsent: list[Line]


def explain(story: Row) -> Explanation:
    """Put what `story.story` has gathered into words."""
    order = story["order"]
    if order is None:
        claim = story["claim"]
        known = f"order {claim['order_id']} of {claim['user_id']}"
        first = (Span(f"{known}: accepted by the API, not yet seen by the orchestrator"),)
        return Explanation([first, *map(_request, story["requests"])], None, [], [], [])
    header = [
        *_header(order, waits_for(order, story["questions"], story["pauses"])),
        *_rests(order, story["resting"], story["mark"]),
        *_changes(order, story["history"]),
        *map(_request, story["requests"]),
    ]
    return Explanation(
        header, list(timeline(story["history"])), list(_money(story)), list(map(_posting, story["journal"])),
        [*_unsent(story["events_unsent"]), *map(_told, story.get("told", ()))],
    )  # fmt: skip


def _told(delivery: Row) -> Line:
    """Say what became of one version for one endpoint."""
    where = Span(f"{delivery['kind']} {delivery['event_id'].rpartition(':')[2]} to {delivery['host']}: ")
    delivered = delivery["state"] == "DELIVERED"
    state = Span(delivery["state"], Tone.STRONG if delivered else Tone.WARNING)
    at = f" at {full_time(delivery['ended_at'])}" if delivery["ended_at"] else ""
    why = f", {delivery['reason']}" if delivery["reason"] else ""
    tries = f" after {delivery['attempts']} attempts" if delivery["attempts"] > 1 else ""
    return where, state, Span(f"{at}{tries}{why}")


def sentence(entry: Row) -> Line:  # noqa: PLR0911 - one for each kind of entry
    """Say one entry of an order's history."""
    name, detail = entry["name"], entry["detail"] or {}
    match entry["kind"]:
        case "status":
            reason = f" {detail['reason_code']}" if detail.get("reason_code") else ""
            version = Span(f"version {entry['version']}", Tone.FAINT)
            return Span(name, Tone.STATUS), Span(f"{reason} "), version
        case "asked":
            asks = Span(f"asks {QUESTIONS[name]}")
            if "attempt" not in detail:
                return (asks,)
            return asks, Span(" "), Span(f"(attempt {detail['attempt']})", Tone.WARNING)
        case "answered":
            return (Span(f"{name} {_details(detail)}".rstrip()),)
        case "ignored":
            return (Span(f"ignored {name}: {detail.get('why')}", Tone.FAINT),)
        case "waits":
            return (Span(f"waits: {name} paused", Tone.WARNING),)
        case "timed_out":
            return (Span(f"gives up on {name} after {detail.get('attempts')} attempts", Tone.WARNING),)
        case "parked":
            return Span("PARKED", Tone.ALARM), Span(f" {detail.get('reason')}")
        case "overdue":
            return Span("OVERDUE", Tone.STRONG_WARNING), Span(f" {name}, {detail.get('attempts')} attempts")
        case _:
            return (Span(_of_the_market(entry["kind"], name, detail)),)


def _of_the_market(kind: str, name: str, detail: Row) -> str:
    """Say how an order met the market, or, of any other kind of entry, what it holds."""
    if kind == "expired":
        return "expires: its time has come"
    if kind in _CHANGED:
        return _CHANGED[kind](detail)
    if kind not in {"rests", "triggered", "fired"}:
        return f"{kind} {name} {_details(detail)}".rstrip()
    if kind == "rests":
        begins = "waits for the opening"
        if detail.get("level") is not None:
            begins = f"waits for the price {money(detail['level'])}"
            begins += f" or {money(detail['other_level'])}" if detail.get("other_level") is not None else ""
        elif detail.get("watermark") is not None:
            begins = f"follows the price from {money(detail['watermark'])}"
        return f"rests: {begins}; ticks after sequence {int(detail['from_sequence']):,} count"
    tick = f"the price {money(detail['price'])} of sequence {int(detail['sequence']):,}"
    if kind == "triggered":
        return f"triggered by {tick}: from now on it waits for its limit"
    best = f", its best price being {money(detail['watermark'])}" if detail.get("watermark") is not None else ""
    return f"fired{' on its way in' if name == 'Entry' else ''} by {tick}{best}"


def _said(words: str, *names: str) -> Callable[[Row], str]:
    """Make the words of a change: with the members of these names, and then with what else there is."""

    def say(detail: Row) -> str:
        more = _details({name: value for name, value in detail.items() if name not in names})
        return words.format(**{name: detail.get(name) for name in names}) + (f": {more}" if more else "")

    return say


_CHANGED: Final = {
    "amended": _said("amended: the terms {revision} are in force", "revision"),
    "amend_refused": _said("amend {amend_id} is refused, {reason_code}", "amend_id", "reason_code"),
    "held": _said("put on hold by {requested_by}", "requested_by"),
    "released": _said("released by {requested_by}", "requested_by"),
}


def _details(detail: Row) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in detail.items() if value is not None)


def timeline(history: Sequence[Row]) -> Iterator[TimelineEntry]:
    """Say an order's whole history, each entry with its time since the first."""
    for entry in history:
        yield TimelineEntry(
            entry["seq"], entry["at"], (entry["at"] - history[0]["at"]).total_seconds(), sentence(entry)
        )


def _header(order: Row, waits: str) -> Iterator[Line]:
    what = f"  {order['order_type']} {order['asset_id']} of {order['user_id']}"
    yield Span("order "), Span(str(order["order_id"]), Tone.STRONG), Span(what)
    state = f" in phase {order['phase']}, version {order['version']}"
    if order["average_price"] is not None:
        filled, price, fee = (amount(order[name]) for name in ("filled_quantity", "average_price", "fee"))
        state += f", filled {filled} at {price}, fee {fee}"
    if order["reason_code"]:
        state += f", {order['reason_code']}"
    yield Span(order["status"], Tone.STATUS), Span(state)
    if order["due_at"] or order["parked_reason"]:
        yield (Span(waits, Tone.WARNING),)
    if order["archived_at"]:
        yield (Span(f"archived {full_time(order['archived_at'])}", Tone.FAINT),)


def _rests(order: Row, resting: Row | None, mark: Row | None) -> Iterator[Line]:
    """Say what an order that rests waits for, and how far away the market is."""
    if order["phase"] not in RESTING or resting is None:
        return
    if resting["fired_sequence"] is not None:
        at = f"{money(resting['fired_price'])} of sequence {resting['fired_sequence']:,}"
        yield (Span(f"fired by {at}, about to be filled"),)
        return
    where = f"; {market(mark, levels(order))}" if mark is not None else "; no tick has come yet"
    rests = "would rest" if order["on_hold"] else "rests"
    yield (Span(f"{rests}: {condition(order, resting['watermark_sequence'])}{where}"),)


def _changes(order: Row, history: Sequence[Row]) -> Iterator[Line]:
    """Say who keeps an order on hold, and what became of its last amend."""
    if order["on_hold"]:
        yield Span("on hold", Tone.STRONG_WARNING), Span(_held(history))
    if order["release_refused"]:
        yield (Span(f"its last release was refused: {order['release_refused']}", Tone.WARNING),)
    amend = order["amend"]
    if amend is None:
        return
    what = f"amend {amend['amend_id']}"
    asked = {name: amend[name] for name in CHANGES if amend.get(name) is not None}
    wanted = f" ({_details(asked)})" if asked else ""
    if amend["state"] == AmendState.REFUSED:
        why = f": {amend['reason']}" if amend.get("reason") else ""
        yield (Span(f"{what}{wanted} was refused, {amend['reason_code']}{why}", Tone.WARNING),)
    elif amend["state"] == AmendState.PENDING:
        yield (Span(f"{what}{wanted} is under way: {UNDER_WAY.get(order['phase'], 'it is being decided')}"),)
    else:
        yield (Span(f"{what}{wanted} is in force: revision {order['revision']}", Tone.FAINT),)


UNDER_WAY: Final = {
    "AMENDING": "the asset service is asked about the new terms, the old ones are in force",
    "RAISING": "the balance service is asked to hold more first, the old terms are in force",
}


def _held(history: Sequence[Row]) -> str:
    """Say since when an order is on hold, by whom, and why."""
    last = next((entry for entry in reversed(history) if entry["kind"] == "held"), None)
    if last is None:
        return ""
    detail = last["detail"] or {}
    why = f": {detail['reason']}" if detail.get("reason") else ""
    return f" since {time_of_day(last['at'])} by {detail.get('requested_by')}{why}"


def market(mark: Row, waits_for: Sequence[Level]) -> str:
    """Say what the orders know of an asset's market: the last tick, how old it is, and whether it could fire.

    How far away the nearest of the prices is that an order waits for.
    """
    words = f"last tick {money(mark['price'])}, sequence {mark['sequence']:,}, {_ago(mark['age_s'])}"
    if mark["age_s"] - mark["confirmed_age_s"] >= CONFIRMED_LATER_S:
        words += f", confirmed {_ago(mark['confirmed_age_s'])}"
    if mark["trading"] != "OPEN":
        words += f", trading is {mark['trading']}"
    elif not mark["live"]:
        words += ", too old to fire when it came"
    if waits_for:
        away = min(abs(mark["price"] - level.price) for level in waits_for) / mark["price"] * 100
        words += f", {away:.2f} % away"
    return words


def _ago(seconds: float) -> str:
    return f"{max(seconds, 0):.1f} s ago" if seconds < MINUTE_S * 2 else f"{seconds / MINUTE_S:,.0f} min ago"


def _request(request: Row) -> Line:
    """Say who asked for what by REST, from where, with which token."""
    more = [f"from {request['address']}"] if request["address"] else []
    more += [f"token {request['token_id']}"] if request["token_id"] else []
    more += [f"trace {request['trace_id']}"] if request["trace_id"] else []
    return (
        Span(f"{request['at']:%H:%M:%S}, {request['action']} by ", Tone.FAINT),
        Span(request["caller"], Tone.STRONG_FAINT),
        Span("".join(f", {one}" for one in more) + ":", Tone.FAINT),
        Span(f" {request['outcome']}"),
    )


def _money(story: Row) -> Iterator[Line]:
    if story["ledger_unseen"]:
        yield (Span(f"its hold and its journal can't be seen here: {story['ledger_unseen']}", Tone.FAINT),)
    for hold in story["holds"]:
        held, captured, refunded = (amount(hold[name]) for name in ("amount", "captured", "refunded"))
        whose = f"hold {hold['state']}: {held} {hold['asset_id']} of {hold['user_id']}"
        yield (Span(f"{whose}, captured {captured}, refunded {refunded}"),)


def _posting(line: Row) -> Posting:
    sign = "+" if line["amount"] > 0 else ""
    return Posting(line["entry_id"], line["account"], line["asset_id"], sign + amount(line["amount"]))


def _unsent(events: Sequence[Row]) -> Iterator[Line]:
    if events:
        versions = ", ".join(str(event["version"]) for event in events)
        yield (Span(f"events not yet acknowledged by the broker: versions {versions}", Tone.WARNING),)
