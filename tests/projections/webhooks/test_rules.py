"""What follows an attempt, enumerated over answers and endpoints, and along any sequence of answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.webhooks import DeliveryState
from projections.webhooks.rules import (
    ATTEMPTS_MAX,
    FAILING_MAX,
    JITTER,
    PROBE_FIRST_S,
    PROBE_MAX_S,
    PROBES_AFTER,
    RETRIES_S,
    RETRY_AFTER_MAX_S,
    SEVERAL,
    WINDOW_MIN,
    Answer,
    Health,
    Verdict,
    at_once,
    gap_s,
    holds_up,
    next_health,
    next_step,
    next_window,
    retry_after_s,
)

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY_S: Final = 86_400.0
MIDDLE: Final = 0.5
"""The chance that leaves a pause as it is."""
OK, BROKEN, GONE, BUSY = Answer(200, 0.1), Answer(None, 15.0, "no answer"), Answer(410, 0.1), Answer(429, 0.1)
answers: Final = st.builds(
    Answer,
    status=st.none() | st.integers(100, 599),
    duration_s=st.floats(0, 15),
    retry_after_s=st.none() | st.floats(0, 1e9),
)
chances: Final = st.floats(0, 1)


@pytest.mark.parametrize("status", [None, *range(100, 600)])
def test_every_status_has_one_verdict(status: int | None) -> None:
    """Only 2xx is a success; a redirect is none."""
    named = {410: Verdict.GONE, 429: Verdict.THROTTLED, 502: Verdict.THROTTLED, 504: Verdict.THROTTLED}
    ok = status is not None and status // 100 == 2
    assert (Verdict.DELIVERED if ok else named.get(status or 0, Verdict.FAILED)) is Answer(status, 0.1).verdict


def test_an_error_outweighs_the_status() -> None:
    """An answer that broke off before it was one is no success."""
    assert Verdict.FAILED is Answer(200, 0.1, "broke off").verdict


def test_the_schedule_is_as_it_is_told() -> None:
    """Retries come after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h; then the delivery has failed."""
    steps = [next_step(number, BROKEN, MIDDLE) for number in range(1, 11)]
    assert [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400] == [step.delay_s for step in steps[:-1]]
    assert [DeliveryState.PENDING] * 9 + [DeliveryState.FAILED] == [step.state for step in steps]
    assert steps[-1].reason == "given up after 10 attempts; the last one: no answer"


@given(attempts=st.integers(1, 100), answer=answers, chance=chances)
def test_a_delivery_ends_or_comes_again(attempts: int, answer: Answer, chance: float) -> None:
    """It is delivered by a success only, fails after the last attempt only, and is never due sooner than it is told."""
    step = next_step(attempts, answer, chance)
    assert (step.state is DeliveryState.DELIVERED) == (answer.verdict is Verdict.DELIVERED)
    assert (step.state is DeliveryState.FAILED) == (
        attempts >= ATTEMPTS_MAX and answer.verdict is not Verdict.DELIVERED
    )
    if step.state is DeliveryState.PENDING:
        pause_s, asked_s = RETRIES_S[attempts], min(answer.retry_after_s or 0.0, RETRY_AFTER_MAX_S)
        least_s = max(pause_s * (1 - JITTER), asked_s)
        assert least_s - 1e-6 <= step.delay_s <= max(pause_s * (1 + JITTER), asked_s) + 1e-6
        assert step.reason
    else:
        assert 0 == step.delay_s


@given(st.lists(st.tuples(answers, st.floats(0, 2 * DAY_S), chances), max_size=40))
def test_health_along_any_answers(history: list[tuple[Answer, float, float]]) -> None:
    """A success forgets all failures; an endpoint is given up by 410, or by nothing but failures for five days."""
    health, now, failures_at = Health(), NOW, list[datetime]()
    for answer, passed_s, chance in history:
        now += timedelta(seconds=passed_s)
        health = next_health(health, answer, now, chance)
        failures_at = [] if answer.verdict is Verdict.DELIVERED else [*failures_at, now]
        assert 0 <= health.failures_in_row <= len(failures_at)
        if not failures_at:
            assert health == Health()
            continue
        assert health.failing_since in failures_at
        if answer.verdict is Verdict.GONE:
            assert health.given_up == "it answered 410: it is gone"
        elif health.given_up:
            assert now - failures_at[0] >= FAILING_MAX
            assert len(failures_at) >= SEVERAL
        assert health.paused_until is not None
        assert now <= health.paused_until <= now + timedelta(seconds=RETRY_AFTER_MAX_S)


def test_our_own_failures_start_no_clock() -> None:
    """While the relay is down or a key is missing, nobody has seen an endpoint fail: five days begin with its own."""
    ours = Answer(None, 1.0, "the relay can't be reached", ours=True)
    health, now = Health(), NOW
    for answer in (BROKEN, *[ours] * 200):
        now += timedelta(hours=1)
        health = next_health(health, answer, now, MIDDLE)
    assert (201, None) == (health.failures_in_row, health.given_up)
    for day in range(5):
        health = next_health(health, BROKEN, now + timedelta(days=day), MIDDLE)
        assert (now, None) == (health.failing_since, health.given_up)
    assert next_health(health, BROKEN, now + timedelta(days=5), MIDDLE).given_up is not None


def test_the_clock_starts_with_several_failures_within_a_day() -> None:
    """One failure a week never disables an endpoint; three in a day begin the five days."""
    health, now = Health(), NOW
    for _ in range(20):
        now += timedelta(days=7)
        health = next_health(health, BROKEN, now, MIDDLE)
        assert (now, 1, None) == (health.failing_since, health.failures_in_row, health.given_up)
    for _ in range(2):
        now += timedelta(hours=1)
        health = next_health(health, BROKEN, now, MIDDLE)
    assert 3 == health.failures_in_row
    just_before = health.failing_since + FAILING_MAX - timedelta(seconds=1) if health.failing_since else NOW
    assert next_health(health, BROKEN, just_before, MIDDLE).given_up is None
    assert next_health(health, BROKEN, just_before + timedelta(seconds=1), MIDDLE).given_up is not None


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2 * DAY_S)), max_size=40))
def test_no_endpoint_is_given_up_for_a_failure_of_ours(history: list[tuple[bool, float]]) -> None:
    """However long it lasts; and its own five days begin anew with its next failure after one of ours."""
    health, now, began = Health(), NOW, None
    for is_ours, passed_s in history:
        now += timedelta(seconds=passed_s)
        answer = Answer(None, 0.1, "the relay can't be reached", ours=True) if is_ours else BROKEN
        before, health = health, next_health(health, answer, now, MIDDLE)
        began = None if is_ours else began or now
        assert health.failures_in_row <= before.failures_in_row + 1
        if is_ours:
            assert (None, None) == (health.given_up, health.failing_since)
            assert before.failures_in_row + 1 == health.failures_in_row, "it gets probes as with any failure"
        elif health.given_up:
            assert began is not None
            assert now - began >= FAILING_MAX


def test_a_silent_endpoint_gets_probes_with_growing_pauses() -> None:
    """From the fifth failure on: 5 s, 10 s, 20 s ... ten minutes at most; before that nothing pauses it."""
    health, pauses = Health(), list[float]()
    for _ in range(15):
        health = next_health(health, BROKEN, NOW, MIDDLE)
        assert health.paused_until is not None
        pauses.append((health.paused_until - NOW).total_seconds())
    assert [0.0] * (PROBES_AFTER - 1) == pauses[: PROBES_AFTER - 1]
    assert [PROBE_FIRST_S, 10, 20, 40] == pauses[PROBES_AFTER - 1 : PROBES_AFTER + 3]
    assert PROBE_MAX_S == pauses[-1]
    assert health.silent


@pytest.mark.parametrize(("status", "paused_s"), [(429, 3600.0), (503, 3600.0), (500, 0.0)])
def test_retry_after_pauses_the_endpoint_where_it_is_meant(status: int, paused_s: float) -> None:
    """With 429 and 503 everything waits; with any status the delivery itself does."""
    answer = Answer(status, 0.1, retry_after_s=3600.0)
    health = next_health(Health(), answer, NOW, MIDDLE)
    assert health.paused_until is not None
    assert paused_s == (health.paused_until - NOW).total_seconds()
    assert (paused_s > 0) == holds_up(answer, 1)
    assert 3600.0 == next_step(1, answer, MIDDLE).delay_s


@given(st.lists(answers, max_size=60))
def test_a_window_stays_within_its_bounds(history: list[Answer]) -> None:
    """At most 4 attempts at once, 1 while it is silent; a pause between attempts of 63 s at most."""
    window = 1.0
    for answer in history:
        before, window = window, next_window(window, answer)
        assert WINDOW_MIN <= window <= 4
        assert 1 <= at_once(window, 0) <= 4
        assert 1 == at_once(window, PROBES_AFTER)
        assert 0 <= gap_s(window) <= 63
        if answer.verdict is Verdict.THROTTLED:
            assert window <= max(before / 2, WINDOW_MIN)
        elif answer.verdict is not Verdict.DELIVERED:
            assert window <= 1


def test_a_window_opens_with_quick_successes_only() -> None:
    """1, 2, 3, 4 and no more; one throttled answer halves it; a slow success closes it to one."""
    windows = [1.0]
    for answer in (OK, OK, OK, OK, BUSY, BUSY, BUSY, OK, OK, Answer(200, 14.0), BROKEN, GONE):
        windows.append(next_window(windows[-1], answer))
    assert [1, 2, 3, 4, 4, 2, 1, 0.5, 1, 2, 1, 1, 1] == windows


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("-5", None), ("0", None), ("1.5", None), ("٣", None),
        ("120", 120.0), (" 7 ", 7.0), ("99999999999999999999", RETRY_AFTER_MAX_S),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_MAX_S),
        ("Fri, 31 Dec 9999 23:59:59 -2359", RETRY_AFTER_MAX_S),
    ],
)  # fmt: skip
def test_retry_after_is_read_or_ignored(value: str | None, seconds: float | None) -> None:
    """Seconds or a date; a day at most; anything else is as if it were not there."""
    assert seconds == retry_after_s(value, NOW)


@given(st.text(max_size=60))
def test_any_retry_after_is_harmless(value: str) -> None:
    """Whatever somebody sends, the result is within bounds."""
    found = retry_after_s(value, NOW)
    assert found is None or 0 < found <= RETRY_AFTER_MAX_S
