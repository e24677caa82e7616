"""Operators are told by real channels, in the background; one that hangs holds up nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from saga_kit.runtime.operators import BURST, END_S, TEXT_MAX, WAITING_MAX, Operators, check_channels, send_test
from tests.support.channels import Channel, channel_of_operators

# One of Apprise's plugins imports a module that Python 3.13 has no more; it does without it there.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
def channel() -> Iterator[Channel]:
    """Run a channel."""
    with channel_of_operators() as one:
        yield one


def test_what_is_told_arrives_in_order(channel: Channel) -> None:
    """With its title; a long text is cut."""
    operators = Operators(channel.url)
    operators.tell("one", "first")
    operators.tell("two", "x" * 2 * TEXT_MAX)
    operators.close()
    assert [("one", "first"), ("two", "x" * TEXT_MAX)] == [(got["title"], got["message"]) for got in channel.got]


def test_a_storm_is_told_together(channel: Channel) -> None:
    """A few messages come as they are, the rest in one; the end of the process does not wait for its turn."""
    operators = Operators(channel.url, refill_s=3_600)
    began = time.monotonic()
    for number in range(BURST + 20):
        operators.tell(f"title {number}", "text")
    operators.close()
    assert time.monotonic() - began < END_S
    titles = [got["title"] for got in channel.got]
    assert [f"title {number}" for number in range(BURST)] == titles[:BURST]
    assert ["Order Saga: 20 messages"] == titles[BURST:]
    assert [f"title {number}: text" for number in range(BURST, BURST + 20)] == channel.got[-1]["message"].splitlines()


def test_after_a_while_the_next_comes_by_itself(channel: Channel) -> None:
    """What has waited for its turn is told though nothing follows; a channel that refuses stops nothing."""
    channel.status = 500
    operators = Operators(channel.url, refill_s=0.2)
    for number in range(BURST + 2):
        operators.tell(str(number), "text")
    deadline = time.monotonic() + 20
    while len(channel.got) < BURST + 1 and time.monotonic() < deadline:
        channel.came.wait(0.1)
    assert BURST + 1 <= len(channel.got)
    operators.close()


def test_a_channel_that_hangs_holds_up_nobody(channel: Channel) -> None:
    """Whoever tells goes on at once, also when no more can wait; the end of the process does not wait for long."""
    channel.open.clear()
    operators = Operators(channel.url)
    began = time.monotonic()
    for number in range(WAITING_MAX + 10):
        operators.tell(str(number), "text")
    operators.close(within_s=0.1)
    assert time.monotonic() - began < END_S


def test_a_test_says_whether_all_took_it(channel: Channel) -> None:
    """One that answers with an error did not."""
    assert send_test(channel.url)
    channel.status = 500
    assert not send_test(channel.url)


@pytest.mark.parametrize("urls", ["", "nonsense", "json://localhost nonsense://x:secret@y"])
def test_urls_that_are_none_are_refused(urls: str) -> None:
    """At the start, without a password in the message."""
    with pytest.raises(ValueError, match=r"Apprise") as raised:
        check_channels(urls)
    assert "secret" not in str(raised.value)
