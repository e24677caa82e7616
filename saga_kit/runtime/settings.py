"""The settings of every service, from its environment. A wrong value is reported in one line, without a traceback."""

from __future__ import annotations

import ssl
import sys
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL

from saga_kit.runtime.dsn import parse_database_url

S = TypeVar("S", bound=BaseSettings)
METADATA_MAX_AGE_MS: Final = 2_000
"""The longest time for which a client relies on what it knows of topics, partitions and leaders."""


def _check_database_url(value: SecretStr) -> SecretStr:
    parse_database_url(value.get_secret_value())
    return value


def _check_cafile(path: str) -> str:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # missing, not readable, or without a certificate
        raise ValueError(f"no certificate can be read from {path}: {error.strerror or error}") from None
    return path


class KafkaSettings(BaseSettings):
    """How to reach Kafka, from variables of the same name in upper case."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True)

    kafka_bootstrap_servers: Annotated[str, Field(pattern=r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$")]
    """`host:port`, several with commas."""
    kafka_topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=100)] = ""
    """Put before every topic and consumer group, so that several systems can share a broker."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """`SASL_SSL` wherever the network is not trusted."""
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """How the client proves who it is, with SASL."""
    kafka_sasl_username: str | None = None
    """Its name, with SASL."""
    kafka_sasl_password: SecretStr | None = None
    """Its password, with SASL."""
    kafka_ssl_cafile: Annotated[str, AfterValidator(_check_cafile)] | None = None
    """Whom to trust, in PEM; without it the system's authorities."""

    @model_validator(mode="after")
    def _sasl_has_a_login(self) -> Self:
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(
                f"KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD must be set for {self.kafka_security_protocol}"
            )
        return self

    def kafka_client_options(self) -> dict[str, Any]:
        """Return what every aiokafka client needs to connect."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.kafka_bootstrap_servers.split(","),
            "security_protocol": self.kafka_security_protocol,
        }
        if self.kafka_security_protocol.endswith("SSL"):
            options["ssl_context"] = ssl.create_default_context(cafile=self.kafka_ssl_cafile)
        if self.kafka_security_protocol.startswith("SASL"):
            password = self.kafka_sasl_password
            options["sasl_mechanism"] = self.kafka_sasl_mechanism
            options["sasl_plain_username"] = self.kafka_sasl_username
            options["sasl_plain_password"] = password.get_secret_value() if password else None
        return options


class KitSettings(KafkaSettings):
    """The settings of one process; a service adds its own by subclassing."""

    database_url: Annotated[SecretStr, AfterValidator(_check_database_url)]
    """`postgresql://user:password@host:port/database`, the service's own login. It may have libpq's words (`sslmode`,
    `connect_timeout`, several hosts ...): see [Operating](postgresql.md#the-address-database_url)."""
    kafka_session_timeout_s: Annotated[float, Field(ge=1, le=300)] = 10.0
    """The partitions of a process that was killed come to others after this time. It must be well below the saga's
    patience of 30 s: else orders that wait for that process time out."""
    kafka_fetch_max_wait_ms: Annotated[int, Field(ge=1, le=5000)] = 50
    """How long the broker may hold an empty fetch; new records of a partition that is not part of it wait as long. Once
    no record has come for a second, it may be ten times as long, up to a second."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """The least severe lines that are written."""
    log_format: Literal["console", "json"] = "console"
    """For people, or one JSON object a line."""
    http_host: str = "127.0.0.1"
    """Where the HTTP server listens; `0.0.0.0` in a container."""
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Health and metrics; 0 takes any free port."""

    @property
    def sqlalchemy_url(self) -> URL:
        """The database URL for SQLAlchemy's asyncpg dialect."""
        return parse_database_url(self.database_url.get_secret_value())


def load(settings_class: type[S]) -> S:
    """Read the settings; on wrong values print one line for each to stderr and exit with status 2."""
    try:
        return settings_class()
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            print(_in_words(fault), file=sys.stderr)  # noqa: T201 - logging is not set up before the settings are read
        sys.exit(2)


def _in_words(fault: Any) -> str:
    # The value itself is not repeated: it may be a secret.
    name = ".".join(str(part) for part in fault["loc"]).upper()
    if fault["type"] == "missing":
        return f"{name} is not set"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}" if name else message  # a rule on several names them
