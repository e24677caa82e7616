"""The mailbox: whatever comes and however slowly it is read, the newest of each order is seen, or a gap is said."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from order_api.live.mailbox import Mailbox, OrderEvent, PriceEvent

ORDERS = st.integers(0, 5)
HEARD = st.tuples(ORDERS, st.integers(1, 6))
STEPS = st.lists(st.one_of(HEARD, st.just("read"), st.just("missed"), st.just("beat")), max_size=60)


def _event(order: int, version: int, mark: int = 0) -> OrderEvent:
    return OrderEvent(b"%d" % order, version, b"%d:%d" % (order, version), mark)


class Reader:
    """Keeps the highest version of each order, as every client does, and whether a gap was said."""

    def __init__(self, orders_max: int) -> None:
        self.woken = 0
        self.mailbox = Mailbox(self._wake, orders_max=orders_max)
        self.versions: dict[bytes, int] = {}
        self.gap = False

    def _wake(self) -> None:
        self.woken += 1

    def read(self) -> None:
        """Take what is there."""
        taken = self.mailbox.take()
        self.gap = self.gap or taken.gap
        for event in taken.orders:
            self.versions[event.key] = max(event.version, self.versions.get(event.key, 0))


@given(STEPS, st.integers(1, 6))
def test_the_newest_version_of_every_order_is_read_or_a_gap_is_said(steps: list[object], orders_max: int) -> None:
    """Events in any order, doubled, late or out of turn; reads at any time; a mailbox of any size."""
    reader, committed = Reader(orders_max), dict[bytes, int]()
    for step in steps:
        if step == "read":
            reader.read()
        elif step == "missed":
            reader.mailbox.missed()
        elif step == "beat":
            reader.mailbox.beat()
        elif isinstance(step, tuple):
            event = _event(*step)
            committed[event.key] = max(event.version, committed.get(event.key, 0))
            reader.mailbox.put(event)
        assert len(reader.mailbox) <= orders_max
    reader.read()
    assert reader.gap or committed == reader.versions
    assert reader.gap is False or len(committed) > orders_max, "a gap is said for nothing"


@given(st.lists(st.one_of(HEARD, st.just("read")), max_size=60))
def test_marks_never_go_back(steps: list[object]) -> None:
    """Events are read in the order of their marks: whoever has one has all that came before it, or is newer."""
    mailbox, read = Mailbox(lambda: None), list[int]()
    for mark, step in enumerate(steps):
        if isinstance(step, tuple):
            mailbox.put(_event(step[0], step[1], mark))
        else:
            read += [event.mark for event in mailbox.take().orders]
    read += [event.mark for event in mailbox.take().orders]
    assert all(before < after for before, after in pairwise(read))


def test_a_slow_reader_gets_the_newest_version_and_no_older_one() -> None:
    """What was replaced is counted, and a version that comes late is not taken."""
    reader = Reader(2)
    for version in (1, 3, 2, 3):
        reader.mailbox.put(_event(1, version))
    assert 1 == reader.mailbox.conflated
    assert [3] == [event.version for event in reader.mailbox.take().orders]
    assert [] == reader.mailbox.take().orders


def test_a_full_mailbox_forgets_and_takes_what_comes_after() -> None:
    """What came after the gap is there, and the gap is said once."""
    mailbox = Mailbox(lambda: None, orders_max=2)
    for order in (1, 2, 3):
        mailbox.put(_event(order, 1))
    taken = mailbox.take()
    assert (True, [b"3"]) == (taken.gap, [event.key for event in taken.orders])
    assert not mailbox.take().gap


def test_prices_are_conflated_for_each_asset() -> None:
    """Of each asset the newest price stays, and prices never fill the mailbox."""
    reader = Reader(1)
    for asset, price in (("BTC", b"1"), ("ETH", b"2"), ("BTC", b"3")):
        reader.mailbox.put_price(PriceEvent(asset, price))
    taken = reader.mailbox.take()
    assert {"BTC": b"3", "ETH": b"2"} == {event.asset_id: event.data for event in taken.prices}
    assert (False, []) == (taken.gap, reader.mailbox.take().prices)


def test_whatever_comes_wakes_its_reader() -> None:
    """An event, a price, a heartbeat, and the news that events may have been missed; an old version wakes nobody."""
    reader = Reader(9)
    reader.mailbox.put(_event(1, 2))
    reader.mailbox.put(_event(1, 1))
    assert 1 == reader.woken
    reader.mailbox.put_price(PriceEvent("BTC", b"1"))
    reader.mailbox.beat()
    reader.mailbox.missed()
    assert 4 == reader.woken
    taken = reader.mailbox.take()
    assert (True, True, False) == (taken.beat, taken.stale, taken.gap)
    assert (False, False) == reader.mailbox.take()[-2:]


def test_an_event_is_written_once_for_all_who_get_it() -> None:
    """However many streams there are, they share the bytes; each framing has its own."""
    written = []

    def framed(event: OrderEvent) -> bytes:
        written.append(event)
        return b"framed " + event.data

    event = _event(1, 1)
    assert event.written(framed) is event.written(framed)
    assert b"1:1" == event.written(lambda one: one.data)
    assert [event] == written
