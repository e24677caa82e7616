"""The feed: each event reaches those who follow its user, its order or all orders, once, and nobody else."""

from __future__ import annotations

import msgspec

from contracts.vocabulary import OrderStatus
from order_api.live.feed import Feed
from order_api.live.mailbox import Mailbox, PriceEvent, Taken
from order_api.orders.follower import Heard, HeardOrder

ORDER = "00000000-0000-4000-8000-000000000001"
KEY = ORDER.encode()


def _mailbox() -> Mailbox:
    return Mailbox(lambda: None)


def _heard(user_id: str | None = "alice", version: int = 1, **assets: str) -> Heard:
    return Heard(version, OrderStatus.CONFIRMED, HeardOrder(user_id, **assets))


def _nothing() -> Taken:
    return Taken([], [], gap=False, stale=False, beat=False)


def test_an_event_reaches_those_who_follow_it_and_nobody_else() -> None:
    """By its user, by its order, or because they follow all; another user's mailbox stays empty."""
    feed = Feed()
    own, other, of_order, of_other_order, of_all = (_mailbox() for _ in range(5))
    feed.follow_user("alice", own)
    feed.follow_user("bob", other)
    feed.follow_order(ORDER, "alice", of_order)
    feed.follow_order(ORDER.replace("1", "2"), "alice", of_other_order)
    feed.follow_all(of_all)
    feed.mark = 17
    feed.hear(KEY, _heard(), b"{}")
    got = [[(event.key, event.mark) for event in one.take().orders] for one in (own, of_order, of_all)]
    assert [[(KEY, 17)]] * 3 == got
    assert [_nothing()] * 2 == [other.take(), of_other_order.take()]


def test_a_mailbox_that_follows_an_order_twice_gets_it_once() -> None:
    """It follows the user and the order: no version comes twice, and none counts as replaced."""
    feed, mailbox = Feed(), _mailbox()
    feed.follow_user("alice", mailbox)
    feed.follow_order(ORDER, "alice", mailbox)
    feed.hear(KEY, _heard(), b"{}")
    assert (1, 0) == (len(mailbox.take().orders), mailbox.conflated)


def test_who_leaves_gets_nothing_and_is_forgotten() -> None:
    """Nothing stays in memory, and leaving twice does no harm."""
    feed, mailbox = Feed(), _mailbox()
    feed.follow_user("alice", mailbox)
    feed.follow_order(ORDER, "alice", mailbox)
    feed.follow_all(mailbox)
    feed.follow_prices(["BTC"], mailbox)
    followed = [feed.followed]
    for _ in range(2):
        feed.leave_user("alice", mailbox)
        feed.leave_order(ORDER, mailbox)
        feed.leave_all(mailbox)
        feed.leave_prices(["BTC"], mailbox)
    feed.hear(KEY, _heard(), b"{}")
    feed.missed()
    feed.hear_prices({"BTC": b"{}"})
    feed.hand_out_prices()
    assert _nothing() == mailbox.take()
    assert [True, False] == [*followed, feed.followed]
    assert not feed.wants(KEY)


def test_only_events_that_somebody_may_follow_are_worth_reading() -> None:
    """An order that one follower names; with a user's follower, every event, since only its body names the user."""
    feed, mailbox = Feed(), _mailbox()
    assert [False] == [feed.wants(KEY)]
    feed.follow_order(ORDER, "alice", mailbox)
    assert [True, False] == [feed.wants(key) for key in (KEY, b"another")]
    feed.follow_user("alice", mailbox)
    assert feed.wants(b"another")


def test_what_can_not_be_read_has_everybody_look() -> None:
    """Whose it was is not known; neither of an event that names no user, nor when events were missed."""
    feed, own, of_order = Feed(), _mailbox(), _mailbox()
    feed.follow_user("alice", own)
    feed.follow_order(ORDER, "alice", of_order)
    for heard in (None, _heard(user_id=None)):
        feed.hear(KEY, heard, b"{}")
        assert (True, True) == (own.take().stale, of_order.take().stale)
    feed.missed()
    assert (True, True) == (own.take().stale, of_order.take().stale)


def test_an_event_says_of_which_assets_money_may_have_moved() -> None:
    """Of none before there was a quote; then of all that the order names, each once."""
    feed, mailbox = Feed(), _mailbox()
    feed.follow_all(mailbox)
    feed.hear(KEY, _heard(asset_id="BTC"), b"{}")
    assert [()] == [event.assets for event in mailbox.take().orders]
    assets = {"asset_id": "BTC", "cash_asset_id": "USD", "fee_asset_id": "USD", "held_asset_id": "BTC"}
    feed.hear(KEY, _heard(version=2, **assets), b"{}")
    assert [("BTC", "USD")] == [event.assets for event in mailbox.take().orders]


def test_prices_are_handed_out_when_it_is_time_and_the_newest_alone() -> None:
    """Only to those who follow the asset."""
    feed, mailbox, other = Feed(), _mailbox(), _mailbox()
    feed.follow_prices(["BTC"], mailbox)
    feed.follow_prices(["ETH"], other)
    feed.hear_prices({"BTC": b"1", "DOGE": b"1"})
    feed.hear_prices({"BTC": b"2"})
    assert [] == mailbox.take().prices
    feed.hand_out_prices()
    feed.hand_out_prices()
    assert [PriceEvent("BTC", b"2")] == mailbox.take().prices
    assert [] == other.take().prices


def test_what_is_read_of_an_event_is_what_the_orchestrator_writes() -> None:
    """The fields have their names in the contract."""
    body = b'{"version":3,"status":"COMPLETED","order":{"user_id":"alice","asset_id":"BTC","cash_asset_id":"USD"}}'
    heard = msgspec.json.decode(body, type=Heard)
    assert ("alice", ("BTC", "USD")) == (heard.order.user_id, heard.order.moved_assets())


def test_an_order_that_is_another_users_is_kept_back_from_whom_its_id_was_promised() -> None:
    """A claim's id may be taken by another producer: the claim's user looks again, and never gets that order."""
    feed, mailbox = Feed(), _mailbox()
    feed.follow_order(ORDER, "alice", mailbox)
    feed.hear(KEY, _heard(user_id="bob"), b"{}")
    assert ([], True) == mailbox.take()[::3]
