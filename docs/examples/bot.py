"""A bot that buys a little below the market and sells what it bought a little above its price, again and again.

    ORDER_API_URL=http://127.0.0.1:8000 ORDER_TOKEN=... python bot.py BTC 0.01

It may be stopped and started at any time: a sale is named after its purchase, so nothing is sold twice.
"""

# ruff: noqa: T201 - it tells what it does

import os
import sys
from contextlib import closing
from decimal import Decimal

from order_client import Client, Interrupted

BELOW, ABOVE = Decimal("0.99"), Decimal("1.01")


def run(client, asset, quantity):
    with closing(client.events()) as events:  # it resumes by itself, for ever
        for item in events:
            # An event says that something has changed; what is to be done, the orders themselves say.
            if not isinstance(item, Interrupted) and not any(client.orders(asset_id=asset, open=True)):
                go_on(client, asset, quantity)


def go_on(client, asset, quantity):
    purchases = client.orders(asset_id=asset, order_type="LIMIT_BUY", status="COMPLETED", page_size=1)
    bought = next(purchases, None)  # the newest
    if bought is None or sell(client, bought).status.terminal:
        quote = client.preview_order(asset, "MARKET_BUY", quantity).quote
        if quote is not None:
            order = client.submit_order(asset, "LIMIT_BUY", quantity, limit_price=round(quote.price * BELOW, 2))
            print(f"{order.order_id} buys {quantity} {asset} at {order.limit_price}", flush=True)


def sell(client, bought):
    terms = {"limit_price": round(bought.average_price * ABOVE, 2), "client_order_id": f"sells-{bought.order_id}"}
    order = client.submit_order(bought.asset_id, "LIMIT_SELL", bought.filled_quantity, **terms)
    print(f"{order.order_id} sells what {bought.order_id} bought, at {order.limit_price}", flush=True)
    return order


if __name__ == "__main__":
    with Client(os.environ["ORDER_API_URL"], os.environ["ORDER_TOKEN"]) as client:
        run(client, sys.argv[1], Decimal(sys.argv[2]))
