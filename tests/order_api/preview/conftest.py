"""Fixtures of the previews' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from order_api.preview import inquiry
from order_api.settings import ApiSettings
from tests.order_api.preview.support import AssetService, asset_service


@pytest_asyncio.fixture
async def assets(settings: ApiSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AssetService]:
    """Run an asset service, which is waited for as long as it is held up."""
    for name in ("ANSWER_WITHIN_S", "BEGIN_WITHIN_S"):
        monkeypatch.setattr(inquiry, name, 25.0)
    async with asset_service(settings) as one:
        yield one
