"""Verifying webhooks: what the standard's own library signs is believed, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Oracle
from standardwebhooks import WebhookVerificationError

from contracts import codec, examples
from contracts.orders import OrderStatusChanged
from contracts.webhooks import DisabledEndpoint, DisabledWebhook, EventType, PingWebhook, webhook_of
from order_client import (
    InvalidWebhookError,
    MalformedWebhookError,
    StaleWebhookError,
    WrongSignatureError,
    verify_webhook,
)

AT = datetime.now(UTC).replace(microsecond=0)
NOW = AT.timestamp()
OURS = "whsec_" + base64.b64encode(b"s" * 32).decode()
ANOTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
PING = codec.encode(PingWebhook(EventType.WEBHOOK_PING, AT))
ID = "01a225ed-8291-7454-80a1-f84ea245f98b:v3"


def _headers(body: bytes, *secrets: str, at: datetime = AT, message_id: str = ID) -> dict[str, str]:
    """Sign as a sender does, by the standard's library."""
    signatures = [Oracle(one).sign(message_id, at, body.decode()) for one in secrets or (OURS,)]
    return {
        "Content-Type": "application/json",
        "Webhook-Id": message_id,
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": " ".join(signatures),
    }


def test_each_kind_of_webhook_is_read() -> None:
    """As the struct of its type."""
    endpoint = DisabledEndpoint(UUID(examples.ORDER_ID), "https://x.test", "no answer for 5 days")
    disabled = DisabledWebhook(EventType.WEBHOOK_DISABLED, AT, endpoint)
    changed = examples.example("OrderStatusChanged")
    assert isinstance(changed, OrderStatusChanged)
    for webhook in (disabled, webhook_of(changed), PingWebhook(EventType.WEBHOOK_PING, AT)):
        body = codec.encode(webhook)
        assert webhook == verify_webhook(body, _headers(body), OURS, now=NOW)


def test_either_secret_will_do_while_it_is_changed() -> None:
    """Of the receiver and of the sender; and signatures of other schemes are none of ours."""
    verify_webhook(PING, _headers(PING, ANOTHER, OURS), OURS, now=NOW)
    verify_webhook(PING, _headers(PING, OURS), [ANOTHER, OURS], now=NOW)
    headers = _headers(PING)
    headers["Webhook-Signature"] = "v1a,bm90IG91cnM= " + headers["Webhook-Signature"]
    verify_webhook(PING, list(headers.items()), OURS, now=NOW)


@given(body=st.binary(max_size=200), secret=st.binary(min_size=1, max_size=64), place=st.integers(0, 10_000))
def test_it_agrees_with_the_standards_library(body: bytes, secret: bytes, place: int) -> None:
    """On signatures that are right, and on those with one bit changed, of any text and any secret."""
    key = "whsec_" + base64.b64encode(secret).decode()
    at = datetime.now(UTC)  # the library takes no other clock
    text = PING.decode() + " " * (place % 3)
    headers = {name.lower(): value for name, value in _headers(text.encode(), key, at=at).items()}
    verify_webhook(text.encode(), headers, key)
    Oracle(key).verify(text, headers)
    signature = bytearray(base64.b64decode(headers["webhook-signature"].removeprefix("v1,")))
    signature[place % len(signature)] ^= 1 << place % 8
    headers["webhook-signature"] = "v1," + base64.b64encode(signature).decode()
    with pytest.raises(WrongSignatureError):
        verify_webhook(text.encode(), headers, key)
    with pytest.raises(WebhookVerificationError):
        Oracle(key).verify(text, headers)
    with pytest.raises(InvalidWebhookError):
        verify_webhook(body, headers, key)


@pytest.mark.parametrize(("age_s", "fresh"), [(300, True), (301, False), (-300, True), (-301, False)])
def test_an_old_signature_is_not_believed(age_s: float, fresh: bool) -> None:  # noqa: FBT001
    """Nor one from far ahead: somebody may send an old webhook again."""
    headers = _headers(PING, at=AT - timedelta(seconds=age_s))
    if fresh:
        verify_webhook(PING, headers, OURS, now=NOW)
    else:
        with pytest.raises(StaleWebhookError):
            verify_webhook(PING, headers, OURS, now=NOW)


@pytest.mark.parametrize(
    "changed",
    [
        {"Webhook-Signature": "nonsense"},
        {"Webhook-Signature": ""},
        {"Webhook-Signature": "v1,not base64"},
        {"Webhook-Signature": "v1,ü"},
        {"Webhook-Timestamp": "now"},
        {"Webhook-Timestamp": "1_0"},
        {"Webhook-Timestamp": "٣"},
        {"Webhook-Timestamp": "9" * 400},
        {"Webhook-Id": ""},
        {"Webhook-Id": "a.b"},
        {"webhook-id": "twice"},
        {"Webhook-Id": None},
        {"Webhook-Signature": None},
    ],
)
def test_headers_of_no_form_are_an_error_of_their_own(changed: dict[str, str | None]) -> None:
    """No header can make anything else of it, however it is malformed."""
    headers = {name: value for name, value in (_headers(PING) | changed).items() if value is not None}
    with pytest.raises(MalformedWebhookError):
        verify_webhook(PING, headers, OURS, now=NOW)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"type": "order.new"}', b'{"type": "order.completed"}', b"\xff"])
def test_a_signed_body_of_another_form_is_told_apart(body: bytes) -> None:
    """It may be of a newer version; it is no webhook that this client can read."""
    signed = f"{ID}.{int(NOW)}.".encode() + body
    signature = base64.b64encode(hmac.digest(b"s" * 32, signed, hashlib.sha256)).decode()
    headers = {"webhook-id": ID, "webhook-timestamp": str(int(NOW)), "webhook-signature": f"v1,{signature}"}
    with pytest.raises(MalformedWebhookError, match="it is signed"):
        verify_webhook(body, headers, OURS, now=NOW)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_!", "", "whsec_ü"])
def test_a_secret_that_is_none_is_the_receivers_fault(secret: str) -> None:
    """An empty one would let anybody sign."""
    with pytest.raises(ValueError, match="secret"):
        verify_webhook(PING, _headers(PING), secret, now=NOW)
