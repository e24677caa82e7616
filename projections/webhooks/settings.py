"""The settings of the webhook process."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from contracts.webhooks import address_fault
from projections.webhooks.guard import networks_of
from projections.webhooks.mailing import relay_of
from projections.webhooks.pushing import vapid_key
from saga_kit.runtime.operators import check_channels
from saga_kit.runtime.sealing import check_keys
from saga_kit.runtime.settings import KitSettings


def _check_networks(value: str) -> str:
    networks_of(value)
    return value


def _check_relay(value: SecretStr) -> SecretStr:
    relay_of(value.get_secret_value())
    return value


def _check_address(value: str) -> str:
    if (fault := address_fault(value)) is not None:
        raise ValueError(fault)
    return value


def _check_vapid(value: SecretStr) -> SecretStr:
    try:
        vapid_key(value.get_secret_value())
    except ValueError:
        raise ValueError("must be the 32 bytes of a private key on P-256, in base64url") from None
    return value


def _check_channels(value: SecretStr) -> SecretStr:
    check_channels(value.get_secret_value())
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
    notify_smtp_url: Annotated[SecretStr, AfterValidator(_check_relay)] | None = None
    """The relay for e-mails to users, `smtps://user:password@host` or `smtp://...` with STARTTLS; without it, nobody is
    told by e-mail. `smtp://localhost:25?plain` needs no TLS."""
    notify_from: Annotated[str, AfterValidator(_check_address)] | None = None
    """The address that e-mails come from; needed with `NOTIFY_SMTP_URL`."""
    notify_vapid_key: Annotated[SecretStr, AfterValidator(_check_vapid)] | None = None
    """The private key that push services know this system by (VAPID: 32 bytes in base64url); without it, nobody is told
    by push."""
    notify_vapid_contact: Annotated[str, Field(pattern="^(mailto:|https://).+")] | None = None
    """Where a push service reaches its operator, as `mailto:` or `https:`; needed with `NOTIFY_VAPID_KEY`."""
    notify_urls: Annotated[SecretStr, AfterValidator(_check_channels)] | None = None
    """Channels by which operators are told of orders that are parked or overdue, of dead letters, and of endpoints that
    are given up: URLs for Apprise, with blanks between. It needs the extra `notify`."""
    webhooks_in_flight_max: Annotated[int, Field(ge=8, le=1000)] = 100
    """Attempts at the same time. Half of them at most go to endpoints that are slow, fail, or are not known yet."""
    webhooks_keep_days: Annotated[float, Field(gt=0, le=3650)] = 30.0
    """Deliveries are deleted so many days after they ended."""

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if (self.notify_smtp_url is None) != (self.notify_from is None):
            raise ValueError("NOTIFY_SMTP_URL and NOTIFY_FROM are given together")
        if (self.notify_vapid_key is None) != (self.notify_vapid_contact is None):
            raise ValueError("NOTIFY_VAPID_KEY and NOTIFY_VAPID_CONTACT are given together")
        return self
