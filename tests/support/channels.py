"""A channel of operators: an HTTP server on this machine that keeps what Apprise posts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer


class Channel:
    """An HTTP server that keeps what Apprise posts; `open` lets it answer."""

    def __init__(self) -> None:
        self.got: list[dict[str, str]] = []
        self.status = 200
        self.came = threading.Event()
        self.open = threading.Event()
        self.open.set()
        channel = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                channel.open.wait(30)
                channel.got.append(body)
                channel.came.set()
                self.send_response(channel.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_port}/"


@contextmanager
def channel_of_operators() -> Iterator[Channel]:
    """Run a channel."""
    one = Channel()
    thread = threading.Thread(target=one.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        one.open.set()
        one.server.shutdown()
        one.server.server_close()
        thread.join()
