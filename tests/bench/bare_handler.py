"""The bare handler, the peer of `POST /orders`: the least that FastAPI and aiokafka do for a request.

It validates the body with pydantic and publishes it, acknowledged by the broker. It has no token, no idempotency and no
claim in a database, so an order that it accepted with 202 is lost when the broker loses it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from uuid import uuid4

import uvicorn
from aiokafka import AIOKafkaProducer
from fastapi import FastAPI
from pydantic import BaseModel


class Body(BaseModel):
    """An order as a client sends it."""

    asset_id: str
    order_type: str
    quantity: Decimal


def create_app(bootstrap_servers: str, topic: str) -> FastAPI:
    """Build the application."""
    producer: AIOKafkaProducer

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        nonlocal producer
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True)
        await producer.start()
        yield
        await producer.stop()

    app = FastAPI(lifespan=lifespan, telemetry={"tracing": False, "metrics": False, "logs": False})

    @app.post("/orders", status_code=202)
    async def submit(body: Body) -> dict[str, str]:
        order_id = str(uuid4())
        value = body.model_copy(update={"order_id": order_id}).model_dump_json().encode()
        await producer.send_and_wait(topic, value, key=order_id.encode())
        return {"order_id": order_id, "status": "PENDING"}

    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(os.environ["KAFKA_BOOTSTRAP_SERVERS"], os.environ["TOPIC"]),
        port=int(os.environ["HTTP_PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
