"""What a user does with a webhook, over a whole system: made, rotated, given up, enabled, sent again, recovered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
import pytest_asyncio
from standardwebhooks import Webhook, WebhookVerificationError

from order_client import AsyncClient, DeliveryState, EndpointState, EventType, Retry, WebhookDelivery, problems
from tests.e2e.orders import buy, sell
from tests.e2e.system import System, eventually, running
from tests.e2e.trader import Trader
from tests.projections.webhooks.receivers import Received, Receiver, answer, receiving
from tests.support.infrastructure import Infrastructure

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOLD_S = 120.0
GONE = "410 Gone"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(infrastructure: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Run a system that sends webhooks."""
    folder = tmp_path_factory.mktemp("system")
    async with running(infrastructure, folder, replicas={"webhooks": 1}) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module")
async def trader(system: System) -> AsyncIterator[Trader]:
    """Trade for anybody."""
    async with Trader(system) as one:
        yield one


def managing(system: System, user_id: str) -> AsyncClient:
    """Make a client of a user who manages webhooks."""
    token = jwt.encode({"sub": user_id, "scope": "webhooks:manage", "exp": 2**31}, system.stack.jwt_secret, "HS256")
    return AsyncClient(system.stack.api_url, token, retry=Retry(times=8))


def read(got: Received, secret: str | None) -> dict[str, Any] | None:
    """Verify a webhook by the standard's own library; None when it is not signed with this secret."""
    try:
        found: dict[str, Any] = Webhook(secret or "").verify(got.body, got.headers)
    except WebhookVerificationError:
        return None
    return found


def ends(receiver: Receiver, secret: str | None) -> dict[str, str]:
    """Return the newest status that was told of each order; all must verify."""
    newest: dict[str, dict[str, Any]] = {}
    for got in receiver.received:
        webhook = read(got, secret)
        assert webhook is not None
        order = webhook["data"]
        if order["version"] > newest.get(order["order_id"], {"version": 0})["version"]:
            newest[order["order_id"]] = order
    return {order_id: order["status"] for order_id, order in newest.items()}


async def all_ended(trader: Trader, order_ids: list[str]) -> dict[str, str]:
    """Wait for the end of orders, and return their statuses."""
    return {order_id: end.split()[0] for order_id, end in (await trader.ended(order_ids)).items()}


async def deliveries(client: AsyncClient, endpoint_id: Any, status: DeliveryState) -> list[WebhookDelivery]:
    """List the newest deliveries that have come to this."""
    return (await client.list_webhook_deliveries(endpoint_id, status=status, limit=100)).deliveries


async def test_a_secret_is_replaced_under_load_and_a_delivery_is_sent_again(system: System, trader: Trader) -> None:
    """Whoever has the old secret can verify all, whoever has the new one all that comes later; nothing is missing."""
    async with receiving() as receiver, managing(system, "alice") as client:
        made = await client.create_webhook(receiver.url, every_version=True, idempotency_key="e2e-1")
        again = await client.create_webhook(receiver.url, every_version=True, idempotency_key="e2e-1")
        assert (made.webhook.endpoint_id, made.secret) == (again.webhook.endpoint_id, again.secret)
        ping = await client.ping_webhook(made.webhook.endpoint_id)
        await receiver.wait_for(1)
        assert ping.event_id == receiver.received.pop().headers["webhook-id"]

        async def rotate() -> str | None:
            await receiver.wait_for(8)
            return (await client.rotate_webhook_secret(made.webhook.endpoint_id)).secret

        rotating = asyncio.create_task(rotate())
        ids = await trader.trade([buy("alice", "BTC", "0.01") for _ in range(15)], over_s=5.0)
        new = await rotating
        ids += await trader.trade([sell("alice", "BTC", "0.01") for _ in range(5)])
        wanted = await all_ended(trader, ids)

        async def all_told() -> bool:
            return wanted.items() <= ends(receiver, made.secret).items()

        await eventually(all_told, "each order's end is told", within_s=TOLD_S)
        by_new = [read(got, new) is not None for got in receiver.received]
        assert (False, True) == (by_new[0], by_new[-1])
        assert by_new == sorted(by_new), "once the new secret has signed, it goes on"
        await _is_sent_again(client, made.webhook.endpoint_id, receiver)
        await client.delete_webhook(made.webhook.endpoint_id)


async def _is_sent_again(client: AsyncClient, endpoint_id: Any, receiver: Receiver) -> None:
    """Expect the same bytes under the same id, and one attempt more of the delivery."""
    first, seen = receiver.received[0], len(receiver.received)
    event_id = first.headers["webhook-id"]
    await client.redeliver_webhook(endpoint_id, event_id)
    await receiver.wait_for(seen + 1)
    assert (event_id, first.body) == (receiver.received[-1].headers["webhook-id"], receiver.received[-1].body)

    async def is_told() -> bool:
        found = await deliveries(client, endpoint_id, DeliveryState.DELIVERED)
        return [2] == [one.attempts for one in found if one.event_id == event_id]

    await eventually(is_told, "the second attempt is in the list")
    with pytest.raises(problems.DeliveryNotFoundError):
        await client.redeliver_webhook(endpoint_id, "nothing:v1")


async def test_an_endpoint_that_is_given_up_is_enabled_and_told_what_it_missed(system: System, trader: Trader) -> None:
    """After 410 nothing is sent; enabled, it gets what came meanwhile; one made later recovers what was before it."""
    since = datetime.now(UTC)
    async with receiving(answer(GONE)) as receiver, receiving() as other, managing(system, "bob") as client:
        made = await client.create_webhook(receiver.url, event_types=[EventType.ORDER_COMPLETED])
        endpoint_id = made.webhook.endpoint_id
        watching = await client.create_webhook(other.url, event_types=[EventType.WEBHOOK_DISABLED])
        await all_ended(trader, [await trader.post(buy("bob", "BTC", "0.01"))])

        async def is_disabled() -> bool:
            return (await client.read_webhook(endpoint_id)).state is EndpointState.DISABLED

        await eventually(is_disabled, "the endpoint is given up", within_s=TOLD_S)
        assert "410" in str((await client.read_webhook(endpoint_id)).disabled_reason)
        await other.wait_for(1)
        told = read(other.received[0], watching.secret)
        assert told is not None
        assert (EventType.WEBHOOK_DISABLED, str(endpoint_id)) == (told["type"], told["data"]["endpoint_id"])
        with pytest.raises(problems.WebhookDisabledError):
            await client.ping_webhook(endpoint_id)
        seen = len(receiver.received)
        await all_ended(trader, await trader.trade([sell("bob", "BTC", "0.01") for _ in range(6)]))
        assert seen == len(receiver.received)

        receiver.answering = answer("204 No Content")
        await client.change_webhook(endpoint_id, state=EndpointState.ACTIVE)
        missed = dict.fromkeys(trader.accepted, "COMPLETED")

        async def all_told() -> bool:
            return missed == ends(receiver, made.secret)

        await eventually(all_told, "what it missed is told", within_s=TOLD_S)
        await _one_made_later_recovers(client, since, missed)


async def _one_made_later_recovers(client: AsyncClient, since: datetime, missed: dict[str, str]) -> None:
    """Expect a new endpoint to be told of before once it asks, and nothing twice when it asks twice."""
    async with receiving() as late:
        made = await client.create_webhook(late.url, event_types=[EventType.ORDER_COMPLETED])
        recovery = await client.recover_webhook(made.webhook.endpoint_id, since)
        assert (len(missed), False) == (recovery.deliveries, recovery.has_more)

        async def all_told() -> bool:
            return missed == ends(late, made.secret)

        await eventually(all_told, "what was before it is told", within_s=TOLD_S)
        assert 0 == (await client.recover_webhook(made.webhook.endpoint_id, since)).deliveries
        assert len(missed) == len(late.received)
