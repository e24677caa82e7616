"""The settings of the webhook process."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from projections.webhooks.guard import networks_of
from saga_kit.runtime.sealing import check_keys
from saga_kit.runtime.settings import KitSettings


def _check_networks(value: str) -> str:
    networks_of(value)
    return value


def _check_proxy(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be http://host:port or https://host:port")
    return value


class WebhooksSettings(KitSettings):
    """Settings of the webhook process."""

    http_port: int = 8006
    webhooks_keys: Annotated[SecretStr, AfterValidator(check_keys)]
    """The keys that seal the secrets of endpoints (Fernet keys, the newest first, with commas between), as the API has
    them."""
    webhooks_allow_networks: Annotated[str, AfterValidator(_check_networks)] = ""
    """Networks that webhooks may reach although they are private, by `http` and at any port too: for tests, such as
    `127.0.0.0/8`. Leave it empty where users are not to be trusted."""
    webhooks_proxy: Annotated[str, AfterValidator(_check_proxy)] | None = None
    """An HTTP proxy that all webhooks go through, which then judges the addresses."""
    webhooks_in_flight_max: Annotated[int, Field(ge=8, le=1000)] = 100
    """Attempts at the same time. Half of them at most go to endpoints that are slow, fail, or are not known yet."""
    webhooks_keep_days: Annotated[float, Field(gt=0, le=3650)] = 30.0
    """Deliveries are deleted so many days after they ended."""
