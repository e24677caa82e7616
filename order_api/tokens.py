"""Who calls: bearer tokens (JWT), verified by PyJWT, remembered until they expire. Never which order it is about.

The algorithms are those of the key source, never the token's own choice, so `none` and key confusion have no way in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, Protocol

import jwt
import msgspec

from contracts.vocabulary import NAME_RULE, UserId
from order_api.problems import Code, Problem

REMEMBERED_MAX: Final = 10_000
"""Verified tokens that are kept: checking a signature costs a thousand times more than a lookup."""
_REALM: Final = 'Bearer realm="orders"'


class Scope(StrEnum):
    """What a token may allow."""

    READ = "orders:read"
    WRITE = "orders:write"
    ACT_FOR_USERS = "orders:act-for-users"
    """Do for any user what that user may do."""
    OPERATE = "orders:operate"
    """Read and cancel any order, in the operator's own name."""


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request: the token's `sub` and scopes, until it expires (seconds since the epoch)."""

    user_id: str
    scopes: frozenset[str]
    expires_at: float

    def acts_for(self, user_id: str) -> bool:
        """Tell whether this caller may act in the name of a user."""
        return user_id == self.user_id or Scope.ACT_FOR_USERS in self.scopes

    def sees(self, user_id: str) -> bool:
        """Tell whether a user's orders exist for this caller."""
        return self.acts_for(user_id) or Scope.OPERATE in self.scopes

    def need(self, *any_of: Scope) -> None:
        """Refuse a caller that has none of these scopes."""
        if self.scopes.isdisjoint(any_of):
            challenge = f'{_REALM}, error="insufficient_scope", scope="{any_of[0]}"'
            raise Problem(
                Code.INSUFFICIENT_SCOPE, f"the scope {any_of[0]} is needed", headers={"www-authenticate": challenge}
            )


class KeySource(Protocol):
    """Where the keys come from that tokens are signed with."""

    @property
    def algorithms(self) -> Sequence[str]:
        """The only algorithms that its keys are used with."""

    async def key_for(self, token: str) -> Any:
        """Return the key for PyJWT to check this token with; raise `jwt.PyJWTError` when there is none."""


class SharedSecret:
    """One secret that the issuer of the tokens knows, too (HS256)."""

    algorithms: Sequence[str] = ("HS256",)

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    async def key_for(self, token: str) -> bytes:  # noqa: ARG002 - the port's signature
        """Return the secret, whatever the token."""
        return self._secret


class Tokens:
    """Verifies tokens. `issuer` and `audience` are demanded when given, `exp` and `sub` always."""

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        clock: Callable[[], float] = time.time,
        remembered_max: int = REMEMBERED_MAX,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._remembered_max = remembered_max
        self._remembered: dict[bytes, Caller] = {}

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        """Say who calls; raise the 401 problem for a missing or bad token."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Problem(Code.MISSING_TOKEN, headers={"www-authenticate": _REALM})
        token = token.strip()
        digest = sha256(token.encode()).digest()
        caller = self._remembered.get(digest)
        if caller is None:
            caller = _read(await self._verified(token))
            self._remember(digest, caller)
        elif caller.expires_at <= self._clock():
            del self._remembered[digest]
            raise _invalid("the token has expired")
        return caller

    async def _verified(self, token: str) -> dict[str, Any]:
        required = ["exp", "sub", *(["iss"] if self._issuer else []), *(["aud"] if self._audience else [])]
        try:
            return jwt.decode(
                token,
                await self._keys.key_for(token),
                algorithms=self._keys.algorithms,
                issuer=self._issuer,
                audience=self._audience,
                options={"require": required, "verify_aud": self._audience is not None},
            )
        except jwt.PyJWTError as error:
            raise _invalid(_in_words(error)) from None
        except (ValueError, TypeError, OverflowError, RecursionError):  # what a stranger's JSON makes of its parser
            raise _invalid("the token can't be read") from None

    def _remember(self, digest: bytes, caller: Caller) -> None:
        if len(self._remembered) >= self._remembered_max:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = caller


def _read(claims: Mapping[str, Any]) -> Caller:
    try:
        user_id = msgspec.convert(claims["sub"], UserId)
    except msgspec.ValidationError:
        raise _invalid(f"the claim sub must be {NAME_RULE}") from None
    scopes = claims.get("scope", claims.get("scopes", ()))
    if isinstance(scopes, str):
        scopes = scopes.split()
    if not isinstance(scopes, list | tuple):
        raise _invalid("the claim scope must be words with spaces between, or scopes a list of words")
    return Caller(user_id, frozenset(scope for scope in scopes if isinstance(scope, str)), float(claims["exp"]))


def _in_words(error: jwt.PyJWTError) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"the claim {error.claim} is missing"
    return next((words for kind, words in _WORDS.items() if isinstance(error, kind)), "the token can't be read")


_WORDS: Final[dict[type[jwt.PyJWTError], str]] = {
    jwt.ExpiredSignatureError: "the token has expired",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidIssuerError: "the token is from another issuer",
    jwt.InvalidAudienceError: "the token is for another audience",
    jwt.InvalidAlgorithmError: "the token is signed with another algorithm than is used here",
    jwt.InvalidSignatureError: "the token's signature is wrong",
}


def _invalid(why: str) -> Problem:
    challenge = f'{_REALM}, error="invalid_token", error_description="{why}"'
    return Problem(Code.INVALID_TOKEN, why, headers={"www-authenticate": challenge})
