"""What the API answers beside orders, and what it takes: the names are those of its document, the amounts exact."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import TypedDict
from uuid import UUID

import msgspec

from contracts.amends import OrderAmendment
from contracts.decimals import Exact, Money, Price, Quantity
from contracts.holds import HoldRefusal
from contracts.orders import Order
from contracts.vocabulary import Instant, OrderStatus, OrderType, ReasonCode, Side, TimeInForce, Word
from contracts.webhooks import DeliveryState, EndpointKind, EndpointState, EventType

Amount = Decimal | int | str
"""A decimal number. A text goes out as it is, and the API judges it; a float is refused, since it is not exact."""
Time = datetime | str
"""A time with its offset."""


class OrderTerms(TypedDict, total=False):
    """What an order may say beside its asset, type and quantity; see the order types for which of them takes what."""

    user_id: str
    price: Amount
    slippage_bps: int
    client_order_id: str
    limit_price: Amount
    trigger_price: Amount
    trail_amount: Amount
    trail_bps: int
    time_in_force: TimeInForce | str
    expires_at: Time
    queue_when_closed: bool


class OrderChanges(TypedDict, total=False):
    """What an amend may change; what is left out stays. `quantity` is the new whole."""

    quantity: Amount
    limit_price: Amount
    trigger_price: Amount
    trail_amount: Amount
    trail_bps: int
    slippage_bps: int
    time_in_force: TimeInForce | str
    expires_at: Time


class OrderFilters(TypedDict, total=False):
    """Which orders a list has; `created_to` is excluded."""

    status: OrderStatus | str | list[OrderStatus] | list[str] | tuple[OrderStatus | str, ...]
    open: bool
    asset_id: str
    order_type: OrderType | str
    created_from: Time
    created_to: Time
    user_id: str


class CancelFilters(TypedDict, total=False):
    """Which of a user's open orders to cancel; without any, all of them."""

    asset_id: str
    side: Side | str
    order_type: OrderType | str
    user_id: str


class Page(msgspec.Struct, frozen=True):
    """Some orders, newest first; the next page is asked for with `next_cursor`."""

    orders: list[Order]
    has_more: bool
    next_cursor: str | None


class OrderState(msgspec.Struct, frozen=True):
    """The fields of an order that change by themselves, and `amend`: what changed its terms last."""

    order_id: UUID
    status: OrderStatus
    reason_code: ReasonCode | None
    reason: str | None
    cancel_requested: bool
    filled_quantity: Money
    average_price: Exact | None
    fee: Money
    version: int
    updated_at: Instant
    cash_asset_id: str | None
    fee_asset_id: str | None
    trigger_price: Price | None
    triggered: bool
    watermark: Price | None
    revision: int | None
    held_asset_id: str | None
    held_amount: Money | None
    on_hold: bool
    release_refused: ReasonCode | None
    amend: OrderAmendment | None


class Entry(msgspec.Struct, frozen=True):
    """One thing that happened to an order. `detail`: what else is known of it, as JSON."""

    seq: int
    at: Instant
    kind: str
    name: str
    status: OrderStatus | None
    version: int | None
    detail: msgspec.Raw


class History(msgspec.Struct, frozen=True):
    """A page of what happened to an order, oldest first; the next page is asked for with the last `seq`."""

    order_id: UUID
    history: list[Entry]
    has_more: bool


class CancelAllAnswer(msgspec.Struct, frozen=True):
    """A cancel of all open orders. `orders`: how many cancels it has asked for; more may come until it is completed."""

    mass_cancel_id: UUID
    user_id: str
    asset_id: str | None
    side: Side | None
    order_type: OrderType | None
    orders: int
    created_at: Instant
    completed_at: Instant | None


class CancelTimer(msgspec.Struct, frozen=True):
    """A user's cancel timer: when it fires, and what it did when it last fired. `now`: the service's time."""

    user_id: str
    timeout_s: int
    set_at: Instant | None
    fires_at: Instant | None
    fired_at: Instant | None
    orders: int | None
    completed_at: Instant | None
    now: Instant | None


class PreviewQuote(msgspec.Struct, frozen=True):
    """The quote that a preview was made with, and the asset's rules of that moment."""

    price: Price
    sequence: int
    as_of: Instant
    age_ms: int
    trading: str
    tick: Price
    step: Quantity
    fee_bps: int
    cash_asset_id: str
    rules_version: int


class PreviewRefusal(msgspec.Struct, frozen=True):
    """Why the order would end without a fill. `retryable`: it may be otherwise at another time."""

    reason_code: ReasonCode
    reason: str | None
    retryable: bool


class Preview(msgspec.Struct, frozen=True):
    """What would become of an order that is submitted now. `not_checked`: what may refuse it all the same."""

    user_id: str
    asset_id: str
    order_type: OrderType
    quantity: Quantity
    existing_order_id: UUID | None
    status: OrderStatus
    held_asset_id: str | None
    held_amount: Money | None
    trigger_price: Price | None
    limit_price: Price | None
    worst_price: Price | None
    price: Price | None
    notional: Exact | None
    fee_asset_id: str | None
    fee: Money | None
    credit_asset_id: str | None
    credit: Exact | None
    quote: PreviewQuote | None
    refusals: list[PreviewRefusal]
    not_checked: list[ReasonCode]


class HoldStatus(Word):
    """Where a service's hold stands. All but PENDING and HELD are final."""

    PENDING = "PENDING"
    HELD = "HELD"
    REFUSED = "REFUSED"
    CAPTURED = "CAPTURED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class ServiceHold(msgspec.Struct, frozen=True):
    """What a service holds of a user's money, and what became of it."""

    hold_id: UUID
    user_id: str
    asset_id: str
    amount: Quantity
    expires_at: Instant
    status: HoldStatus
    captured: Money | None
    captured_to: str | None
    returned: Money | None
    reason_code: HoldRefusal | None
    reason: str | None
    capture_requested: bool
    release_requested: bool
    created_at: Instant
    updated_at: Instant


class MarketPrice(msgspec.Struct, frozen=True):
    """An asset's newest price and trading state: of two the one with the higher `sequence` is newer."""

    asset_id: str
    sequence: int
    price: Price
    as_of: Instant
    trading: str
    reopens_at: Instant | None


class PriceList(msgspec.Struct, frozen=True):
    """The newest price of every asset that has one, by the assets' ids."""

    prices: list[MarketPrice]


class SpecialSession(msgspec.Struct, frozen=True):
    """A day that is not as its weekday."""

    day: date
    hours: list[str]
    name: str


class TradingSessions(msgspec.Struct, frozen=True):
    """When an asset trades, by the local clock of a time zone."""

    time_zone: str
    week: list[list[str]]
    special: list[SpecialSession]


class MarketAsset(msgspec.Struct, frozen=True):
    """The rules by which orders for an asset are checked, and how the asset stands."""

    asset_id: str
    rules_version: int
    tick: Price
    step: Quantity
    min_quantity: Quantity
    max_quantity: Quantity | None
    min_notional: Money
    max_notional: Money
    fee_bps: int
    max_deviation_bps: int | None
    cash_asset_id: str
    cash_scale: int
    tradable: bool
    trading: str | None
    reopens_at: Instant | None
    confirmed_at: Instant | None
    sessions: TradingSessions | None


class AssetList(msgspec.Struct, frozen=True):
    """Every asset that orders may name, by the assets' ids."""

    assets: list[MarketAsset]


class Account(msgspec.Struct, frozen=True):
    """What a user has of one asset, at the moment of the answer."""

    asset_id: str
    available: Money
    held: Money


class AccountList(msgspec.Struct, frozen=True):
    """A user's accounts, by the assets' ids."""

    user_id: str
    accounts: list[Account]


class QuietHours(msgspec.Struct, frozen=True):
    """The hours of each day in which nothing is told, such as from 22:00 to 07:00 in Europe/Zurich."""

    begin: str
    end: str
    time_zone: str


class NotificationChannel(msgspec.Struct, frozen=True):
    """One address, browser or webhook, and how it does; `confirmed`: whether it is told of orders."""

    endpoint_id: UUID
    channel: EndpointKind
    target: str
    confirmed: bool
    event_types: list[EventType]
    quiet_hours: QuietHours | None
    notional_min: Money | None
    state: EndpointState
    disabled_reason: str | None


class NotificationPreferences(msgspec.Struct, frozen=True):
    """How a user is told; `push_key` is the `applicationServerKey` of a browser's subscription."""

    channels: list[NotificationChannel]
    email_available: bool
    push_key: str | None


class NotificationsTested(msgspec.Struct, frozen=True):
    """How many channels get a test."""

    channels: int


class Notification(msgspec.Struct, frozen=True):
    """One event for one channel: what was told, or the reason why it was not."""

    endpoint_id: UUID
    channel: EndpointKind
    event_id: str
    order_id: UUID | None
    version: int | None
    event_type: EventType
    status: DeliveryState
    reason: str | None
    attempts: int
    created_at: Instant
    ended_at: Instant | None


class NotificationLog(msgspec.Struct, frozen=True):
    """A page of what was told to a user, newest first."""

    notifications: list[Notification]
    next_cursor: str | None


class Index(msgspec.Struct, frozen=True):
    """Where to begin: addresses on the server."""

    documentation: str
    description: str
    orders: str
    problems: str
    health: str


class ReadinessReport(msgspec.Struct, frozen=True):
    """Whether the process is ready, and what each of its checks found."""

    status: str
    checks: dict[str, str]


class Liveness(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str


class WebhookEndpoint(msgspec.Struct, frozen=True):
    """A URL that is told of a user's orders, and how it does. No `event_types`: it is told of everything."""

    endpoint_id: UUID
    user_id: str
    url: str
    description: str
    event_types: list[EventType]
    every_version: bool
    state: EndpointState
    disabled_reason: str | None
    failing_since: Instant | None
    failures_in_row: int
    waiting: int
    created_at: Instant
    updated_at: Instant
    revision: int


class WebhookSecret(msgspec.Struct, frozen=True):
    """A webhook with its secret, which no other answer shows. `previous_valid_until`: so long the one before signs."""

    webhook: WebhookEndpoint
    secret: str | None
    previous_valid_until: Instant | None


class WebhookList(msgspec.Struct, frozen=True):
    """All webhooks of a user, oldest first."""

    webhooks: list[WebhookEndpoint]


class WebhookAttempt(msgspec.Struct, frozen=True):
    """One attempt to send; `answer` is the beginning of what came back."""

    number: int
    at: Instant
    duration_ms: int
    status: int | None
    error: str | None
    answer: str | None


class WebhookDelivery(msgspec.Struct, frozen=True):
    """What became of one event, and the newest attempts at it."""

    event_id: str
    order_id: UUID | None
    version: int | None
    event_type: EventType
    status: DeliveryState
    reason: str | None
    created_at: Instant
    next_attempt_at: Instant | None
    ended_at: Instant | None
    attempts: int
    last_attempts: list[WebhookAttempt]


class WebhookDeliveries(msgspec.Struct, frozen=True):
    """A page of deliveries, newest first; the next page is asked for with `next_cursor`."""

    deliveries: list[WebhookDelivery]
    next_cursor: str | None


class WebhookRecovery(msgspec.Struct, frozen=True):
    """How many deliveries are to be sent; with `has_more`, ask again with `next_since`."""

    deliveries: int
    has_more: bool
    next_since: Instant | None
