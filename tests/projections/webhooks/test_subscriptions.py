"""Which deliveries a batch makes: for whom, each once, and which versions are overtaken at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from contracts.codec import encode
from contracts.orders import OrderStatusChanged
from contracts.vocabulary import OrderStatus
from contracts.webhooks import EndpointKind, EventType, webhook_of
from projections.webhooks.deliveries import NewDelivery, Subscription
from projections.webhooks.rules import KEPT_MAX
from projections.webhooks.subscriptions import deliveries_of
from tests.projections.webhooks.events import BEGAN, WAY, event

ALICE: Final = Subscription(UUID(int=1), "alice", EndpointKind.WEBHOOK, frozenset(), every_version=False)


def made(events: Sequence[OrderStatusChanged], *subscriptions: Subscription) -> list[NewDelivery]:
    """Make the deliveries of a batch."""
    by_user: dict[str, list[Subscription]] = {}
    for one in subscriptions:
        by_user.setdefault(one.user_id, []).append(one)
    return deliveries_of(events, by_user, {EndpointKind.WEBHOOK}, BEGAN)


def test_a_delivery_says_what_the_event_says() -> None:
    """Its id, its type, and the body by the contract, the same for all endpoints."""
    one, two = made([event(7, 2)], ALICE, msgspec.structs.replace(ALICE, endpoint_id=UUID(int=2)))
    assert (f"{UUID(int=7)}:v2", EventType.ORDER_CONFIRMED, 2) == (one.event_id, one.event_type, one.version)
    assert one.body is two.body
    assert encode(webhook_of(event(7, 2))) == one.body
    assert json.loads(encode(event(7, 2).order)) == json.loads(one.body)["data"]


def test_only_the_users_own_endpoints_of_known_kinds_are_told() -> None:
    """Not another user's, not one that this process can't send to."""
    bob = msgspec.structs.replace(ALICE, user_id="bob")
    mail = msgspec.structs.replace(ALICE, kind=EndpointKind.EMAIL)
    assert [] == made([event(1, 1)], bob, mail)


def test_an_endpoint_gets_the_types_that_it_asked_for() -> None:
    """None named: all of them; a version that keeps the status is `order.updated`."""
    way = (OrderStatus.PENDING, OrderStatus.PENDING, OrderStatus.CANCELLED)
    events = [event(1, version, way=way) for version in (1, 2, 3)]
    every = msgspec.structs.replace(ALICE, every_version=True)
    assert ["order.pending", "order.updated", "order.cancelled"] == [one.event_type for one in made(events, every)]
    wants = msgspec.structs.replace(every, event_types=frozenset({"order.updated", "webhook.ping"}))
    assert ["order.updated"] == [one.event_type for one in made(events, wants)]


def test_within_a_batch_newer_versions_overtake_older_ones() -> None:
    """Only the newest is to be sent; what is not wanted overtakes nothing."""
    events = [event(1, version) for version in (1, 2, 3)]
    assert [3, 3, None] == [one.overtaken_by for one in made(events, ALICE)]
    wants = msgspec.structs.replace(ALICE, event_types=frozenset({"order.pending", "order.confirmed"}))
    assert [2, None] == [one.overtaken_by for one in made(events, wants)]


def test_for_every_version_nothing_is_overtaken() -> None:
    """Neither within the batch nor in the database."""
    every = msgspec.structs.replace(ALICE, every_version=True)
    found = made([event(1, version) for version in (1, 2, 3, 4)], every)
    assert [(None, False, True)] * 4 == [(one.overtaken_by, one.overtakes, one.final) for one in found]


def test_an_endpoint_that_was_given_up_is_told_for_a_week() -> None:
    """So that nothing is missing when its user enables it."""
    for since, number in ((KEPT_MAX, 1), (KEPT_MAX + timedelta(seconds=1), 0)):
        assert number == len(made([event(1, 1)], msgspec.structs.replace(ALICE, given_up_at=BEGAN - since)))


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=30),
    st.booleans(),
    st.frozensets(st.sampled_from([f"order.{status.lower()}" for status in WAY])),
)
def test_of_any_batch_the_newest_and_the_last_are_sent(
    pairs: list[tuple[int, int]],
    every: bool,  # noqa: FBT001 - drawn
    types: frozenset[str],
) -> None:
    """Each wanted version is one row, repeats or not; of each order, what is to be sent has the newest wanted one."""
    events = [event(number, version) for number, version in pairs]
    found = made(events, msgspec.structs.replace(ALICE, every_version=every, event_types=types))
    wanted = {(UUID(int=n), v) for n, v in pairs if not types or f"order.{WAY[v - 1].lower()}" in types}
    assert wanted == {(one.order_id, one.version) for one in found}
    assert len(wanted) == len(found)
    sent = {(one.order_id, one.version) for one in found if one.overtaken_by is None}
    newest = {(order_id, max(v for other, v in wanted if other == order_id)) for order_id, _ in wanted}
    final = {(order_id, version) for order_id, version in wanted if version == len(WAY)}
    assert (wanted if every else newest | final) == sent
