"""Writes `values.schema.json` of the Helm chart: Helm refuses a value that the chart does not know, by name.

Which settings a process takes is asked of the class that checks them, so a setting that is misspelled is refused before
anything is installed, and a secret has no place among the values. `make docs` runs it.
"""

from __future__ import annotations

import json
from typing import Any, Final, get_args

from pydantic import SecretStr

from contracts.topics import TOPICS
from docs.generate.kubernetes import CHART
from operations.access.settings import SERVICES

SCHEMA: Final = CHART / "values.schema.json"

GIVEN: Final = frozenset(
    {
        *("HTTP_HOST", "HTTP_PORT", "LOG_LEVEL", "LOG_FORMAT", "DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS"),
        *("KAFKA_TOPIC_PREFIX", "KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME"),
        *("KAFKA_SASL_PASSWORD", "KAFKA_SSL_CAFILE", "JWT_SECRET", "JWT_JWKS_URL", "JWT_ISSUER", "JWT_AUDIENCE"),
        "WEBHOOKS_KEYS",
    }
)
"""Settings that have values of their own: a second place for them would contradict the first."""
COMMANDS: Final = {"audit": (("LEDGER_VIEWS",), ("NOTIFY_URLS",))}
"""Processes that are commands: what they read of the environment besides, and of that, what is secret."""
OF_ALL: Final = ("OTEL_EXPORTER_OTLP_HEADERS",)
"""What may be a secret of every process."""

_Schema = dict[str, Any]
_TEXT: Final[_Schema] = {"type": "string"}
_FLAG: Final[_Schema] = {"type": "boolean"}
_ANYTHING: Final[_Schema] = {"type": "object"}
_LIST: Final[_Schema] = {"type": "array", "items": _ANYTHING}
_KEY: Final[_Schema] = {"type": "string", "pattern": "^[-._a-zA-Z0-9]+$"}
_NAME: Final = "[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_PORT: Final[_Schema] = {"type": "integer", "minimum": 1, "maximum": 65535}
_BOUNDS: Final = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
"""What Helm's schema takes of ours: not patterns, which are Python's."""
_SCALAR: Final[_Schema] = {"type": ["string", "number", "boolean"]}


def variables(service: str, *, secret: bool) -> list[str]:
    """Name the settings that a process takes besides those in `GIVEN`: those that are secret, or the others."""
    if service in COMMANDS:
        return sorted(COMMANDS[service][secret])
    fields = SERVICES[service].model_fields.items()
    return sorted({name.upper() for name, field in fields if _is_secret(field.annotation) is secret} - GIVEN)


def schema() -> _Schema:
    """Make the schema of all values (JSON Schema, draft 7, which Helm reads)."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart order-saga",
        **_object(
            image=_image(),
            secret=_text(f"^{_NAME}$", 253),
            cell=_text("^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$", 32),
            kafka=_kafka(),
            database=_object(loginPrefix=_text("^([a-z_][a-z0-9_]{0,39})?$"), caKey=_or_empty(_KEY)),
            auth=_auth(),
            log=_object(
                level={"enum": ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]}, format={"enum": ["console", "json"]}
            ),
            otel={**_object(), "patternProperties": {"^OTEL_[A-Z0-9_]+$": _SCALAR}},
            services=_object(**{name: _service(name) for name in (*SERVICES, *COMMANDS)}),
            resources=_ANYTHING,
            hooks=_object(migrate=_hook(), topics=_hook(check=_FLAG), checkDeploy=_hook()),
            keda=_object(enabled=_FLAG, steps={"type": "array", "minItems": 1, "items": _step()}),
            autoscaling=_object(enabled=_FLAG, maxReplicas=_number(1), cpuPercent=_number(1, 100)),
            networkPolicy=_network(),
            ingress=_ingress(),
            monitoring=_object(
                enabled=_FLAG, labels=_ANYTHING, intervalSeconds=_number(1, 300), runbooks=_TEXT, dashboards=_FLAG
            ),
            serviceAccountName=_text(f"^({_NAME})?$", 253),
            priorityClassName=_text(f"^({_NAME})?$", 253),
            nodeSelector=_ANYTHING,
            tolerations=_LIST,
            podAnnotations=_ANYTHING,
            # What Helm itself adds when the chart is a part of another one.
            **{"global": _ANYTHING},
        ),
    }


def text() -> str:
    """Write the schema as the file has it."""
    return json.dumps(schema(), indent=2) + "\n"


def _service(name: str) -> _Schema:
    topics = {"type": "array", "items": {"enum": [topic.name for topic in TOPICS]}, "minItems": 1}
    needed = ["enabled", "args", "port", "replicas"]
    one = _object(
        enabled=_FLAG,
        args={"type": "array", "items": _TEXT, "minItems": 1},
        port=_PORT,
        replicas=_number(1),
        login=_text(f"^{_NAME}$"),
        kafka=_FLAG,
        consumes={"type": "object", "additionalProperties": topics},
        internet=_FLAG,
        preStopSeconds=_number(0, 30),
        resources=_ANYTHING,
        settings=_object(**_values(name)),
        secretSettings=_object(**dict.fromkeys((*variables(name, secret=True), *OF_ALL), _KEY)),
    )
    return {**one, "required": needed}


def _values(service: str) -> dict[str, _Schema]:
    """Say what each setting of a process may be: the bounds of its class, so far as a schema can tell them."""
    told = {} if service in COMMANDS else SERVICES[service].model_json_schema()["properties"]
    return {name: _value(told.get(name.lower(), _TEXT)) for name in variables(service, secret=False)}


def _value(told: _Schema) -> _Schema:
    one = next((each for each in told.get("anyOf", ()) if each["type"] != "null"), told)
    return {word: one[word] for word in _BOUNDS if word in one}


def _image() -> _Schema:
    return _object(
        repository={"type": "string", "minLength": 1},
        tag=_text("^([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$"),
        digest=_text("^(sha256:[0-9a-f]{64})?$"),
        pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        pullSecrets={"type": "array", "items": _text(f"^{_NAME}$")},
    )


def _kafka() -> _Schema:
    fields = SERVICES["api"].model_fields
    return _object(
        bootstrapServers=_text(r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$"),
        securityProtocol={"enum": list(get_args(fields["kafka_security_protocol"].annotation))},
        saslMechanism={"enum": list(get_args(fields["kafka_sasl_mechanism"].annotation))},
        usernames=_object(**dict.fromkeys((*SERVICES, "admin"), _TEXT)),
        caKey=_or_empty(_KEY),
        replication=_number(1, 32),
    )


def _auth() -> _Schema:
    # Without an audience, a token that this issuer made for any other service would be taken.
    all_of_them = {name: {"minLength": 1} for name in ("issuer", "audience")}
    return {
        **_object(jwksUrl=_text("^(https?://.+)?$"), issuer=_TEXT, audience=_TEXT),
        "if": {"properties": {"jwksUrl": {"minLength": 1}}},
        "then": {"properties": all_of_them},
    }


def _hook(**more: _Schema) -> _Schema:
    return _object(enabled=_FLAG, deadlineSeconds=_number(1), **more)


def _step() -> _Schema:
    partitions = TOPICS[0].partitions
    even = [number for number in range(2, partitions + 1) if partitions % number == 0]
    return {**_object(lag=_number(1), replicas={"enum": even}), "required": ["lag", "replicas"]}


def _network() -> _Schema:
    return _object(
        enabled=_FLAG,
        ingressFrom=_LIST,
        monitoringFrom=_LIST,
        databasePort=_PORT,
        kafkaPorts=_object(first=_PORT, last=_PORT),
        otelPort=_PORT,
        smtpPort=_number(0, 65535),
        extraEgress=_LIST,
    )


def _ingress() -> _Schema:
    return {
        **_object(
            enabled=_FLAG,
            className=_TEXT,
            host=_text(rf"^((\*\.)?{_NAME})?$"),
            tlsSecret=_text(f"^({_NAME})?$"),
            annotations=_ANYTHING,
            paths={"type": "array", "items": _text("^/[^ ]*$")},
        ),
        "if": {"properties": {"enabled": {"const": True}}},
        "then": {"properties": {"host": {"minLength": 1}}},
    }


def _object(**properties: _Schema) -> _Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _text(pattern: str, longest: int | None = None) -> _Schema:
    return {"type": "string", "pattern": pattern, **({} if longest is None else {"maxLength": longest})}


def _number(least: int, most: int | None = None) -> _Schema:
    return {"type": "integer", "minimum": least, **({} if most is None else {"maximum": most})}


def _or_empty(one: _Schema) -> _Schema:
    return {"anyOf": [{"const": ""}, one]}


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


if __name__ == "__main__":
    SCHEMA.write_text(text())
