"""Signs webhooks as Standard Webhooks 1.0.0 asks for, once with each secret that is valid."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

import msgspec
from standardwebhooks import Webhook

from contracts.webhooks import secrets_from
from projections.webhooks.deliveries import Delivery, Endpoint, Posting
from saga_kit.runtime.sealing import NotSealed, Seal

HEADERS: Final = [(b"content-type", b"application/json"), (b"user-agent", b"order-saga-webhooks")]
OPENED_MAX: Final = 10_000
"""Secrets that stay opened in memory: to open one costs more than to sign with it."""


class Signer:
    """Signs with the secrets of endpoints, which are stored sealed."""

    def __init__(self, seal: Seal) -> None:
        self._opened = lru_cache(OPENED_MAX)(lambda sealed: Webhook(seal.open(sealed)))

    def compose(self, endpoint: Endpoint, delivery: Delivery, now: datetime) -> Posting:
        """Say what is sent: the body as it is, signed. Raises `NotSealed`."""
        headers = HEADERS + self.headers(endpoint.secrets, delivery.event_id, delivery.body, now)
        return Posting(endpoint.target, headers, delivery.body)

    def headers(self, stored: str, event_id: str, body: bytes, now: datetime) -> list[tuple[bytes, bytes]]:
        """Return the three headers of an attempt at `now` (UTC). Raises `NotSealed`, also when no secret is valid."""
        signatures = [secret.sign(event_id, now, body.decode()) for secret in self._valid(stored, now)]
        if not signatures:
            raise NotSealed("the endpoint has no valid secret")
        return [
            (b"webhook-id", event_id.encode()),
            (b"webhook-timestamp", str(int(now.timestamp())).encode()),
            (b"webhook-signature", " ".join(signatures).encode()),
        ]

    def _valid(self, stored: str, now: datetime) -> Sequence[Webhook]:
        try:
            secrets = secrets_from(stored)
        except msgspec.MsgspecError:
            raise NotSealed("the stored secrets are of an unknown form") from None
        return [self._opened(one.sealed) for one in secrets if one.valid_until is None or one.valid_until > now]
