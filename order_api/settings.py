"""What the API is told by its environment."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field, SecretStr

from saga_kit.settings import KitSettings

SECRET_BYTES_MIN: Final = 32
"""RFC 7518: a key for HS256 is at least as long as its hash."""


def _check_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < SECRET_BYTES_MIN:
        raise ValueError(f"must be at least {SECRET_BYTES_MIN} bytes long")
    return value


class ApiSettings(KitSettings):
    """The settings of one API process."""

    http_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    jwt_secret: Annotated[SecretStr, AfterValidator(_check_secret)]
    """Whoever knows it can sign tokens (HS256) for any user."""
    jwt_issuer: str | None = None
    """When set, a token's `iss` must be this."""
    jwt_audience: str | None = None
    """When set, a token's `aud` must be or contain this."""
    api_body_bytes_max: Annotated[int, Field(ge=256, le=1_048_576)] = 16_384
    """A larger request body is refused with 413."""
    api_database_pool_size: Annotated[int, Field(ge=2, le=100)] = 10
    """Connections of one API process; claims share one, however many requests there are."""
    api_sweep_interval_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How often the sweeper looks for claims and cancels that the orchestrator does not show yet."""
