"""What the compose file gives a service is what the service takes: as it is, and with notifications set up."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from order_api.settings import ApiSettings
from order_saga.worker.settings import OrchestratorSettings
from participants.assets.service import AssetsSettings
from participants.balance.service import BalanceSettings
from projections.webhooks.settings import WebhooksSettings
from saga_kit.runtime.settings import KitSettings
from tests.support.servers import DEPLOY

SETTINGS: dict[str, type[KitSettings]] = {
    "api": ApiSettings, "assets": AssetsSettings, "balance": BalanceSettings, "orchestrator": OrchestratorSettings,
    "webhooks": WebhooksSettings,
}  # fmt: skip
pytestmark = pytest.mark.compose
PORTS = {"api": 8000, "orchestrator": 8001, "balance": 8002, "assets": 8003, "webhooks": 8006}
RELAY = {"NOTIFY_SMTP_URL": "smtps://relay.example", "NOTIFY_FROM": "orders@example.com"}
PUSH = {
    "NOTIFY_VAPID_KEY": "A" * 42 + "E", "NOTIFY_VAPID_CONTACT": "mailto:ops@example.com",
    "API_NOTIFY_PUSH_KEY": "B" + "A" * 86,
}  # fmt: skip


def _environments(**set_by_the_user: str) -> dict[str, dict[str, str]]:
    """Return the environment of each service of ours, as compose makes it."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("NOTIFY", "API_", "WEBHOOKS"))}
    run = subprocess.run(
        ["docker", "compose", "config", "--format", "json"],  # noqa: S607 - the engine that is there
        cwd=DEPLOY.parent, env=ours | set_by_the_user, capture_output=True, text=True, check=True,
    )  # fmt: skip
    services: dict[str, Any] = json.loads(run.stdout)["services"]
    # What is only handed on is null where nobody has set it: Compose's newer versions print it all the same.
    given = {name: services[name]["environment"] for name in SETTINGS}
    return {name: {word: value for word, value in words.items() if value is not None} for name, words in given.items()}


def _settings(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], service: str) -> Any:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return SETTINGS[service]()


@pytest.mark.parametrize("service", SETTINGS)
def test_each_service_takes_its_settings(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the defaults no word is wrong, and each has the port that its health is asked at."""
    taken = _settings(monkeypatch, _environments()[service], service)
    assert PORTS[service] == taken.http_port


def test_by_default_nobody_is_told_by_email_or_push(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has no relay and no key, and the API refuses such preferences; webhooks go to the internet alone."""
    environments = _environments()
    sending = _settings(monkeypatch, environments["webhooks"], "webhooks")
    assert (None, None, "") == (sending.notify_smtp_url, sending.notify_vapid_key, sending.webhooks_allow_networks)
    asked = _settings(monkeypatch, environments["api"], "api")
    assert (False, None, "") == (asked.api_notify_email, asked.api_notify_push_key, asked.webhooks_allow_networks)
    assert sending.webhooks_keys == asked.webhooks_keys


def test_with_a_relay_and_keys_both_processes_know_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API takes addresses because there is a relay; the pair of keys is given to the two that need a part of it."""
    environments = _environments(**RELAY, **PUSH)
    sending = _settings(monkeypatch, environments["webhooks"], "webhooks")
    assert RELAY["NOTIFY_SMTP_URL"] == sending.notify_smtp_url.get_secret_value()
    assert PUSH["NOTIFY_VAPID_KEY"] == sending.notify_vapid_key.get_secret_value()
    asked = _settings(monkeypatch, environments["api"], "api")
    assert (True, PUSH["API_NOTIFY_PUSH_KEY"]) == (asked.api_notify_email, asked.api_notify_push_key)
    assert not RELAY.keys() & environments["api"].keys()
