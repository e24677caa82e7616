"""One exchange with the API, as a generator that does no I/O: it yields what to do, and is sent what came of it.

`Client` and `AsyncClient` each drive these generators in their own way, so every rule of retries, tokens, paging and
streams is written once. Time and chance are arguments.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from functools import lru_cache
from itertools import count
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar, cast

import msgspec

from contracts import codec
from order_client.errors import NoAnswerError, OrderSagaError, ProblemError, UnexpectedAnswerError
from order_client.problems import BY_CODE, InvalidTokenError, OverloadedError

T = TypeVar("T")

PROBLEM: Final = "application/problem+json"
KEY_HEADER: Final = "idempotency-key"
_REPEATED: Final = frozenset({408, 429, 502, 503, 504})
_NOTHING_DONE: Final = frozenset({408, 429})
_OK: Final = 200
_ERROR: Final = 400
NOT_MODIFIED: Final = 304


@dataclass(frozen=True, slots=True)
class Request:
    """A request without its token.

    `waits_s`: how long the API may let it wait, besides what a request takes. `changes`: it changes something.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    waits_s: float = 0
    changes: bool = True

    @property
    def repeatable(self) -> bool:
        """Whether the same request again does nothing new: all methods but POST and PATCH, and those with a key."""
        return self.method not in {"POST", "PATCH"} or KEY_HEADER in self.headers or not self.changes

    def with_token(self, token: str | None) -> Request:
        """Add the token."""
        return self if token is None else replace(self, headers={**self.headers, "authorization": f"Bearer {token}"})


class Response(NamedTuple):
    """An answer; the names of its headers are in small letters. `body` is empty while it is a stream."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class Lost(NamedTuple):
    """No answer, or the connection broke within it. `sent`: the request may have arrived."""

    why: str
    sent: bool = True


class Token(NamedTuple):
    """Step: give the token, another one than the `refused`. Sent: the token, or None where none is set."""

    refused: str | None = None


class Send(NamedTuple):
    """Step: send a request. Sent: a `Response` or `Lost`."""

    request: Request


class Pause(NamedTuple):
    """Step: wait. Sent: nothing."""

    seconds: float


class Open(NamedTuple):
    """Step: send a request whose answer is a stream; at most `silence_s` pass between two parts of it.

    Sent: a `Response`, whose body is empty if it is a success, or `Lost`.
    """

    request: Request
    silence_s: float


class Read(NamedTuple):
    """Step: read on in the stream. Sent: bytes, none at its end, or `Lost`."""


class Write(NamedTuple):
    """Step: send bytes over what the last `Open` has made a WebSocket, answered 101. Sent: nothing, or `Lost`."""

    data: bytes


class Close(NamedTuple):
    """Step: close the stream. Sent: nothing."""


class Emit(NamedTuple, Generic[T]):
    """Step of an iteration: hand an item to whoever iterates. Sent: nothing."""

    item: T


Step: TypeAlias = Token | Send | Pause | Open | Read | Write | Close
Steps: TypeAlias = Generator[Step, Any, T]
"""What a call does until it has its result."""
Items: TypeAlias = Generator[Step | Emit[T], Any, None]
"""What an iteration does, and emits."""


@dataclass(frozen=True, slots=True)
class Retry:
    """When a request is sent again: after no answer and after 408, 429, 502, 503 and 504, with the same key.

    The n-th pause is what `Retry-After` says, and a random part of `first_s` times 2 to the n-1, at most
    of `longest_s`. An API that says more than `patience_s` is not waited for.
    """

    times: int = 4
    first_s: float = 0.25
    longest_s: float = 8.0
    patience_s: float = 60.0
    chance: Callable[[], float] = random.random
    """Gives a number from 0 to 1."""

    def pause_s(self, attempt: int, error: OrderSagaError) -> float | None:
        """Tell how long to wait after the n-th attempt, counted from 1; None: it was the last one."""
        asked_s = (error.retry_after_s if isinstance(error, ProblemError) else None) or 0.0
        if attempt > self.times or asked_s > self.patience_s:
            return None
        return asked_s + self.backoff_s(attempt, self.first_s, self.longest_s)

    def backoff_s(self, attempt: int, first_s: float, longest_s: float) -> float:
        """Draw a pause: more on the average after each attempt, and never the same for all who lost at once."""
        return self.chance() * min(longest_s, first_s * 2.0 ** min(attempt - 1, 30))


@dataclass(frozen=True, slots=True)
class Session:
    """What all calls of a client share. `renews`: another token can be had when one is refused."""

    retry: Retry = field(default_factory=Retry)
    renews: bool = False
    now: Callable[[], float] = time.monotonic
    """Gives seconds that only ever rise."""


def exchange(session: Session, request: Request) -> Steps[Response]:
    """Send a request until it is answered. Raises `ProblemError` and `NoAnswerError` when that is in vain."""
    refused: str | None = None
    attempts = count(1)
    while True:
        token = yield Token(refused)
        found = yield Send(request.with_token(token))
        if isinstance(found, Response) and found.status < _ERROR:
            return found
        error = error_of(found)
        error.idempotency_key = request.headers.get(KEY_HEADER)
        if isinstance(error, InvalidTokenError) and session.renews and refused is None:
            refused = token
            continue
        pause_s = session.retry.pause_s(next(attempts), error) if _may_repeat(request, error) else None
        if pause_s is None:
            raise error
        yield Pause(pause_s)


def _may_repeat(request: Request, error: OrderSagaError) -> bool:
    """Tell whether the same request may help, and can do no harm."""
    if isinstance(error, NoAnswerError):
        return request.repeatable or not error.sent
    if not isinstance(error, ProblemError) or error.status not in _REPEATED:
        return False
    return request.repeatable or error.status in _NOTHING_DONE or isinstance(error, OverloadedError)


def fetch(session: Session, request: Request, kind: type[T]) -> Steps[T]:
    """Send a request and read what answers it. Raises `UnexpectedAnswerError` for what is no such answer."""
    return read((yield from exchange(session, request)), kind)


def fetch_changed(session: Session, request: Request, kind: type[T]) -> Steps[T | None]:
    """Send a request that asks for changes only; None: nothing has changed."""
    answer = yield from exchange(session, request)
    return None if answer.status == NOT_MODIFIED else read(answer, kind)


def fetch_text(session: Session, request: Request) -> Steps[str]:
    """Send a request that is answered with a text."""
    answer = yield from exchange(session, request)
    return answer.body.decode("utf-8", "replace")


def fetch_nothing(session: Session, request: Request) -> Steps[None]:
    """Send a request whose answer has no body."""
    yield from exchange(session, request)


def read(answer: Response, kind: type[T]) -> T:
    """Read the body of an answer. Raises `UnexpectedAnswerError`."""
    try:
        found: T = _decoder(cast("Any", kind)).decode(answer.body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        content_type = answer.headers.get("content-type")
        raise UnexpectedAnswerError(
            f"an answer of status {answer.status} and type {content_type} is no {getattr(kind, '__name__', kind)}:"
            f" {error}"
        ) from None
    return found


@lru_cache(128)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return codec.decoder(kind)


def error_of(found: Response | Lost) -> OrderSagaError:
    """Make the error of an answer that is one, or of none."""
    if isinstance(found, Lost):
        return NoAnswerError(found.why, sent=found.sent)
    problem: Any = None
    if found.headers.get("content-type", "").partition(";")[0].strip().lower() == PROBLEM:
        try:
            problem = json.loads(found.body)
        except (ValueError, RecursionError):
            problem = None
    if not isinstance(problem, dict):
        problem = {}
    kind = BY_CODE.get(str(problem.get("code")), ProblemError)
    return kind(found.status, problem, retry_after_s(found.headers))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read `Retry-After`, in seconds or as a date beside the answer's own `Date` (RFC 9110, 10.2.3)."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        at, now = parsedate_to_datetime(text), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (at - now).total_seconds())
    except (ValueError, TypeError):
        return None
