"""How long an order may take at most while a cluster's controller works, and whether a play has kept to it. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from local_stack.stack import SERVICES
from saga_kit.runtime.session import IDLE_IN_TRANSACTION_TIMEOUT_S
from tests.evidence.chaos.cluster.pods import NODES, Cluster
from tests.evidence.chaos.cluster.upheavals import freeze_node, lose_node, roll, scale

MOVED_MAX_S: Final = 5.0
"""While processes come and go in order: some rebalances, each a heartbeat long, and the work that waited meanwhile."""
AFTERWARDS_MAX_S: Final = 5.0
"""The same, after a process was missed for the first time."""
USUAL_P50_S: Final = 0.3
"""On a machine with room, half of the orders end within this time. Where it is n times as long, so are the bounds."""
AWAY_S: Final = 2.0
"""A node is gone for so much longer than its processes' sessions."""
NOTICE_S: Final = 1.0
"""When the Service no longer names what has died. Kubernetes takes 40 to 50 s; requests that come to a dead process
meanwhile are repeated by their clients or their proxy."""


class Plan(NamedTuple):
    """An upheaval, the longest time that an order may take, and whether every request must get a good answer."""

    what: str
    upheaval: Callable[[Cluster], Awaitable[None]]
    longest_s: float
    answered: bool


def plans(session_s: float, *, most: int = 6, every_s: float = 0.0) -> Mapping[str, Plan]:
    """Return all upheavals by name. `session_s`: of the consumer groups; `most`, `every_s`: see `scale`."""
    away_s = session_s + AWAY_S
    return {
        "rolling-upgrade": Plan(
            "every process of every kind is replaced by a new one", roll, MOVED_MAX_S, answered=True
        ),
        "scale": Plan(
            f"orchestrators and balance services go from 2 to {most} and back",
            partial(scale, most=most, every_s=every_s),
            MOVED_MAX_S,
            answered=True,
        ),
        "node-loss": Plan(
            f"one process of each of {len(SERVICES)} kinds is killed at one moment, and comes back {away_s:g} s later",
            partial(lose_node, node=NODES[0], notice_s=NOTICE_S, evict_s=away_s),
            session_s + AFTERWARDS_MAX_S,
            answered=False,
        ),
        "frozen-node": Plan(
            f"one process of each kind is frozen for {away_s:g} s, and then goes on where it was",
            partial(freeze_node, node=NODES[1], notice_s=NOTICE_S, hold_s=away_s),
            max(session_s, IDLE_IN_TRANSACTION_TIMEOUT_S) + AFTERWARDS_MAX_S,
            answered=False,
        ),
    }


def limit_s(bound_s: float, calm_p50_s: float) -> float:
    """Return the bound for a machine on which half of the orders take so long without any upheaval."""
    return bound_s * max(1.0, calm_p50_s / USUAL_P50_S)
