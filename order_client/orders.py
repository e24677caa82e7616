"""The calls about orders."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Unpack
from uuid import UUID

from contracts.orders import Order
from contracts.vocabulary import OrderType
from order_client.answers import (
    Amount,
    CancelAllAnswer,
    CancelFilters,
    CancelTimer,
    Entry,
    History,
    OrderChanges,
    OrderFilters,
    OrderState,
    OrderTerms,
    Page,
    Preview,
)
from order_client.core import Emit, Items, Pause, Request, Steps, fetch, fetch_changed
from order_client.requests import WAIT_MAX_S, get, new_key, request, segment, waiting
from order_client.surface import Calls, iteration, operation

PAGE_MAX: Final = 200
"""Orders of a page at most."""
PAUSE_S: Final = 0.1
"""With too many requests that wait, the API answers one at once: the next one comes a little later."""


class OrderCalls(Calls):
    """Submit, read, list, change and cancel orders.

    `wait_s` lets the API wait up to so many seconds (at most 30) for what is asked for: the end of an order, a cancel,
    an amend. An amount that is a text is sent as it is.
    """

    @operation
    def submit_order(
        self,
        asset_id: str,
        order_type: OrderType | str,
        quantity: Amount,
        *,
        wait_s: float | None = None,
        idempotency_key: str | None = None,
        **terms: Unpack[OrderTerms],
    ) -> Steps[Order]:
        """Submit an order, once: it is repeated with one key, which is a new one unless you give your own.

        Returns it as it stands, PENDING unless `wait_s` lets it end. A refused order is no error: see its status.
        """
        body = _asked(asset_id, order_type, quantity, terms)
        key = new_key(idempotency_key)
        return fetch(self.session, request("POST", "/orders", body, key=key, wait_s=wait_s), Order)

    @operation
    def preview_order(
        self, asset_id: str, order_type: OrderType | str, quantity: Amount, **terms: Unpack[OrderTerms]
    ) -> Steps[Preview]:
        """Say what would become of an order, without making it."""
        asked = request("POST", "/orders/preview", _asked(asset_id, order_type, quantity, terms))
        return fetch(self.session, replace(asked, changes=False), Preview)

    @operation
    def read_order(self, order_id: UUID | str, *, wait_s: float | None = None) -> Steps[Order]:
        """Read an order; with `wait_s`, wait for its end, and read it as it is then or when the time is over."""
        return fetch(self.session, waiting(get(_by_id(order_id)), wait_s), Order)

    @operation
    def read_order_by_client_id(
        self, client_order_id: str, *, user_id: str | None = None, wait_s: float | None = None
    ) -> Steps[Order]:
        """Read an order by the name that its user gave it."""
        return fetch(self.session, waiting(_by_name(client_order_id, user_id), wait_s), Order)

    @operation
    def read_order_change(
        self, order_id: UUID | str, version: int, *, wait_s: float | None = None
    ) -> Steps[Order | None]:
        """Read an order if it has another version than this one; None: it has not. With `wait_s`, wait until it has."""
        return fetch_changed(self.session, waiting(get(_by_id(order_id)), wait_s, version), Order)

    @operation
    def read_order_change_by_client_id(
        self, client_order_id: str, version: int, *, user_id: str | None = None, wait_s: float | None = None
    ) -> Steps[Order | None]:
        """Read an order, by the name that its user gave it, if it has another version than this one."""
        return fetch_changed(self.session, waiting(_by_name(client_order_id, user_id), wait_s, version), Order)

    @operation
    def read_order_status(self, order_id: UUID | str, *, wait_s: float | None = None) -> Steps[OrderState]:
        """Read the few fields of an order that change by themselves."""
        return fetch(self.session, waiting(get(_by_id(order_id, "/status")), wait_s), OrderState)

    @operation
    def read_order_status_change(
        self, order_id: UUID | str, version: int, *, wait_s: float | None = None
    ) -> Steps[OrderState | None]:
        """Read these fields if the order has another version than this one; with `wait_s`, wait until it has."""
        return fetch_changed(self.session, waiting(get(_by_id(order_id, "/status")), wait_s, version), OrderState)

    @operation
    def read_order_history(self, order_id: UUID | str, *, after: int | None = None) -> Steps[History]:
        """Read a page of what happened to an order, oldest first, behind the entry `after`."""
        return fetch(self.session, get(_by_id(order_id, "/history"), {"after": after}), History)

    @iteration
    def order_history(self, order_id: UUID | str) -> Items[Entry]:
        """Iterate over all that happened to an order, oldest first, page by page."""
        after: int | None = None
        while True:
            page = yield from fetch(self.session, get(_by_id(order_id, "/history"), {"after": after}), History)
            for entry in page.history:
                yield Emit(entry)
            if not page.has_more or not page.history:
                return
            after = page.history[-1].seq

    @operation
    def list_orders(
        self, *, limit: int | None = None, cursor: str | None = None, **filters: Unpack[OrderFilters]
    ) -> Steps[Page]:
        """List a page of orders, newest first."""
        return fetch(self.session, get("/orders", {**filters, "limit": limit, "cursor": cursor}), Page)

    @iteration
    def orders(self, *, page_size: int = PAGE_MAX, **filters: Unpack[OrderFilters]) -> Items[Order]:
        """Iterate over orders, newest first, page by page. What is submitted meanwhile is not among them."""
        query = {**filters, "limit": page_size}
        cursor: str | None = None
        while True:
            page = yield from fetch(self.session, get("/orders", {**query, "cursor": cursor}), Page)
            for order in page.orders:
                yield Emit(order)
            if not page.has_more or page.next_cursor is None:
                return
            cursor = page.next_cursor

    @operation
    def cancel_order(self, order_id: UUID | str, *, wait_s: float | None = None) -> Steps[Order]:
        """Ask for the cancellation of an order; it judges by itself whether it still can be. Repeating is harmless."""
        return fetch(self.session, request("PUT", _by_id(order_id, "/cancel"), wait_s=wait_s), Order)

    @operation
    def cancel_order_by_client_id(
        self, client_order_id: str, *, user_id: str | None = None, wait_s: float | None = None
    ) -> Steps[Order]:
        """Ask for the cancellation of an order by the name that its user gave it."""
        return fetch(self.session, _put_by_name(client_order_id, "cancel", user_id, wait_s), Order)

    @operation
    def amend_order(
        self,
        order_id: UUID | str,
        *,
        if_version: int | None = None,
        wait_s: float | None = None,
        idempotency_key: str | None = None,
        **changes: Unpack[OrderChanges],
    ) -> Steps[Order]:
        """Change the terms of an order that rests, once; with `if_version`, only if that is its version.

        The old terms count until the new ones do: `amend` of the order tells. With `wait_s`, an amend that was refused
        raises `AmendRefusedError`.
        """
        path, key = _by_id(order_id), new_key(idempotency_key)
        asked = request("PATCH", path, changes, key=key, wait_s=wait_s, if_version=if_version)
        return fetch(self.session, asked, Order)

    @operation
    def amend_order_by_client_id(
        self,
        client_order_id: str,
        *,
        user_id: str | None = None,
        if_version: int | None = None,
        wait_s: float | None = None,
        idempotency_key: str | None = None,
        **changes: Unpack[OrderChanges],
    ) -> Steps[Order]:
        """Change the terms of an order by the name that its user gave it."""
        path, query, key = _name(client_order_id), {"user_id": user_id}, new_key(idempotency_key)
        asked = request("PATCH", path, changes, query=query, key=key, wait_s=wait_s, if_version=if_version)
        return fetch(self.session, asked, Order)

    @operation
    def hold_order(self, order_id: UUID | str, *, wait_s: float | None = None) -> Steps[Order]:
        """Put an order that rests on hold: no price fires it until it is released."""
        return fetch(self.session, request("PUT", _by_id(order_id, "/hold"), wait_s=wait_s), Order)

    @operation
    def hold_order_by_client_id(
        self, client_order_id: str, *, user_id: str | None = None, wait_s: float | None = None
    ) -> Steps[Order]:
        """Put an order on hold by the name that its user gave it."""
        return fetch(self.session, _put_by_name(client_order_id, "hold", user_id, wait_s), Order)

    @operation
    def release_order(self, order_id: UUID | str, *, wait_s: float | None = None) -> Steps[Order]:
        """Let an order that is on hold rest again, as of now."""
        return fetch(self.session, request("PUT", _by_id(order_id, "/release"), wait_s=wait_s), Order)

    @operation
    def release_order_by_client_id(
        self, client_order_id: str, *, user_id: str | None = None, wait_s: float | None = None
    ) -> Steps[Order]:
        """Let an order rest again by the name that its user gave it."""
        return fetch(self.session, _put_by_name(client_order_id, "release", user_id, wait_s), Order)

    @operation
    def cancel_all_orders(
        self, *, idempotency_key: str | None = None, **filters: Unpack[CancelFilters]
    ) -> Steps[CancelAllAnswer]:
        """Ask for the cancellation of all open orders, or of those that fit. The same key cancels nothing new."""
        key = new_key(idempotency_key)
        return fetch(self.session, request("POST", "/orders/cancel-all", filters, key=key), CancelAllAnswer)

    @operation
    def set_cancel_timer(self, timeout_s: int, *, user_id: str | None = None) -> Steps[CancelTimer]:
        """Have all open orders cancelled unless this is called again within so many seconds; 0 switches it off."""
        body = {"timeout_s": timeout_s, "user_id": user_id}
        return fetch(self.session, request("PUT", "/orders/cancel-all-after", body), CancelTimer)

    @operation
    def read_cancel_timer(self, *, user_id: str | None = None) -> Steps[CancelTimer]:
        """Read the cancel timer, and what it did when it last fired."""
        return fetch(self.session, get("/orders/cancel-all-after", {"user_id": user_id}), CancelTimer)

    @operation
    def wait_for_end(self, order: Order, timeout_s: float) -> Steps[Order]:
        """Wait until an order has ended, or rests until a price fires it, or the time is over; return it as it is then.

        An order that rests may do so for days: the stream of its events tells when it goes on.
        """
        return _wait_for_end(self, order, timeout_s)


def rests(order: Order) -> bool:
    """Tell whether an order waits for a price or for an opening."""
    return order.status == "CONFIRMED" and order.revision is not None and not order.cancel_requested


def _wait_for_end(client: Calls, order: Order, timeout_s: float) -> Steps[Order]:
    deadline = client.session.now() + timeout_s
    while not (order.status.terminal or rests(order)):
        left_s = deadline - client.session.now()
        if left_s <= 0:
            break
        # Each change of a conditional order is asked for, so also that it rests.
        version = None if order.time_in_force is None else order.version
        asked = waiting(get(_by_id(order.order_id)), min(left_s, WAIT_MAX_S), version)
        order = (yield from fetch_changed(client.session, asked, Order)) or order
        if not (order.status.terminal or rests(order)):
            yield Pause(PAUSE_S)
    return order


def _asked(asset_id: str, order_type: OrderType | str, quantity: Amount, terms: OrderTerms) -> dict[str, object]:
    return {"asset_id": asset_id, "order_type": order_type, "quantity": quantity, **terms}


def _by_id(order_id: UUID | str, rest: str = "") -> str:
    return f"/orders/{segment(order_id)}{rest}"


def _name(client_order_id: str) -> str:
    return f"/orders/by-client-id/{segment(client_order_id)}"


def _by_name(client_order_id: str, user_id: str | None) -> Request:
    return get(_name(client_order_id), {"user_id": user_id})


def _put_by_name(client_order_id: str, wish: str, user_id: str | None, wait_s: float | None) -> Request:
    path = f"{_name(client_order_id)}/{wish}"
    return request("PUT", path, query={"user_id": user_id}, wait_s=wait_s)
