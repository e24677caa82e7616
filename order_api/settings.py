"""The settings of the API, from its environment."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from saga_kit.runtime.sealing import check_keys
from saga_kit.runtime.settings import KitSettings

_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-fA-F:]+\](:[0-9]{1,5})?")
KEY_KEPT_DAYS: Final = 30
"""How long an idempotency key is stored, unless `API_IDEMPOTENCY_KEY_DAYS` says otherwise."""
SECRET_BYTES_MIN: Final = 32
"""RFC 7518: a key for HS256 is at least as long as its hash."""


def _check_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < SECRET_BYTES_MIN:
        raise ValueError(f"must be at least {SECRET_BYTES_MIN} bytes long")
    return value


def _check_jwks_url(value: str) -> str:
    """Take an address that nobody on the way can answer for: https, this machine, or a name without a dot.

    No such name is public: it is one of a container network or the like, and whoever could forge its answers has the
    machines already.
    """
    url = urlsplit(value)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("must look like https://host/path")
    if url.username is not None or url.password is not None:
        raise ValueError("must not hold a name or password")
    if url.scheme == "http" and not _is_near(url.hostname):
        raise ValueError("must begin with https://, except for this machine or a host's name without a dot")
    return value


def _is_near(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." not in host


def _split(value: str) -> list[str]:
    return [part for part in (part.strip() for part in value.split(",")) if part]


def _check_origins(value: str) -> str:
    for origin in _split(value):
        if _ORIGIN.fullmatch(origin) is None:
            raise ValueError("must be origins like https://trade.example, several with commas, and never *")
    return value


def _check_networks(value: str) -> str:
    for network in _split(value):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ValueError(
                "must be addresses or networks like 10.0.0.5 or 10.0.0.0/24, several with commas"
            ) from None
    return value


class ApiSettings(KitSettings):
    """The settings of one API process."""

    http_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    jwt_secret: Annotated[SecretStr, AfterValidator(_check_secret)] | None = None
    """Whoever knows it can sign tokens (HS256) for any user: for the local stack. Set it or `JWT_JWKS_URL`."""
    jwt_jwks_url: Annotated[str, AfterValidator(_check_jwks_url)] | None = None
    """Where the issuer of the tokens publishes its keys (RS256, ES256, EdDSA), with `https://`; plain `http://` is
    taken for this machine and for a host's name without a dot, as in a container network. Set `JWT_AUDIENCE` with it:
    else every token of this issuer is taken, whichever service it was made for."""
    jwt_jwks_refresh_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """How often the keys are fetched: a key that the issuer withdraws is believed no longer than this while the issuer
    answers, and a key that is new is looked for at once. While it does not answer, the keys known last stay good for
    `JWT_JWKS_STALE_S`."""
    jwt_jwks_stale_s: Annotated[float, Field(ge=60, le=2_592_000)] = 86_400.0
    """How long the keys known last are used while the issuer does not answer; after that no token is taken (503). A key
    that the issuer has withdrawn is believed no longer than this, whoever keeps this process from reaching it."""
    jwt_leeway_s: Annotated[float, Field(ge=0, le=300)] = 5.0
    """How far the issuer's clock and ours may be apart when `exp`, `nbf` and `iat` are judged."""
    jwt_issuer: str | None = None
    """When set, a token's `iss` must be this."""
    jwt_audience: str | None = None
    """When set, a token's `aud` must be or contain this."""
    api_body_bytes_max: Annotated[int, Field(ge=256, le=1_048_576)] = 16_384
    """A larger request body is refused with 413."""
    api_rate_limit_per_s: Annotated[int, Field(ge=0, le=100_000)] = 100
    """Requests a second of one user, in each API process; more are answered with 429. 0: no limit. Tokens with the
    scope `orders:act-for-users` belong to trusted services and are not limited."""
    api_in_flight_max: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Requests on `/orders` that one API process works on at once; more are answered with 503 before they are begun,
    so that those under way stay fast. Requests that wait for their body or for an order (`Prefer: wait`) do not
    count."""
    api_connections_max: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    """Connections of clients to one API process, those that wait for an order included. When all are taken, a further
    one takes the place of one that is idle, first of the address that has most connections without a good token, then
    of the user who has most. So a proxy in front may bring all traffic from one address."""
    api_connections_per_user_max: Annotated[int, Field(ge=1, le=100_000)] = 500
    """Connections of one user to one API process; one more ends the user's oldest idle one, or is answered with 429.
    Tokens with the scope `orders:act-for-users` are not limited."""
    api_waits_per_user_max: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Requests of one user that wait for an order (`Prefer: wait`) or for a preview at once in one API process; further
    ones are answered without waiting, previews with 503. Tokens with the scope `orders:act-for-users` are not limited.
    All users together may have as many as three quarters of `API_CONNECTIONS_MAX`, less one for each stream."""
    api_streams_max: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Streams of live updates at one API process, and never more than half of `API_CONNECTIONS_MAX`; a further one is
    answered with 503."""
    api_streams_per_user_max: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Streams of one user at one API process; a further one is answered with 429. Tokens with the scope
    `orders:act-for-users` are not limited."""
    api_cors_origins: Annotated[str, AfterValidator(_check_origins)] = ""
    """Origins whose scripts may call this API from a browser, several with commas; none by default."""
    api_trusted_proxies: Annotated[str, AfterValidator(_check_networks)] = ""
    """Addresses or networks of the proxies in front, several with commas: `X-Forwarded-For` is believed when it comes
    from them. The trail stores where a request came from, so name no address that a client could have."""
    api_database_pool_size: Annotated[int, Field(ge=2, le=100)] = 10
    """Connections of one API process, besides two for its checks; claims share one, however many requests there are."""
    api_access_log: bool = True
    """One line for each request; those for health and metrics only at the level DEBUG."""
    api_idempotency_key_days: Annotated[int, Field(ge=1, le=3650)] = KEY_KEPT_DAYS
    """How long an Idempotency-Key is kept at least; after that, the same key makes a new order."""
    api_sweep_interval_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How often the sweeper looks for claims and cancels that the orchestrator does not show yet."""

    webhooks_keys: Annotated[SecretStr, AfterValidator(check_keys)] | None = None
    """The keys that seal the secrets of webhooks (Fernet keys, the newest first, with commas between), as the webhook
    process has them. While it is not set, no webhook can be made."""
    webhooks_allow_networks: Annotated[str, AfterValidator(_check_networks)] = ""
    """As for the webhook process: when it is set, webhooks may be at any address and port, and by `http`."""
    api_notify_email: bool = False
    """Whether users may be told by e-mail: set it when the webhook process has `NOTIFY_SMTP_URL`."""
    api_notify_push_key: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{87}$")] | None = None
    """The public key of the webhook process's `NOTIFY_VAPID_KEY`, which browsers subscribe with; while it is not set,
    nobody can be told by push."""

    @property
    def cors_origins(self) -> list[str]:
        """The origins, one by one."""
        return _split(self.api_cors_origins)

    @property
    def trusted_proxies(self) -> list[str]:
        """The proxies, one by one."""
        return _split(self.api_trusted_proxies)

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if (self.jwt_secret is None) == (self.jwt_jwks_url is None):
            raise ValueError("set either JWT_SECRET or JWT_JWKS_URL, and not both")
        return self
