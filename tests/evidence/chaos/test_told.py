"""Of what clients were told nothing is found where all is well, and each fault that is planted is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.evidence.chaos import world
from tests.evidence.chaos.books import Books
from tests.evidence.chaos.told import judge_all
from tests.evidence.chaos.watched import Hooked, Watched, Way, digest
from tests.evidence.chaos.world import BOUGHT, CANCELLED, REFUSED, SAMPLES, SOLD

BOOKS = Books(
    {one.order_id: {"user_id": "alice", "version": len(one.path), "status": one.status} for one in SAMPLES},
    *(set(), {}, {}, {}, [], [], {}, [], {}),
)


class Plant(NamedTuple):
    """A fault in what clients were told, and the finding that must come of it."""

    name: str
    kind: str
    words: str
    spoil: Callable[[Watched], Any]


def _unseen(order_id: str, version: int) -> Callable[[Watched], Any]:
    """Take a version from what the first client saw."""

    def spoil(watched: Watched) -> None:
        watch = watched.watches[0]
        watch.seen = [one for one in watch.seen if one[:2] != (order_id, version)]

    return spoil


def _seen(**changes: Any) -> Callable[[Watched], Any]:
    """Have the second client see something more, other than it is."""
    return lambda watched: watched.watches[1].seen.append(watched.watches[1].seen[0]._replace(**changes))


def _hooked(which: str, **changes: Any) -> Callable[[Watched], Any]:
    """Change a webhook each time that it came; `body` changes members of its body."""

    def spoil(watched: Watched) -> None:
        watched.hooked = [(one if one.webhook_id != which else _changed(one, **changes)) for one in watched.hooked]

    return spoil


def _changed(one: Hooked, body: dict[str, Any] | None = None, **changes: Any) -> Hooked:
    return one._replace(body=json.dumps(json.loads(one.body) | (body or {})).encode(), **changes)


def _never_came(webhook_id: str) -> Callable[[Watched], Any]:
    def spoil(watched: Watched) -> None:
        watched.hooked = [one for one in watched.hooked if one.webhook_id != webhook_id]

    return spoil


def _both(*spoils: Callable[[Watched], Any]) -> Callable[[Watched], Any]:
    return lambda watched: [spoil(watched) for spoil in spoils]


def _older(way: Way) -> Callable[[Watched], Any]:
    """Have the first client see the second version of an order again, after its fourth."""

    def spoil(watched: Watched) -> None:
        [old] = [one for one in watched.watches[0].seen if one[:2] == (BOUGHT, 2)]
        watched.watches[0].seen.append(old._replace(way=way))

    return spoil


PLANTS = (
    Plant("an end that no stream showed", "stream", f"of {SOLD} it saw 3 of 4, and no gap was said", _unseen(SOLD, 4)),
    Plant(
        "a gap, and nobody looked", "stream", f"of {SOLD} it saw 3 of 4, and 1 gaps were said",
        _both(_unseen(SOLD, 4), lambda watched: setattr(watched.watches[0], "gaps", 1)),
    ),
    Plant("an order that was never shown", "stream", f"of {REFUSED} it saw 0 of 2",
          _both(_unseen(REFUSED, 1), _unseen(REFUSED, 2))),
    Plant("an older version at the beginning of a stream", "stream", "and had seen 4", _older(Way.FIRST)),
    Plant("an older version in the list of a gap", "stream", "and had seen 4", _older(Way.LISTED)),
    Plant("an order of somebody else", "stream", "an order of bob", _seen(user_id="bob")),
    Plant("an order that is not there", "stream", "an order of alice", _seen(order_id=f"{BOUGHT[:-1]}9")),
    Plant("a version that nobody told", "stream", "at version 9 in another way", _seen(version=9)),
    Plant("another content", "stream", "in another way", _seen(order=digest({"status": "FAILED"}))),
    Plant("an end that no webhook told", "webhook", f"versions [4] of {BOUGHT} at 4 never came",
          _never_came(f"{BOUGHT}:v4")),
    Plant("a version for who wants every one", "webhook", f"versions [2] of {CANCELLED} at 3 never came",
          _both(_never_came(f"{CANCELLED}:v2"), lambda watched: watched.every.add("alice"))),
    Plant("nothing at all", "webhook", "never came", lambda watched: watched.hooked.clear()),
    Plant("a signature that does not verify", "webhook", "does not verify: no match",
          _hooked(f"{SOLD}:v1", fault="no match")),
    Plant("a repeat with other bytes", "webhook", "came with 2 bodies",
          lambda watched: watched.hooked.append(watched.hooked[0]._replace(body=watched.hooked[0].body + b" "))),
    Plant("another type", "webhook", "on the topic it is", _hooked(f"{SOLD}:v4", body={"type": "order.failed"})),
    Plant("a version that keeps the status", "webhook", "on the topic it is ('order.updated'",
          _hooked(f"{CANCELLED}:v2", body={"type": "order.pending"})),
    Plant("another time", "webhook", "on the topic it is", _hooked(f"{SOLD}:v4", body={"timestamp": "2026"})),
    Plant("another order", "webhook", "on the topic it is", _hooked(f"{SOLD}:v4", body={"data": {}})),
    Plant("an event that there is not", "webhook", "is about no event",
          _hooked(f"{SOLD}:v3", webhook_id=f"{SOLD}:v9")),
    Plant("an id that is none", "webhook", "is about no event", _hooked(f"{SOLD}:v3", webhook_id="msg_1")),
    Plant("at somebody else's endpoint", "webhook", "is about an order of alice",
          _hooked(f"{SOLD}:v3", user_id="bob")),
)  # fmt: skip


def test_where_all_is_well_nothing_is_found() -> None:
    """What comes twice, and what the newest alone was shown of, is well; older ones may come live, as repeats do."""
    watched = world.watched()
    _older(Way.LIVE)(watched)
    _never_came(f"{BOUGHT}:v2")(watched)
    assert [] == list(judge_all(watched, world.wire(), BOOKS))


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "-"))
def test_each_planted_fault_is_found(plant: Plant) -> None:
    """The finding has the right kind and the right words, and it is the only one about its kind of thing."""
    watched = world.watched()
    plant.spoil(watched)
    found = list(judge_all(watched, world.wire(), BOOKS))
    assert [] != [one for one in found if one.kind == plant.kind and plant.words in str(one)], list(map(str, found))
    assert {plant.kind} == {one.kind for one in found}


def test_an_end_that_only_the_list_of_a_gap_shows_was_seen() -> None:
    """A gap was said, and the client looked where it names."""
    watched = world.watched()
    watch = watched.watches[0]
    [end] = [one for one in watch.seen if one[:2] == (SOLD, 4)]
    _unseen(SOLD, 4)(watched)
    watch.gaps = 1
    assert 1 == len(list(judge_all(watched, world.wire(), BOOKS)))
    watch.seen.append(end._replace(way=Way.LISTED, order="in other words"))
    assert [] == list(judge_all(watched, world.wire(), BOOKS))


def test_what_moves_without_a_version_is_not_compared() -> None:
    """The market moves the watermark of a trailing stop, and with it the trigger; that of a stop stays."""
    trailing, stop = ({"order_type": kind, "trigger_price": "9"} for kind in ("TRAILING_STOP_SELL", "STOP_LOSS_SELL"))
    assert digest(trailing) == digest(trailing | {"trigger_price": "8", "watermark": "10"})
    assert digest(stop) != digest(stop | {"trigger_price": "8"})


def test_what_there_was_is_counted() -> None:
    """For the figures of a run."""
    counted = world.watched().counted()
    assert (1, 1, 4) == (counted["clients by SSE"], counted["clients by WebSocket"], counted["streams"])
    assert (26, 13) == (counted["webhooks"], counted["webhooks that came again"])
