"""Tells a browser by Web Push: encrypted for it (RFC 8291), signed for its push service (VAPID, RFC 8292)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from contracts.webhooks import PushSubscription
from projections.webhooks.deliveries import Delivery, Endpoint, Posting
from projections.webhooks.encryption import base64url, encrypt, from_base64url, public_bytes
from projections.webhooks.posting import BadTarget, Poster
from projections.webhooks.rules import Answer
from projections.webhooks.wording import note_of

TTL_S: Final = 86_400
"""So long a push service keeps a message for a browser that is away."""
TOKEN_S: Final = 43_200
"""RFC 8292 allows a day; half of it leaves room for clocks."""
NO_SUBSCRIPTION: Final = frozenset({404, 410})
"""RFC 8030, 7.3: the subscription has ended, or never was."""
KEY_BYTES: Final = 32

_subscription: Final = msgspec.json.Decoder(PushSubscription).decode


def vapid_key(text: str) -> EllipticCurvePrivateKey:
    """Read the private key of a VAPID pair: 32 bytes in base64url. Raises `ValueError`."""
    secret = from_base64url(text)
    if len(secret) != KEY_BYTES:
        raise ValueError("must be the 32 bytes of a private key on P-256, in base64url")
    return derive_private_key(int.from_bytes(secret), SECP256R1())


def new_vapid_key() -> str:
    """Make the private key of a pair, as `vapid_key` reads it."""
    secret = generate_private_key(SECP256R1()).private_numbers().private_value
    return base64url(secret.to_bytes(KEY_BYTES))


def public_key_of(text: str) -> str:
    """Return the public key of a private one: what browsers subscribe with. Raises `ValueError` as `vapid_key` does."""
    return base64url(public_bytes(vapid_key(text).public_key()))


class Vapid:
    """Says to a push service who sends. `contact` is a mailto: or https: address of the operator."""

    def __init__(self, key: EllipticCurvePrivateKey, contact: str) -> None:
        self._key = key
        self._contact = contact
        self.public_key: Final = base64url(public_bytes(key.public_key()))

    def authorization(self, url: str, now: datetime) -> str:
        """Return the header `Authorization` for a request to a push service."""
        parts = urlsplit(url)
        claims = {
            "aud": f"{parts.scheme}://{parts.netloc}",
            "exp": int(now.timestamp()) + TOKEN_S,
            "sub": self._contact,
        }
        signed = ".".join(base64url(json.dumps(one).encode()) for one in ({"typ": "JWT", "alg": "ES256"}, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ECDSA(SHA256())))
        signature = base64url(r.to_bytes(KEY_BYTES) + s.to_bytes(KEY_BYTES))
        return f"vapid t={signed}.{signature}, k={self.public_key}"


class PushComposer:
    """Makes the request to a push service; it carries a note for a person, and the ids for the page that shows it."""

    def __init__(self, vapid: Vapid) -> None:
        self._vapid = vapid

    def compose(self, endpoint: Endpoint, delivery: Delivery, now: datetime) -> Posting:
        """Encrypt and sign. Raises `BadTarget`; `msgspec.MsgspecError` for what is stored wrongly."""
        to = _subscription(endpoint.target)
        note = note_of(delivery.body)
        shown = {"title": note.subject, "body": note.text, "event_id": delivery.event_id, "type": note.type}
        if note.order_id is not None:
            shown["order_id"] = str(note.order_id)
        try:
            body = encrypt(json.dumps(shown).encode(), to.keys)
        except ValueError:  # a point that is not on the curve
            raise BadTarget("its keys are none of a browser") from None
        headers = [
            (b"authorization", self._vapid.authorization(to.endpoint, now).encode()),
            (b"content-encoding", b"aes128gcm"),
            (b"content-type", b"application/octet-stream"),
            (b"ttl", str(TTL_S).encode()),
            (b"urgency", b"normal"),
        ]
        if note.order_id is not None:
            headers.append((b"topic", base64url(note.order_id.bytes).encode()))  # replaces an older note that waits
        return Posting(to.endpoint, headers, body)


class Pusher:
    """Sends to push services. One that knows the subscription no more ends it."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster

    async def send(self, endpoint: Endpoint, delivery: Delivery) -> Answer:
        """Send a delivery; return the answer. Raises nothing but a cancellation."""
        answer = await self._poster.send(endpoint, delivery)
        return msgspec.structs.replace(answer, gone=answer.gone or answer.status in NO_SUBSCRIPTION)
