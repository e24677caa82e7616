"""What follows an attempt: for its delivery, for its endpoint, and for how fast the endpoint is sent to. Pure.

    answer              delivery                        endpoint                          its window
    2xx                 DELIVERED                       no failures; what waits is due    wider, if it was quick
    410                 waits for the endpoint          DISABLED                          one at a time
    429, 502, 504       again later, or FAILED          one failure more                  half as wide
    anything else       again later, or FAILED          one failure more                  one at a time

*Later* is the schedule `RETRIES_S`, or what `Retry-After` says. An endpoint that failed `PROBES_AFTER` times in a row
is *silent*: it gets one delivery at a time, as a probe, with a pause after each, and everything else waits for it. What
waits uses up no attempt. One that did nothing but fail for `FAILING_MAX` is DISABLED.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

import msgspec

from contracts.webhooks import DeliveryState

RETRIES_S: Final = (0.0, 5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""The pause before each attempt at a delivery. After the last of them it has FAILED."""
ATTEMPTS_MAX: Final = len(RETRIES_S)
JITTER: Final = 0.2
"""A pause is longer or shorter by up to this share of it, so that what failed together does not come back together."""
RETRY_AFTER_MAX_S: Final = 86_400.0
PROBES_AFTER: Final = 5
"""So many failures in a row make an endpoint silent."""
PROBE_FIRST_S: Final = 5.0
PROBE_MAX_S: Final = 600.0
SEVERAL: Final = 3
"""So many failures within `SEVERAL_WITHIN` begin the time that an endpoint is failing; one alone does not."""
SEVERAL_WITHIN: Final = timedelta(hours=24)
FAILING_MAX: Final = timedelta(days=5)
KEPT_MAX: Final = timedelta(days=7)
"""What is older is not sent any more, and an endpoint that is enabled again gets what is younger."""
AT_ONCE_MAX: Final = 4
WINDOW_MIN: Final = 1 / 64
QUICK_S: Final = 2.0
"""A success that took longer makes no window wider."""
GONE: Final = 410
THROTTLING: Final = frozenset({429, 502, 504})
PAUSING: Final = frozenset({429, 503})
"""The answers whose `Retry-After` is meant for everything that is sent there (RFC 9110, 10.2.3)."""


class Verdict(StrEnum):
    """What an attempt has come to."""

    DELIVERED = "delivered"
    GONE = "gone"
    THROTTLED = "throttled"
    FAILED = "failed"


class Answer(msgspec.Struct, frozen=True):
    """The answer to one attempt: a status, or why there is none. `text` is the beginning of what was said.

    `gone`: there will never be a better one. `rest_s`: after this success, nothing is sent there for so long.
    `ours`: the failure is this side's (a key or the relay is missing), so no endpoint is given up for it.
    """

    status: int | None
    duration_s: float
    error: str | None = None
    text: str | None = None
    retry_after_s: float | None = None
    gone: bool = False
    rest_s: float = 0.0
    ours: bool = False

    @property
    def verdict(self) -> Verdict:
        """What it has come to; an error outweighs the status."""
        if self.error is None and self.status is not None and 200 <= self.status < 300:  # noqa: PLR2004 - RFC 9110
            return Verdict.DELIVERED
        if self.gone or self.status == GONE:
            return Verdict.GONE
        return Verdict.THROTTLED if self.status in THROTTLING else Verdict.FAILED

    @property
    def fault(self) -> str:
        """Why it is no success, in words."""
        return self.error or f"answered {self.status}"


class Health(msgspec.Struct, frozen=True):
    """How an endpoint does. `given_up` says why it is disabled by this attempt."""

    failing_since: datetime | None = None
    failures_in_row: int = 0
    paused_until: datetime | None = None
    given_up: str | None = None

    @property
    def silent(self) -> bool:
        """Whether it gets probes only."""
        return self.failures_in_row >= PROBES_AFTER


class Step(msgspec.Struct, frozen=True):
    """What becomes of a delivery: its state, after how many seconds it is due again, and why."""

    state: DeliveryState
    delay_s: float = 0.0
    reason: str | None = None


def next_health(health: Health, answer: Answer, now: datetime, chance: float) -> Health:
    """Return how an endpoint does after an attempt. `chance` from 0 to 1 decides how a pause is spread."""
    verdict = answer.verdict
    if verdict is Verdict.DELIVERED:
        return Health(paused_until=now + timedelta(seconds=answer.rest_s) if answer.rest_s else None)
    if answer.ours:  # it says nothing of the endpoint, whose time of failing begins anew with the next that does
        number = health.failures_in_row + 1
        return Health(None, number, now + timedelta(seconds=_pause_s(number, answer, chance)))
    began, number = health.failing_since or now, health.failures_in_row + 1
    if health.failures_in_row < SEVERAL and now - began > SEVERAL_WITHIN:
        began, number = now, 1
    given_up = None
    if verdict is Verdict.GONE:
        said = f"it {answer.fault}" if answer.error is None else answer.error
        given_up = f"{said}: it is gone"
    elif number >= SEVERAL and now - began >= FAILING_MAX:
        given_up = f"every attempt has failed for {FAILING_MAX.days} days; the last one: {answer.fault}"
    return Health(began, number, now + timedelta(seconds=_pause_s(number, answer, chance)), given_up)


def _pause_s(failures: int, answer: Answer, chance: float) -> float:
    """Return for how many seconds nothing is sent to an endpoint."""
    probe_s = PROBE_FIRST_S * 2.0 ** min(failures - PROBES_AFTER, 20) if failures >= PROBES_AFTER else 0.0
    asked_s = answer.retry_after_s or 0.0 if answer.status in PAUSING else 0.0
    return max(spread_s(min(probe_s, PROBE_MAX_S), chance), min(asked_s, RETRY_AFTER_MAX_S))


def next_step(attempts: int, answer: Answer, chance: float) -> Step:
    """Return what becomes of a delivery after its attempt number `attempts`, counted from 1."""
    verdict = answer.verdict
    if verdict is Verdict.DELIVERED:
        return Step(DeliveryState.DELIVERED)
    if attempts >= ATTEMPTS_MAX:
        return Step(DeliveryState.FAILED, reason=f"given up after {attempts} attempts; the last one: {answer.fault}")
    delay_s = spread_s(RETRIES_S[attempts], chance)
    return Step(DeliveryState.PENDING, max(delay_s, min(answer.retry_after_s or 0.0, RETRY_AFTER_MAX_S)), answer.fault)


def holds_up(answer: Answer, failures_in_row: int) -> bool:
    """Tell whether everything else waits after an answer that left an endpoint with so many failures in a row."""
    paused = answer.status in PAUSING and answer.retry_after_s is not None
    return failures_in_row >= PROBES_AFTER or answer.verdict is Verdict.GONE or paused or answer.rest_s > 0


def next_window(window: float, answer: Answer) -> float:
    """Return how many attempts an endpoint may have at once; below 1 there is a pause between them (`gap_s`)."""
    verdict = answer.verdict
    if verdict is Verdict.THROTTLED:
        return max(WINDOW_MIN, window / 2)
    if verdict is Verdict.DELIVERED and answer.duration_s <= QUICK_S:
        return min(float(AT_ONCE_MAX), window * 2 if window < 1 else window + 1)
    return min(window, 1.0)


def at_once(window: float, failures_in_row: int) -> int:
    """Return how many attempts an endpoint may have at the same time."""
    return 1 if failures_in_row >= PROBES_AFTER else max(1, int(window))


def gap_s(window: float) -> float:
    """Return the pause between two attempts at a throttled endpoint."""
    return 0.0 if window >= 1 else 1 / window - 1


def spread_s(pause_s: float, chance: float) -> float:
    """Make a pause longer or shorter by up to `JITTER`."""
    return pause_s * (1 + JITTER * (2 * chance - 1))


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Read `Retry-After`: seconds, or a date. None for what is neither, and for what is over; a day at most."""
    text = (value or "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:9]), RETRY_AFTER_MAX_S) or None
    try:
        at = parsedate_to_datetime(text)
        wait_s = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    except (ValueError, OverflowError, IndexError, TypeError):  # the library raises whatever it meets
        return None
    return min(wait_s, RETRY_AFTER_MAX_S) if wait_s > 0 else None
