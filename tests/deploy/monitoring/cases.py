"""When each alert fires and when it keeps quiet: series of samples 15 s apart, as `promtool test rules` reads them."""

from __future__ import annotations

from typing import Final, NamedTuple


class Case(NamedTuple):
    """What Prometheus has scraped, and what the alert has to say at `at`: its labels and its summary, or nothing."""

    alert: str
    series: dict[str, str]
    at: str
    fires: dict[str, str] | None = None
    summary: str = ""


def _of(metric: str, job: str = "orchestrator", **labels: str) -> str:
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f'{metric}{{release="order-saga",job="{job}"{more}}}'


def _requests(failed: str, good: str, route: str = "/orders") -> dict[str, str]:
    count = "http_server_request_duration_seconds_count"
    return {
        _of(count, "api", route=route, method="POST", status="503"): failed,
        _of(count, "api", route=route, method="POST", status="202"): good,
    }


def _late(group: str, lag: str, taken: str, job: str = "orchestrator") -> dict[str, str]:
    return {_of(f"{group}consumer_lag_messages", job): lag, _of(f"{group}batch_size_sum", job): taken}


def _orders(quick: str, all_of_them: str, may_wait: str = "false") -> dict[str, str]:
    return {
        _of("order_duration_seconds_bucket", may_wait=may_wait, le="5.0"): quick,
        _of("order_duration_seconds_count", may_wait=may_wait): all_of_them,
    }


_WANTED: Final = {_of("order_saga_processes_wanted", "api"): "2x60"}
_API: Final = {"job": "api"}
_SAGA: Final = {"job": "orchestrator"}
_BURNS: Final = "ApiErrorBudgetBurns"
_SLOW: Final = "OrderErrorBudgetBurns"
_THREE: Final = "of the API's requests fail"

FIRING: Final = {
    "an order is parked": Case(
        "OrdersParked", {_of("saga_parked_orders", pod="a"): "3x20", _of("saga_parked_orders", pod="b"): "3x20"}, "2m",
        {}, "3 orders wait for an operator",
    ),
    "an order is overdue": Case(
        "OrdersOverdue", {_of("saga_overdue_orders"): "1x20"}, "3m",
        {}, "1 orders have waited for an answer for longer than they should",
    ),
    "a message is not sent": Case(
        "OutboxNotSent", {_of("outbox_oldest_unsent_seconds", "balance"): "0+15x30"}, "5m",
        {"job": "balance"}, "balance has had a message to send for 5m 0s",
    ),
    "there are dead letters": Case(
        "DeadLetters", {_of("dead_letters", "balance", pod=pod): "2x20" for pod in "ab"},
        "2m", {"job": "balance"}, "2 dead letters of balance",
    ),
    "more comes than is carried": Case(
        "ConsumersLate", _late("", "4000x40", "0+1500x40"), "5m", _SAGA, "A record waits 40s for orchestrator",
    ),
    "cancels are late": Case(
        "ConsumersLate", _late("cancels_", "4000x40", "0+1500x40"), "5m", _SAGA, "A record waits 40s for orchestrator",
    ),
    "prices are late": Case(
        "ConsumersLate", _late("triggers_", "8000x40", "0+1500x40"), "5m", _SAGA,
        "A record waits 1m 20s for orchestrator",
    ),
    "holds of services are late": Case(
        "ConsumersLate", _late("holds_", "4000x40", "0+1500x40", "balance"), "5m", {"job": "balance"},
        "A record waits 40s for balance",
    ),
    "a consumer stands still": Case(
        "ConsumersLate", _late("", "5x40", "700x40"), "5m", _SAGA, "A record waits +Inf for orchestrator",
    ),
    "the audit finds something": Case(
        "AuditFinding", {_of("audit_findings", "audit", invariant="I2"): "0x4 1x4",
                         _of("audit_findings", "audit", invariant="I3"): "0x9"},
        "90s", {"invariant": "I2"}, "The audit finds that I2 does not hold, 1 times",
    ),
    "the audit hangs": Case(
        "AuditStale", {_of("audit_last_success_timestamp_seconds", "audit"): "60x200"}, "45m",
        {}, "No audit has come to its end for half an hour",
    ),
    "there is no audit": Case(
        "AuditStale", {_of("up", "api"): "1x60"}, "12m", {}, "No audit has come to its end for half an hour",
    ),
    "many requests fail": Case(_BURNS, _requests("0+3x280", "0+97x280"), "1h", {}, f"3% {_THREE}"),
    "a few requests fail for hours": Case(_BURNS, _requests("0+1x1700", "0+99x1700"), "7h", {}, f"1% {_THREE}"),
    "many orders are slow": Case(
        _SLOW, _orders("0+80x280", "0+100x280"), "1h", {}, "20% of the orders take longer than 5 s"
    ),
    "some orders are slow for hours": Case(
        _SLOW, _orders("0+92x1700", "0+100x1700"), "7h", {}, "8% of the orders take longer than 5 s"
    ),
    "no events are heard": Case(
        "FollowersLost", {_of("order_events_followed", "api", pod="a"): "1x20",
                          _of("order_events_followed", "api", pod="b"): "0x20"},
        "3m", _API, "An API process hears nothing of events or prices",
    ),
    "no holds are heard": Case(
        "FollowersLost", {_of("hold_events_followed", "api"): "0x20"}, "3m", _API,
        "An API process hears nothing of events or prices",
    ),
    "no prices are heard": Case(
        "FollowersLost", {_of("asset_prices_followed", "api"): "0x20"}, "3m", _API,
        "An API process hears nothing of events or prices",
    ),
    "a pause is forgotten": Case(
        "ParticipantPaused", {_of("saga_participant_paused", participant="balance"): "1x160"}, "31m",
        {"participant": "balance"}, "balance has been paused for half an hour",
    ),
    "one of two processes is gone": Case(
        "ProcessesMissing", {**_WANTED, _of("up", "api", pod="a"): "1x60", _of("up", "api", pod="b"): "0x60"}, "6m",
        _API, "Fewer than 2 processes of api answer",
    ),
    "all processes are gone": Case(
        "ProcessesMissing", _WANTED, "6m", _API, "Fewer than 2 processes of api answer",
    ),
    "the issuer is away": Case(
        "TokenKeysOld", {_of("jwks_age_seconds", "api"): "3600+15x60"}, "10m", {},
        "The keys of tokens were last fetched 1h 10m 0s ago",
    ),
    "the issuer never answered": Case(
        "TokenKeysOld", {_of("jwks_age_seconds", "api"): " ".join(["Inf"] * 60)}, "10m", {},
        "The keys of tokens were last fetched +Inf ago",
    ),
}  # fmt: skip

QUIET: Final = {
    "no order is parked": Case("OrdersParked", {_of("saga_parked_orders"): "0x20"}, "5m"),
    "an order has just been parked": Case("OrdersParked", {_of("saga_parked_orders"): "0x3 1x20"}, "75s"),
    "another system's order is parked": Case(
        "OrdersParked", {'saga_parked_orders{release="other",job="orchestrator"}': "1x20"}, "5m"
    ),
    "an order is overdue for a minute": Case("OrdersOverdue", {_of("saga_overdue_orders"): "0x3 1x20"}, "2m"),
    "messages are sent within seconds": Case("OutboxNotSent", {_of("outbox_oldest_unsent_seconds"): "29x20"}, "5m"),
    "the broker has just been lost": Case(
        "OutboxNotSent", {_of("outbox_oldest_unsent_seconds"): "0x3 100x20"}, "75s"
    ),
    "dead letters that have just come": Case("DeadLetters", {_of("dead_letters"): "0x3 2x20"}, "75s"),
    "dead letters that were replayed": Case("DeadLetters", {_of("dead_letters"): "2x6 0x20"}, "3m"),
    "a queue that is soon empty": Case("ConsumersLate", _late("", "2000x40", "0+1500x40"), "5m"),
    "a burst": Case("ConsumersLate", _late("", "0x7 4000x40", "0+1500x60"), "3m"),
    "a record that was just there": Case("ConsumersLate", _late("", "0 1 0x40", "0x40"), "2m30s"),
    "nothing to do": Case("ConsumersLate", _late("", "0x40", "700x40"), "5m"),
    "the audit finds nothing": Case("AuditFinding", {_of("audit_findings", "audit", invariant="I2"): "0x20"}, "5m"),
    "the audit ends every five minutes": Case(
        "AuditStale", {_of("audit_last_success_timestamp_seconds", "audit"): "0+15x240"}, "60m"
    ),
    "the audit has just been started": Case("AuditStale", {_of("up", "audit"): "1x20"}, "5m"),
    "errors within the objective": Case(_BURNS, _requests("0+1x1700", "0+1999x1700"), "7h"),
    "errors that have ended": Case(_BURNS, _requests("0+3x240 720x200", "0+97x440"), "1h35m"),
    "readiness that says 503": Case(_BURNS, _requests("0+3x280", "0+97x280", "/health/ready"), "1h"),
    "no requests at all": Case(_BURNS, _requests("0x280", "0x280"), "1h"),
    "slow orders within the objective": Case(_SLOW, _orders("0+995x1700", "0+1000x1700"), "7h"),
    "slow orders that have ended": Case(_SLOW, _orders("0+80x240 19200+100x200", "0+100x440"), "1h35m"),
    "orders that wait for the market": Case(_SLOW, _orders("0x1700", "0+100x1700", "true"), "7h"),
    "no orders at all": Case(_SLOW, _orders("0x280", "0x280"), "1h"),
    "all is heard": Case("FollowersLost", {_of("order_events_followed", "api"): "1x20"}, "3m"),
    "a broker that was away for a minute": Case(
        "FollowersLost", {_of("order_events_followed", "api"): "1x3 0x4 1x20"}, "100s"
    ),
    "a pause of 29 minutes": Case(
        "ParticipantPaused", {_of("saga_participant_paused", participant="balance"): "1x160"}, "29m"
    ),
    "two of two processes": Case(
        "ProcessesMissing", {**_WANTED, _of("up", "api", pod="a"): "1x60", _of("up", "api", pod="b"): "1x60"}, "6m"
    ),
    "a process that is replaced": Case(
        "ProcessesMissing",
        {**_WANTED, _of("up", "api", pod="a"): "1x60", _of("up", "api", pod="b"): "1x4 0x8 1x40"}, "3m",
    ),
    "keys that have just become old": Case("TokenKeysOld", {_of("jwks_age_seconds", "api"): "300x3 4000x60"}, "4m"),
    "keys of five minutes ago": Case("TokenKeysOld", {_of("jwks_age_seconds", "api"): "300x60"}, "10m"),
}  # fmt: skip
