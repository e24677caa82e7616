"""Judges what clients were told, by streams and by webhooks, by the events and the tables. It is pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from tests.evidence.chaos.books import Books
from tests.evidence.chaos.finding import Finding, Findings
from tests.evidence.chaos.watched import Hooked, Watch, Watched, Way, digest
from tests.evidence.chaos.witness import Wire

TYPES: Final = {
    "PENDING": "order.pending",
    "CONFIRMED": "order.confirmed",
    "PROCESSING": "order.processing",
    "COMPLETED": "order.completed",
    "CANCELLED": "order.cancelled",
    "FAILED": "order.failed",
}


def judge_all(watched: Watched, wire: Wire, books: Books) -> Findings:
    """Judge every client of a run, after every order has ended."""
    events = {
        (order_id, version): json.loads(told[0].value)
        for order_id, versions in wire.told.items()
        for version, told in versions.items()
    }
    orders = {key: digest(event.get("order", {})) for key, event in events.items()}
    for watch in watched.watches:
        yield from _stream(watch, orders, books)
    by_user: dict[str, list[Hooked]] = {user_id: [] for user_id in watched.hooks}
    for hooked in watched.hooked:
        by_user.setdefault(hooked.user_id, []).append(hooked)
    for user_id, found in by_user.items():
        yield from _hooks(user_id, found, events, books, every=user_id in watched.every)


# Streams --------------------------------------------------------------------------------------------------------------


def _stream(watch: Watch, orders: Mapping[tuple[str, int], str], books: Books) -> Findings:
    """Expect the last version of each order of its user, nothing of others, and nothing that is older than known.

    A list shows orders in other words than the events, and accepted ones that are no orders yet.
    """
    name = f"{watch.user_id} by {watch.by}"
    known: dict[str, int] = defaultdict(int)
    for seen in watch.seen:
        order, about = books.orders.get(seen.order_id), f"{seen.order_id} at version {seen.version}"
        if watch.user_id != seen.user_id or order is None or order["user_id"] != watch.user_id:
            yield Finding("stream", name, f"it was shown {about}, an order of {seen.user_id}")
        elif seen.way is not Way.LISTED and orders.get((seen.order_id, seen.version)) != seen.order:
            yield Finding("stream", name, f"it was shown {about} in another way than on the topic ({seen.way})")
        if seen.way is not Way.LIVE and seen.version < known[seen.order_id]:
            text = f"it was shown {about} from the database ({seen.way}), and had seen {known[seen.order_id]}"
            yield Finding("stream", name, text)
        known[seen.order_id] = max(known[seen.order_id], seen.version)
    for order_id, order in books.orders.items():
        if order["user_id"] == watch.user_id and known[order_id] < order["version"]:
            told = f"and {watch.gaps} gaps were said" if watch.gaps else "and no gap was said"
            yield Finding("stream", name, f"of {order_id} it saw {known[order_id]} of {order['version']}, {told}")


# Webhooks -------------------------------------------------------------------------------------------------------------


def _hooks(
    user_id: str, hooked: list[Hooked], events: Mapping[tuple[str, int], dict[str, Any]], books: Books, *, every: bool
) -> Findings:
    """Expect each end at least once, or each version, with the words of its event, and nothing of others."""
    bodies: dict[str, set[bytes]] = defaultdict(set)
    for one in hooked:
        bodies[one.webhook_id].add(one.body)
        if one.fault is not None:
            yield Finding("webhook", user_id, f"{one.webhook_id} does not verify: {one.fault}")
    for webhook_id, different in bodies.items():
        if len(different) > 1:
            yield Finding("webhook", user_id, f"{webhook_id} came with {len(different)} bodies")
        yield from _as_event(user_id, webhook_id, json.loads(min(different)), events)
    for order_id, order in books.orders.items():
        if order["user_id"] == user_id:
            wanted = range(1 if every else order["version"], order["version"] + 1)
            if missing := [version for version in wanted if f"{order_id}:v{version}" not in bodies]:
                yield Finding("webhook", user_id, f"versions {missing} of {order_id} at {order['version']} never came")


def _as_event(
    user_id: str, webhook_id: str, body: dict[str, Any], events: Mapping[tuple[str, int], dict[str, Any]]
) -> Findings:
    order_id, _, version = webhook_id.partition(":v")
    event = events.get((order_id, int(version) if version.isdecimal() else 0))
    if event is None:
        yield Finding("webhook", user_id, f"{webhook_id} is about no event")
        return
    if event["order"]["user_id"] != user_id:
        yield Finding("webhook", user_id, f"{webhook_id} is about an order of {event['order']['user_id']}")
    same_status = event["status"] == event["previous_status"]
    wanted = ("order.updated" if same_status else TYPES[event["status"]], event["occurred_at"], event["order"])
    if wanted != (body["type"], body["timestamp"], body["data"]):
        yield Finding("webhook", user_id, f"{webhook_id} said {body}, on the topic it is {wanted}")
