"""A receiver of webhooks: it verifies the bytes, answers at once, and keeps the newest version of each order.

WEBHOOK_SECRET=whsec_... python webhook_receiver.py, behind a proxy that has the certificate. Needs standardwebhooks.
"""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

newest: dict[str, int] = {}


class Receiver(BaseHTTPRequestHandler):
    """Takes webhooks at any path."""

    def do_POST(self) -> None:
        """Verify the bytes as they came; take a version that is newer than what is known."""
        body = self.rfile.read(min(int(self.headers.get("content-length", 0)), 1_000_000))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            event = Webhook(os.environ["WEBHOOK_SECRET"]).verify(body, headers)
        except (WebhookVerificationError, ValueError):  # ValueError: a signature that is not of its form
            return self.send_error(400)
        order = event["data"]
        if event["type"].startswith("order.") and order["version"] > newest.get(order["order_id"], 0):
            newest[order["order_id"]] = order["version"]
            self.log_message("order %s is %s", order["order_id"], order["status"])
        self.send_response(204)
        self.end_headers()


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Receiver).serve_forever()
