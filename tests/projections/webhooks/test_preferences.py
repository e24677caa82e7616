"""What a user set counts: quiet hours delay, small orders are skipped, and steps in quick succession are one."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

import asyncpg
import msgspec
import pytest

from contracts.decimals import Exact, Money, Price
from contracts.orders import OrderStatusChanged
from contracts.webhooks import EndpointKind, StoredSecret, secrets_to
from projections.webhooks.store import _NOT_QUIET
from projections.webhooks.subscriptions import SETTLE_S, notional_of
from tests.projections.webhooks.events import event
from tests.projections.webhooks.receivers import SEAL, receiving
from tests.projections.webhooks.world import SECRET, Webhooks

ALICE: Final = "alice@example.com"
SECRETS: Final = secrets_to([StoredSecret(SEAL.seal(SECRET))])


def hours(local_hour: int, first: int, last: int) -> dict[str, Any]:
    """Make quiet hours from `first` to `last` hours from now, in a zone where it is about `local_hour` o'clock now."""
    now = datetime.now(UTC)
    offset = (local_hour - now.hour + 11) % 24 - 11
    local = now + timedelta(hours=offset)
    zone = f"Etc/GMT{-offset:+d}"  # its signs are the other way round
    begin, end = (local + timedelta(hours=number) for number in (first, last))
    return {"time_zone": zone, "quiet_from": begin.time(), "quiet_until": end.time()}


@pytest.mark.parametrize("local_hour", [0, 12])
async def test_quiet_hours_delay_and_conflate(webhooks: Webhooks, local_hour: int) -> None:
    """Over midnight and within a day: nothing is sent before they end, and then what is still true."""
    async with receiving() as receiver, webhooks.sending():
        await webhooks.notified(EndpointKind.WEBHOOK, receiver.url, secrets=SECRETS, **hours(local_hour, -2, 2))
        other = await webhooks.notified(EndpointKind.WEBHOOK, receiver.url, secrets=SECRETS, **hours(local_hour, 2, 4))
        await webhooks.take(event(1, 1))
        await webhooks.take(event(1, 2), event(2, 4))
        await webhooks.until(
            "SELECT count(*) = 0 FROM webhooks.deliveries WHERE endpoint_id = $1 AND state = 'PENDING'", other
        )
        asleep = """
            SELECT string_agg(version || state, ',' ORDER BY order_id, version) FROM webhooks.deliveries
            WHERE endpoint_id <> $1"""
        assert "1SUPERSEDED,2PENDING,4PENDING" == await webhooks.value(asleep, other)
        assert await webhooks.value(
            "SELECT bool_and(attempts = 0) FROM webhooks.deliveries WHERE endpoint_id <> $1", other
        )
        await webhooks.execute("UPDATE webhooks.endpoints SET quiet_from = quiet_until - interval '1 minute'")
        await webhooks.all_ended()
        assert "1SUPERSEDED,2DELIVERED,4DELIVERED" == await webhooks.value(asleep, other)


@pytest.mark.parametrize(
    ("at", "quiet"),
    [
        # Zurich: from 02:00 on it is 03:00, on 29 March 2026; from 03:00 on it is 02:00, on 25 October.
        ("2026-03-29T00:29Z", False), ("2026-03-29T00:30Z", True), ("2026-03-29T01:29Z", True),
        ("2026-03-29T01:30Z", False), ("2026-10-25T00:00Z", True), ("2026-10-25T00:59Z", True),
        ("2026-10-25T01:00Z", True), ("2026-10-25T02:29Z", True), ("2026-10-25T02:30Z", False),
    ],
)  # fmt: skip
async def test_quiet_hours_follow_the_clocks_of_their_zone(webhooks: Webhooks, at: str, *, quiet: bool) -> None:
    """When the clocks go forward an hour less is quiet, and an hour more when they go back. Auditors see the same."""
    hours_of_night: dict[str, Any] = {
        "quiet_from": time(1, 30),
        "quiet_until": time(3, 30),
        "time_zone": "Europe/Zurich",
    }
    await webhooks.notified(EndpointKind.PUSH, "{}", **hours_of_night)
    now = f"timestamptz '{at}'"
    sends = f"SELECT count(*) FROM webhooks.endpoints WHERE {_NOT_QUIET}".replace("statement_timestamp()", now)
    assert int(not quiet) == await webhooks.value(sends)
    view = await webhooks.value("SELECT pg_get_viewdef('audit.webhook_endpoints'::regclass)")
    shown = f"SELECT quiet FROM ({view.rstrip(';')}) AS shown".replace("statement_timestamp()", now)
    assert quiet is await webhooks.value(shown)


async def test_a_zone_that_the_database_does_not_know_gets_nowhere(webhooks: Webhooks) -> None:
    """It would stop everybody's deliveries."""
    with pytest.raises(asyncpg.DataError, match="time zone"):
        await webhooks.notified(
            EndpointKind.EMAIL, ALICE, time_zone="Atlantis/Capital",
            quiet_from=datetime.now(UTC).time(), quiet_until=datetime.now(UTC).time(),
        )  # fmt: skip


async def test_small_orders_are_skipped_and_the_log_says_why(webhooks: Webhooks) -> None:
    """What the example order is worth (500) is told at 500 and skipped above; a skipped one overtakes nothing."""
    small = await webhooks.notified(EndpointKind.PUSH, "{}", notional_min=Decimal("500.01"))
    told = await webhooks.notified(EndpointKind.PUSH, "{}", notional_min=Decimal(500))
    await webhooks.take(event(1, 4))
    assert [(4, "SKIPPED", "worth less than 500.01")] == await webhooks.states(small)
    assert [(4, "PENDING", None)] == await webhooks.states(told)


async def test_a_skipped_version_overtakes_nothing(webhooks: Webhooks) -> None:
    """Within a batch and over batches: a part that is filled is worth less than the order was."""
    asked, filled = _worth(event(1, 1), None, "10"), _worth(event(1, 2), "0.001", "10")
    one = await webhooks.notified(EndpointKind.PUSH, "{}", notional_min=Decimal("0.05"))
    await webhooks.take(asked, filled)
    expected = [(1, "PENDING", None), (2, "SKIPPED", "worth less than 0.05")]
    assert expected == await webhooks.states(one)
    await webhooks.execute("DELETE FROM webhooks.deliveries")
    await webhooks.take(filled)
    await webhooks.take(asked)
    assert expected == await webhooks.states(one)


def test_what_nobody_knows_the_worth_of_is_told() -> None:
    """What is filled counts, then the price that the order names; without any, None."""
    asked = event(1, 1).order
    none = msgspec.structs.replace(asked, filled_quantity=Money("0"), average_price=None, price=None)
    assert notional_of(none) is None
    assert Decimal("0.1") == notional_of(_worth(event(1, 1), None, "10").order)
    assert Decimal("0.01") == notional_of(_worth(event(1, 1), "0.001", "10").order)


def _worth(changed: OrderStatusChanged, filled: str | None, price: str) -> OrderStatusChanged:
    order = msgspec.structs.replace(
        changed.order, filled_quantity=Money(filled or "0"), average_price=Exact(price) if filled else None,
        price=None, limit_price=Price(price),
    )  # fmt: skip
    return msgspec.structs.replace(changed, order=order)


async def test_steps_that_follow_each_other_fast_are_one_mail(webhooks: Webhooks) -> None:
    """A mail waits for a moment, so that a newer version overtakes it."""
    one = await webhooks.notified(EndpointKind.EMAIL, ALICE)
    for version in (1, 2, 3, 4):
        await webhooks.take(event(1, version))
    assert ["SUPERSEDED", "SUPERSEDED", "SUPERSEDED", "PENDING"] == [
        state for _, state, _ in await webhooks.states(one)
    ]
    waits = await webhooks.value("SELECT next_attempt_at - created_at FROM webhooks.deliveries WHERE version = 4")
    assert timedelta(0) <= waits - timedelta(seconds=SETTLE_S[EndpointKind.EMAIL]) < timedelta(seconds=5)
