"""A stand-in for `python -m operations.cli SERVICE`: commands end at once, services answer on HTTP_PORT.

GET /health/ready answers 200, GET /environment the process's environment. With DUMMY_FAILS=NAME the one of that name
says why and ends with exit code 3.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answer 200 to everything."""

    def do_GET(self) -> None:
        """Answer with the environment when the path asks for it."""
        body = json.dumps(dict(os.environ)).encode() if self.path == "/environment" else b"{}"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)


def main(name: str) -> None:
    """Run as the service or the command `name`."""
    if os.environ.get("DUMMY_FAILS") == name:
        sys.exit(f"{name}: it does not work today")
    if name not in {"migrate", "topics"}:
        HTTPServer((os.environ.get("HTTP_HOST", "127.0.0.1"), int(os.environ["HTTP_PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
