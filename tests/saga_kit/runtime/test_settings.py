"""Settings: each wrong value is reported in one line, without secrets."""

from __future__ import annotations

import pytest

from saga_kit.runtime.settings import KitSettings, load

GOOD = {"DATABASE_URL": "postgresql://u:secret@h:5432/d", "KAFKA_BOOTSTRAP_SERVERS": "a:9092,b:9093"}


class Special(KitSettings):
    """A service with a setting of its own."""

    special_time_scale: float = 1.0


def test_a_service_adds_settings_under_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field's name in upper case is its variable; an empty variable counts as not set."""
    for name, value in {**GOOD, "SPECIAL_TIME_SCALE": "0.1", "HTTP_PORT": ""}.items():
        monkeypatch.setenv(name, value)
    settings = load(Special)
    assert settings.special_time_scale == 0.1
    assert settings.http_port == 8080
    assert settings.kafka_client_options()["bootstrap_servers"] == ["a:9092", "b:9093"]
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"DATABASE_URL": None}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "mysql://u:secret@h/d"}, "DATABASE_URL: must begin with postgresql:// (got mysql://)"),
        ({"DATABASE_URL": "secret"}, "DATABASE_URL: must look like postgresql://user:password@host:port/database"),
        (
            {"DATABASE_URL": "postgresql://u:secret@h"},
            "DATABASE_URL: must name a database: postgresql://user:password@host:port/database",
        ),
        ({"KAFKA_BOOTSTRAP_SERVERS": "localhost"}, "KAFKA_BOOTSTRAP_SERVERS: string should match pattern"),
        (
            {"KAFKA_SSL_CAFILE": "/no/such.pem"},
            "KAFKA_SSL_CAFILE: no certificate can be read from /no/such.pem: No such",
        ),
        ({"KAFKA_SSL_CAFILE": "/dev/null"}, "KAFKA_SSL_CAFILE: no certificate can be read from /dev/null"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "u"},
            "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD must be set for SASL_SSL",
        ),
        ({"HTTP_PORT": "70000"}, "HTTP_PORT: input should be less than or equal to 65535"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: input should be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'"),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_2(
    changes: dict[str, str | None],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each wrong value is one line on stderr that names the variable; the status is 2; no secret is printed."""
    for name, value in {**GOOD, **changes}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        load(KitSettings)
    assert stopped.value.code == 2
    [printed] = capsys.readouterr().err.splitlines()
    assert printed.startswith(line)
    assert "secret" not in printed


def test_sasl_and_tls_reach_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The security settings become aiokafka's options."""
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "u")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "p")
    options = load(KitSettings).kafka_client_options()
    assert options.pop("ssl_context").check_hostname is True
    assert options == {
        "bootstrap_servers": ["a:9092", "b:9093"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
    }
