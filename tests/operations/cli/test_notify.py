"""The commands `notify`: channels of operators that take a test or do not, and keys that push services accept."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from operations.access.errors import Trouble, WrongRequest
from operations.cli import app
from order_api.notifications import examples
from projections.webhooks.pushing import public_key_of
from tests.operations.cli.support import Answering
from tests.support.channels import Channel, channel_of_operators

# One of Apprise's plugins imports a module that Python 3.13 has no more; it does without it there.
HIDDEN = "hidden"
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
def channel() -> Iterator[Channel]:
    """Run a channel."""
    with channel_of_operators() as one:
        yield one


def test_a_test_goes_to_every_channel(channel: Channel) -> None:
    """All of them take it: success."""
    typed = CliRunner().invoke(app, ["notify", "test"], env={"NOTIFY_URLS": f"{channel.url} {channel.url}"})
    assert (0, "every channel took it\n") == (typed.exit_code, typed.stdout)
    assert ["Order Saga: a test"] * 2 == [got["title"] for got in channel.got]


def test_a_channel_that_takes_nothing_is_trouble(channel: Channel) -> None:
    """Though another one took it."""
    channel.status = 500
    typed = CliRunner().invoke(app, ["notify", "test"], env={"NOTIFY_URLS": channel.url})
    assert isinstance(typed.exception, Trouble)
    assert (1, False) == (len(channel.got), "every channel took it" in typed.stdout)


def test_without_a_channel_nobody_is_told() -> None:
    """Which is trouble, not wrong usage."""
    typed = CliRunner().invoke(app, ["notify", "test"], env={"NOTIFY_URLS": ""})
    assert isinstance(typed.exception, Trouble)


def test_a_channel_that_is_none_is_wrong_usage() -> None:
    """By the name of the setting, without what it holds."""
    typed = CliRunner().invoke(app, ["notify", "test"], env={"NOTIFY_URLS": f"nonsense://user:{HIDDEN}@host"})
    assert isinstance(typed.exception, WrongRequest)
    assert str(typed.exception).startswith("NOTIFY_URLS ")
    assert HIDDEN not in str(typed.exception)


def test_each_pair_of_keys_is_a_new_one_that_fits() -> None:
    """As settings, one a line, or as JSON: the public key is the private one's."""
    lines = CliRunner().invoke(app, ["notify", "keys"], env={"COLUMNS": "20"}).stdout.splitlines()
    printed = dict(line.split("=", 1) for line in lines)
    as_json = json.loads(CliRunner().invoke(app, ["notify", "keys", "--json"]).stdout)
    for pair in (printed, as_json):
        assert ["NOTIFY_VAPID_KEY", "API_NOTIFY_PUSH_KEY"] == list(pair)
        assert pair["API_NOTIFY_PUSH_KEY"] == public_key_of(pair["NOTIFY_VAPID_KEY"])
    assert printed != as_json


def test_what_a_user_was_told_and_why_not_is_shown(api: Answering) -> None:
    """A line for each event and channel; `--json` as it came; nothing is said to be nothing."""
    told = next(one.value for one in examples.log().values() if one.value["notifications"])
    api.answer(told, told, {"notifications": [], "next_cursor": None})
    shown = api.typed("notify", "log", "--user", "alice", "--limit", "7").stdout
    for one in told["notifications"]:
        assert all(one[name] in shown for name in ("event_id", "channel", "status"))
        assert (one["reason"] or "") in shown
    assert told["notifications"] == json.loads(api.typed("notify", "log", "--user", "alice", "--json").stdout)
    assert "nothing was told" in api.typed("notify", "log", "--user", "alice").stdout
    assert "GET /notifications?limit=7" == api.calls[0]
