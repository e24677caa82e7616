"""The client of Order Saga's REST API: typed, exact, and safe to repeat. `Client` blocks, `AsyncClient` is awaited.

What `__all__` lists is public, and so are the exceptions of `order_client.problems`; the other modules are not.
"""

from contracts.amends import OrderAmendment
from contracts.orders import Order, OrderStatusChanged
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode, Side, TimeInForce
from contracts.webhooks import DeliveryState, EndpointState, EventType
from order_client import problems
from order_client.answers import (
    CancelAllAnswer,
    CancelTimer,
    Entry,
    History,
    HoldStatus,
    Index,
    Liveness,
    OrderState,
    Page,
    Preview,
    PreviewQuote,
    PreviewRefusal,
    ReadinessReport,
    ServiceHold,
    WebhookAttempt,
    WebhookDeliveries,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookList,
    WebhookRecovery,
    WebhookSecret,
)
from order_client.client import AsyncClient, Client
from order_client.core import Retry
from order_client.errors import (
    InvalidWebhookError,
    MalformedWebhookError,
    NoAnswerError,
    OrderSagaError,
    ProblemError,
    StaleWebhookError,
    UnexpectedAnswerError,
    WrongSignatureError,
)
from order_client.orders import rests
from order_client.streams import (
    AccountChanged,
    Gap,
    Heartbeat,
    Interrupted,
    OrderStreamItem,
    OrderVersion,
    PriceChanged,
    SnapshotEnd,
    StreamItem,
)
from order_client.webhooks import Webhook, verify_webhook

__all__ = [
    "AccountChanged",
    "AsyncClient",
    "CancelAllAnswer",
    "CancelTimer",
    "Client",
    "DeliveryState",
    "EndpointState",
    "Entry",
    "EventType",
    "Gap",
    "Heartbeat",
    "History",
    "HoldStatus",
    "Index",
    "Interrupted",
    "InvalidWebhookError",
    "Liveness",
    "MalformedWebhookError",
    "NoAnswerError",
    "Order",
    "OrderAmendment",
    "OrderSagaError",
    "OrderState",
    "OrderStatus",
    "OrderStatusChanged",
    "OrderStreamItem",
    "OrderType",
    "OrderVersion",
    "Page",
    "Preview",
    "PreviewQuote",
    "PreviewRefusal",
    "PriceChanged",
    "ProblemError",
    "ReadinessReport",
    "ReasonCode",
    "Retry",
    "ServiceHold",
    "Side",
    "SnapshotEnd",
    "StaleWebhookError",
    "StreamItem",
    "TimeInForce",
    "UnexpectedAnswerError",
    "Webhook",
    "WebhookAttempt",
    "WebhookDeliveries",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookList",
    "WebhookRecovery",
    "WebhookSecret",
    "WrongSignatureError",
    "problems",
    "rests",
    "verify_webhook",
]
