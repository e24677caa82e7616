"""Does the steps of a call by hand: what the API answers is told, and what would be done is looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

from order_client.core import Emit, Open, Read, Request, Response, Retry, Send, Session, Step, Token, Write
from order_client.surface import Calls

PROBLEM = "application/problem+json"


class Played:
    """What a stream did with a script: one result for each connection, part and request."""

    def __init__(self, steps: Generator[Any, Any, Any], script: list[Any]) -> None:
        self.items: list[Any] = []
        self.steps: list[Any] = []
        self.written: list[bytes] = []
        self.ended = False
        results, result = iter(script), None
        tokens = (f"token{number}" for number in range(100))
        while True:
            try:
                step = steps.send(result)
            except StopIteration:
                self.ended = True
                return
            result = None
            self.steps.append(step)
            if isinstance(step, Emit):
                self.items.append(step.item)
            elif isinstance(step, Token):
                result = next(tokens)
            elif isinstance(step, Write):
                self.written.append(step.data)
            elif isinstance(step, (Open, Read, Send)):
                try:
                    result = next(results)
                except StopIteration:
                    steps.close()
                    return

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the steps of a kind."""
        return [step for step in self.steps if isinstance(step, kind)]

    @property
    def resumed_from(self) -> list[str | None]:
        """Return the `Last-Event-ID` of each connection."""
        return [step.request.headers.get("last-event-id") for step in self.of(Open)]


class Caller(Calls):
    """Has the session that calls need, and drives nothing. Chance draws the largest number."""

    def __init__(self, *, renews: bool = False, now: Callable[[], float] = lambda: 0.0, times: int = 4) -> None:
        self.session = Session(Retry(times=times, chance=lambda: 1.0), renews=renews, now=now)


def first_request(steps: Generator[Step, Any, Any]) -> Request:
    """Return what a call would send first."""
    step: Any = next(steps)
    while isinstance(step, Token):
        step = steps.send(None)
    assert isinstance(step, Send | Open)
    return step.request


def answered(steps: Generator[Step, Any, Any], response: Response) -> Any:
    """Answer the first request of a call; return the call's result."""
    first_request(steps)
    try:
        steps.send(response)
    except StopIteration as end:
        return end.value
    raise AssertionError("one answer was not enough")


def done(steps: Generator[Any, Any, Any], results: Iterable[Any]) -> tuple[list[Any], Any]:
    """Do all steps but `Token` with these results, one after the other; return the steps, and what came of them."""
    planned, seen = iter(results), []
    result: Any = None
    try:
        step = next(steps)
        while True:
            if not isinstance(step, Token):
                seen.append(step)
            result = "token" if isinstance(step, Token) else None if isinstance(step, Emit) else next(planned, None)
            step = steps.send(result)
    except StopIteration as end:
        return seen, end.value


def ok(body: object, status: int = 200, **headers: str) -> Response:
    """Make an answer of JSON."""
    return Response(status, {"content-type": "application/json", **headers}, json.dumps(body).encode())


def problem(
    status: int, code: str, members: Mapping[str, Any] | None = None, *, retry_after: str | None = None
) -> Response:
    """Make a problem."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    body = {"type": f"/problems/{code}", "title": "T", "status": status, "detail": "d", "code": code, **(members or {})}
    return Response(status, {"content-type": PROBLEM, **headers}, json.dumps(body).encode())
