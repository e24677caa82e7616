"""What the orchestrator is told by its environment."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from order_saga.worker.process import MAX_OPEN_ORDERS
from saga_kit.runtime.settings import KitSettings


class OrchestratorSettings(KitSettings):
    """The kit's settings, and how fast the saga's own clock runs."""

    http_port: int = 8001
    order_saga_time_scale: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Multiplies every patience, retry and quote age of the saga's table."""
    order_saga_max_open_orders: Annotated[int, Field(ge=1, le=1_000_000)] = MAX_OPEN_ORDERS
    """Conditional orders that a user may have open at once in one asset; one more is refused."""
