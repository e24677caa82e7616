"""How long a client may keep an order, and what `If-None-Match` is judged by."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.order_api.support import Api, Orchestrator


@pytest.mark.parametrize("part", ["", "/status"])
@pytest.mark.parametrize(
    ("phase", "control"),
    [
        ("VALIDATING", "private, no-cache"),
        ("SETTLING", "private, no-cache"),
        ("COMPLETED", "private, max-age=60"),
        ("CANCELLED", "private, max-age=60"),
        ("FAILED", "private, max-age=60"),
    ],
)
async def test_an_order_is_kept_once_it_has_ended(
    api: Api, orchestrator: Orchestrator, phase: str, control: str, part: str
) -> None:
    """By its user's own client alone: the next user of that browser is not shown it. A 304 says the same."""
    order_id = str(uuid4())
    await orchestrator.shows(order_id, phase=phase, version=3)
    answer = await api.get(f"/orders/{order_id}{part}")
    assert [200, control, '"3"'] == [answer.status_code, answer.headers["cache-control"], answer.headers["etag"]]
    assert "authorization" in answer.headers["vary"].lower()
    known = await api.get(f"/orders/{order_id}{part}", headers={"If-None-Match": '"3"'})
    assert [304, control, b""] == [known.status_code, known.headers["cache-control"], known.content]


async def test_a_tag_is_judged_by_the_row(api: Api, orchestrator: Orchestrator) -> None:
    """A process that has heard nothing of a change still does not say that there was none."""
    order_id = str(uuid4())
    await orchestrator.shows(order_id, phase="SETTLING", version=3)
    await api.get(f"/orders/{order_id}")
    await orchestrator.shows(order_id, phase="COMPLETED", version=4)  # and no event is published
    answer = await api.get(f"/orders/{order_id}", headers={"If-None-Match": '"3"'})
    assert [200, '"4"', "COMPLETED"] == [answer.status_code, answer.headers["etag"], answer.json()["status"]]


async def test_lists_histories_and_problems_are_kept_by_nobody(api: Api, orchestrator: Orchestrator) -> None:
    """They change with each order."""
    order_id = str(uuid4())
    await orchestrator.shows(order_id, phase="COMPLETED")
    for path in ("/orders", f"/orders/{order_id}/history", f"/orders/{uuid4()}"):
        assert "no-store" == (await api.get(path)).headers["cache-control"], path
