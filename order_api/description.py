"""The calls of the API, gathered from where they are declared, and the OpenAPI document of all of them."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from order_api.holds.routes import HoldRoutes
from order_api.live.routes import StreamRoutes
from order_api.market.routes import MarketRoutes
from order_api.notifications.routes import NotificationRoutes
from order_api.openapi.declarations import operations_of
from order_api.openapi.document import write_document
from order_api.openapi.health import HealthRoutes
from order_api.openapi.pages import PageRoutes
from order_api.orders.changes.routes import ChangeRoutes
from order_api.orders.description.problem_examples import problem_examples
from order_api.orders.mass_cancels.routes import MassCancelRoutes
from order_api.orders.routes import OrderRoutes
from order_api.preview.routes import PreviewRoutes
from order_api.webhooks.routes import WebhookRoutes

_ROUTES: Final = (
    *(MassCancelRoutes, PreviewRoutes, OrderRoutes, ChangeRoutes),
    *(StreamRoutes, MarketRoutes, WebhookRoutes, NotificationRoutes, HoldRoutes, PageRoutes, HealthRoutes),
)
OPERATIONS: Final = tuple(one for routes in _ROUTES for one, _ in operations_of(routes))


@cache
def api_document() -> dict[str, Any]:
    """Write the whole document. It is written once: do not change what is returned."""
    return write_document(OPERATIONS, problem_examples())
