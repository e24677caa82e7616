"""What users ask of their endpoints. It judges URLs, makes and seals secrets, and stores; a process sends."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
from msgspec import UNSET
from prometheus_client import Counter
from uuid_utils.compat import uuid7

from contracts.codec import encode
from contracts.webhooks import (
    ENDPOINTS_MAX,
    SECRET_BYTES,
    DeliveryState,
    EndpointState,
    EventType,
    OrderWebhook,
    PingWebhook,
    StoredSecret,
    event_id_of,
    event_type_for,
    secret_text,
    secrets_to,
)
from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller
from order_api.orders.audit_trail import Origin
from order_api.webhooks.endpoints import (
    ROTATED_FOR,
    RecoverBody,
    WebhookBody,
    WebhookChangeBody,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookRecovery,
    WebhookSecret,
    asked_text,
    check_since,
    check_url,
    plain,
)
from order_api.webhooks.store import RECOVERED_MAX, Action, Changed, NewEndpoint, Store, Stored, Told
from saga_kit.runtime.sealing import NotSealed, Seal


class Place(NamedTuple):
    """Where a delivery stands in a list."""

    created_at: datetime
    event_id: str


class WebhookService:
    """Serves callers who are known; raises `Problem` for what it refuses.

    `seal`: None where no keys are set, so no secret can be made. `anywhere`: endpoints may be at private addresses.
    `done` counts what was done, by action.
    """

    def __init__(self, store: Store, seal: Seal | None, done: Counter, *, anywhere: bool, keys_kept_days: int) -> None:
        self._store = store
        self._done = done
        self._seal = seal
        self._anywhere = anywhere
        self._keys_kept_days = keys_kept_days

    async def create(
        self, body: WebhookBody, key: str | None, caller: Caller, origin: Origin
    ) -> tuple[WebhookSecret, bool]:
        """Make an endpoint; return it with its secret, and whether it had been made before under the same key."""
        user_id = body.user_id or caller.user_id
        if not caller.acts_for(user_id):
            raise Problem(Code.OTHER_USER)
        check_url(body.url, anywhere=self._anywhere)
        secret, sealed = self._new_secret()
        new = NewEndpoint(
            endpoint_id=uuid7(),
            user_id=user_id,
            url=body.url,
            description=body.description,
            event_types=list(map(str, plain(body.event_types))),
            every_version=body.every_version,
            secrets=secrets_to([StoredSecret(sealed)]),
            key=key,
            asked=asked_text(body),
        )
        stored, is_new = await self._store.create(new, origin, keys_kept_days=self._keys_kept_days)
        if stored is None:
            raise Problem(Code.TOO_MANY_WEBHOOKS, f"a user has at most {ENDPOINTS_MAX}")
        if not is_new and stored.asked != new.asked:
            endpoint_id = stored.webhook.endpoint_id
            raise Problem(Code.WEBHOOK_KEY_REUSED, f"it belongs to webhook {endpoint_id}", endpoint_id=endpoint_id)
        if is_new:
            self._count(Action.CREATE)
        shown = secret if is_new else self._first_secret(stored)
        return WebhookSecret(stored.webhook, shown, _previous(stored)), not is_new

    async def of_user(self, user_id: str, caller: Caller) -> list[WebhookEndpoint]:
        """Return a user's endpoints."""
        if not caller.acts_for(user_id):
            raise Problem(Code.OTHER_USER)
        return await self._store.of_user(user_id)

    async def webhook(self, endpoint_id: UUID, caller: Caller) -> WebhookEndpoint:
        """Return an endpoint that the caller may see."""
        stored = await self._store.find(endpoint_id)
        if stored is None or not caller.acts_for(stored.webhook.user_id):
            raise Problem(Code.WEBHOOK_NOT_FOUND)
        return stored.webhook

    async def change(
        self, endpoint_id: UUID, body: WebhookChangeBody, caller: Caller, origin: Origin
    ) -> WebhookEndpoint:
        """Change an endpoint. Nothing asked for changes nothing."""
        webhook = await self.webhook(endpoint_id, caller)
        given = msgspec.structs.asdict(body).items()
        changes = {name: value for name, value in given if value is not UNSET}
        if not changes:
            return webhook
        if body.url is not UNSET:
            check_url(body.url, anywhere=self._anywhere)
        if body.event_types is not UNSET:
            changes["event_types"] = list(map(str, plain(body.event_types)))
        changed = _there(await self._store.change(endpoint_id, changes, origin))
        self._count(Action.CHANGE)
        return changed

    async def delete(self, endpoint_id: UUID, caller: Caller, origin: Origin) -> None:
        """Delete an endpoint, and all that is known of what was sent there."""
        await self.webhook(endpoint_id, caller)
        await self._store.delete(endpoint_id, origin)
        self._count(Action.DELETE)

    async def rotate(self, endpoint_id: UUID, caller: Caller, origin: Origin) -> WebhookSecret:
        """Give an endpoint a new secret, and return it."""
        await self.webhook(endpoint_id, caller)
        secret, sealed = self._new_secret()
        stored = await self._store.rotate(endpoint_id, sealed, origin)
        if stored is None:
            raise Problem(Code.WEBHOOK_NOT_FOUND)
        self._count(Action.ROTATE)
        return WebhookSecret(stored.webhook, secret, _previous(stored))

    async def ping(self, endpoint_id: UUID, caller: Caller, origin: Origin) -> WebhookDelivery:
        """Have a ping sent."""
        stored = await self._active(endpoint_id, caller)
        event_id = f"{endpoint_id}:ping:{uuid7()}"
        body = encode(PingWebhook(EventType.WEBHOOK_PING, stored.now))
        told = Told(event_id, None, None, EventType.WEBHOOK_PING, body)
        pinged = await self._store.ping(endpoint_id, told, origin)
        self._count(Action.PING)
        return await self._delivery(endpoint_id, pinged)

    async def deliveries(
        self, endpoint_id: UUID, caller: Caller, status: DeliveryState | None, after: Place | None, limit: int
    ) -> list[WebhookDelivery]:
        """Return what was sent to an endpoint."""
        await self.webhook(endpoint_id, caller)
        return await self._store.deliveries(endpoint_id, status, after, limit)

    async def redeliver(self, endpoint_id: UUID, event_id: str, caller: Caller, origin: Origin) -> WebhookDelivery:
        """Have a delivery sent again."""
        await self._active(endpoint_id, caller)
        if not await self._store.redeliver(endpoint_id, event_id, origin):
            raise Problem(Code.DELIVERY_NOT_FOUND)
        self._count(Action.REDELIVER)
        return await self._delivery(endpoint_id, event_id)

    async def recover(self, endpoint_id: UUID, body: RecoverBody, caller: Caller, origin: Origin) -> WebhookRecovery:
        """Have an endpoint told of all orders that have changed since a time, as far as it wants to be."""
        stored = await self._active(endpoint_id, caller)
        webhook = stored.webhook
        check_since(body.since, stored.now)
        changed = await self._store.changed(webhook.user_id, body.since)
        page = changed[:RECOVERED_MAX]
        told = [one for one in map(_told, page) if not webhook.event_types or one.event_type in webhook.event_types]
        every_since = body.since if webhook.every_version else None
        number, further = await self._store.recover(endpoint_id, told, every_since, origin)
        self._count(Action.RECOVER)
        beyond = [one.order.updated_at for one in changed[RECOVERED_MAX:]]
        nexts = beyond if further is None else [*beyond, further]
        return WebhookRecovery(number, has_more=bool(nexts), next_since=min(nexts, default=None))

    def _count(self, action: Action) -> None:
        self._done.labels(action).inc()

    async def _active(self, endpoint_id: UUID, caller: Caller) -> Stored:
        stored = await self._store.find(endpoint_id)
        if stored is None or not caller.acts_for(stored.webhook.user_id):
            raise Problem(Code.WEBHOOK_NOT_FOUND)
        if stored.webhook.state is EndpointState.DISABLED:
            raise Problem(Code.WEBHOOK_DISABLED, stored.webhook.disabled_reason, endpoint_id=endpoint_id)
        return stored

    async def _delivery(self, endpoint_id: UUID, event_id: str) -> WebhookDelivery:
        found = await self._store.delivery(endpoint_id, event_id)
        if found is None:  # its endpoint is deleted meanwhile
            raise Problem(Code.DELIVERY_NOT_FOUND)
        return found

    def _new_secret(self) -> tuple[str, str]:
        """Make a secret: as its user sees it, and sealed."""
        if self._seal is None:
            raise Problem(Code.WEBHOOKS_OFF)
        secret = secrets.token_bytes(SECRET_BYTES)
        return secret_text(secret), self._seal.seal(secret)

    def _first_secret(self, stored: Stored) -> str | None:
        """Open the secret for a client that lost the first answer; later, or when it was replaced, nobody sees it."""
        late = stored.now - stored.webhook.created_at > ROTATED_FOR
        if self._seal is None or late or len(stored.secrets) > 1:
            return None
        try:
            return secret_text(self._seal.open(stored.secrets[0].sealed))
        except NotSealed:  # its key is gone: the user asks for another secret
            return None


def _previous(stored: Stored) -> datetime | None:
    return max((one.valid_until for one in stored.secrets if one.valid_until is not None), default=None)


def _there(webhook: WebhookEndpoint | None) -> WebhookEndpoint:
    if webhook is None:
        raise Problem(Code.WEBHOOK_NOT_FOUND)
    return webhook


def _told(changed: Changed) -> Told:
    order = changed.order
    event_type = event_type_for(order.status, changed.previous)
    body = encode(OrderWebhook(event_type, changed.at, order))
    return Told(event_id_of(order.order_id, order.version), order.order_id, order.version, event_type, body)
