"""Judges amends, suspensions and releases by what was sent, and by what the history and the events say. It is pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.evidence.chaos.finding import Finding, Findings
from tests.evidence.chaos.record import Placed, Record
from tests.evidence.chaos.story import Story, number
from tests.evidence.chaos.witness import Wire


def judge_all(record: Record, wire: Wire, stories: Mapping[str, Story], seen: Counter[str]) -> Findings:
    """Judge all orders; `seen` counts what happened."""
    placed_as = {placed.order_id: placed for placed in record.placed}
    for order_id, story in stories.items():
        placed = placed_as.get(order_id)
        seen["amends put in force"] += len(story.amended)
        seen["amends refused"] += story.amends_refused
        seen["suspended"] += sum(one is not None for one in story.suspended_by)
        seen["released"] += len(story.released_by)
        yield from _amends(order_id, story, placed)
        yield from _suspensions(order_id, story, placed)
        yield from _shown(order_id, wire, story)


def amended(body: dict[str, Any], story: Story) -> dict[str, Any]:
    """Return what an order asks for after its amends."""
    for changed in story.amended:
        body = body | changed
    return body


def _amends(order_id: str, story: Story, placed: Placed | None) -> Findings:
    """Expect that each amend was sent by who may, and was put in force at most once."""
    sent = [] if placed is None else [_numbers(one) for one in placed.amends]
    for changed in story.amended:
        if _numbers(changed) not in sent:
            yield Finding("outcome", order_id, f"it was amended by {changed}, which nobody asked for, or twice")
        else:
            sent.remove(_numbers(changed))


def _numbers(changed: Mapping[str, Any]) -> dict[str, Any]:
    return {name: number(value) for name, value in changed.items()}


def _suspensions(order_id: str, story: Story, placed: Placed | None) -> Findings:
    """Expect that only an operator releases what an operator has suspended, and nobody suspends another's order."""
    by, releases = None, iter(story.released_by)
    for one in story.suspended_by:
        if one is None:
            released_by = next(releases)
            if by is None or (_is_operator(by) and not _is_operator(released_by)):
                yield Finding("outcome", order_id, f"{released_by} released what {by} had suspended")
        elif placed is None or one not in placed.suspended_by:
            yield Finding("outcome", order_id, f"it was suspended by {one}, who did not ask for it")
        by = one
    if by is not None and story.fired:
        yield Finding("trigger", order_id, f"it fired while {by} had suspended it")


def _is_operator(name: str) -> bool:
    return name.startswith("@operator:")


def _shown(order_id: str, wire: Wire, story: Story) -> Findings:
    """Expect that every amend that is shown is shown to end, and that revisions count those that were put in force."""
    states: dict[str, str] = {}
    revision = 1
    for _, records in sorted(wire.told.get(order_id, {}).items()):
        order = json.loads(records[0].value).get("order", {})
        revision = order.get("revision") or revision
        if (amend := order.get("amend")) is not None:
            before = states.get(amend["amend_id"], "PENDING")
            if before not in {"PENDING", amend["state"]}:
                yield Finding("wire", order_id, f"{amend['amend_id']} is {amend['state']} after it was {before}")
            states[amend["amend_id"]] = amend["state"]
    for amend_id, state in states.items():
        if state == "PENDING":
            yield Finding("lost", order_id, f"{amend_id} was never shown to end")
    applied = sum(state == "APPLIED" for state in states.values())
    if (revision, applied) != (1 + len(story.amended), len(story.amended)):
        text = f"it is at revision {revision}, {applied} amends are shown as applied, its history has {story.amended}"
        yield Finding("wire", order_id, text)
