"""Defects of streams: what is lost without a word, and what is shown to the wrong user."""

from __future__ import annotations

from typing import Final

from tests.evidence.mutants.mutant import Mutant

_MAILBOX: Final = "tests/order_api/live/test_mailbox.py"
_SOCKET: Final = "tests/order_api/live/test_websocket.py"
_FEED: Final = "tests/order_api/live/test_feed.py"

LIVE_MUTANTS: Final = (
    Mutant(
        "gap without a word",
        "A stream that has lost events says so.",
        "order_api/live/mailbox.py",
        "            self._orders.clear()\n            self._gap = True\n",
        "            self._orders.clear()\n",
        (f"{_MAILBOX}::test_the_newest_version_of_every_order_is_read_or_a_gap_is_said",),
    ),
    Mutant(
        "older version replaces a newer one",
        "A slow reader gets fewer versions, never older ones.",
        "order_api/live/mailbox.py",
        "            if event.version <= known.version:\n",
        "            if event.version == known.version:\n",
        (f"{_MAILBOX}::test_a_slow_reader_gets_the_newest_version_and_no_older_one",),
    ),
    Mutant(
        "mark runs ahead of the topic",
        "The id of a stream never runs ahead of an event that was not handed out.",
        "order_api/live/marks.py",
        "self._complete_at() > self._next[1]",
        "self._complete_at() > 0",
        ("tests/order_api/live/test_marks.py::test_the_mark_is_never_ahead_of_an_event_that_was_not_handed_out",),
    ),
    Mutant(
        "order of another user under a claimed id",
        "Nobody is shown another user's order.",
        "order_api/live/feed.py",
        "            if self._owners[key, mailbox] == order.user_id:\n",
        "            if self._owners[key, mailbox]:\n",
        (f"{_FEED}::test_an_order_that_is_another_users_is_kept_back_from_whom_its_id_was_promised",),
    ),
    Mutant(
        "page of any origin may open a WebSocket",
        "Only pages of listed origins may connect.",
        "order_api/live/websocket.py",
        "if origin not in self._origins and origin",
        "if not origin and origin",
        ("tests/order_api/live/test_websocket_attacks.py::test_a_page_of_another_host_is_refused",),
    ),
    Mutant(
        "token of another user renews a connection",
        "A connection is one user's.",
        "order_api/live/websocket.py",
        "if caller.user_id != self._caller.user_id or not",
        "if not",
        (f"{_SOCKET}::test_a_browser_shows_its_token_in_the_first_message_and_renews_it",),
    ),
    Mutant(
        "message in frames without end",
        "What a client may keep in memory is bounded.",
        "order_api/http/websockets.py",
        "if len(self.frames) >= PARTS_MAX:",
        "if not self.frames:",
        ("tests/order_api/live/test_websocket_attacks.py::test_a_message_too_large_ends_the_connection",),
    ),
    Mutant(
        "pings without end",
        "What a client may have done in a second is bounded.",
        "order_api/http/websockets.py",
        "self._frames += len(self.conn.events)",
        "self._frames += 0",
        ("tests/order_api/live/test_websocket_attacks.py::test_a_flood_in_one_write_is_stopped_before_it_is_read",),
    ),
    Mutant(
        "orders of all for anybody",
        "Nobody is shown another user's orders.",
        "order_api/live/websocket.py",
        "            caller.need(TokenScope.OPERATE)\n",
        "",
        (f"{_SOCKET}::test_an_operator_follows_the_orders_of_all",),
    ),
    Mutant(
        "accounts of anybody",
        "Nobody is shown another user's balances.",
        "order_api/market/routes.py",
        "        if not caller.sees(user_id):\n",
        "        if not user_id:\n",
        ("tests/order_api/market/test_market.py::test_accounts_are_the_ledgers_and_ones_own",),
    ),
    Mutant(
        "older price replaces a newer one",
        "Of two prices the one with the higher sequence is newer.",
        "order_api/market/prices.py",
        "elif price.sequence <= known.sequence:",
        "elif price.sequence == known.sequence:",
        ("tests/order_api/market/test_market.py::test_prices_follow_the_topic_and_an_older_one_changes_nothing",),
    ),
    Mutant(
        "stream outlives its token",
        "A stream ends when the token of its caller expires.",
        "order_api/live/streams.py",
        "min(now + caller.expires_at - time.time(), stream.oldest)",
        "stream.oldest",
        ("tests/order_api/live/test_streams.py::test_a_stream_ends_when_its_token_expires_and_not_before",),
    ),
    Mutant(
        "channel of an ended order is silent",
        "A stream of an order ends with the order.",
        "order_api/live/service.py",
        "followed.ended = followed.ended or event.terminal",
        "followed.ended = event.terminal and event.version > followed.version",
        (f"{_SOCKET}::test_who_has_the_last_version_of_an_order_is_told_that_it_has_ended",),
    ),
    Mutant(
        "slow reader outlives its token",
        "A stream that lingers after its time is cut.",
        "order_api/live/streams.py",
        "            stream.abort()\n            return\n",
        "            return\n",
        ("tests/order_api/live/test_streams.py::test_a_stream_that_does_not_leave_when_its_time_is_over_is_cut",),
    ),
    Mutant(
        "place of a stream is never free again",
        "Limits on streams do not leak.",
        "order_api/live/streams.py",
        "        self._users[caller.user_id] -= 1\n",
        "",
        ("tests/order_api/live/test_streams.py::test_a_user_and_a_process_have_so_many_streams_and_no_more",),
    ),
    Mutant(
        "id of the future is believed",
        "What can't be shown is said as a gap.",
        "order_api/live/snapshots.py",
        "gap=not shown.whole or (since is not None and since > mark),",
        "gap=not shown.whole,",
        ("tests/order_api/live/test_snapshots.py::test_a_mark_ahead_of_the_database_is_a_gap",),
    ),
    Mutant(
        "too slow, and not told",
        "A stream whose mailbox was full says the gap.",
        "order_api/live/service.py",
        "frames = [self._gap(wished, sent, framing)] if taken.gap else []",
        "frames = [self._gap(wished, sent, framing)] if taken.gap and taken.stale else []",
        ("tests/order_api/live/test_events.py::test_a_reader_that_was_too_slow_for_its_mailbox_is_told_of_the_gap",),
    ),
    Mutant(
        "channel of anybody's orders",
        "Nobody is shown another user's orders.",
        "order_api/live/websocket.py",
        "        if not caller.sees(user_id):\n",
        "        if not user_id:\n",
        (f"{_SOCKET}::test_nobody_sees_another_users_orders",),
    ),
    Mutant(
        "stream of anybody's orders",
        "Nobody is shown another user's orders.",
        "order_api/live/parameters.py",
        "    if not caller.sees(user_id):\n",
        "    if not user_id:\n",
        ("tests/order_api/live/test_events.py::test_nobody_sees_another_users_orders",),
    ),
    Mutant(
        "nothing is read from before the mark",
        "A transaction that was open at the mark is shown to whoever comes back with it.",
        "order_api/live/snapshots.py",
        "time_of(since) - OVERLAP)",
        "time_of(since))",
        ("tests/order_api/live/test_snapshots.py::test_more_is_read_than_since_the_mark",),
    ),
)
