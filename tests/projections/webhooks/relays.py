"""An SMTP relay on this machine that answers as told and keeps what it took."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

from aiosmtpd.smtp import SMTP, Envelope, Session

from projections.webhooks.mailing import Mailer, Relay
from tests.projections.webhooks.receivers import SEAL
from tests.support.listening import take_no_more

TAKEN: Final = "250 Message accepted"
FROM: Final = "orders@example.com"
CERTIFICATES: Final = Path(__file__).parents[3] / "deploy" / "certificates.py"


class RelayHandler:
    """Keeps mails; answers to RCPT and DATA as told, or not at all."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.to_recipient = "250 OK"
        self.to_mail = TAKEN
        self.hangs = False

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Answer to a recipient."""
        if self.to_recipient.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.to_recipient

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - the same
        """Take a mail."""
        if self.hangs:
            await asyncio.Event().wait()
        if self.to_mail == TAKEN:
            assert isinstance(envelope.content, bytes)
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
            self.recipients.append(list(envelope.rcpt_tos))
        return self.to_mail


@asynccontextmanager
async def relaying(tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[tuple[RelayHandler, int]]:
    """Run a relay; give it and its port. `tls`: from the first byte on."""
    handler = RelayHandler()
    connections: list[SMTP] = []

    def connect() -> SMTP:
        connections.append(SMTP(handler, loop=asyncio.get_running_loop(), **options))
        return connections[-1]

    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0, ssl=tls)
    try:
        yield handler, server.sockets[0].getsockname()[1]
    finally:
        await take_no_more(server)
        for one in connections:
            if isinstance(one.transport, asyncio.Transport):
                one.transport.abort()  # with TLS, an orderly end would wait for the other side
            if (task := one._handler_coroutine) is not None:  # noqa: SLF001 - it has no other end
                task.cancel()


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate for this machine; return what a relay shows, and what trusts it."""
    command = [sys.executable, str(CERTIFICATES), str(folder), str(folder), "127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own words
    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.load_cert_chain(folder / "broker.pem")
    return shown, ssl.create_default_context(cafile=str(folder / "ca.pem"))


def mailer(
    port: int, attempt_s: float = 5.0, clock: Callable[[], float] = lambda: 0.0, *, starttls: bool = False
) -> Mailer:
    """Make a mailer for a relay on this machine; with `starttls`, one that has a password and insists on TLS."""
    user, password = ("user", "secret") if starttls else (None, None)
    relay = Relay("127.0.0.1", port, user, password, tls=False, plain=not starttls)
    return Mailer(relay, FROM, SEAL, attempt_s=attempt_s, clock=clock)
