"""What could not be published is known until it is published, and of very much the newest."""

from __future__ import annotations

from contracts.envelope import Outgoing
from order_api.orders.publication.unpublished import Unpublished


def test_it_knows_what_failed_last() -> None:
    """A publish that went well makes forget, and so does a flood of others."""
    messages = [Outgoing("t", "key", str(number), b"", []) for number in range(5)]
    unpublished = Unpublished(most=3)
    unpublished.note(messages[:2], published=False)
    unpublished.note(messages[1:2], published=True)
    unpublished.note(messages[4:], published=True)
    assert [True, False, False, False, False] == [message in unpublished for message in messages]
    unpublished.note(messages[1:], published=False)
    assert [False, False, True, True, True] == [message in unpublished for message in messages]
