"""Tells a person by e-mail, through the one relay that an operator configures.

Nothing goes to an address before its owner has sent back a code, and then a mailbox gets no flood: after a few mails in
a row it rests, while newer versions overtake what waits. The relay is the operator's own, so it is reached directly;
what it answers is still bounded and shown a little only.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

import aiosmtplib
import msgspec

from contracts.webhooks import EventType, address_fault, secrets_from
from projections.webhooks.deliveries import Delivery, Endpoint
from projections.webhooks.rules import Answer
from projections.webhooks.wording import Note, note_of
from saga_kit.runtime.sealing import NotSealed, Seal

ATTEMPT_S: Final = 15.0
SHOWN_MAX: Final = 200
AT_ONCE_MAX: Final = 8
"""Connections to the relay at the same time."""
BURST: Final = 10
REFILL_S: Final = 60.0
"""A mailbox gets `BURST` mails at once, and then one every `REFILL_S`."""
MAILBOXES_MAX: Final = 10_000
_PORTS: Final = {"smtp": 587, "smtps": 465}


class Relay(NamedTuple):
    """The relay. `tls`: from the first byte; else by STARTTLS, which `plain` (this machine only) does without."""

    host: str
    port: int
    user: str | None
    password: str | None
    tls: bool
    plain: bool


def relay_of(url: str) -> Relay:
    """Read `smtps://user:password@host:port` (TLS) or `smtp://...` (STARTTLS). Raises `ValueError`.

    `smtp://...?plain` sends without TLS, and takes no password: for a relay on this machine.
    """
    parts = urlsplit(url)
    plain = parts.query == "plain"
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in {"", "/"} or parts.fragment:
        raise ValueError("must be smtp://host:port or smtps://host:port, with user:password@ if the relay wants it")
    if parts.query not in {"", "plain"} or (plain and (parts.scheme != "smtp" or parts.password)):
        raise ValueError("only smtp:// without a password may be ?plain")
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return Relay(parts.hostname, parts.port or _PORTS[parts.scheme], user, password, parts.scheme == "smtps", plain)


class _NoAddressError(ValueError):
    """A text that no mail is sent to."""


class Mailer:
    """Sends mails by a relay, from one address."""

    def __init__(
        self,
        relay: Relay,
        sender: str,
        seal: Seal,
        *,
        attempt_s: float = ATTEMPT_S,
        trust: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._relay = relay
        self._sender = sender
        self._seal = seal
        self._attempt_s = attempt_s
        self._trust = trust or ssl.create_default_context()
        self._buckets = Buckets(clock)
        self._now = now
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)

    async def send(self, endpoint: Endpoint, delivery: Delivery) -> Answer:
        """Send a mail; return what the relay said. Raises nothing but a cancellation."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._attempt_s), self._slots:
                said = await self._hand_over(endpoint.target, self._mail(endpoint, delivery))
        except Exception as error:  # noqa: BLE001 - nothing that a relay says may stop the sender
            return _failure(error, endpoint.target, time.monotonic() - began, self._attempt_s)
        rest_s = self._buckets.take(endpoint.target.lower())
        return Answer(200, time.monotonic() - began, text=_shown(said, endpoint.target) or None, rest_s=rest_s)

    async def _hand_over(self, address: str, mail: EmailMessage) -> str:
        relay = self._relay
        _, said = await aiosmtplib.send(
            mail.as_bytes(),
            sender=self._sender,
            recipients=[address],
            hostname=relay.host,
            port=relay.port,
            username=relay.user,
            password=relay.password,
            use_tls=relay.tls,
            start_tls=not (relay.tls or relay.plain),
            tls_context=None if relay.plain else self._trust,
            timeout=self._attempt_s,
        )
        return said

    def _mail(self, endpoint: Endpoint, delivery: Delivery) -> EmailMessage:
        """Write a mail. Raises `NotSealed` and others for what is stored wrongly."""
        if (fault := address_fault(endpoint.target)) is not None:
            raise _NoAddressError(fault)
        note = self._note(endpoint, delivery)
        mail = EmailMessage(policy=SMTP)
        mail["From"] = self._sender
        mail["To"] = endpoint.target
        mail["Subject"] = note.subject
        mail["Date"] = format_datetime(self._now())
        # The same at every attempt, so that a mailbox which got it twice shows it once.
        mail["Message-ID"] = f"<{delivery.event_id.replace(':', '.')}.{endpoint.endpoint_id}@order-saga.invalid>"
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic answer
        mail.set_content(f"{note.text}\n\n{_WHY}\n")
        return mail

    def _note(self, endpoint: Endpoint, delivery: Delivery) -> Note:
        note = note_of(delivery.body)
        if note.type != EventType.NOTIFICATION_CONFIRM:
            return note
        code = next((one for one in secrets_from(endpoint.secrets) if _valid(one.valid_until, self._now())), None)
        if code is None:
            raise NotSealed("the code has run out")
        return msgspec.structs.replace(note, text=note.text.format(code=self._seal.open(code.sealed).decode()))


_WHY: Final = "You get this because notifications are switched on for this address, in the preferences of its user."


def _valid(until: datetime | None, now: datetime) -> bool:
    return until is not None and until > now


def _failure(error: Exception, address: str, duration_s: float, attempt_s: float) -> Answer:
    """Say what an attempt came to that was no success.

    A relay that refuses the address for good (RFC 5321: 550, 551, 553) will not take it tomorrow.
    """
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused) and error.recipients:
        error = error.recipients[0]
    if isinstance(error, aiosmtplib.SMTPResponseException):
        gone = isinstance(error, aiosmtplib.SMTPRecipientRefused) and error.code in {550, 551, 553}
        said = f"the relay said {error.code} {_shown(error.message, address)}"
        return Answer(None, duration_s, said[:SHOWN_MAX], gone=gone)
    if isinstance(error, TimeoutError | aiosmtplib.SMTPTimeoutError):
        return Answer(None, duration_s, f"the relay took nothing within {attempt_s:g} s", ours=True)
    if isinstance(error, NotSealed):
        return Answer(None, duration_s, "its code can't be read here, or has run out", ours=True)
    if isinstance(error, msgspec.MsgspecError):
        return Answer(None, duration_s, "it can't be read: an operator must look at it", ours=True)
    if isinstance(error, _NoAddressError):
        return Answer(None, duration_s, "it is no address that a mail is sent to", gone=True)
    return Answer(None, duration_s, "the relay can't be reached", ours=True)


def _shown(said: str, address: str) -> str:
    """Return what a relay said without the address that it likes to repeat: operators read it, and logs may have it."""
    printable = "".join(one if one.isprintable() else " " for one in said)
    return re.sub(re.escape(address), "the address", printable, flags=re.IGNORECASE)[:SHOWN_MAX].strip()


class Buckets:
    """How many mails each mailbox may get now. Times are seconds by a clock that only goes forward."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._full_at_s: OrderedDict[str, float] = OrderedDict()

    def take(self, mailbox: str) -> float:
        """Count one mail; return for how many seconds this mailbox rests now."""
        now_s = self._clock()
        full_at_s = max(self._full_at_s.pop(mailbox, now_s), now_s) + REFILL_S
        self._full_at_s[mailbox] = full_at_s
        while len(self._full_at_s) > MAILBOXES_MAX:
            self._full_at_s.popitem(last=False)
        return max(0.0, full_at_s - now_s - (BURST - 1) * REFILL_S)
