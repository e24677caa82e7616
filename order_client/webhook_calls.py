"""The calls that manage webhooks, and show what was sent. What receives them is in `webhooks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from contracts.webhooks import DeliveryState, EndpointState, EventType
from order_client.answers import (
    Time,
    WebhookDeliveries,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookList,
    WebhookRecovery,
    WebhookSecret,
)
from order_client.core import Emit, Items, Steps, fetch, fetch_nothing
from order_client.requests import get, new_key, request, segment
from order_client.surface import Calls, iteration, operation

PAGE_MAX: Final = 100

EventTypes = Sequence[EventType | str]


class WebhookCalls(Calls):
    """Have URLs told of orders."""

    @operation
    def create_webhook(
        self,
        url: str,
        *,
        event_types: EventTypes = (),
        every_version: bool = False,
        description: str = "",
        user_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Steps[WebhookSecret]:
        """Have a URL told of orders; once for one key. Without `event_types`: of everything. Keep the secret."""
        body = {
            "url": url,
            "event_types": list(event_types),
            "every_version": every_version,
            "description": description,
            "user_id": user_id,
        }
        return fetch(self.session, request("POST", "/webhooks", body, key=new_key(idempotency_key)), WebhookSecret)

    @operation
    def list_webhooks(self, *, user_id: str | None = None) -> Steps[WebhookList]:
        """List a user's webhooks."""
        return fetch(self.session, get("/webhooks", {"user_id": user_id}), WebhookList)

    @operation
    def read_webhook(self, endpoint_id: UUID | str) -> Steps[WebhookEndpoint]:
        """Read a webhook, and how it does."""
        return fetch(self.session, get(_path(endpoint_id)), WebhookEndpoint)

    @operation
    def change_webhook(
        self,
        endpoint_id: UUID | str,
        *,
        url: str | None = None,
        event_types: EventTypes | None = None,
        every_version: bool | None = None,
        description: str | None = None,
        state: EndpointState | str | None = None,
    ) -> Steps[WebhookEndpoint]:
        """Change a webhook; what is None stays. The state ACTIVE enables it again."""
        body: dict[str, Any] = {
            "url": url,
            "event_types": None if event_types is None else list(event_types),
            "every_version": every_version,
            "description": description,
            "state": state,
        }
        return fetch(self.session, request("PATCH", _path(endpoint_id), body), WebhookEndpoint)

    @operation
    def delete_webhook(self, endpoint_id: UUID | str) -> Steps[None]:
        """Delete a webhook, and all that is known of what was sent there."""
        return fetch_nothing(self.session, request("DELETE", _path(endpoint_id)))

    @operation
    def rotate_webhook_secret(self, endpoint_id: UUID | str) -> Steps[WebhookSecret]:
        """Replace the secret of a webhook; the one before signs for 24 hours more."""
        return fetch(self.session, request("POST", _path(endpoint_id, "/secret")), WebhookSecret)

    @operation
    def ping_webhook(self, endpoint_id: UUID | str) -> Steps[WebhookDelivery]:
        """Have a ping sent."""
        return fetch(self.session, request("POST", _path(endpoint_id, "/ping")), WebhookDelivery)

    @operation
    def list_webhook_deliveries(
        self,
        endpoint_id: UUID | str,
        *,
        status: DeliveryState | str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Steps[WebhookDeliveries]:
        """List what was sent, newest first, each with its last attempts; the next page by `next_cursor`."""
        query = {"status": status, "limit": limit, "cursor": cursor}
        return fetch(self.session, get(_path(endpoint_id, "/deliveries"), query), WebhookDeliveries)

    @iteration
    def webhook_deliveries(
        self, endpoint_id: UUID | str, *, status: DeliveryState | str | None = None, page_size: int = PAGE_MAX
    ) -> Items[WebhookDelivery]:
        """Iterate over what was sent, newest first, page by page."""
        cursor: str | None = None
        while True:
            query = {"status": status, "limit": page_size, "cursor": cursor}
            page = yield from fetch(self.session, get(_path(endpoint_id, "/deliveries"), query), WebhookDeliveries)
            for delivery in page.deliveries:
                yield Emit(delivery)
            if (cursor := page.next_cursor) is None:
                return

    @operation
    def redeliver_webhook(self, endpoint_id: UUID | str, event_id: str) -> Steps[WebhookDelivery]:
        """Have a delivery sent again, whatever became of it."""
        path = _path(endpoint_id, f"/deliveries/{segment(event_id)}/redeliver")
        return fetch(self.session, request("POST", path), WebhookDelivery)

    @operation
    def recover_webhook(self, endpoint_id: UUID | str, since: Time) -> Steps[WebhookRecovery]:
        """Have a webhook told of what has changed since a time, of the last 7 days; go on with `next_since`."""
        return fetch(self.session, request("POST", _path(endpoint_id, "/recover"), {"since": since}), WebhookRecovery)


def _path(endpoint_id: UUID | str, rest: str = "") -> str:
    return f"/webhooks/{segment(endpoint_id)}{rest}"
