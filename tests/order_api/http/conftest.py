"""Fixtures of the tests of HTTP."""

from __future__ import annotations

import pytest

from order_api.http import keys as keys_module


@pytest.fixture
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a fetch of keys last, and be waited for, as long as this process is held up."""
    for name in ("WAIT_S", "FETCH_S"):
        monkeypatch.setattr(keys_module, name, 60.0)
