"""The calls that say how a person is told of orders, and show what was told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from order_client.answers import Notification, NotificationLog, NotificationPreferences, NotificationsTested
from order_client.core import Emit, Items, Steps, fetch
from order_client.requests import get, request
from order_client.surface import Calls, iteration, operation

PAGE_MAX: Final = 100
_PREFERENCES = "/notifications/preferences"


class NotificationCalls(Calls):
    """Set how a user is told, confirm an address, and read what was told."""

    @operation
    def read_notification_preferences(self, *, user_id: str | None = None) -> Steps[NotificationPreferences]:
        """Read how a user is told."""
        return fetch(self.session, get(_PREFERENCES, {"user_id": user_id}), NotificationPreferences)

    @operation
    def set_notification_preferences(
        self,
        *,
        email: Mapping[str, Any] | None = None,
        push: Mapping[str, Any] | None = None,
        webhook: Mapping[str, Any] | None = None,
        user_id: str | None = None,
    ) -> Steps[NotificationPreferences]:
        """Set the whole of a user's preferences: a channel that is left out is switched off. See the API's document."""
        body = {"email": email, "push": push, "webhook": webhook, "user_id": user_id}
        return fetch(self.session, request("PUT", _PREFERENCES, body), NotificationPreferences)

    @operation
    def confirm_notification_address(self, code: str, *, user_id: str | None = None) -> Steps[NotificationPreferences]:
        """Confirm an e-mail address by the code that was sent there."""
        body = {"code": code, "user_id": user_id}
        return fetch(self.session, request("POST", "/notifications/confirm", body), NotificationPreferences)

    @operation
    def test_notifications(self, *, user_id: str | None = None) -> Steps[NotificationsTested]:
        """Have a test sent to each channel that is on and confirmed."""
        asked = request("POST", "/notifications/test", query={"user_id": user_id})
        return fetch(self.session, asked, NotificationsTested)

    @operation
    def list_notifications(
        self, *, user_id: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> Steps[NotificationLog]:
        """Read a page of what was told, and why not, newest first."""
        query = {"user_id": user_id, "limit": limit, "cursor": cursor}
        return fetch(self.session, get("/notifications", query), NotificationLog)

    @iteration
    def notifications(self, *, user_id: str | None = None, page_size: int = PAGE_MAX) -> Items[Notification]:
        """Iterate over what was told, and why not, newest first, page by page."""
        cursor: str | None = None
        while True:
            query = {"user_id": user_id, "limit": page_size, "cursor": cursor}
            page = yield from fetch(self.session, get("/notifications", query), NotificationLog)
            for notification in page.notifications:
                yield Emit(notification)
            if (cursor := page.next_cursor) is None:
                return
