"""Say why an order, a claim or an event does not move, and what kind of trouble that is. Pure: rows in, words out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from contracts.vocabulary import Side
from operations.access.words import time_of_day
from order_saga.core.phases import PHASES, needed
from order_saga.core.saga import Phase, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REASON_MAX: Final = 100
"""Characters of a reason in a cause's name, so that there are few causes."""


class Cause(NamedTuple):
    """A kind of trouble that many orders can have, and what a person can do about it."""

    name: str
    advice: str


LACKS: Final = {str(phase): row.lacks for phase, row in PHASES.items() if row.lacks}
"""What an order lacks that stands in a phase for long."""
PARKED_ADVICE: Final = "find out why, then: order-saga resume --parked-reason ..."
WAIT_ADVICE: Final = "is it up? then: order-saga ask-again --waiting-for {who}"
OVER: Final = Cause(
    "held back by a pause that is over", "each looks again by itself; order-saga unpause ... wakes them"
)
PAUSE_ADVICE: Final = "order-saga unpause {who}"
NO_ORDERS: Final = {
    "claim": Cause("accepted, not seen by the orchestrator", "is one running? the API sends it again by itself"),
    "fire": Cause("fired, not carried out", "is an orchestrator running? it carries fires out by itself"),
    "event": Cause("event not sent", "is the broker up? the relay sends it again by itself"),
}


def cause(item: Mapping[str, Any], pauses: Mapping[str, Any]) -> Cause:
    """Name the kind of trouble of an item that `stuck` found."""
    if item["kind"] != "order":
        return NO_ORDERS[item["kind"]]
    if item["parked_reason"]:
        return Cause(f"parked: {item['parked_reason'][:REASON_MAX]}", PARKED_ADVICE)
    questions = item["questions"] or ()
    if any(question["held_back"] for question in questions):
        paused = _paused(item, questions, pauses)
        return Cause(f"held back: {_are(paused)} paused", PAUSE_ADVICE.format(who=paused[0])) if paused else OVER
    who = " and ".join(dict.fromkeys(question["participant"] for question in questions)) or "nobody"
    lacks = LACKS.get(item["phase"])
    return Cause(f"{lacks} by {who}" if lacks else f"waiting for {who}", WAIT_ADVICE.format(who=who.partition(" ")[0]))


def why(item: Mapping[str, Any], pauses: Mapping[str, Any]) -> str:
    """Say why one item does not move."""
    if item["kind"] == "claim":
        return f"accepted by the API at {time_of_day(item['since'])}, not yet seen by the orchestrator"
    if item["kind"] == "fire":
        return f"a tick fired it at {time_of_day(item['since'])}, the orchestrator has not carried that out"
    if item["kind"] == "event":
        return f"the event of version {item['version']} is not sent, since {time_of_day(item['since'])}"
    return waits_for(item, item["questions"] or (), pauses)


def waits_for(order: Mapping[str, Any], questions: Sequence[Mapping[str, Any]], pauses: Mapping[str, Any]) -> str:
    """Say what an order that has not ended waits for. `questions` are its open ones."""
    if order["parked_reason"]:
        return f"parked: {order['parked_reason']}; 'order-saga resume {order['order_id']}' lets it go on"
    following = f", next at {time_of_day(order['due_at'])}" if order["due_at"] else ""
    if any(question["held_back"] for question in questions):
        asked = "" if all(question["sent"] for question in questions) else "not asked yet, "
        looks = f"{asked}looks again at {time_of_day(order['due_at'])}"
        return f"held back {_because(_paused(order, questions, pauses), pauses)}, {looks}"
    lacks = f"{LACKS[order['phase']]}: " if order["phase"] in LACKS else ""
    waits = " and ".join(map(_one_question, questions)) or "nothing"
    late = ", overdue" if order["overdue_since"] else ""
    return f"{lacks}waiting for {waits}{late}{following}"


def describe_pause(pause: Mapping[str, Any]) -> str:
    """Say who is paused, since when, by whom and why."""
    since = f"since {time_of_day(pause['paused_at'])} by {pause['paused_by']}"
    return f"{pause['participant']} is paused {since}: {pause['reason']}"


def _one_question(question: Mapping[str, Any]) -> str:
    times = question["attempts"]
    asked = "to be asked" if not times else "1 attempt" if times == 1 else f"{times} attempts"
    return f"{question['participant']} ({question['step']}) since {time_of_day(question['asked_at'])}, {asked}"


def _paused(order: Mapping[str, Any], questions: Sequence[Mapping[str, Any]], pauses: Mapping[str, Any]) -> list[str]:
    """Name the paused participants whose answer the order needs to come to its end, by the table of phases.

    In a phase that this code does not know, such as one of a newer version, it may need any of them.
    """
    if order["phase"] not in set(Phase):
        return sorted(pauses)
    answered = set(Step) - {question["step"] for question in questions}
    wanted = {who for side in Side for who in needed(Phase(order["phase"]), side, answered)}
    return sorted(wanted & pauses.keys())


def _because(paused: Sequence[str], pauses: Mapping[str, Any]) -> str:
    if not paused:
        return "by a pause that is over"
    reasons = "; ".join(f"{pauses[who]['reason']} ({pauses[who]['paused_by']})" for who in paused)
    return f"because {_are(paused)} paused since {time_of_day(pauses[paused[0]]['paused_at'])}: {reasons}"


def _are(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"
