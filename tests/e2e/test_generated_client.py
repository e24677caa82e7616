"""A client that is generated from the OpenAPI document can do all that a trader does, and parses problems, too."""

from __future__ import annotations

import importlib
import json
import secrets
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.checker import assert_all_is_well
from tests.e2e.generated_client import NAME, generate, install_generator
from tests.e2e.orders import buy
from tests.e2e.system import System
from tests.e2e.trader import Trader
from tests.support.project import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="package")
DOCUMENT = ROOT / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the generator."""
    return install_generator(tmp_path_factory.mktemp("generator") / "environment")


@pytest.fixture(scope="module")
def generated(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Generate the client, and import it."""
    folder = tmp_path_factory.mktemp("client")
    done = generate(generator, DOCUMENT, folder)
    assert 0 == done.returncode, done.stdout + done.stderr
    # What the generated code imports comes with the generator; where both have a library, ours counts.
    [needed] = (generator.parent.parent / "lib").glob("python*/site-packages")
    sys.path[:] = [str(folder), *sys.path, str(needed)]
    importlib.invalidate_caches()
    yield importlib.import_module(NAME)
    sys.path.remove(str(folder))
    sys.path.remove(str(needed))
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


class Client:
    """Calls the generated functions as one user. `models`: the generated types."""

    def __init__(self, connected: Any, user: str, trader: Trader) -> None:
        self.user = user
        self.models = importlib.import_module(f"{NAME}.models")
        self._client = connected
        self._trader = trader

    async def call(self, operation: str, *path: object, **more: object) -> tuple[int, Any]:
        """Call an operation; return the status and what the answer was parsed into."""
        module = importlib.import_module(f"{NAME}.api.orders.{operation}")
        answer = await module.asyncio_detailed(*path, client=self._client, **more)
        return int(answer.status_code), answer.parsed

    async def submit(
        self, quantity: str = "0.01", *, more: Mapping[str, object] | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Buy BTC with the three required fields and these further ones; note what is accepted in the trader."""
        body = self.models.OrderBody("BTC", self.models.OrderType.MARKET_BUY, quantity, **(more or {}))
        status, answer = await self.call("submit_order", body=body, **headers)
        if status in {201, 202}:
            self._trader.note(buy(self.user, "BTC", quantity, order_id=str(answer.order_id)))
        return status, answer


@pytest_asyncio.fixture(loop_scope="package")
async def client(generated: ModuleType, system: System, trader: Trader) -> AsyncIterator[Client]:
    """Make a client of the running system."""
    user = f"generated-{secrets.token_hex(4)}"
    async with generated.AuthenticatedClient(system.stack.api_url, token=trader.token(user), timeout=60) as connected:
        yield Client(connected, user, trader)


async def test_a_generated_client_trades(client: Client, system: System, trader: Trader) -> None:
    """It submits, waits, reads, lists page by page and cancels; each answer is parsed into its documented type."""
    await system.endow([client.user], {"USD": "10000.00"})
    status, accepted = await client.submit(idempotency_key=str(uuid.uuid4()))
    assert (202, client.models.Order, None) == (status, type(accepted), accepted.average_price)
    status, ended = await client.submit(more={"client_order_id": "mine-1"}, prefer="wait=30")
    assert (201, client.models.OrderStatus.COMPLETED) == (status, ended.status)
    assert ("mine-1", "50000", None) == (ended.client_order_id, ended.average_price, ended.reason_code)
    status, read = await client.call("read_order", ended.order_id)
    assert (200, ended) == (status, read)

    status, late = await client.call("cancel_order", ended.order_id)
    assert (409, client.models.OrderNotCancelableProblem) == (status, type(late))
    assert ("order-not-cancelable", "COMPLETED") == (late.code, late.order_status)

    status, first = await client.call("list_orders", limit=1)
    assert (200, client.models.Page, True) == (status, type(first), first.has_more)
    status, last = await client.call("list_orders", limit=1, cursor=first.next_cursor)
    assert (200, False, None) == (status, last.has_more, last.next_cursor)
    assert [ended.order_id, accepted.order_id] == [order.order_id for page in (first, last) for order in page.orders]

    with system.paused("assets"):  # so that the order waits, whichever of the two topics is read first
        _, pending = await client.submit()
        status, cancelled = await client.call("cancel_order", pending.order_id)
        assert (202, client.models.Order, True) == (status, type(cancelled), cancelled.cancel_requested)
        status, ended = await client.call("cancel_order", pending.order_id, prefer="wait=30")
        assert (200, client.models.OrderStatus.CANCELLED) == (status, ended.status)
    assert client.models.ReasonCode.USER_REQUESTED == ended.reason_code
    await assert_all_is_well(system, trader)


async def test_a_generated_client_parses_problems(client: Client) -> None:
    """Where a status may mean several problems, the client parses the one that came, with its own members."""
    status, missing = await client.call("read_order", uuid.uuid4())
    assert (404, client.models.OrderNotFoundProblem) == (status, type(missing))
    assert ("/problems/order-not-found", 404, "order-not-found") == (missing.type_, missing.status, missing.code)
    assert "No such order" == missing.title
    status, refused = await client.submit("1e3", more={"slippage_bps": 20_000})
    assert (422, client.models.InvalidRequestProblem) == (status, type(refused))
    assert ("/problems/invalid-request", 422, "invalid-request") == (refused.type_, refused.status, refused.code)
    assert {client.models.FieldError} == set(map(type, refused.errors))
    assert {("quantity", '"1e3"'), ("slippage_bps", "20000")} == {(error.field, error.got) for error in refused.errors}

    key = str(uuid.uuid4())
    _, accepted = await client.submit(idempotency_key=key)
    status, reused = await client.submit("0.02", idempotency_key=key)
    assert (422, client.models.IdempotencyKeyReusedProblem) == (status, type(reused))
    assert ("idempotency-key-reused", accepted.order_id) == (reused.code, reused.order_id)


@pytest.mark.parametrize("broken", [{"$ref": "#/components/schemas/Nothing"}, {"type": "array"}])
async def test_a_document_that_the_generator_cannot_read_is_noticed(
    generator: Path, tmp_path: Path, broken: dict[str, str]
) -> None:
    """The generation fails on a schema that it would leave out, and on a reference to a schema that is missing."""
    document = json.loads(DOCUMENT.read_text())
    document["components"]["schemas"]["Order"]["properties"]["fee"] = broken
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(document))
    assert 0 != generate(generator, file, tmp_path).returncode
