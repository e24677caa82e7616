"""A mail says what happened to one confirmed address; whatever a relay does, an attempt ends in time."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
import pytest
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from contracts.codec import encode
from contracts.webhooks import (
    EndpointKind,
    EventType,
    PingWebhook,
    StoredSecret,
    secrets_to,
    webhook_of,
)
from projections.webhooks.deliveries import Delivery, Endpoint
from projections.webhooks.mailing import BURST, REFILL_S, Mailer, Relay, relay_of
from projections.webhooks.rules import Verdict
from projections.webhooks.wording import FIELD_MAX, note_of
from tests.contracts.test_webhooks import NO_ADDRESSES
from tests.projections.webhooks.events import event
from tests.projections.webhooks.receivers import SEAL
from tests.projections.webhooks.relays import FROM, certificate, mailer, relaying
from tests.projections.webhooks.world import Webhooks

ID: Final = UUID(int=1)
NOW: Final = datetime.now(UTC)
ALICE: Final = "alice@example.com"
CODE: Final = "ABCD-EFGH-2345"


def told(body: bytes, event_id: str = f"{ID}:v4") -> Delivery:
    """Make a delivery of this body."""
    return Delivery(ID, event_id, body, 0, NOW, NOW)


def endpoint(address: str = ALICE, ends: datetime | None = NOW + timedelta(days=1)) -> Endpoint:
    """Make an endpoint with a code."""
    return Endpoint(
        ID, "alice", EndpointKind.EMAIL, address, secrets_to([StoredSecret(SEAL.seal(CODE.encode()), ends)])
    )


COMPLETED: Final = told(encode(webhook_of(event(1, 4))))
CONFIRM: Final = told(encode(PingWebhook(EventType.NOTIFICATION_CONFIRM, NOW)), "confirm")


async def test_a_mail_says_what_an_order_came_to() -> None:
    """To one address, from the configured one, with an id that is the same at every attempt."""
    async with relaying() as (relay, port):
        sent = [await mailer(port).send(endpoint(), COMPLETED) for _ in range(2)]
    assert [Verdict.DELIVERED] * 2 == [one.verdict for one in sent]
    first, second = relay.mails
    assert [[ALICE]] * 2 == relay.recipients
    assert (FROM, ALICE, "Your order MARKET_BUY 0.01 BTC is completed") == (
        first["From"],
        first["To"],
        first["Subject"],
    )
    assert first["Message-ID"] == second["Message-ID"]
    assert "auto-generated" == first["Auto-Submitted"]
    text = first.get_content()
    assert "Status: COMPLETED" in text
    assert f"Order: {UUID(int=1)}" in text


async def test_what_an_order_says_stays_in_its_line() -> None:
    """A name with line breaks makes no header and no line of its own, and a long one is cut."""
    evil = "x\r\nBcc: bob@example.com\r\n\r\nStatus: \u202ePAID" + "y" * 300
    shown = event(1, 4)
    order = msgspec.structs.replace(shown.order, reason=evil)
    async with relaying() as (relay, port):
        await mailer(port).send(endpoint(), told(encode(webhook_of(msgspec.structs.replace(shown, order=order)))))
    [mail] = relay.mails
    assert [[ALICE]] == relay.recipients
    assert mail["Bcc"] is None
    lines = mail.get_content().splitlines()
    assert all(len(line) < FIELD_MAX + 30 and not line.startswith("Bcc") for line in lines)
    assert 1 == sum(line.startswith("Status:") for line in lines)
    assert "\u202e" not in mail.get_content()


async def test_the_code_is_in_the_mail_only() -> None:
    """The stored body does not hold it; one that has run out is not sent."""
    async with relaying() as (relay, port):
        await mailer(port).send(endpoint(), CONFIRM)
        late = await mailer(port).send(endpoint(ends=NOW - timedelta(seconds=1)), CONFIRM)
    [mail] = relay.mails
    assert CODE in mail.get_content()
    assert CODE.encode() not in CONFIRM.body
    assert ("its code can't be read here, or has run out", True) == (late.error, late.ours)


@pytest.mark.parametrize(
    ("to_recipient", "to_mail", "verdict", "said"),
    [
        ("550 No such user", "", Verdict.GONE, "the relay said 550 No such user"),
        ("450 Greylisted", "", Verdict.FAILED, "the relay said 450 Greylisted"),
        ("552 Mailbox full", "", Verdict.FAILED, "the relay said 552 Mailbox full"),
        ("550 <Alice@Example.com>: who?", "", Verdict.GONE, "the relay said 550 <the address>: who?"),
        ("250 OK", "554 Looks like spam", Verdict.FAILED, "the relay said 554 Looks like spam"),
    ],
)
async def test_what_a_relay_refuses(to_recipient: str, to_mail: str, verdict: Verdict, said: str) -> None:
    """An address that it will never know ends the endpoint; all else is tried again. What is kept does not name it."""
    async with relaying() as (relay, port):
        relay.to_recipient, relay.to_mail = to_recipient, to_mail
        answer = await mailer(port).send(endpoint(), COMPLETED)
    assert (verdict, said, False) == (answer.verdict, answer.error, answer.ours)


async def test_a_relay_that_hangs_or_is_away_is_no_fault_of_the_address() -> None:
    """Each attempt ends in time."""
    async with relaying() as (relay, port):
        relay.hangs = True
        answer = await mailer(port, attempt_s=0.2).send(endpoint(), COMPLETED)
    assert ("the relay took nothing within 0.2 s", True) == (answer.error, answer.ours)
    assert answer.duration_s < 10
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        answer = await mailer(nobody.getsockname()[1]).send(endpoint(), COMPLETED)
    assert ("the relay can't be reached", True) == (answer.error, answer.ours)


async def test_without_tls_nothing_is_sent_to_a_relay_that_should_have_it() -> None:
    """A relay that does not know STARTTLS gets neither password nor mail."""
    async with relaying() as (relay, port):
        answer = await mailer(port, starttls=True).send(endpoint(), COMPLETED)
    assert [] == relay.mails
    assert Verdict.FAILED is answer.verdict
    assert "secret" not in str(answer)


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # the library overlooks smtps
@pytest.mark.parametrize("tls", [True, False], ids=["smtps", "starttls"])
async def test_a_mail_goes_by_tls_with_the_password(tmp_path: Path, *, tls: bool) -> None:
    """From the first byte or by STARTTLS; a relay whose certificate nobody vouches for gets neither."""
    shown, trust = certificate(tmp_path)
    logins: list[tuple[bytes, bytes, bool]] = []

    def let_in(_server: Any, session: Session, _envelope: Envelope, _mechanism: str, data: LoginPassword) -> AuthResult:
        logins.append((data.login, data.password, tls or session.ssl is not None))
        return AuthResult(success=True)

    options = {"authenticator": let_in, "auth_required": True, "auth_require_tls": not tls}
    options |= {} if tls else {"tls_context": shown, "require_starttls": True}
    async with relaying(shown if tls else None, **options) as (relay, port):
        by = Relay("127.0.0.1", port, "u@x", "p:w", tls=tls, plain=False)
        answer = await Mailer(by, FROM, SEAL, trust=trust).send(endpoint(), COMPLETED)
        strict = await Mailer(by, FROM, SEAL).send(endpoint(), COMPLETED)
    assert (Verdict.DELIVERED, None) == (answer.verdict, answer.error)
    assert [(b"u@x", b"p:w", True)] == logins
    assert [[ALICE]] == relay.recipients
    assert (Verdict.FAILED, True) == (strict.verdict, strict.ours)


async def test_a_mailbox_rests_after_a_burst() -> None:
    """Ten at once, then one a minute; another mailbox has its own count."""
    clock = [0.0]
    async with relaying() as (_relay, port):
        one = mailer(port, clock=lambda: clock[0])
        rests = [(await one.send(endpoint(), COMPLETED)).rest_s for _ in range(BURST + 1)]
        assert 0.0 == (await one.send(endpoint("bob@example.com"), COMPLETED)).rest_s
        clock[0] = 2 * REFILL_S + 1
        later = (await one.send(endpoint(ALICE.upper()), COMPLETED)).rest_s
    assert [0.0] * (BURST - 1) + [REFILL_S, 2 * REFILL_S] == rests
    assert 0.0 < later <= REFILL_S


@pytest.mark.parametrize("address", NO_ADDRESSES)
async def test_no_other_address_gets_a_mail(address: str) -> None:
    """One that is stored all the same is told nothing."""
    async with relaying() as (relay, port):
        answer = await mailer(port).send(endpoint(address), COMPLETED)
    assert ([], Verdict.GONE) == (relay.mails, answer.verdict)


def test_a_relay_is_named_by_a_url() -> None:
    """With TLS, unless it is on this machine and has no password."""
    assert Relay("mx", 465, "u@x", "p:w", tls=True, plain=False) == relay_of("smtps://u%40x:p%3Aw@mx")
    assert Relay("mx", 587, None, None, tls=False, plain=False) == relay_of("smtp://mx")
    assert Relay("localhost", 25, None, None, tls=False, plain=True) == relay_of("smtp://localhost:25?plain")
    for wrong in ("http://mx", "smtp://", "smtp://mx/x", "smtps://mx?plain", "smtp://u:p@mx?plain", "smtp://mx?tls"):
        with pytest.raises(ValueError, match="smtp://"):
            relay_of(wrong)


def test_every_event_has_its_words() -> None:
    """A test, an endpoint that was given up, and a version that keeps the status."""
    disabled = (
        b'{"type":"webhook.disabled","data":{"endpoint_id":"%s","url":"https://x","reason":"gone\\n!"}}'
        % str(ID).encode()
    )
    assert "It gets nothing any more: gone !" == note_of(disabled).text
    assert "A test of your notifications" == note_of(encode(PingWebhook(EventType.WEBHOOK_PING, NOW))).subject


async def test_an_unconfirmed_address_gets_a_code_and_no_orders(webhooks: Webhooks) -> None:
    """Also when it sleeps; from the moment it is confirmed on, it is told of orders."""
    async with relaying() as (relay, port), webhooks.sending(mailer(port), kind=EndpointKind.EMAIL):
        secrets = endpoint().secrets
        endpoint_id = await webhooks.notified(EndpointKind.EMAIL, ALICE, secrets=secrets, confirmed_at=None)
        await webhooks.api.execute(
            "INSERT INTO webhooks.deliveries (endpoint_id, event_id, event_type, body) VALUES ($1, 'c', $2, $3)",
            *(endpoint_id, "notification.confirm", CONFIRM.body),
        )
        await webhooks.take(event(1, 4))
        await webhooks.all_ended()
        assert 1 == len(relay.mails)
        assert CODE in relay.mails[0].get_content()
        await webhooks.api.execute("UPDATE webhooks.endpoints SET confirmed_at = now()")
        await webhooks.changed()
        await webhooks.take(event(2, 4))
        await webhooks.due_now()
        await webhooks.all_ended()
    assert ["Your order MARKET_BUY 0.01 BTC is completed"] == [one["Subject"] for one in relay.mails[1:]]
