"""Tokens for the REST API, signed with the secret that the API shares (HS256)."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jwt

if TYPE_CHECKING:
    from collections.abc import Sequence

SCOPES: Final = ("orders:read", "orders:write")
"""What a user who trades needs."""
OPERATOR_SCOPES: Final = ("orders:operate",)
"""What an operator who sees the orders of all needs."""
WEBHOOK_SCOPES: Final = ("webhooks:manage",)
"""What a user who manages webhooks needs."""


class Signer(NamedTuple):
    """What tokens are signed with, and the claims `iss` and `aud` where the API asks for them."""

    secret: str
    issuer: str | None = None
    audience: str | None = None

    def sign(self, user: str, scopes: Sequence[str] = SCOPES, ttl_s: int = 3600) -> str:
        """Sign a token for a user, good for `ttl_s` seconds."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "sub": user,
            "scope": " ".join(scopes),
            "iat": now,
            "exp": now + ttl_s,
            "jti": str(uuid.uuid4()),
        }
        claims |= {} if self.issuer is None else {"iss": self.issuer}
        claims |= {} if self.audience is None else {"aud": self.audience}
        return jwt.encode(claims, self.secret, algorithm="HS256")
