"""Fixtures of the previews' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from order_api.settings import ApiSettings
from tests.order_api.preview.support import AssetService, asset_service


@pytest_asyncio.fixture
async def assets(settings: ApiSettings) -> AsyncIterator[AssetService]:
    """Run an asset service."""
    async with asset_service(settings) as one:
        yield one
