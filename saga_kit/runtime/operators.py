"""Tells operators by the channels that they name: Slack, e-mail, PagerDuty, ntfy and a hundred more, by Apprise.

Their URLs name any host and are the operator's own: a user's must never get here. Apprise is synchronous, so a thread
sends, one message after the other; whoever tells never waits for it. A storm becomes a message a minute: what comes
after a few in a row is collected, and told together. It is the extra `notify`.
"""

from __future__ import annotations

import queue
import threading
import time
from importlib import import_module
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from apprise import Apprise

WAITING_MAX: Final = 100
"""Messages that wait. What comes when it is full is dropped, and the log has it."""
TEXT_MAX: Final = 1_000
BURST: Final = 5
"""So many messages go out as they come; then there is one in `REFILL_S`, with all that came meanwhile."""
REFILL_S: Final = 60.0
END_S: Final = 10.0
"""At the end of a process, what waits is sent for so long."""

log = structlog.get_logger(__name__)


def check_channels(urls: str) -> str:
    """Return the URLs as they are; raise `ValueError` for one that is none, or without the extra `notify`."""
    _channels(urls)
    return urls


def _channels(urls: str) -> Apprise:
    try:
        channels: Apprise = import_module("apprise").Apprise()  # it is large, and few set it up
    except ModuleNotFoundError:
        raise ValueError("needs the extra: pip install 'order-saga[notify]'") from None
    for number, url in enumerate(urls.split(), 1):
        if not channels.add(url):
            raise ValueError(
                f"number {number} of its URLs is none that Apprise knows"
            )  # it may hold a password: not repeated
    if not len(channels):
        raise ValueError("must be URLs for Apprise, with blanks between")
    return channels


class Operators:
    """Passes messages on to all channels. `urls`: with blanks between; raises `ValueError` as `check_channels` does."""

    def __init__(self, urls: str, *, refill_s: float = REFILL_S) -> None:
        self._channels = _channels(urls)
        self._refill_s = refill_s
        self._ending = threading.Event()
        self._full_at_s = 0.0
        """When a whole burst may go out again."""
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue(WAITING_MAX)
        self._thread = threading.Thread(target=self._run, name="operators", daemon=True)
        self._thread.start()

    def tell(self, title: str, text: str) -> None:
        """Have a message sent. It never waits and never fails."""
        try:
            self._waiting.put_nowait((title, text[:TEXT_MAX]))
        except queue.Full:
            log.warning("operators are not told: their channels take nothing", title=title)

    def close(self, within_s: float = END_S) -> None:
        """Send what waits, for a moment; a channel that hangs does not keep the process."""
        self._ending.set()
        try:
            self._waiting.put(None, timeout=within_s)
        except queue.Full:
            return
        self._thread.join(within_s)

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None:
            messages, ended = [message], False
            if (wait_s := self._full_at_s - time.monotonic() - (BURST - 1) * self._refill_s) > 0:
                self._ending.wait(wait_s)
                ended = self._collect(messages)
            self._full_at_s = max(self._full_at_s, time.monotonic()) + self._refill_s
            send_now(self._channels, *_together(messages))
            if ended:
                return

    def _collect(self, messages: list[tuple[str, str]]) -> bool:
        """Add what waits; return whether the end was among it."""
        while not self._waiting.empty():
            if (message := self._waiting.get_nowait()) is None:
                return True
            messages.append(message)
        return False


def _together(messages: list[tuple[str, str]]) -> tuple[str, str]:
    """Make one message of several."""
    if len(messages) == 1:
        return messages[0]
    text = "\n".join(f"{title}: {text}" for title, text in messages)
    return f"Order Saga: {len(messages)} messages", text[:TEXT_MAX]


def send_now(channels: Apprise, title: str, text: str) -> bool:
    """Send a message to all channels; return whether all took it. It takes as long as they do."""
    try:
        sent = bool(channels.notify(title=title, body=text))
    except Exception:  # a plugin may raise whatever it likes
        log.exception("a channel of operators failed")
        return False
    if not sent:
        log.warning("a channel of operators took nothing", title=title)
    return sent


def send_test(urls: str) -> bool:
    """Send a test to all channels, and wait for it; return whether all took it. Raises `ValueError`."""
    return send_now(_channels(urls), "Order Saga: a test", "This channel works. An operator asked for this message.")
