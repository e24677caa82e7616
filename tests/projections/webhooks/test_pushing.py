"""A push message is what RFC 8291 says, opened here with nothing but HMAC and AES; who is gone is told no more."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from contracts.codec import encode
from contracts.webhooks import EndpointKind, EventType, PingWebhook, PushKeys, PushSubscription, webhook_of
from projections.webhooks.deliveries import Delivery, Endpoint
from projections.webhooks.encryption import PLAIN_BYTES_MAX, base64url, encrypt, from_base64url, public_bytes
from projections.webhooks.guard import Lookups
from projections.webhooks.posting import Poster
from projections.webhooks.pushing import PushComposer, Pusher, Vapid, vapid_key
from projections.webhooks.rules import Verdict
from tests.projections.webhooks.events import event
from tests.projections.webhooks.receivers import Received, answer, receiving
from tests.projections.webhooks.world import LOOPBACK, Webhooks

# RFC 8291, appendix A.
PLAIN: Final = b"When I grow up, I want to be a watermelon"
SENDER: Final = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
BROWSER: Final = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
KEYS: Final = PushKeys(
    "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4", "BTBZMqHH6r4Tts7J_aSIgg"
)
SALT: Final = "DGv6ra1nlYgDCS1FRnbzlw"
SEALED: Final = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"
    "yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)
ID: Final = UUID(int=1)
NOW: Final = datetime.now(UTC)
COMPLETED: Final = Delivery(ID, f"{ID}:v4", encode(webhook_of(event(1, 4))), 0, NOW, NOW)
PING: Final = Delivery(ID, "ping", encode(PingWebhook(EventType.WEBHOOK_PING, NOW)), 0, NOW, NOW)
VAPID: Final = Vapid(vapid_key(SENDER), "mailto:ops@example.com")


def hkdf(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
    """Derive, as RFC 5869 does for one block."""
    return hmac.digest(hmac.digest(salt, secret, sha256), info + b"\x01", sha256)[:length]


def opened(sealed: bytes) -> bytes:
    """Open a message as the browser of the RFC does."""
    salt, size, length = sealed[:16], int.from_bytes(sealed[16:20]), sealed[20]
    sender, record = sealed[21 : 21 + length], sealed[21 + length :]
    assert len(sealed) <= size == 4096
    browser = _private(BROWSER)
    shared = browser.exchange(ECDH(), EllipticCurvePublicKey.from_encoded_point(SECP256R1(), sender))
    ours = urlsafe_b64decode(KEYS.p256dh + "=")
    secret = hkdf(urlsafe_b64decode(KEYS.auth + "=="), shared, b"WebPush: info\0" + ours + sender, 32)
    key, nonce = (
        hkdf(salt, secret, b"Content-Encoding: " + one, n) for one, n in ((b"aes128gcm\0", 16), (b"nonce\0", 12))
    )
    plain = AESGCM(key).decrypt(nonce, record, None).rstrip(b"\0")
    assert plain.endswith(b"\x02")
    return plain[:-1]


def _private(text: str) -> EllipticCurvePrivateKey:
    return derive_private_key(int.from_bytes(urlsafe_b64decode(text + "=")), SECP256R1())


def endpoint(url: str, keys: PushKeys = KEYS) -> Endpoint:
    """Make the endpoint of a browser."""
    return Endpoint(ID, "alice", EndpointKind.PUSH, encode(PushSubscription(url, keys)).decode(), "[]")


@asynccontextmanager
async def pushing(*, local: bool = True) -> AsyncIterator[Pusher]:
    """Make a pusher that may reach this machine."""
    look_up = Lookups()
    poster = Poster(PushComposer(VAPID), look_up, networks=LOOPBACK if local else (), attempt_s=15)
    try:
        yield Pusher(poster)
    finally:
        await poster.close()
        look_up.close()


def test_the_rfcs_own_example() -> None:
    """Byte for byte; and the browser of the example reads it."""
    ours = _private(SENDER)
    assert SEALED == base64url(encrypt(PLAIN, KEYS, ours=ours, salt=from_base64url(SALT)))
    assert PLAIN == opened(urlsafe_b64decode(SEALED + "="))


def test_no_two_messages_have_a_key_in_common() -> None:
    """The largest one still fits the one record that push services take."""
    one, two = (encrypt(b"x" * PLAIN_BYTES_MAX, KEYS) for _ in range(2))
    assert one[:86] != two[:86]
    assert (4096, b"x" * PLAIN_BYTES_MAX) == (len(one), opened(one))
    with pytest.raises(ValueError, match="3993 bytes at most"):
        encrypt(b"x" * (PLAIN_BYTES_MAX + 1), KEYS)


async def test_a_browser_reads_what_an_order_came_to() -> None:
    """Nobody on the way does; the push service learns who sends, by VAPID."""
    async with receiving(answer("201 Created")) as receiver, pushing() as one:
        sent = await one.send(endpoint(receiver.url), COMPLETED)
    [got] = receiver.received
    assert Verdict.DELIVERED is sent.verdict
    shown = json.loads(opened(got.body))
    assert ("Your order MARKET_BUY 0.01 BTC is completed", str(UUID(int=1))) == (shown["title"], shown["order_id"])
    assert b"BTC" not in got.body
    assert ("aes128gcm", "86400", base64url(UUID(int=1).bytes)) == tuple(
        got.headers[name] for name in ("content-encoding", "ttl", "topic")
    )
    _check_vapid(got, f"http://127.0.0.1:{receiver.port}")


def _check_vapid(got: Received, audience: str) -> None:
    """Check RFC 8292's header with a library for tokens."""
    scheme, _, rest = got.headers["authorization"].partition(" ")
    fields = dict(part.strip().split("=", 1) for part in rest.split(","))
    assert "vapid" == scheme
    assert base64url(public_bytes(_private(SENDER).public_key())) == fields["k"] == VAPID.public_key
    claims = jwt.decode(fields["t"], _private(SENDER).public_key(), algorithms=["ES256"], audience=audience)
    assert "mailto:ops@example.com" == claims["sub"]
    assert 0 < claims["exp"] - NOW.timestamp() <= 86_400


@pytest.mark.parametrize(("status", "verdict"), [
    ("404 Not Found", Verdict.GONE), ("410 Gone", Verdict.GONE), ("429 Slow", Verdict.THROTTLED),
    ("400 Bad", Verdict.FAILED), ("500 Oops", Verdict.FAILED),
])  # fmt: skip
async def test_what_a_push_service_says(status: str, verdict: Verdict) -> None:
    """Who is gone stays away; everything else is tried again. A test has no topic."""
    async with receiving(answer(status)) as receiver, pushing() as one:
        assert verdict is (await one.send(endpoint(receiver.url), PING)).verdict
    assert "topic" not in receiver.received[0].headers


async def test_a_subscription_leads_to_the_internet_only() -> None:
    """Its URL is anybody's, so it goes through the guard; so do keys that are none."""
    async with receiving() as receiver:
        async with pushing(local=False) as one:
            refused = await one.send(endpoint(receiver.url), PING)
        async with pushing() as one:
            wrong = await one.send(endpoint(receiver.url, PushKeys("A" * 87, KEYS.auth)), PING)
    assert [] == receiver.received
    assert "its URL must begin with https://" == refused.error
    assert (Verdict.GONE, "its keys are none of a browser") == (wrong.verdict, wrong.error)


async def test_the_end_of_a_subscription_disables_its_endpoint(webhooks: Webhooks) -> None:
    """A 404 of a push service is one, as its 410; the user reads why, and operators learn of it."""
    told: list[tuple[str, str]] = []
    async with receiving(answer("404 Not Found")) as receiver, pushing() as one:
        endpoint_id = await webhooks.notified(EndpointKind.PUSH, endpoint(receiver.url).target)
        await webhooks.take(event(1, 4))
        await webhooks.due_now()
        async with webhooks.sending(one, kind=EndpointKind.PUSH, tell=lambda *said: told.append(said)):
            await webhooks.until(
                "SELECT state = 'DISABLED' FROM webhooks.endpoints WHERE endpoint_id = $1", endpoint_id
            )
    assert [("Order Saga: an endpoint is disabled", f"endpoint {endpoint_id}: gone")] == told
    assert "it answered 404: it is gone" == await webhooks.value("SELECT disabled_reason FROM webhooks.endpoints")


@pytest.mark.parametrize("text", ["", "AAAA", "!" * 43, "A" * 43])
def test_a_key_that_is_none_is_refused(text: str) -> None:
    """With words for whoever starts the process."""
    with pytest.raises(ValueError, match=r".+"):
        vapid_key(text)
