"""What the chart's defaults say is read as they say it, and the judgement of a play can say no."""

from __future__ import annotations

import pytest

from local_stack.stack import SERVICES
from tests.evidence.chaos.cluster.bounds import MOVED_MAX_S, USUAL_P50_S, limit_s, plans
from tests.evidence.chaos.cluster.manifest import lives
from tests.evidence.chaos.cluster.play import Played
from tests.evidence.chaos.finding import Finding


def test_every_service_is_replaced_one_by_one() -> None:
    """Each has at least two processes, one more is started before one ends, and the API is forgotten first."""
    found = lives()
    for service in SERVICES:
        assert (1, 0) == (found[service].surge, found[service].unavailable)
        assert found[service].replicas >= 2
        assert (found[service].pre_stop_s > 0) == (service == "api")
        assert found[service].grace_s > found[service].pre_stop_s


def test_a_slower_machine_has_more_time() -> None:
    """A bound is stated for a machine with room, and grows with what orders take without any upheaval."""
    assert MOVED_MAX_S == limit_s(MOVED_MAX_S, USUAL_P50_S / 2)
    assert 3 * MOVED_MAX_S == pytest.approx(limit_s(MOVED_MAX_S, 3 * USUAL_P50_S))


@pytest.mark.parametrize(
    ("played", "breaches"),
    [
        (Played([0.1], [0.2, MOVED_MAX_S], 9, [], []), []),
        (Played([0.1], [0.2, 5.1], 9, [], []), ["an order took 5.1 s, longer than 5.0 s"]),
        (Played([0.1], [0.2], 9, [], ["#1: 503"]), ["#1: 503"]),
        (Played([0.1], [0.2], 9, [Finding("lost", "x", "gone")], []), ["lost: x: gone"]),
    ],
)
def test_what_breaks_a_plan_is_said(played: Played, breaches: list[str]) -> None:
    """An order that takes too long, a request without a good answer, and each finding are breaches."""
    assert breaches == played.breaches(plans(10)["rolling-upgrade"])
    if played.unanswered:
        assert [] == played.breaches(plans(10)["node-loss"])
