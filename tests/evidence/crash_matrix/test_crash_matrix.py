"""A sample of the matrix with every crash point, and the completeness of the matrix."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from contracts.topics import TOPICS
from order_saga.triggers.process import TriggerHandler
from order_saga.worker.process import ChangeHandler, SagaHandler
from tests.evidence.crash_matrix.cells import (
    OWN,
    POINTS,
    RECEIVED,
    RESTING,
    RULES,
    SENT,
    SERVICES,
    Cell,
    all_cells,
    messages,
    rounds,
    sample,
    why_not,
)
from tests.evidence.crash_matrix.matrix import found, run
from tests.support.infrastructure import Infrastructure


def test_every_cell_is_played_or_has_its_reason() -> None:
    """Every cell that is not in the matrix is excluded by a rule, and every rule excludes some cell."""
    every = {
        Cell(service, point, message) for service, point in product(SERVICES, POINTS) for message in messages(service)
    }
    assert every == {*all_cells()} | {cell for cell in every if why_not(cell)}
    assert [] == [rule.reason for rule in RULES if not any(rule.forbids(cell) for cell in every)]
    assert all_cells() == [Cell.parse(cell.name) for cell in all_cells()]
    assert sorted(all_cells()) == sorted(cell for one in rounds(all_cells()) for cell in one)


def test_every_service_dies_in_every_message_somewhere() -> None:
    """Each service has at least one cell for each type of message that it receives or sends."""
    held = {(service, message) for service in SERVICES for message in messages(service)}
    assert held == {(cell.service, cell.message) for cell in all_cells()}


def test_the_matrix_has_every_message_and_every_point_of_the_product() -> None:
    """Whatever a topic carries or a module names as a crash point is in the matrix, as soon as it is in the product."""
    carried = {message.__name__ for topic in TOPICS for message in topic.messages}
    held = {message for of in (RECEIVED, SENT) for messages_ in of.values() for message in messages_}
    assert carried == held - {*OWN, RESTING}
    received = {topic for handler in (SagaHandler, ChangeHandler, TriggerHandler) for topic in handler.topics}
    carried_to_it = {one.__name__ for topic in TOPICS if topic.name in received for one in topic.messages}
    assert carried_to_it == {*RECEIVED["orchestrator"]} - {*OWN, RESTING}
    named = {
        ".".join(found)
        for room in ("saga_kit", "order_saga", "order_api", "participants", "projections", "operations")
        for path in Path(room).rglob("*.py")
        for found in re.findall(r"(\w+Point)\.([A-Z_]+)", path.read_text())
    }
    assert named == {f"{type(point).__name__}.{point.name}" for point in POINTS}


@pytest.mark.apache_kafka
async def test_a_death_at_every_point_is_survived(infrastructure: Infrastructure, tmp_path: Path) -> None:
    """After a death at each crash point the service comes back, every order ends, and every cent adds up."""
    cells = sample()
    assert set(POINTS) == {cell.point for cell in cells}
    outcomes = await run(infrastructure, cells, tmp_path, systems=2, tell=lambda _: None)
    assert [] == found(outcomes)
    assert sorted(cells) == sorted(outcome.cell for outcome in outcomes if outcome.hit)
