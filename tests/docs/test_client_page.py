"""The page about the client: its bot is the one that is tested, and what it shows works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from contracts import codec
from order_client import Client
from order_client.surface import iteration, operation
from tests.support.planned_api import CUT, UNTIL_LEFT, PlannedApi, planned_api
from tests.support.shown_order import ORDER

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
BOT = ROOT / "docs" / "examples" / "bot.py"
PURCHASE: dict[str, Any] = ORDER | {
    "order_type": "LIMIT_BUY", "limit_price": "49500", "time_in_force": "GTC", "status": "COMPLETED", "version": 4,
    "quantity": "0.01", "filled_quantity": "0.01", "average_price": "49500",
}  # fmt: skip
OPEN_SALE: dict[str, Any] = ORDER | {"order_type": "LIMIT_SELL", "limit_price": "49995", "status": "CONFIRMED"}
PREVIEW: dict[str, Any] = {
    **dict.fromkeys(
        ("existing_order_id", "held_asset_id", "held_amount", "trigger_price", "limit_price", "worst_price", "price")
    ),
    **dict.fromkeys(("notional", "fee_asset_id", "fee", "credit_asset_id", "credit")),
    "user_id": "alice", "asset_id": "BTC", "order_type": "MARKET_BUY", "quantity": "0.01", "status": "PROCESSING",
    "quote": {
        "price": "50000", "sequence": 1, "as_of": ORDER["created_at"], "age_ms": 3, "trading": "OPEN", "tick": "0.01",
        "step": "0.00000001", "fee_bps": 10, "cash_asset_id": "USD", "rules_version": 1,
    },
    "refusals": [], "not_checked": [],
}  # fmt: skip
LIVE = b"retry: 1\n\nevent: snapshot-end\ndata: {}\n\n"


def test_the_page_shows_the_bot_as_it_is() -> None:
    """It is the file that the tests run, and no longer than the page says."""
    shown = re.search(r"<!-- bot.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    assert BOT.read_text() == shown[1]
    code = BOT.read_text().rpartition('"""')[2].splitlines()
    assert sum(bool(line.strip()) for line in code) <= 40


def test_the_page_names_no_method_that_is_not_there() -> None:
    """Every `client.something` of the page is a call of the client."""
    for name in set(re.findall(r"\bclient\.([a-z_]+)\(", PAGE)):
        assert isinstance(getattr(Client, name), operation | iteration), name


def _pages(server: PlannedApi, *orders: dict[str, Any]) -> None:
    server.plan(200, {"orders": list(orders), "has_more": False, "next_cursor": None})


def test_the_bot_buys_and_sells_each_purchase_once() -> None:
    """Whatever the event, it looks at its orders, also after a broken connection; no sale is made twice."""
    event = b"id: t1\nevent: heartbeat\ndata: " + codec.encode({"at": ORDER["created_at"]}) + b"\n\n"
    with planned_api() as server:
        server.plan_stream(LIVE, CUT)
        _pages(server)  # nothing is open
        _pages(server)  # nothing was bought before
        server.plan(200, PREVIEW)
        server.plan(202, PURCHASE | {"status": "PENDING"})
        server.plan_stream(event + LIVE, UNTIL_LEFT)
        _pages(server)  # it was filled while the connection was away
        _pages(server, PURCHASE)
        server.plan(202, OPEN_SALE)
        _pages(server)  # and so was the sale
        _pages(server, PURCHASE)
        server.plan(202, OPEN_SALE | {"status": "COMPLETED"})
        server.plan(200, PREVIEW)
        server.plan(202, PURCHASE | {"status": "PENDING"})
        environment = os.environ | {"ORDER_API_URL": server.address, "ORDER_TOKEN": "t", "PYTHONPATH": str(ROOT)}
        words = (sys.executable, str(BOT), "BTC", "0.01")
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as bot:  # noqa: S603
            assert bot.stdout is not None
            said = [bot.stdout.readline().split(" ", 1)[1] for _ in range(4)]
            bot.terminate()
    buys, sells = "buys 0.01 BTC at 49500\n", f"sells what {PURCHASE['order_id']} bought, at 49995\n"
    assert [buys, sells, sells, buys] == said
    sent = [asked.body for asked in server.asked if (asked.method, asked.path) == ("POST", "/orders")]
    assert {"asset_id": "BTC", "order_type": "LIMIT_BUY", "quantity": "0.01", "limit_price": "49500"} == sent[0]
    names = [(body["client_order_id"], body["quantity"], body["limit_price"]) for body in sent[1:3]]
    assert [(f"sells-{PURCHASE['order_id']}", "0.01", "49995")] * 2 == names
