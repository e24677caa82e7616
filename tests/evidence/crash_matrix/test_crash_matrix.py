"""A sample of the matrix on every run, in which each point comes by, and the matrix's own book-keeping."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from saga_kit.runtime.crash_points import CrashPoint
from tests.evidence.crash_matrix.cells import RULES, SERVICES, Cell, all_cells, messages, rounds, sample, why_not
from tests.evidence.crash_matrix.matrix import found, run
from tests.support.infrastructure import Infrastructure


def test_every_cell_is_played_or_has_its_reason() -> None:
    """Service, point and type: what is not in the matrix is forbidden by a rule, and no rule is about nothing."""
    every = {
        Cell(service, point, message)
        for service, point in product(SERVICES, CrashPoint)
        for message in messages(service)
    }
    assert every == {*all_cells()} | {cell for cell in every if why_not(cell)}
    assert [] == [rule.reason for rule in RULES if not any(rule.forbids(cell) for cell in every)]
    assert all_cells() == [Cell.parse(cell.name) for cell in all_cells()]
    assert sorted(all_cells()) == sorted(cell for one in rounds(all_cells()) for cell in one)


def test_every_service_dies_in_every_message_somewhere() -> None:
    """No type is ruled out at all the points of a service that receives or sends it."""
    held = {(service, message) for service in SERVICES for message in messages(service)}
    assert held == {(cell.service, cell.message) for cell in all_cells()}


@pytest.mark.apache_kafka
async def test_a_death_at_every_point_is_survived(infrastructure: Infrastructure, tmp_path: Path) -> None:
    """Each place where a process can die, under one message: it comes back, every order ends, every cent is there."""
    cells = sample()
    assert set(CrashPoint) == {cell.point for cell in cells}
    outcomes = await run(infrastructure, cells, tmp_path, systems=2, tell=lambda _: None)
    assert [] == found(outcomes)
    assert sorted(cells) == sorted(outcome.cell for outcome in outcomes if outcome.hit)
