"""What the tests read of a topic's follower is whole, although it reads on in a thread of its own."""

from __future__ import annotations

import json
import threading
from itertools import count

from tests.e2e.wire import Events, Record

ENOUGH = 3_000


def test_events_are_read_while_more_are_followed() -> None:
    """Every version that is seen has a body, and what is returned does not change any more."""
    over = threading.Event()
    with Events("127.0.0.1:1", "nobody.") as events:  # no broker: the records are made here

        def follow() -> None:
            for number in count():
                if over.is_set():
                    break
                body = json.dumps({"order_id": f"order-{number // 4}", "version": number % 4, "status": "PENDING"})
                events._note(Record(0, number, None, body.encode(), []))  # noqa: SLF001 - as its own thread does

        following = threading.Thread(target=follow)
        following.start()
        try:
            while len(told := events.told()) < ENOUGH:
                assert all(bodies for versions in told.values() for bodies in versions.values())
                assert set(events.statuses(f"order-{len(told) - 1}")) <= {"PENDING"}
        finally:
            over.set()
            following.join()
