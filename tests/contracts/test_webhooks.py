"""What a webhook says, and where it may be sent to."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address
from uuid import UUID

import pytest

from contracts.examples import example
from contracts.orders import OrderStatusChanged
from contracts.vocabulary import OrderStatus
from contracts.webhooks import (
    EndpointKind,
    EventType,
    StoredSecret,
    address_fault,
    event_id_of,
    event_type_of,
    is_public,
    origin_of,
    place_of,
    secret_text,
    secrets_from,
    secrets_to,
    url_fault,
    webhook_of,
)

HIDDEN = "hidden"
NO_ADDRESSES = (
    *("", "a", "a@b", "a b@c.de", "a@b.de\n", "a@b.c\r\nBcc: x@y.de", "a@b.de,c@d.de", '"a"@b.de', "a..b@c.de"),
    *("a@[127.0.0.1]", "a@127.0.0.1", "<a@b.de>", "ä@b.de", "a" * 65 + "@b.de", "a@" + "b." * 130 + "de", "a@-b.de"),
)
PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),  # noqa: S104
    *("192.0.2.1", "198.18.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fd00::1", "fe80::1", "ff02::1"),
    *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:0:1234::1", "2001:db8::1"),
    *("fec0::1", "feff::1", "64:ff9b:1::7f00:1", "::7f00:1", "::ffff:0:7f00:1", "5f00::1", "3fff::1", "192.0.0.8"),
)
PUBLIC = ("8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::")


@pytest.mark.parametrize("address", PRIVATE)
def test_no_private_address_is_public(address: str) -> None:
    """However it is written, and inside whatever it is wrapped."""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    """Wrapped or not."""
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://example.com/hook?x=1", None),
        ("https://example.com:8443/", None),
        ("https://8.8.8.8/", None),
        ("https://[2606:4700::1111]/", None),
        ("http://example.com/", "must begin with https://"),
        ("ftp://example.com/", "must begin with https://"),
        ("https://", "must name a host"),
        ("https://user@example.com/", "must hold no user and no password"),
        ("https://:@example.com/", "must hold no user and no password"),
        ("https://example.com/#there", "must have no fragment (#...)"),
        ("https://example.com:22/", "must use the port 443 or 8443"),
        ("https://example.com:99999/", "must be a URL"),
        ("https://[::1", "must be a URL"),
        ("https://exa mple.com/", "must be a URL of ASCII characters, without blanks"),
        ("https://exämple.com/", "must be a URL of ASCII characters, without blanks"),
        ("https://localhost/", "must name a host of the internet"),
        ("https://db.internal/", "must name a host of the internet"),
        ("https://localhost./", "must name a host of the internet"),
        ("https://db.internal./", "must name a host of the internet"),
        ("https://./", "must name a host of the internet"),
        ("https://a..b/", "must name a host of the internet"),
        ("https://.example.com/", "must name a host of the internet"),
        ("https://example.com./", None),
        ("https://127.0.0.1./", "must name a host, or an address in its usual form"),
        ("https://2130706433/", "must name a host, or an address in its usual form"),
        ("https://0x7f.1/", "must name a host, or an address in its usual form"),
        ("https://[fe80::1%25eth0]/", "must not lead to a private address"),
        *((f"https://{address}/", "must not lead to a private address") for address in PRIVATE if ":" not in address),
        *((f"https://[{address}]/", "must not lead to a private address") for address in PRIVATE if ":" in address),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, fault: str | None) -> None:
    """By the first rule that it breaks."""
    assert fault == url_fault(url)


def test_a_local_stack_may_send_anywhere() -> None:
    """By http and to any port, but not with a password."""
    assert url_fault("http://127.0.0.1:9000/hook", anywhere=True) is None
    assert url_fault("http://a@127.0.0.1:9000/hook", anywhere=True) == "must hold no user and no password"


def _event(status: OrderStatus, previous: OrderStatus | None) -> OrderStatusChanged:
    shown = example("OrderStatusChanged")
    assert isinstance(shown, OrderStatusChanged)
    at = datetime(2026, 1, 2, tzinfo=UTC)
    return OrderStatusChanged(shown.order_id, 3, status, previous, None, at, shown.order)


def test_an_event_has_the_type_of_the_status_that_was_reached() -> None:
    """Or of an update, when the status stays."""
    for status in OrderStatus:
        assert event_type_of(_event(status, None)) == f"order.{status.lower()}"
        assert event_type_of(_event(status, status)) is EventType.ORDER_UPDATED
        assert event_type_of(_event(status, None)).terminal == status.terminal
    event = _event(OrderStatus.COMPLETED, OrderStatus.PROCESSING)
    webhook = webhook_of(event)
    assert (webhook.type, webhook.timestamp, webhook.data) == (
        *(EventType.ORDER_COMPLETED, event.occurred_at, event.order),
    )


def test_an_events_id_holds_no_dot() -> None:
    """As Standard Webhooks demands: id, time and body are signed with dots between."""
    order_id = UUID("01900000-0000-7000-8000-000000000001")
    assert event_id_of(order_id, 3) == "01900000-0000-7000-8000-000000000001:v3"


def test_secrets_are_stored_with_their_ends() -> None:
    """What is written is read; the text that a user gets is the standard's, of the bytes that are sealed."""
    stored = [StoredSecret("new"), StoredSecret("old", datetime(2026, 1, 2, tzinfo=UTC))]
    assert stored == secrets_from(secrets_to(stored))
    assert "whsec_AAEC" == secret_text(bytes(range(3)))


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://hooks.example:8443/T01/secret?key=1", "https://hooks.example:8443"),
        ("HTTPS://hooks.example?key=1", "https://hooks.example"),
        (f"https://user:{HIDDEN}@hooks.example/", "https://hooks.example"),
        ("https://[2606:4700::1111]/x", "https://[2606:4700::1111]"),
        ("alice@example.com", ""),
        ("https://[x", ""),
    ],
)
def test_an_origin_holds_nothing_that_lets_somebody_in(url: str, origin: str) -> None:
    """Neither path nor query, user nor password."""
    assert origin == origin_of(url)


@pytest.mark.parametrize("address", ["alice@example.com", "a.b+tag@x.example.co", "o'hara@b-c.de", "a" * 64 + "@b.de"])
def test_plain_addresses_are_taken(address: str) -> None:
    """As most people have them."""
    assert address_fault(address) is None


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_no_other_address_is_taken(address: str) -> None:
    """Not several, none with a comment or a line of its own, and none of a number."""
    assert "must be one e-mail address" in (address_fault(address) or "")


def test_a_place_tells_nothing_of_a_person() -> None:
    """Of a URL its origin, of a person or a browser the kind alone."""
    assert "https://bot.example" == place_of(EndpointKind.WEBHOOK, "https://bot.example/what-lets-in?key=1")
    assert "email" == place_of(EndpointKind.EMAIL, "alice@example.com")
    assert "push" == place_of(EndpointKind.PUSH, '{"endpoint": "https://push.example/browser"}')
