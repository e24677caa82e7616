"""What a call can raise: one small tree.

    OrderSagaError
    ├── ProblemError              the API refused it, or could not serve it; a class for each code in `problems`
    ├── NoAnswerError             no answer came: whether it was carried out is not known
    ├── UnexpectedAnswerError     what answers is not the API, or is a version of it that this client does not know
    └── InvalidWebhookError       a webhook that is not to be believed
        ├── MalformedWebhookError     its headers or its body are not those of a webhook
        ├── WrongSignatureError       no secret of its receiver has signed these bytes
        └── StaleWebhookError         it was signed too long ago, or by a clock that is ahead

A wrong argument, such as a float for an amount, is a `TypeError` or a `ValueError`, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class OrderSagaError(Exception):
    """A call failed. `idempotency_key`: what it was sent with, also when the client made it; None: it has none."""

    idempotency_key: str | None = None


class ProblemError(OrderSagaError):
    """The API answered with a problem (RFC 9457). Decide by the class, or by `code`; the words are for people.

    Raised itself only for a code that this client does not know, and for an error that has no problem as its body,
    which comes from something between: its `code` is empty.
    """

    CODE: ClassVar[str] = ""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.code = str(problem.get("code", self.CODE))
        self.title = str(problem.get("title", f"the API answered {status}"))
        self.detail = str(problem.get("detail", ""))
        self.instance = str(problem.get("instance", ""))
        """The address that it is about: an order's, where there is one."""
        self.trace_id: str | None = problem.get("trace_id")
        self.retry_after_s = retry_after_s
        """How long to wait before the same request may be sent again, in seconds; None: the API does not say."""
        self.members = dict(problem)
        """The whole problem, as it came."""
        broken = problem.get("errors")
        rules = [one for one in broken if isinstance(one, Mapping)] if isinstance(broken, list) else []
        words = "; ".join(f"{one.get('field')}: {one.get('rule')}" for one in rules) or self.detail
        super().__init__(f"{self.title}: {words}" if words else self.title)


class NoAnswerError(OrderSagaError):
    """No answer came. Unless `sent` is False the request may have been carried out: repeat it with its key."""

    def __init__(self, why: str, *, sent: bool = True) -> None:
        self.sent = sent
        super().__init__(why)


class UnexpectedAnswerError(OrderSagaError):
    """The answer is not what the API's document says."""


class InvalidWebhookError(OrderSagaError):
    """A webhook is not to be believed: answer it with 400, and do nothing."""


class MalformedWebhookError(InvalidWebhookError):
    """A header is missing, comes twice or is not of its form; or the body is no webhook of ours."""


class WrongSignatureError(InvalidWebhookError):
    """These bytes were not signed with a secret of this receiver."""


class StaleWebhookError(InvalidWebhookError):
    """The time of its signature is too far from now: it may be an old one that somebody sends again."""
