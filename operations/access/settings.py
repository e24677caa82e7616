"""List all settings of all services, from the classes that validate them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from order_api.settings import ApiSettings
from order_saga.worker.settings import OrchestratorSettings
from participants.assets.service import AssetsSettings
from participants.balance.service import BalanceSettings
from projections.webhooks.settings import WebhooksSettings
from saga_kit.runtime.settings import KitSettings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

SERVICES: Final[dict[str, type[KitSettings]]] = {
    "api": ApiSettings,
    "orchestrator": OrchestratorSettings,
    "balance": BalanceSettings,
    "assets": AssetsSettings,
    "webhooks": WebhooksSettings,
}


class Setting(NamedTuple):
    """One environment variable."""

    variable: str
    services: str
    default: str
    meaning: str


def settings() -> list[Setting]:
    """List every variable once, with the services that read it."""
    found: dict[str, list[str]] = {}
    fields: dict[str, FieldInfo] = {}
    for service, kind in SERVICES.items():
        for name, field in kind.model_fields.items():
            found.setdefault(name, []).append(service)
            fields.setdefault(name, KitSettings.model_fields.get(name, field))
    return [
        Setting(
            name.upper(),
            "all" if len(services) == len(SERVICES) else ", ".join(services),
            "8000 to 8003, 8006" if name == "http_port" else _default(fields[name]),
            " ".join((fields[name].description or "").split()),
        )
        for name, services in found.items()
    ]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    if field.default is None or isinstance(field.default, SecretStr):
        return ""
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
