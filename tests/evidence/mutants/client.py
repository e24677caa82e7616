"""The mutants of the client. See `table`."""

from __future__ import annotations

from typing import Final

from tests.evidence.mutants.mutant import Mutant

CLIENT_MUTANTS: Final = (
    Mutant(
        "another key for each repetition",
        "A request is repeated under one key, so that no order is made twice.",
        "order_client/core.py",
        "        found = yield Send(request.with_token(token))",
        "        request = replace(request, headers={**request.headers, KEY_HEADER: str(random.random())})\n"
        "        found = yield Send(request.with_token(token))",
        ("tests/order_client/test_core.py::test_a_request_is_repeated_as_it_was",),
    ),
    Mutant(
        "repeated without a key",
        "What nobody knows the outcome of is repeated only if that does no harm.",
        "order_client/core.py",
        "        return request.repeatable or not error.sent",
        "        return True",
        ("tests/order_client/test_core.py::test_without_a_key_only_what_was_surely_not_done_is_repeated",),
    ),
    Mutant(
        "a gap that nobody hears of",
        "When no event had an id, the API can't tell what came while a client was away: it is a gap.",
        "order_client/streams.py",
        "    if stream.connected and stream.last_id is None and not stream.one:",
        "    if False:",
        ("tests/order_client/test_streams.py::test_a_gap_is_said_when_nothing_had_an_id",),
    ),
    Mutant(
        "an older version after a newer one",
        "A stream gives no older version of an order after a newer one.",
        "order_client/streams.py",
        "        return known is None or event.version > known",
        "        return True",
        ("tests/order_client/test_streams.py::test_a_version_comes_once_and_no_older_one_after_it",),
    ),
    Mutant(
        "bytes count as events",
        "A connection without any event is dead, however alive it looks.",
        "order_client/streams.py",
        "        if session.now() - heard_at > SILENCE_S:",
        "        if False:",
        ("tests/order_client/test_streams.py::test_a_connection_that_only_looks_alive_is_left",),
    ),
    Mutant(
        "a stream of one order that a proxy ended",
        "A plain end of the stream of one order is the order's end only if the order says so.",
        "order_client/streams.py",
        "    return order.status.terminal and order.version <= int(stream.last_id or 0)",
        "    return True",
        ("tests/order_client/test_streams.py::test_a_plain_end_is_the_orders_only_if_the_order_says_so",),
    ),
    Mutant(
        "channels that begin anew",
        "Whoever comes back over a WebSocket is shown what was missed.",
        "order_client/socket.py",
        'wish["since"] = channel.last_id',
        "pass",
        ("tests/order_client/test_socket.py::test_every_channel_resumes_from_its_last_event",),
    ),
    Mutant(
        "old webhooks believed",
        "A webhook that was signed too long ago may be sent again by somebody.",
        "order_client/webhooks.py",
        " > tolerance_s:",
        " > 1e9:",
        ("tests/order_client/test_webhooks.py::test_an_old_signature_is_not_believed",),
    ),
    Mutant(
        "any signature believed",
        "A webhook is believed when a secret of its receiver has signed it.",
        "order_client/webhooks.py",
        "hmac.compare_digest(one, other) for",
        "True for",
        ("tests/order_client/test_webhooks.py::test_it_agrees_with_the_standards_library",),
    ),
)
