"""An idle consumer asks the broker seldom, however the wait is set, and a busy one as it is set."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from aiokafka.consumer.fetcher import Fetcher

from saga_kit.messaging import fetch_wait
from saga_kit.messaging.fetch_wait import FetchWait


@pytest.mark.parametrize(("set_to", "idle"), [(1, 10), (50, 500), (100, 1000), (400, 1000), (1500, 1500), (5000, 5000)])
def test_without_records_a_fetch_is_held_longer(monkeypatch: pytest.MonkeyPatch, set_to: int, idle: int) -> None:
    """Ten times as long after a second, a second at most, and never less than it is set to; a record ends it."""
    now = 0.0
    monkeypatch.setattr(fetch_wait, "time", SimpleNamespace(monotonic=lambda: now))
    fetcher = SimpleNamespace(_fetch_max_wait_ms=None)
    wait = FetchWait(set_to)
    seen = []
    for now, records in ((0.9, []), (1.1, []), (60.0, []), (60.1, ["record"]), (61.0, []), (61.2, [])):  # noqa: B007
        wait.polled(SimpleNamespace(_fetcher=fetcher), records)
        seen.append(fetcher._fetch_max_wait_ms)  # noqa: SLF001
    assert [set_to, idle, idle, set_to, set_to, idle] == seen


def test_the_client_library_reads_what_is_set() -> None:
    """The library's fetcher makes each fetch with the attribute that is set here."""
    assert "_fetch_max_wait_ms" in Fetcher._get_actions_per_node.__code__.co_names  # noqa: SLF001
