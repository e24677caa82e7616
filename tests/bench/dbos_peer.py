"""The same order as a DBOS workflow of four steps, in a process of its own, without Kafka.

Each step asks a participant, which approves at once from memory, and writes the order's row in its new state; DBOS
stores the result of the step. Async workflows on asyncpg with DBOS's defaults were faster than sync workflows in
threads, and than its SQLAlchemy datasource, which commits more often. It runs on uvloop, as all peers do.

Each line of input, `<orders> <in flight>`, is a round; its result is a line of JSON. The time of an order is that from
the start of its workflow to its end. The end of the input ends the process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid

import asyncpg
import msgspec
import uvloop
from dbos import DBOS, DBOSConfig, SetWorkflowID

from contracts.vocabulary import OrderStatus, OrderType
from tests.bench.load import Result, summary
from tests.bench.plain import Quote, sums

CONNECTIONS = 10
TABLE = """
    CREATE TABLE IF NOT EXISTS orders (
        order_id uuid PRIMARY KEY, user_id text NOT NULL, asset_id text NOT NULL, order_type text NOT NULL,
        quantity text NOT NULL, status text NOT NULL, version int NOT NULL, price text, hold text, fee text,
        created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
    ) WITH (fillfactor = 70)"""
CREATE = """
    INSERT INTO orders (order_id, user_id, asset_id, order_type, quantity, price, status, version)
    VALUES ($1, $2, $3, $4, $5, $6, 'PENDING', 1) ON CONFLICT DO NOTHING"""
CONFIRM = """
    UPDATE orders SET status = 'CONFIRMED', version = 2, hold = $2, fee = $3, updated_at = now() WHERE order_id = $1"""
MOVE = "UPDATE orders SET status = $2, version = $3, updated_at = now() WHERE order_id = $1"


class Rows:
    """Holds the connection pool of the orders' table, which the steps share, since they are functions."""

    pool: asyncpg.Pool


Request = dict[str, str]
"""The fields of a request, as text, which DBOS stores."""
FIELDS = ("order_id", "user_id", "asset_id", "order_type", "quantity")


@DBOS.step()
async def check(request: Request) -> str:
    """Store the order and get a quote."""
    quote = Quote("20.00", 10, "USD", 2)
    await Rows.pool.execute(CREATE, *(request[name] for name in FIELDS), quote.price)
    return msgspec.json.encode(quote).decode()


@DBOS.step()
async def reserve(order_id: str, hold: str, fee: str) -> str:
    """Have the money held."""
    await Rows.pool.execute(CONFIRM, order_id, hold, fee)
    return hold


@DBOS.step()
async def settle(order_id: str, capture: str) -> str:
    """Have the money settled."""
    await Rows.pool.execute(MOVE, order_id, OrderStatus.PROCESSING, 3)
    return capture


@DBOS.step()
async def complete(order_id: str) -> None:
    """End the order."""
    await Rows.pool.execute(MOVE, order_id, OrderStatus.COMPLETED, 4)


@DBOS.workflow()
async def buy(request: Request) -> str:
    """Take an order through its steps."""
    order_id = request["order_id"]
    quote = msgspec.json.decode(await check(request), type=Quote)
    hold, fee = sums(request["quantity"], quote)
    held = await reserve(order_id, hold, fee)
    await settle(order_id, held)
    await complete(order_id)
    return OrderStatus.COMPLETED


async def run(orders: int, in_flight: int) -> Result:
    """Carry a load; raises `RuntimeError` for an order that does not end completed."""
    free = asyncio.Semaphore(in_flight)
    took_s: list[float] = []

    async def one(number: int) -> None:
        async with free:
            began = time.monotonic()
            order_id = str(uuid.uuid4())
            values = (order_id, ("alice", "bob")[number % 2], "ACME", str(OrderType.MARKET_BUY), "1")
            with SetWorkflowID(order_id):
                workflow = await DBOS.start_workflow_async(buy, dict(zip(FIELDS, values, strict=True)))
            if (status := await workflow.get_result()) != OrderStatus.COMPLETED:
                raise RuntimeError(f"order {order_id} ended {status}")
            took_s.append(time.monotonic() - began)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(orders):
            group.create_task(one(number))
    return summary(took_s, time.monotonic() - began)


async def main(database_url: str) -> None:
    """Launch DBOS, say that it is ready, and do a round for each line."""
    config: DBOSConfig = {"name": "peer", "system_database_url": database_url, "log_level": "CRITICAL"}
    DBOS(config=config)
    DBOS.launch()
    try:
        async with asyncpg.create_pool(database_url, min_size=CONNECTIONS, max_size=CONNECTIONS) as Rows.pool:
            await Rows.pool.execute(TABLE)
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            while line := await asyncio.to_thread(sys.stdin.readline):
                orders, in_flight = map(int, line.split())
                sys.stdout.write(msgspec.json.encode(await run(orders, in_flight)).decode() + "\n")
                sys.stdout.flush()
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    uvloop.run(main(os.environ["DATABASE_URL"]))
