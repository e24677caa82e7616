"""The demo's receiver of webhooks: a small server that believes only what the standard's library verifies."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from standardwebhooks import Webhook, WebhookVerificationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BODY_BYTES_MAX: Final = 1_000_000
SILENCE_S: Final = 10.0
"""A sender that says nothing for so long is cut off."""
TAKEN: Final = 204
FAILED: Final = 500
NOT_BELIEVED: Final = 400


class Came(NamedTuple):
    """A webhook that was verified, and what it was answered."""

    webhook_id: str
    type: str
    order_id: str
    answered: int


class Receiver:
    """What came, in its order. The first request of all is answered as by a receiver that fails."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.secret: str | None = None
        """The endpoint's; known only when it is made, and nothing is believed before."""
        self.came: list[Came] = []
        self._new = asyncio.Condition()

    async def wait_until(self, is_enough: Callable[[], bool]) -> None:
        """Wait until enough has come."""
        async with self._new:
            await self._new.wait_for(is_enough)

    async def note(self, webhook_id: str, event: Any) -> int:
        """Note a webhook that is verified, and return the status to answer with."""
        status = TAKEN if self.came else FAILED
        self.came.append(Came(webhook_id, event["type"], event["data"].get("order_id", ""), status))
        async with self._new:
            self._new.notify_all()
        return status


@asynccontextmanager
async def receiving(host: str) -> AsyncIterator[Receiver]:
    """Receive at any free port of `host`, in a thread, for as long as the block runs."""
    loop = asyncio.get_running_loop()

    class Handler(BaseHTTPRequestHandler):
        """Takes what is posted, at any path."""

        timeout = SILENCE_S

        def do_POST(self) -> None:
            """Verify the bytes as they came, and answer."""
            self.send_response(_judged(self, receiver, loop))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base's
            """Say nothing: the demo shows what came."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Server((host, 0), Handler) as server:
        name = f"[{host}]" if ":" in host else host
        receiver = Receiver(f"http://{name}:{server.server_port}/orders")
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="receiver")
        serving.start()
        try:
            yield receiver
        finally:
            # While it ends, a request may still be noted by this very loop.
            await asyncio.to_thread(server.shutdown)
            await asyncio.to_thread(serving.join)


def _judged(request: BaseHTTPRequestHandler, receiver: Receiver, loop: asyncio.AbstractEventLoop) -> int:
    """Return the status that a request gets."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    if receiver.secret is None:
        return NOT_BELIEVED
    try:
        length = min(max(int(headers.get("content-length", "0")), 0), BODY_BYTES_MAX)
        event = Webhook(receiver.secret).verify(request.rfile.read(length), headers)
    except (WebhookVerificationError, ValueError):  # ValueError: a header or a body that is not of its form
        return NOT_BELIEVED
    return asyncio.run_coroutine_threadsafe(receiver.note(headers["webhook-id"], event), loop).result(SILENCE_S)
