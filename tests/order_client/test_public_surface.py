"""The client's public surface: what `order_client` exports, what it says of it, and what it needs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, assert_type

import msgspec
import pytest

import order_client
from order_client import AsyncClient, Client, Order, OrderSagaError, StreamItem, errors, problems
from order_client.surface import Calls, iteration, operation

ROOT = Path(__file__).parents[2]
METHODS = {name: value for name in dir(Client) if isinstance(value := getattr(Client, name), operation | iteration)}


def test_the_list_of_public_names_is_sorted_and_each_is_there() -> None:
    """A name of `__all__` comes once, exists, and is documented where it is a class or a function."""
    assert sorted(set(order_client.__all__)) == order_client.__all__
    for name in order_client.__all__:
        value = getattr(order_client, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert (value.__doc__ or "").strip(), name


def test_every_error_is_public_and_of_one_tree() -> None:
    """Whoever catches `OrderSagaError` catches whatever a call raises."""
    raised = {name: one for name, one in vars(errors).items() if inspect.isclass(one) and issubclass(one, Exception)}
    assert set() == raised.keys() - set(order_client.__all__)
    assert all(issubclass(one, OrderSagaError) for one in [*raised.values(), *problems.BY_CODE.values()])


def test_every_struct_that_an_answer_has_is_public() -> None:
    """A caller can name the type of whatever a method returns."""
    from order_client import answers, socket, streams  # noqa: PLC0415 - internal, looked at as a whole

    structs = {
        name
        for module in (answers, socket, streams)
        for name, one in vars(module).items()
        if inspect.isclass(one) and issubclass(one, msgspec.Struct) and not name.startswith("_")
    }
    assert set() == structs - set(order_client.__all__)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_both_clients_have_each_call_with_its_words(name: str) -> None:
    """`help` shows what a method takes and does; no argument is called as a step of the machinery."""
    for client in (Client("http://x.test"), AsyncClient("http://x.test")):
        method: Any = getattr(client, name)
        assert (name, METHODS[name].call.__doc__) == (method.__name__, method.__doc__)
        assert (METHODS[name].call.__doc__ or "").strip()
        assert inspect.signature(METHODS[name].call) == inspect.signature(method)


def test_a_client_is_made_of_calls_alone() -> None:
    """Every public method is a call or what opens and closes a client."""
    own = {"run", "iterate", "close", "aclose"}
    public = {name for name in {*dir(Client), *dir(AsyncClient)} if not name.startswith("_")}
    assert public - METHODS.keys() - own == set()
    assert issubclass(Client, Calls)


def test_it_needs_two_packages() -> None:
    """A trader's program loads msgspec and httpx2, and nothing of a service."""
    program = "import order_client, sys; print(*{name.split('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    services = {
        "aiokafka", "asyncpg", "cryptography", "fastapi", "faststream", "jwt", "prometheus_client", "pydantic",
        "saga_kit", "sqlalchemy", "standardwebhooks", "starlette", "structlog", "uvicorn",
    }  # fmt: skip
    assert set() == services & set(ran.stdout.split())


async def _types(client: Client, awaited: AsyncClient) -> None:
    """Hold what type checkers see: it is checked by `make lint`, and never run."""
    assert_type(client.read_order("x"), Order)
    assert_type(await awaited.read_order("x"), Order)
    assert_type(client.read_order_change("x", 3, wait_s=5), Order | None)
    assert_type(list(client.orders(open=True)), list[Order])
    assert_type([item async for item in awaited.events()], list[StreamItem])
    client.submit_order("BTC", "MARKET_BUY", 1, prize=3)  # type: ignore[call-arg]
    client.submit_order("BTC", "MARKET_BUY", 0.5)  # type: ignore[arg-type]
