"""Another team's service: it asks for an order on Kafka and follows it to its end. All that it needs is aiokafka.

    python order_producer.py USER ASSET ORDER_TYPE QUANTITY

The environment says where and as whom: KAFKA_BOOTSTRAP_SERVERS, and, where the broker wants them,
KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD, KAFKA_SSL_CAFILE and
KAFKA_TOPIC_PREFIX. Exit status: 0 the order is COMPLETED, 1 it ended otherwise, 2 its end is not known.
"""

# ruff: noqa: T201 - it tells what it hears

import asyncio
import json
import os
import ssl
import sys
import uuid
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

SOURCE = "/order-producer"
ENDED = {"COMPLETED", "CANCELLED", "FAILED"}
PATIENCE_S = 120


def client_options():
    """Read how to reach the broker; the variables are those of Order Saga's own services."""
    protocol = os.environ.get("KAFKA_SECURITY_PROTOCOL") or "PLAINTEXT"
    options = {
        "bootstrap_servers": os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or "localhost:9092",
        "security_protocol": protocol,
    }
    if protocol.endswith("SSL"):
        options["ssl_context"] = ssl.create_default_context(cafile=os.environ.get("KAFKA_SSL_CAFILE") or None)
    if protocol.startswith("SASL"):
        options["sasl_mechanism"] = os.environ.get("KAFKA_SASL_MECHANISM") or "PLAIN"
        options["sasl_plain_username"] = os.environ["KAFKA_SASL_USERNAME"]
        options["sasl_plain_password"] = os.environ["KAFKA_SASL_PASSWORD"]
    return options


def topic(name):
    """Name a topic as this broker does."""
    return os.environ.get("KAFKA_TOPIC_PREFIX", "") + name


def order_requested(user_id, asset_id, order_type, quantity):
    """Make the body of a request. Store the order's id before you send it: sent again, it is still the same order."""
    return {
        "order_id": str(uuid.uuid4()),
        "user_id": user_id,
        "asset_id": asset_id,
        "order_type": order_type,
        "quantity": quantity,  # a string, never a number: decimals stay exact
        "requested_at": datetime.now(UTC).isoformat(),
    }


def headers(kind):
    """Make the headers of a CloudEvent in binary mode."""
    event = {
        "ce_specversion": "1.0",
        "ce_id": str(uuid.uuid4()),
        "ce_source": SOURCE,
        "ce_type": kind,
        "ce_time": datetime.now(UTC).isoformat(),
        "content-type": "application/json",
    }
    return [(name, value.encode()) for name, value in event.items()]


async def send(request):
    """Send a request; when this returns, the broker has it for good."""
    producer = AIOKafkaProducer(**client_options(), acks="all", enable_idempotence=True)
    try:
        await producer.start()
        key, value = request["order_id"].encode(), json.dumps(request).encode()
        await producer.send_and_wait(topic("orders.requests"), value, key=key, headers=headers("OrderRequested"))
    finally:
        await producer.stop()


async def versions(consumer, order_id):
    """Yield each new version of an order: they come at least once, so a lower or equal one is an old one again."""
    highest = 0
    async for record in consumer:
        if record.key != order_id.encode():
            continue  # another order's
        event = json.loads(record.value)
        if event["version"] > highest:
            highest = event["version"]
            yield event["order"]


async def place(*order):
    """Place an order, print its versions, and return it as it ended.

    This consumer has no group, so it hears of every order while it runs. A service that must not miss one while it is
    away has a group of its own, and commits an offset when it has stored what it read.
    """
    request = order_requested(*order)
    consumer = AIOKafkaConsumer(topic("orders.events"), **client_options(), group_id=None)
    try:
        await consumer.start()
        await consumer.seek_to_end()  # before the request is sent, so that no version is missed
        await send(request)
        print(f"{request['order_id']} is sent")
        async with asyncio.timeout(PATIENCE_S):
            async for version in versions(consumer, request["order_id"]):
                told = (version["status"], version["reason_code"], version["reason"])
                print(f"version {version['version']}:", *filter(None, told))
                if version["status"] in ENDED:
                    return version
    finally:
        await consumer.stop()


def main():
    """Place the order that the command line asks for; return the exit status."""
    match sys.argv[1:]:
        case [user_id, asset_id, order_type, quantity]:
            try:
                order = asyncio.run(place(user_id, asset_id, order_type, quantity))
            except TimeoutError:
                print(f"order_producer: it has not ended within {PATIENCE_S} s; look it up first", file=sys.stderr)
                return 2
            except (KafkaError, OSError) as error:  # was it sent? then look it up before you send another
                print(f"order_producer: {client_options()['bootstrap_servers']}: {error!r}", file=sys.stderr)
                return 2
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    if order["status"] != "COMPLETED":
        return 1
    print(f"{order['filled_quantity']} {order['asset_id']} at {order['average_price']}, fee {order['fee']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
