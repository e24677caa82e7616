"""Finds the caller: bearer tokens (JWT), verified by PyJWT, remembered until they expire or their key is withdrawn.

It knows no order. Which key and algorithm check a token is the matter of `keys`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

import jwt
import msgspec
from starlette.datastructures import Headers

from contracts.vocabulary import NAME_RULE, OPERATOR_PREFIX, UserId
from order_api.http.keys import AmbiguousKey, KeySource, UnknownKey
from order_api.http.problems import Code, Problem

REMEMBERED_MAX: Final = 10_000
"""Verified tokens in memory: checking a signature costs a thousand times more than a lookup."""
EXP_MAX: Final = 253_402_300_800
"""The year 10000: a claim `exp` beyond it is a mistake."""
LEEWAY_S: Final = 5.0
"""How far the issuer's clock and this one may be apart."""
_REALM: Final = 'Bearer realm="orders"'
_TOKEN_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")


class Scope(StrEnum):
    """What a token may allow."""

    READ = "orders:read"
    WRITE = "orders:write"
    ACT_FOR_USERS = "orders:act-for-users"
    """Do for any user what that user may do."""
    OPERATE = "orders:operate"
    """Read, cancel and change any order, in the operator's own name."""
    READ_HOLDS = "holds:read"
    WRITE_HOLDS = "holds:write"
    """Hold any user's money, and capture it: for services, never for a trader's token."""
    MANAGE_WEBHOOKS = "webhooks:manage"
    """Have URLs told of one's own orders."""


_FOR_SERVICES: Final = frozenset({Scope.ACT_FOR_USERS, Scope.WRITE_HOLDS})


class Caller(msgspec.Struct, frozen=True):
    """The sender of a request: the token's `sub` and scopes, until it expires (seconds since the epoch).

    `token_id` names the token in the audit trail: its `jti`, or a part of its hash.
    """

    user_id: str
    scopes: frozenset[str]
    token_id: str
    expires_at: float

    @property
    def one_user(self) -> str | None:
        """The user for whose limits this caller counts; None for a trusted service that sends for many."""
        return self.user_id if self.scopes.isdisjoint(_FOR_SERVICES) else None

    def acts_for(self, user_id: str) -> bool:
        """Return whether this caller may act in the name of a user."""
        return user_id == self.user_id or Scope.ACT_FOR_USERS in self.scopes

    def name_for(self, user_id: str) -> str:
        """Return in whose name this caller changes a user's orders: the user's, or @operator:<name> as an operator."""
        return user_id if self.acts_for(user_id) else OPERATOR_PREFIX + self.user_id

    def sees(self, user_id: str) -> bool:
        """Return whether this caller may see a user's orders."""
        return self.acts_for(user_id) or Scope.OPERATE in self.scopes

    def need(self, *any_of: Scope) -> None:
        """Refuse a caller that has none of these scopes."""
        if self.scopes.isdisjoint(any_of):
            challenge = f'{_REALM}, error="insufficient_scope", scope="{any_of[0]}"'
            raise Problem(
                Code.INSUFFICIENT_SCOPE, f"the scope {any_of[0]} is needed", headers={"www-authenticate": challenge}
            )


class Tokens:
    """Verifies tokens. `issuer` and `audience` are demanded when given, `exp` and `sub` always."""

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        leeway_s: float = LEEWAY_S,
        clock: Callable[[], float] = time.time,
        remembered_max: int = REMEMBERED_MAX,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s
        self._clock = clock
        self._remembered_max = remembered_max
        self._remembered: dict[bytes, Caller] = {}
        self._version = keys.version

    async def caller(self, headers: Headers) -> Caller:
        """Return the caller; raise the 401 problem of a missing or bad token, a 503 while no token can be checked."""
        given = headers.getlist("authorization")
        if len(given) > 1:  # a proxy may have judged the other one
            raise _invalid("the header Authorization must come once")
        scheme, _, token = (given or [""])[0].partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Problem(Code.MISSING_TOKEN, headers={"www-authenticate": _REALM})
        token = token.strip()
        digest = sha256(token.encode()).digest()
        if self._version != self._keys.version:  # a key was withdrawn: what it signed is verified anew
            self._remembered.clear()
            self._version = self._keys.version
        caller = self._remembered.get(digest)
        if caller is None:
            caller = self._read(await self._verified(token), digest)
            self._remember(digest, caller)
        elif caller.expires_at <= self._clock():
            del self._remembered[digest]
            raise _invalid("the token has expired")
        return caller

    async def _verified(self, token: str) -> dict[str, Any]:
        required = ["exp", "sub", *(["iss"] if self._issuer else []), *(["aud"] if self._audience else [])]
        try:
            header = jwt.get_unverified_header(token)
            key = await self._keys.key_for(header.get("kid"), header.get("alg"))
            return jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_s,
                options={
                    "require": required,
                    "verify_aud": self._audience is not None,
                    "enforce_minimum_key_length": True,
                },
            )
        except jwt.PyJWTError as error:
            raise _invalid(_in_words(error)) from None
        except (ValueError, TypeError, OverflowError, RecursionError):  # what hostile JSON does to its parser
            raise _invalid("the token can't be read") from None

    def _read(self, claims: Mapping[str, Any], digest: bytes) -> Caller:
        try:
            user_id = msgspec.convert(claims["sub"], UserId)
        except msgspec.ValidationError:
            raise _invalid(f"the claim sub must be {NAME_RULE}") from None
        scopes = claims.get("scope", claims.get("scopes", ()))
        if isinstance(scopes, str):
            scopes = scopes.split()
        if not isinstance(scopes, list | tuple):
            raise _invalid("the claim scope must be words with spaces between, or scopes a list of words")
        if isinstance(claims["exp"], str | bool) or not 0 < claims["exp"] < EXP_MAX:
            raise _invalid("the claim exp must be a time in seconds since 1970")
        expires_at = int(claims["exp"]) + self._leeway_s
        words = frozenset(scope for scope in scopes if isinstance(scope, str))
        return Caller(user_id, words, _token_id(claims, digest), expires_at)

    def _remember(self, digest: bytes, caller: Caller) -> None:
        if len(self._remembered) >= self._remembered_max:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = caller


def _token_id(claims: Mapping[str, Any], digest: bytes) -> str:
    token_id = claims.get("jti")
    if isinstance(token_id, str) and _TOKEN_ID.fullmatch(token_id):
        return token_id
    return "sha256:" + digest.hex()[:16]


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
    UnknownKey: "the token is signed with a key that its issuer does not publish",
    AmbiguousKey: "the token does not say with which key (kid) it is signed",
}


def _invalid(why: str) -> Problem:
    challenge = f'{_REALM}, error="invalid_token", error_description="{why}"'
    return Problem(Code.INVALID_TOKEN, why, headers={"www-authenticate": challenge})
