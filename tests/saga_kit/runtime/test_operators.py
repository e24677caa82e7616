"""Operators are told by real channels, in the background; one that hangs holds up nobody."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from saga_kit.runtime.operators import TEXT_MAX, WAITING_MAX, Operators, check_channels, send_test

# One of Apprise's plugins imports a module that Python 3.13 has no more; it does without it there.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


class Channel:
    """An HTTP server that keeps what Apprise posts; `open` lets it answer."""

    def __init__(self) -> None:
        self.got: list[dict[str, str]] = []
        self.status = 200
        self.open = threading.Event()
        self.open.set()
        channel = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                channel.open.wait(30)
                channel.got.append(body)
                self.send_response(channel.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def channel() -> Iterator[Channel]:
    """Run a channel."""
    one = Channel()
    thread = threading.Thread(target=one.server.serve_forever, daemon=True)
    thread.start()
    yield one
    one.open.set()
    one.server.shutdown()
    one.server.server_close()
    thread.join()


def test_what_is_told_arrives_in_order(channel: Channel) -> None:
    """With its title; a long text is cut."""
    operators = Operators(channel.url)
    operators.tell("one", "first")
    operators.tell("two", "x" * 2 * TEXT_MAX)
    operators.close()
    assert [("one", "first"), ("two", "x" * TEXT_MAX)] == [(got["title"], got["message"]) for got in channel.got]


def test_a_channel_that_hangs_holds_up_nobody(channel: Channel) -> None:
    """Whoever tells goes on at once, also when no more can wait; the end of the process does not wait for long."""
    channel.open.clear()
    operators = Operators(channel.url)
    began = time.monotonic()
    for number in range(WAITING_MAX + 10):
        operators.tell(str(number), "text")
    operators.close(within_s=0.1)
    assert time.monotonic() - began < 2


def test_a_test_says_whether_all_took_it(channel: Channel) -> None:
    """One that answers with an error did not."""
    assert send_test(channel.url)
    channel.status = 500
    assert not send_test(channel.url)


@pytest.mark.parametrize("urls", ["", "nonsense", "json://localhost nonsense://x:secret@y"])
def test_urls_that_are_none_are_refused(urls: str) -> None:
    """At the start, without a password in the message."""
    with pytest.raises(ValueError, match=r"Apprise") as raised:
        check_channels(urls)
    assert "secret" not in str(raised.value)
