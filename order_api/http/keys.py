"""The keys that check tokens: one shared secret, or the published keys of an issuer (a JWKS). It reads no claims.

A key is bound to one algorithm before any token is seen: a token can choose a key, but never the algorithm. So `none`
and key confusion are impossible. Keys that a token brings along (`jwk`, `jku`, `x5u`) are ignored.
"""

from __future__ import annotations

import asyncio
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from typing import Any, Final, Protocol

import httpx2
import jwt
import msgspec
import structlog
from jwt import PyJWK
from prometheus_client import CollectorRegistry, Counter, Gauge

from order_api.http.problems import Code, Problem
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.errors import describe

REFRESH_S: Final = 300.0
"""How often published keys are fetched: a key that its issuer withdraws is used no longer than this."""
FETCH_S: Final = 5.0
"""For one fetch, from the connection to the last byte."""
PAUSE_S: Final = 5.0
"""Between fetches that tokens cause: a client that invents key ids can't make them more frequent."""
WAIT_S: Final = 2.0
"""For a request whose token names a key that is not known, while the keys are being fetched."""
WAITING_MAX: Final = 64
"""Requests that wait for a fetch; one more is answered at once."""
STALE_S: Final = 86_400.0
"""The longest that keys are used while they can't be fetched again."""
JWKS_BYTES_MAX: Final = 262_144
KEYS_MAX: Final = 100
KINDS: Final = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
"""What is taken from a JWKS: a key's type and curve, and the one algorithm that it is then used with."""

log = structlog.get_logger(__name__)


class JwkSet(msgspec.Struct, frozen=True):
    """What an issuer publishes (RFC 7517); one key is judged at a time."""

    keys: list[Any]


class UnknownKey(jwt.InvalidTokenError):
    """None of the keys has the id that a token names."""


class AmbiguousKey(jwt.InvalidTokenError):
    """A token names no key, and several would fit."""


class KeySource(Protocol):
    """Where the keys come from."""

    @property
    def version(self) -> int:
        """Changes when a key is withdrawn: tokens that it signed are no longer valid."""

    async def key_for(self, kid: str | None, alg: object) -> PyJWK:
        """Return the key for a token with these headers; raise `jwt.PyJWTError` when there is none, or a problem."""


class SharedSecret:
    """One secret that is shared with the issuer of the tokens (HS256). A token's `kid` is ignored."""

    version = 0

    def __init__(self, secret: str) -> None:
        encoded = urlsafe_b64encode(secret.encode()).decode()
        self._key = PyJWK.from_dict({"kty": "oct", "alg": "HS256", "k": encoded})

    async def key_for(self, kid: str | None, alg: object) -> PyJWK:  # noqa: ARG002 - the port's signature
        """Return the secret, whatever the token."""
        return self._key


class JwksKeys:
    """The keys that an issuer publishes (RS256, ES256, EdDSA). They stay in use for `stale_s` while the issuer is away.

    Keys are fetched in the background. A token of a known key never waits. One of an unknown key waits for a fetch, at
    most `WAIT_S`; it is refused at once when the keys were fetched less than `PAUSE_S` ago.
    """

    def __init__(
        self,
        url: str,
        *,
        registry: CollectorRegistry,
        refresh_s: float = REFRESH_S,
        stale_s: float = STALE_S,
        clock: Callable[[], float] = time.monotonic,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Take the address. A request waits for a fetch within `waiting()`, where it is not counted as in flight."""
        self.version = 0
        self._url = url
        self._refresh_s = refresh_s
        self._stale_s = stale_s
        self._clock = clock
        self._while_waiting = waiting
        self._waiting = 0
        self._keys: tuple[PyJWK, ...] = ()
        self._material: frozenset[bytes] = frozenset()
        self._trouble: str | None = "not fetched yet"
        self._fetched_at = self._tried_at = -float("inf")
        self._fetching: asyncio.Task[None] | None = None
        self._tls = httpx2.create_ssl_context()  # once: it reads every certificate authority
        self._fetches = Counter("jwks_fetches", "Fetches of the keys of tokens.", ["outcome"], registry=registry)
        age = Gauge("jwks_age_seconds", "Since the keys of tokens were fetched; +Inf: never.", registry=registry)
        age.set_function(lambda: self._clock() - self._fetched_at)

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep the keys fresh until `stopping`."""
        try:
            await keep_doing("fetch the keys of tokens", self._round, stopping, every_s=self._refresh_s)
        finally:
            if self._fetching is not None:
                self._fetching.cancel()

    async def check(self) -> str | None:
        """Return what is wrong while no token can be checked. An outage of less than `stale_s` is nothing wrong."""
        return None if self._keys else "the keys of tokens could not be fetched"  # the log says why

    async def key_for(self, kid: str | None, alg: object) -> PyJWK:
        """Return the key with this id, or the only one that fits when a token names none."""
        if alg not in KINDS.values():
            raise jwt.InvalidAlgorithmError
        known = True
        if not self._keys or not self._named(kid):
            known = await self._fetched_soon()
        named = self._named(kid)
        if not self._keys or (not named and not known):
            raise Problem(Code.UNAVAILABLE, "the keys that tokens are checked with can't be fetched; nothing was done")
        if not named:
            raise UnknownKey
        fitting = [key for key in named if key.algorithm_name == alg]
        if not fitting:
            raise jwt.InvalidAlgorithmError
        if len(fitting) > 1:
            raise AmbiguousKey
        return fitting[0]

    def _named(self, kid: str | None) -> list[PyJWK]:
        return [key for key in self._keys if kid is None or key.key_id == kid]

    async def _round(self) -> None:
        await self._fetch()
        if self._trouble is not None:
            raise OSError(self._trouble)

    async def _fetched_soon(self) -> bool:
        """Fetch for a token, unless that was done just now; return whether the keys are the issuer's newest."""
        if self._fetching is None and self._clock() - self._tried_at < PAUSE_S:
            return self._trouble is None
        if self._waiting >= WAITING_MAX:
            return False
        fetching = self._begin()
        self._waiting += 1
        try:
            with self._while_waiting():
                await asyncio.wait({fetching}, timeout=WAIT_S)  # a time-out does not end the fetch
        finally:
            self._waiting -= 1
        return fetching.done() and self._trouble is None

    async def _fetch(self) -> None:
        await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[None]:
        """Begin a fetch, unless one is under way."""
        if self._fetching is None:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._replace_keys())
        return self._fetching

    async def _replace_keys(self) -> None:
        try:
            found = _read(await self._download())
        except Exception as error:  # noqa: BLE001 - whatever the issuer's server does: the keys that we have stay
            self._trouble = describe(error)
            self._fetches.labels("failed").inc()
            self._forget_stale()
            return
        finally:
            self._fetching = None
        if not self._material <= found.keys():
            self.version += 1
        self._keys, self._material = tuple(found.values()), frozenset(found)
        self._trouble, self._fetched_at = None, self._clock()
        self._fetches.labels("ok").inc()

    def _forget_stale(self) -> None:
        if self._keys and self._clock() - self._fetched_at > self._stale_s:
            log.error("the keys of tokens are too old to be believed", age_s=round(self._clock() - self._fetched_at))
            self._keys, self._material = (), frozenset()
            self.version += 1

    async def _download(self) -> bytes:
        # Nothing is unpacked and no redirect is followed: the body is what the issuer's own server sent.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        body = bytearray()
        async with (
            asyncio.timeout(FETCH_S),
            httpx2.AsyncClient(verify=self._tls, follow_redirects=False, timeout=FETCH_S, headers=headers) as client,
            client.stream("GET", self._url) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                raise OSError(f"the answer was {answer.status_code}")
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > JWKS_BYTES_MAX:
                    raise ValueError(f"the answer is larger than {JWKS_BYTES_MAX} bytes")
        return bytes(body)


def _read(answer: bytes) -> dict[bytes, PyJWK]:
    """Read a JWKS: the keys that may check a token, by a digest of all that is published about each."""
    members = msgspec.json.decode(answer, type=JwkSet).keys[:KEYS_MAX]
    usable = {sha256(msgspec.json.encode(jwk, order="deterministic")).digest(): _read_key(jwk) for jwk in members}
    found = {digest: key for digest, key in usable.items() if key is not None}
    if not found:
        raise ValueError(f"none of its {len(members)} keys can be used")
    if len(found) < len(members):
        log.info("some keys of the issuer are not used", published=len(members), used=len(found))
    return found


def _read_key(jwk: Any) -> PyJWK | None:
    """Read a public key for signatures; None for any other, and for one that is too weak or broken."""
    try:
        kind = jwk.get("kty"), jwk.get("crv")
        algorithm = next(name for known, name in KINDS.items() if known == kind)
        for_signatures = jwk.get("use", "sig") == "sig" and "verify" in jwk.get("key_ops", ["verify"])
        if not for_signatures or jwk.get("alg", algorithm) != algorithm or "d" in jwk:  # d: published, so no secret
            return None
        key = PyJWK.from_dict(jwk, algorithm)
        return None if key.Algorithm.check_key_length(key.key) else key
    except Exception:  # noqa: BLE001 - one broken key must not hide the others
        return None
