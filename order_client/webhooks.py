"""Receives webhooks: believes none that was not signed for this receiver, lately (Standard Webhooks 1.0.0).

Verify the bytes as they came. A body that was parsed and written again has other bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from contracts import codec
from contracts.webhooks import SECRET_PREFIX, DisabledWebhook, EventType, OrderWebhook, PingWebhook
from order_client.errors import MalformedWebhookError, StaleWebhookError, WrongSignatureError

TOLERANCE_S: Final = 300.0
SIGNATURES_MAX: Final = 16
"""A sender signs once for each valid secret of a receiver, of which there are two at most."""
_SCHEME: Final = "v1"
_ID: Final = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,255}")
_SECONDS: Final = re.compile(r"[0-9]{1,12}")

Webhook: TypeAlias = OrderWebhook | DisabledWebhook | PingWebhook


class _Head(msgspec.Struct):
    type: EventType


_HEAD: Final = msgspec.json.Decoder(_Head)
_ORDER: Final = codec.decoder(OrderWebhook)
_OTHERS: Final[Mapping[EventType, msgspec.json.Decoder[Any]]] = {
    EventType.WEBHOOK_DISABLED: codec.decoder(DisabledWebhook),
    EventType.WEBHOOK_PING: codec.decoder(PingWebhook),
}


def verify_webhook(
    body: bytes,
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    secret: str | Sequence[str],
    *,
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> Webhook:
    """Return what a webhook says, if it was signed with a secret of yours within `tolerance_s` seconds of now.

    `headers`: all of the request's, whatever the case of their names. `secret`: as it was shown, with `whsec_`; several
    while it is changed. `now`: seconds since 1970. Note `webhook-id` yourself: a webhook may come more than once.

    Raises an `InvalidWebhookError` for what is not to be believed, and `ValueError` for a secret that is none.
    """
    keys = [_key(one) for one in ([secret] if isinstance(secret, str) else secret)]
    fields = _fields(headers)
    message_id, sent_at = fields["webhook-id"], fields["webhook-timestamp"]
    if _ID.fullmatch(message_id) is None or _SECONDS.fullmatch(sent_at) is None:
        raise MalformedWebhookError("webhook-id or webhook-timestamp is not of its form")
    signed = b".".join((message_id.encode(), sent_at.encode(), body))
    wanted = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
    given = _signatures(fields["webhook-signature"])
    # All are compared, so that the time it takes tells nothing.
    if not any([hmac.compare_digest(one, other) for one in wanted for other in given]):  # noqa: C419 - see above
        raise WrongSignatureError("no signature is of these bytes and a secret of this receiver")
    if abs((time.time() if now is None else now) - int(sent_at)) > tolerance_s:
        raise StaleWebhookError(f"it was signed more than {tolerance_s:g} s from now")
    return _read(body)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a secret is whsec_ and base64") from None
    if not key:
        raise ValueError("a secret must not be empty: anybody could sign")
    return key


def _fields(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> dict[str, str]:
    """Take the three headers of a webhook. Raises `MalformedWebhookError` for one that is missing, or comes twice."""
    found: dict[str, str] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        if (lower := name.lower()) in _NAMES:
            if lower in found:
                raise MalformedWebhookError(f"{lower} comes twice")
            found[lower] = value
    if missing := _NAMES - found.keys():
        raise MalformedWebhookError(f"{', '.join(sorted(missing))} is missing")
    return found


_NAMES: Final = frozenset({"webhook-id", "webhook-timestamp", "webhook-signature"})


def _signatures(text: str) -> list[bytes]:
    """Read the signatures of our scheme; those of others are for other receivers."""
    found = []
    for item in text.split(" ")[:SIGNATURES_MAX]:
        scheme, comma, signature = item.partition(",")
        if not comma:
            raise MalformedWebhookError("webhook-signature is not of its form")
        if scheme == _SCHEME:
            try:
                found.append(base64.b64decode(signature, validate=True))
            except (binascii.Error, ValueError):
                raise MalformedWebhookError("webhook-signature holds no base64") from None
    return found


def _read(body: bytes) -> Webhook:
    try:
        kind = _HEAD.decode(body).type
        webhook: Webhook = _OTHERS.get(kind, _ORDER).decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedWebhookError(f"it is signed, and of no form that this version knows: {error}") from None
    return webhook
