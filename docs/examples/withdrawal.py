"""A withdrawal: hold the user's money, pay it out, capture it. See docs/holds.md.

    python withdrawal.py PAYMENT_ID USER ASSET AMOUNT CREATED_AT

ORDER_API_URL is the API's address, ORDER_API_TOKEN a token with the scope holds:write. All of it may be repeated with
the same words, after any failure. Exit status: 0 paid, 1 not paid, and the money is back or soon will be.
"""

# ruff: noqa: T201, S310 - it tells what it did, and the address is its owner's

import json
import os
import sys
import time
import urllib.request
from datetime import datetime, timedelta


def call(method, path, body=None, **headers):
    """Send a request; return the answer's body."""
    headers |= {"Authorization": f"Bearer {os.environ['ORDER_API_TOKEN']}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["ORDER_API_URL"] + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def decided(hold, undecided):
    """Read a hold until the ledger has decided."""
    while hold["status"] in undecided:
        time.sleep(0.2)
        hold = call("GET", f"/holds/{hold['hold_id']}")
    return hold


def pay_out(payment_id):
    """Your bank's call. It must be safe to repeat with the same id. True: paid; False: refused for good."""
    return not payment_id.startswith("refused-")


payment_id, user, asset, amount, created_at = sys.argv[1:]
until = (datetime.fromisoformat(created_at) + timedelta(days=7)).isoformat()  # the same whenever this is repeated
asked = {"user_id": user, "asset_id": asset, "amount": amount, "expires_at": until}
hold = decided(call("POST", "/holds", asked, **{"Idempotency-Key": payment_id}), {"PENDING"})
if hold["status"] == "HELD":
    if pay_out(payment_id):
        call("PUT", f"/holds/{hold['hold_id']}/capture", {"amount": amount, "to": "@external"})
    else:
        call("PUT", f"/holds/{hold['hold_id']}/release")
    hold = decided(hold, {"HELD"})
print(hold["status"], hold["reason_code"] or "")
sys.exit(0 if hold["status"] == "CAPTURED" else 1)
