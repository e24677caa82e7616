"""What a webhook says, in the form of Standard Webhooks 1.0.0, and the rules of an address that it may be sent to."""

from __future__ import annotations

import re
from base64 import b64encode
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Annotated, Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from msgspec import Meta

from contracts.orders import Order, OrderStatusChanged
from contracts.vocabulary import Instant, OrderStatus, id_text

ENDPOINTS_MAX: Final = 10
"""Endpoints of a user, of all kinds."""
URL_LENGTH_MAX: Final = 2048
PORTS: Final = frozenset({443, 8443})
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the beginning of every secret
SECRET_BYTES: Final = 32

EndpointUrl = Annotated[str, Meta(min_length=1, max_length=URL_LENGTH_MAX)]
Description = Annotated[str, Meta(max_length=200)]

SECRET_UNREADABLE: Final = "its secret can't be read here: an operator must look at WEBHOOKS_KEYS"  # noqa: S105 - no secret
"""The reason of a delivery that can't be signed, by which operators find it."""


class EventType(StrEnum):
    """What happened. The first six name the status that an order reached."""

    ORDER_PENDING = "order.pending"
    ORDER_CONFIRMED = "order.confirmed"
    ORDER_PROCESSING = "order.processing"
    ORDER_COMPLETED = "order.completed"
    ORDER_CANCELLED = "order.cancelled"
    ORDER_FAILED = "order.failed"
    ORDER_UPDATED = "order.updated"
    """A version that shows something new, and keeps the status."""
    WEBHOOK_PING = "webhook.ping"
    """Sent when its user asks for it."""
    WEBHOOK_DISABLED = "webhook.disabled"
    """Another endpoint of the same user gets nothing any more."""
    NOTIFICATION_CONFIRM = "notification.confirm"
    """A code for the owner of an e-mail address, which gets nothing else before it comes back."""

    @property
    def terminal(self) -> bool:
        """Whether nothing follows for this order."""
        return self in {EventType.ORDER_COMPLETED, EventType.ORDER_CANCELLED, EventType.ORDER_FAILED}


ORDER_EVENTS: Final = tuple(one for one in EventType if one.value.startswith("order."))
_BY_STATUS: Final = {status: EventType(f"order.{status.lower()}") for status in OrderStatus}


class EndpointKind(StrEnum):
    """How an endpoint is told."""

    WEBHOOK = "webhook"
    EMAIL = "email"
    PUSH = "push"


class EndpointState(StrEnum):
    """Whether an endpoint is told anything."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"


class DeliveryState(StrEnum):
    """What became of one event for one endpoint.

    SUPERSEDED: a newer version of the same order was to be sent before this one was. FAILED: given up. SKIPPED: the
    preferences of its user kept it back.
    """

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    SUPERSEDED = "SUPERSEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


class PushKeys(msgspec.Struct, frozen=True):
    """The keys of a browser: its public key on P-256 and its secret for authentication (RFC 8291), in base64url."""

    p256dh: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{87}=?$")]
    auth: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{22}(==)?$")]


class PushSubscription(msgspec.Struct, frozen=True):
    """A browser that takes push messages, as its `PushSubscription.toJSON()` says."""

    endpoint: EndpointUrl
    keys: PushKeys


class OrderWebhook(msgspec.Struct, frozen=True):
    """The body of a webhook about an order: `data` is the order as of that version."""

    type: EventType
    timestamp: Instant
    data: Order


class DisabledEndpoint(msgspec.Struct, frozen=True):
    """An endpoint that gets nothing any more, and why."""

    # `url` has no path: who else reads it must not learn what lets somebody in there. See `place_of`.

    endpoint_id: UUID
    url: str
    reason: str


class DisabledWebhook(msgspec.Struct, frozen=True):
    """The body of `webhook.disabled`, which goes to the user's other endpoints."""

    type: EventType
    timestamp: Instant
    data: DisabledEndpoint


class PingWebhook(msgspec.Struct, frozen=True):
    """The body of `webhook.ping`."""

    type: EventType
    timestamp: Instant
    data: dict[str, Any] = {}


class StoredSecret(msgspec.Struct, frozen=True, omit_defaults=True):
    """A secret of an endpoint as it is stored: its 32 bytes, sealed. Replaced ones sign until `valid_until`."""

    sealed: str
    valid_until: Instant | None = None


def event_id_of(order_id: UUID, version: int) -> str:
    """Name an event, as `webhook-id`: the same for every attempt and every endpoint. It holds no dot, as must be."""
    return f"{id_text(order_id)}:v{version}"


def event_type_of(event: OrderStatusChanged) -> EventType:
    """Say what happened with this version."""
    return event_type_for(event.status, event.previous_status)


def event_type_for(status: OrderStatus, previous: OrderStatus | None) -> EventType:
    """Say what happened with a version that has this status after another one; None: after none."""
    return EventType.ORDER_UPDATED if status is previous else _BY_STATUS[status]


def webhook_of(event: OrderStatusChanged) -> OrderWebhook:
    """Make the body of the webhook about an event."""
    return OrderWebhook(event_type_of(event), event.occurred_at, event.order)


def secret_text(secret: bytes) -> str:
    """Write a secret as its user gets it, once: `whsec_` and base64."""
    return SECRET_PREFIX + b64encode(secret).decode()


def secrets_from(stored: str) -> list[StoredSecret]:
    """Read the column `secrets` of an endpoint, the newest first; raises `msgspec.DecodeError` for anything else."""
    return _read_secrets(stored)


def secrets_to(secrets: list[StoredSecret]) -> str:
    """Write that column."""
    return msgspec.json.encode(secrets).decode()


_read_secrets: Final = msgspec.json.Decoder(list[StoredSecret]).decode


def address_fault(address: str) -> str | None:
    """Say what is wrong with an e-mail address, or None. Whether it is its user's is shown by a code sent to it.

    Only the plain form of RFC 5321 is taken: no quotes, comments, blanks or lists, so that it stays one address in any
    header and in any command.
    """
    if len(address) > ADDRESS_LENGTH_MAX or _ADDRESS.fullmatch(address) is None:
        return "must be one e-mail address of ASCII characters, such as alice@example.com"
    return None


ADDRESS_LENGTH_MAX: Final = 254
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS: Final = re.compile(
    rf"(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+(?=[A-Za-z])[A-Za-z0-9-]{{1,62}}[A-Za-z0-9]"
)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is one of the internet, and of no network that somebody may take for their own.

    An IPv4 address inside an IPv6 one (mapped, 6to4, NAT64) counts as what it leads to; Teredo never is public.
    """
    if isinstance(address, IPv6Address):
        if address.teredo is not None:
            return False
        if (inner := _inside(address)) is not None:
            return is_public(inner)
        if address not in _UNICAST:
            return False
    special = address.is_multicast or address.is_reserved or any(address in network for network in _SPECIAL)
    return address.is_global and not special


def _inside(address: IPv6Address) -> IPv4Address | None:
    if address.packed[:12] == _NAT64:
        return IPv4Address(address.packed[12:])
    return address.ipv4_mapped or address.sixtofour


_NAT64: Final = IPv6Address("64:ff9b::").packed[:12]
_UNICAST: Final = IPv6Network("2000::/3")
"""All that the internet has of IPv6 (RFC 4291, 2.4); what was site-local, `fec0::/10`, is somebody's own."""
_SPECIAL: Final = (IPv4Network("192.0.0.0/24"), IPv6Network("3fff::/20"))
"""Protocol assignments (RFC 6890) and examples (RFC 9637), which not every Python knows as such."""


def url_fault(url: str, *, anywhere: bool = False) -> str | None:
    """Say what is wrong with the URL of an endpoint, or None. Where its name leads is judged at each attempt.

    With `anywhere` (local stacks and tests) it may be http, have any port, and name a private address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "must be a URL"
    blank = any(character.isspace() or not character.isprintable() for character in url)
    rules = (
        (blank or not url.isascii(), "must be a URL of ASCII characters, without blanks"),
        (parts.scheme not in ({"https", "http"} if anywhere else {"https"}), "must begin with https://"),
        (not parts.hostname, "must name a host"),
        (parts.username is not None or parts.password is not None, "must hold no user and no password"),
        ("#" in url, "must have no fragment (#...)"),
        (not anywhere and port not in {None, *PORTS}, "must use the port 443 or 8443"),
    )
    fault = next((why for broken, why in rules if broken), None)
    return fault if fault is not None or anywhere else _host_fault(parts.hostname or "")


def origin_of(url: str) -> str:
    """Return a URL without its path and query, which may be what lets somebody in; empty for what is no URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""


def place_of(kind: EndpointKind, target: str) -> str:
    """Say where an endpoint is, to whoever may know that there is one: of a person, by its kind alone."""
    return origin_of(target) if kind is EndpointKind.WEBHOOK else str(kind)


def _host_fault(host: str) -> str | None:
    name = host.removesuffix(".")  # of the root; resolvers take it, or add it
    if "" in name.split(".") or name == "localhost" or name.endswith((".localhost", ".local", ".internal")):
        return "must name a host of the internet"
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        last = name.rpartition(".")[2]
        numeric = last.isdecimal() or last.startswith("0x")  # 2130706433 and 0x7f.1 are addresses to many resolvers
        return "must name a host, or an address in its usual form" if numeric else None
    return None if is_public(address) else "must not lead to a private address"
