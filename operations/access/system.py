"""How an operation finds the system that it works on: the environment first, then a local stack's `stack.json`.

Only this module of `operations` reads the environment.
"""

from __future__ import annotations

import json
import math
import os
import stat
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from operations.access.errors import WrongRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.access.rest import Api
    from operations.access.tokens import Signer
    from saga_kit.messaging.publisher import Publisher
    from saga_kit.runtime.operators import Operators
    from saga_kit.runtime.settings import KafkaSettings

NUMBER_MAX: Final = 1e9
"""Of seconds, days and items a second; what an interval of the database still takes."""
STACK_FILE: Final = Path(".local") / "stack.json"
SERVICES: Final = ("orchestrator", "api", "balance", "assets", "webhooks", "auditor")
"""Those that log in to the database."""


def stack() -> dict[str, Any]:
    """Read the running local stack's addresses; empty when there is none.

    The file says where passwords and tokens are sent, and anybody can leave one in a parent folder such as the one for
    temporary files. So raise `WrongRequest` for a file that another user has made or may change.
    """
    named = os.environ.get("ORDER_SAGA_STACK")
    here = Path.cwd()
    for path in [Path(named)] if named else [folder / STACK_FILE for folder in (here, *here.parents)]:
        if path.is_file():
            return _read_own(path)
    return {}


def _read_own(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except OSError as error:
        raise WrongRequest(f"{path} can't be read: {error.strerror}") from None
    if status.st_uid != os.geteuid():
        raise WrongRequest(f"{path} is another user's (id {status.st_uid}), so it is not believed")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise WrongRequest(f"others may write {path}, so it is not believed: chmod 600 {path}")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise WrongRequest(f"{path} does not describe a local stack")
    return found


def setting(variable: str, key: str) -> str:
    """Find one address, by its environment variable or by its key in `stack.json`. Raises `WrongRequest`."""
    value = os.environ.get(variable) or stack().get(key)
    if not value:
        raise WrongRequest(f"no local stack is running here and {variable} is not set; start one with 'order-saga up'")
    return str(value)


def database_url() -> str:
    """Find the database's address."""
    return setting("DATABASE_URL", "database_url")


def api_url() -> str:
    """Find the REST API's address."""
    return setting("ORDER_API_URL", "api")


def api() -> Api:
    """Find the REST API, and what signs tokens for it."""
    from operations.access.rest import Api

    return Api(api_url().rstrip("/"), signer())


@asynccontextmanager
async def database() -> AsyncIterator[AsyncEngine]:
    """Connect to the system's database for one operation."""
    from operations.access.database import connected

    async with connected(database_url()) as engine:
        yield engine


def kafka_settings() -> KafkaSettings:
    """Read the KAFKA_* settings; take the address, where it is not set, from the local stack."""
    from saga_kit.runtime.settings import KafkaSettings, load

    os.environ.setdefault("KAFKA_BOOTSTRAP_SERVERS", setting("KAFKA_BOOTSTRAP_SERVERS", "kafka_bootstrap_servers"))
    return load(KafkaSettings)


def topic_prefix() -> str:
    """Read KAFKA_TOPIC_PREFIX alone, of a broker that nobody needs to reach. Raises `WrongRequest`."""
    from pydantic import ValidationError

    from saga_kit.runtime.settings import KafkaSettings

    try:
        return KafkaSettings(kafka_bootstrap_servers="none:0", kafka_security_protocol="PLAINTEXT").kafka_topic_prefix
    except ValidationError as error:
        raise WrongRequest(f"KAFKA_TOPIC_PREFIX: {error.errors()[0]['msg']}") from None


@asynccontextmanager
async def publishing(settings: KafkaSettings) -> AsyncIterator[Publisher]:
    """Connect to a broker for one operation."""
    from saga_kit.messaging.publisher import Publisher

    publisher = Publisher(settings, client_id="order-saga-cli")
    try:
        yield publisher
    finally:
        await publisher.stop()


def ledger_setting() -> str:
    """Say where the ledger's views are: a schema, `none`, or empty for the reference balance service's."""
    known = {} if os.environ.get("DATABASE_URL") else stack()  # that stack's, when it is the system that is meant
    named = os.environ.get("LEDGER_VIEWS") or str(known.get("ledger_views") or "")
    return "" if named == "audit" else named


def notify_urls() -> str:
    """Return the channels of operators; empty: there are none."""
    return os.environ.get("NOTIFY_URLS", "")


def webhooks_keys() -> str:
    """Return the keys that seal the secrets of endpoints; empty: they are not set here."""
    return os.environ.get("WEBHOOKS_KEYS", "")


def notified_operators() -> Operators | None:
    """Return whom NOTIFY_URLS names; None: nobody. Raises `WrongRequest` for what is no URL."""
    from saga_kit.runtime.operators import Operators

    urls = notify_urls()
    try:
        return Operators(urls) if urls else None
    except ValueError as error:
        raise WrongRequest(f"NOTIFY_URLS {error}") from None


def without_ledger() -> str:
    """Say where the ledger of another team's balance service is seen beside a local stack: `none` unless it is set."""
    return os.environ.get("LEDGER_VIEWS") or "none"


def signer(secret: str = "") -> Signer:
    """Find what tokens are signed with: this secret, or the one of the system that is found."""
    from operations.access.tokens import Signer

    return Signer(secret or jwt_secret(), os.environ.get("JWT_ISSUER"), os.environ.get("JWT_AUDIENCE"))


def jwt_secret() -> str:
    """Find the secret that signs tokens. Raises `WrongRequest` when there is none that we may have."""
    if secret := os.environ.get("JWT_SECRET"):
        return secret
    if path := stack().get("jwt_secret_file"):
        return Path(path).read_text().strip()
    if os.environ.get("JWT_JWKS_URL"):
        raise WrongRequest("only the issuer whose keys are at JWT_JWKS_URL can sign tokens; get one from there")
    raise WrongRequest("no local stack is running here and JWT_SECRET is not set")


def login_passwords() -> dict[str, str]:
    """Read the password of each login that has one in the environment, by the service's name."""
    names = {service: f"{service.upper()}_DB_PASSWORD" for service in SERVICES}
    return {service: os.environ[variable] for service, variable in names.items() if variable in os.environ}


def login_prefix() -> str:
    """Read what the names of logins begin with."""
    from migrations import PREFIX

    return os.environ.get("DB_LOGIN_PREFIX", PREFIX)


def time_scale() -> float:
    """Read what the orchestrator's patience is multiplied by."""
    text = os.environ.get("ORDER_SAGA_TIME_SCALE", "1")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= NUMBER_MAX:  # which no NaN is
        raise WrongRequest(f"ORDER_SAGA_TIME_SCALE is {text!r}; it must be a number")
    return value


def broker_address() -> str:
    """Name the broker for a message about it."""
    return os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "no address")
