"""How a call that is written once becomes a method of both clients: it returns there, and is awaited here.

A call is a function that gives the steps of `core`. `operation` makes a method of it that drives the steps, and
`iteration` one that hands on each item that they emit. Both keep the signature, so that type checkers see it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from functools import update_wrapper, wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from order_client.core import Items, Session, Steps

P = ParamSpec("P")
T = TypeVar("T")


class Calls(ABC):
    """Has calls. Their functions get it as `self`, for the session alone."""

    session: Session


class Blocking(Calls):
    """Drives steps, and returns when they are done."""

    @abstractmethod
    def run(self, steps: Steps[T]) -> T:
        """Do the steps."""

    @abstractmethod
    def iterate(self, steps: Items[T]) -> Generator[T, None, None]:
        """Do the steps, and yield what they emit."""


class Awaiting(Calls):
    """Drives steps in an event loop."""

    @abstractmethod
    async def run(self, steps: Steps[T]) -> T:
        """Do the steps."""

    @abstractmethod
    def iterate(self, steps: Items[T]) -> AsyncGenerator[T, None]:
        """Do the steps, and yield what they emit."""


class operation(Generic[P, T]):  # noqa: N801 - a decorator
    """Make a method of a call that has one result."""

    def __init__(self, call: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self.call = call
        update_wrapper(self, call)  # type: ignore[arg-type]

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, client: Blocking | Awaiting | None, owner: type) -> Any:
        if client is None:
            return self

        @wraps(self.call)
        def method(*arguments: P.args, **named: P.kwargs) -> Any:
            return client.run(self.call(client, *arguments, **named))

        return method


class iteration(Generic[P, T]):  # noqa: N801 - a decorator
    """Make a method of a call whose items are iterated over."""

    def __init__(self, call: Callable[Concatenate[Any, P], Items[T]]) -> None:
        self.call = call
        update_wrapper(self, call)  # type: ignore[arg-type]

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, AsyncGenerator[T, None]]: ...
    def __get__(self, client: Blocking | Awaiting | None, owner: type) -> Any:
        if client is None:
            return self

        @wraps(self.call)
        def method(*arguments: P.args, **named: P.kwargs) -> Any:
            return client.iterate(self.call(client, *arguments, **named))

        return method
