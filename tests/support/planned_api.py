"""An API on the loopback interface that answers as it is told, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

CUT: Final = "cut the connection"
UNTIL_LEFT: Final = "send nothing more until the client leaves"
Answer = tuple[int, dict[str, str], list[bytes | str]]


class Asked(NamedTuple):
    """A request; the names of its headers are in small letters, its body is read as JSON."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class PlannedApi(ThreadingHTTPServer):
    """Answers what is planned, one after the other, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.planned: list[Answer] = []
        self.asked: list[Asked] = []
        self.closed = threading.Event()
        """Set when a client has left a stream that still goes on."""

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    def plan(self, status: int, body: object = None, **headers: str) -> None:
        """Answer so next."""
        content = b"" if body is None else json.dumps(body).encode()
        length = {"content-type": "application/json", "content-length": str(len(content))}
        self.planned.append((status, length | headers, [content]))

    def plan_stream(self, *parts: bytes | str) -> None:
        """Answer with a stream of these parts next."""
        self.planned.append((200, {"content-type": "text/event-stream", "connection": "close"}, list(parts)))

    def plan_break(self) -> None:
        """Cut the connection of the next request."""
        self.planned.append((0, {}, [CUT]))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PlannedApi

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append(Asked(self.command, self.path, headers, json.loads(content) if content else None))
        status, headers, parts = self.server.planned.pop(0)
        if status:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
        for part in parts:
            if part == CUT:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.close_connection = True
                self.connection.close()
                return
            if isinstance(part, str):  # nothing more, until the client leaves
                self.connection.recv(1)
                self.server.closed.set()
                return
            self.wfile.write(part)
            self.wfile.flush()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the names that http.server looks for


@contextmanager
def planned_api() -> Iterator[PlannedApi]:
    """Serve while inside."""
    server = PlannedApi()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
