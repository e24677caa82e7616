"""The calls of services that hold money beside the saga. No trader needs them."""

from __future__ import annotations

from uuid import UUID

from order_client.answers import Amount, ServiceHold, Time
from order_client.core import Steps, fetch
from order_client.requests import get, new_key, request, segment
from order_client.surface import Calls, operation


class HoldCalls(Calls):
    """Hold a user's money, and capture or release it."""

    @operation
    def place_hold(
        self, user_id: str, asset_id: str, amount: Amount, expires_at: Time, *, idempotency_key: str | None = None
    ) -> Steps[ServiceHold]:
        """Ask for a hold of a user's money until it is captured or released, or `expires_at`; once for one key."""
        body = {"user_id": user_id, "asset_id": asset_id, "amount": amount, "expires_at": expires_at}
        return fetch(self.session, request("POST", "/holds", body, key=new_key(idempotency_key)), ServiceHold)

    @operation
    def read_hold(self, hold_id: UUID | str) -> Steps[ServiceHold]:
        """Read a hold, and what became of it."""
        return fetch(self.session, get(_path(hold_id)), ServiceHold)

    @operation
    def capture_hold(self, hold_id: UUID | str, amount: Amount, to: str) -> Steps[ServiceHold]:
        """Ask for the payment of a part of a hold to an account of the house, such as `@fees`; the rest returns."""
        body = {"amount": amount, "to": to}
        return fetch(self.session, request("PUT", _path(hold_id, "/capture"), body), ServiceHold)

    @operation
    def release_hold(self, hold_id: UUID | str) -> Steps[ServiceHold]:
        """Ask for the return of a hold."""
        return fetch(self.session, request("PUT", _path(hold_id, "/release")), ServiceHold)


def _path(hold_id: UUID | str, rest: str = "") -> str:
    return f"/holds/{segment(hold_id)}{rest}"
