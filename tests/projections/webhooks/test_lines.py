"""Who is sent to next: bounds on attempts, turns, probes, pauses, and that dead endpoints hold up nobody."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from contracts.webhooks import EndpointKind
from projections.webhooks.deliveries import Delivery, Endpoint
from projections.webhooks.lines import AHEAD, IDLE_MAX, LEASE_LEFT_S, SHARES, Lane, Lines, Start, lease_end
from projections.webhooks.rules import Answer
from projections.webhooks.store import LEASE_S, Want

NOW: Final = datetime(2026, 1, 2, tzinfo=UTC)
OK, SLOW, DEAD, BUSY = Answer(200, 0.01), Answer(200, 14.0), Answer(None, 15.0, "no answer"), Answer(429, 0.01)
SLOTS: Final = 20


def endpoint(number: int, failures: int = 0) -> Endpoint:
    """Make an endpoint."""
    return Endpoint(UUID(int=number), "alice", EndpointKind.WEBHOOK, "https://example.com/", "[]", failures)


class Desk:
    """Lines with a database of nothing but numbers of deliveries; every endpoint has `stock` of them."""

    def __init__(self, stock: int = 10**9) -> None:
        self.lines = Lines(SLOTS)
        self.now_s = 1000.0
        self.stock = stock
        self.failures: dict[UUID, int] = {}
        self.running: list[Start] = []
        self.back: list[Delivery] = []
        self.ended = 0
        self.wanted: dict[int, list[int]] = {}

    def notice(self, *numbers: int) -> None:
        """Something is due for these endpoints."""
        self.lines.notice([UUID(int=number) for number in numbers], self.now_s)

    def claim(self) -> list[Want]:
        """Claim what is wanted, as the database would give it."""
        wants = self.lines.wants()
        found = []
        for want in wants:
            given_now = min(want.rows, self.stock)
            self.stock -= given_now
            self.wanted.setdefault(want.endpoint_id.int, []).append(want.rows)
            one = endpoint(want.endpoint_id.int, self.failures.get(want.endpoint_id, 0))
            if given_now:
                found.append((one, [Delivery(want.endpoint_id, "e", b"", 0, NOW, NOW) for _ in range(given_now)]))
        self.back += self.lines.claimed(wants, found, lease_end(self.now_s), self.now_s)
        return wants

    def start(self) -> list[int]:
        """Begin what can begin; return whose it is."""
        begun = list(self.lines.start(self.now_s))
        self.back += [one for one in begun if isinstance(one, Delivery)]
        starts = [one for one in begun if isinstance(one, Start)]
        self.running += starts
        return [one.endpoint.endpoint_id.int for one in starts]

    def end(self, number: int, answer: Answer) -> bool:
        """End the oldest attempt of an endpoint, marked at once; return whether its health changes."""
        one = next(one for one in self.running if one.endpoint.endpoint_id.int == number)
        self.running.remove(one)
        self.ended += 1
        shaky, back = self.lines.ended(one, answer, self.now_s)
        self.back += back
        self.lines.marked(one.endpoint.endpoint_id)
        return shaky

    def warm(self, *numbers: int) -> None:
        """Let endpoints answer quickly until they are trusted with four attempts at once."""
        self.notice(*numbers)
        for _ in range(5):
            self.claim()
            self.start()
            for one in list(self.running):
                self.end(one.endpoint.endpoint_id.int, OK)

    def slow(self, *numbers: int) -> None:
        """Let endpoints answer once, slowly."""
        for number in numbers:
            self.notice(number)
            self.claim()
            self.start()
            self.end(number, SLOW)

    def of(self, number: int) -> int:
        """Count the attempts of an endpoint that are under way."""
        return sum(one.endpoint.endpoint_id.int == number for one in self.running)


def test_an_unknown_endpoint_begins_with_one_attempt_and_earns_four() -> None:
    """Each quick success lets it have one more at the same time."""
    desk = Desk()
    desk.notice(1)
    seen = []
    for _ in range(6):
        desk.claim()
        desk.start()
        seen.append(desk.of(1))
        desk.end(1, OK)
    assert [1, 2, 3, 4, 4, 4] == seen


def test_a_quick_endpoint_is_claimed_for_ahead() -> None:
    """So that a claim serves many attempts; others are claimed for one by one."""
    desk = Desk()
    desk.warm(1)
    desk.notice(2)
    desk.claim()
    assert AHEAD == max(desk.wanted[1])
    assert [1] == desk.wanted[2]


def test_dead_endpoints_get_half_of_the_slots_at_most() -> None:
    """However many hang, a quick endpoint goes on with four attempts at once."""
    desk = Desk()
    desk.warm(1)
    desk.slow(*range(100, 200))
    desk.failures |= {UUID(int=number): 7 for number in range(200, 300)}
    desk.notice(*range(100, 400))
    for _ in range(10):
        desk.claim()
        desk.start()
    running = desk.lines.running
    assert (SLOTS // 4, SLOTS // 8, SLOTS // 8) == (running[Lane.SLOW], running[Lane.SILENT], running[Lane.NEW])
    assert len(desk.running) - running[Lane.QUICK] <= SLOTS // 2
    for _ in range(200):
        desk.notice(1)
        desk.claim()
        desk.start()
        assert 4 == desk.of(1)
        desk.end(1, OK)


def test_the_dead_hold_up_neither_the_slow_nor_the_new() -> None:
    """Thousands that are silent share slots of their own, so the others begin at once."""
    desk = Desk()
    desk.slow(1)
    desk.failures |= {UUID(int=number): 7 for number in range(1000, 4000)}
    desk.notice(*range(1000, 4000))
    for _ in range(3000 // SLOTS + 1):  # the first claim for each shows what it is
        desk.claim()
        desk.start()
    assert SLOTS // 8 == desk.lines.running[Lane.SILENT]
    assert 3000 - len(desk.back) <= 2 * SLOTS  # no lease runs out in a line
    desk.notice(1, 2)
    desk.claim()
    desk.start()
    assert (1, 1) == (desk.of(1), desk.of(2))


def test_the_database_says_who_is_silent_before_anything_is_claimed() -> None:
    """So a process that begins anew claims no more than a few of thousands."""
    desk = Desk()
    desk.failures |= {UUID(int=number): 7 for number in range(1000, 4000)}
    desk.lines.found(desk.failures, desk.now_s)
    for _ in range(40):
        desk.claim()
        desk.start()
    assert [] == desk.back
    assert sum(map(sum, desk.wanted.values())) <= 2 * SLOTS


def test_an_endpoint_that_is_forgotten_while_it_is_claimed_for_is_known_again() -> None:
    """What was claimed for it is not lost until its lease ends."""
    desk = Desk()
    desk.notice(1)
    [want] = desk.lines.wants()
    desk.lines.stored_health(UUID(int=1), 1, 40, desk.now_s)  # it pauses, so nothing of it is to be known
    desk.notice(*range(2, IDLE_MAX + 2))
    desk.lines.forget_idle()
    one = Delivery(want.endpoint_id, "e", b"", 0, NOW, NOW)
    desk.lines.claimed([want], [(endpoint(1), [one])], lease_end(desk.now_s), desk.now_s)
    assert [1] == desk.start()


def test_quick_endpoints_do_not_starve_the_slow_ones() -> None:
    """When all slots are taken, the next free one goes to the lane with fewer attempts."""
    desk = Desk()
    desk.warm(*range(1, 8))
    desk.notice(*range(1, 8))
    desk.claim()
    desk.start()
    assert SLOTS == len(desk.running)
    desk.notice(100)
    desk.claim()
    assert [] == desk.start()
    desk.end(desk.running[0].endpoint.endpoint_id.int, OK)
    assert [100] == desk.start()


def test_lines_take_turns() -> None:
    """A hundred endpoints with endless work each get as much as any other, give or take one."""
    desk = Desk()
    served = dict.fromkeys(range(1, 101), 0)
    desk.slow(*served)
    desk.notice(*served)
    for _ in range(3000):
        desk.claim()
        desk.start()
        number = desk.running[0].endpoint.endpoint_id.int
        served[number] += 1
        desk.end(number, SLOW)
    assert max(served.values()) - min(served.values()) <= 1


def test_a_silent_endpoint_gets_one_probe_and_hands_the_rest_back() -> None:
    """After five failures in a row what was claimed goes back, and nothing is claimed while it pauses."""
    desk = Desk()
    desk.warm(1)
    desk.notice(1)
    desk.claim()
    desk.start()
    for _ in range(4):
        assert desk.end(1, DEAD)
    assert ([1], []) == (desk.start(), desk.back)
    assert desk.end(1, DEAD)
    assert len(desk.back) >= AHEAD // 2 - 5
    assert [] == desk.start()
    desk.lines.stored_health(UUID(int=1), 5, 40, desk.now_s)
    desk.notice(1)
    assert [] == desk.claim()
    desk.lines.found({UUID(int=1): 5}, desk.now_s)  # its user has enabled it, say
    assert [1] == [want.rows for want in desk.claim()]
    assert [1] == desk.start()
    assert [] == desk.claim()


def test_a_pause_ends_by_itself() -> None:
    """When its time is over, what is noticed counts."""
    desk = Desk()
    desk.notice(1)
    desk.claim()
    desk.start()
    desk.end(1, DEAD)
    desk.lines.stored_health(UUID(int=1), 8, 40, desk.now_s)
    for passed_s, claimed in ((39, []), (2, [1])):
        desk.now_s += passed_s
        desk.notice(1)
        assert claimed == [want.rows for want in desk.claim()]


def test_a_silent_endpoint_is_known_as_such_by_another_process() -> None:
    """What the database says of it counts from the first claim on."""
    desk = Desk()
    desk.failures[UUID(int=1)] = 7
    desk.notice(1)
    desk.claim()
    desk.start()
    assert desk.end(1, OK)  # its health changes: it answers again
    assert not desk.lines.ended(Start(endpoint(1), Delivery(UUID(int=1), "e", b"", 0, NOW, NOW), Lane.SLOW), OK, 0)[0]


def test_a_throttled_endpoint_has_a_pause_between_attempts() -> None:
    """429 twice from a window of one: 1 s, then 3 s between two attempts."""
    desk = Desk()
    desk.notice(1)
    desk.claim()
    assert [1] == desk.start()
    for gap_s in (1.0, 3.0, 7.0):
        desk.end(1, BUSY)
        desk.notice(1)
        desk.claim()
        assert [] == desk.start()
        assert desk.now_s + gap_s == desk.lines.next_at_s()
        desk.now_s += gap_s
        assert [1] == desk.start()


def test_no_attempt_begins_at_the_end_of_its_lease() -> None:
    """It goes back, and is claimed anew."""
    desk = Desk()
    desk.warm(1)
    desk.notice(1)
    desk.claim()
    desk.now_s += LEASE_S - LEASE_LEFT_S + 1
    assert [] == desk.start()
    assert len(desk.back) >= AHEAD // 2


def test_nothing_more_is_claimed_for_who_gave_less() -> None:
    """Until it is noticed again."""
    desk = Desk(stock=0)
    desk.notice(1)
    assert 1 == len(desk.claim())
    assert not desk.lines.hungry
    desk.notice(1)
    assert desk.lines.hungry


def test_all_is_given_back_at_the_end() -> None:
    """What waits in memory is handed back; what is under way is not."""
    desk = Desk()
    desk.warm(1)
    desk.notice(1)
    desk.claim()
    desk.start()
    leased = sum(desk.wanted[1]) - desk.ended
    assert leased - 4 == len(desk.lines.take_back())
    assert ([], []) == (desk.claim(), desk.start())


def test_idle_endpoints_are_forgotten_when_there_are_too_many() -> None:
    """Memory does not grow with the endpoints that ever had something."""
    desk = Desk(stock=0)
    for number in range(IDLE_MAX + 500):
        desk.notice(number + 1)
        desk.claim()
    desk.lines.forget_idle()
    assert IDLE_MAX == len(desk.lines._lines)  # noqa: SLF001 - there is no other sign of it


@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from([OK, SLOW, DEAD, BUSY]), st.floats(0, 5)), max_size=120))
def test_bounds_hold_whatever_happens(events: Sequence[tuple[int, Answer, float]]) -> None:
    """Never more than all slots, a share of them for each lane, four attempts an endpoint, or one while silent."""
    desk = Desk()
    in_row = dict.fromkeys(range(1, 13), 0)
    for number, answer, passed_s in events:
        desk.now_s += passed_s
        desk.notice(*in_row)
        desk.claim()
        desk.start()
        assert len(desk.running) <= SLOTS
        assert len(desk.running) == sum(desk.lines.running.values())
        assert all(desk.lines.running[lane] <= SLOTS // SHARES[lane] for lane in Lane)
        for one in in_row:
            assert desk.of(one) <= 4
        if desk.of(number):
            desk.end(number, answer)
            in_row[number] = 0 if answer.status == 200 else in_row[number] + 1
            before = desk.of(number)
            started = desk.start()
            assert in_row[number] < 5 or number not in started or before == 0
