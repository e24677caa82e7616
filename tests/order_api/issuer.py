"""An issuer of tokens with keys of its own, who publishes them over HTTP, or answers whatever a test wants."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.support.listening import listening

ALGORITHMS: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def private_key(alg: str) -> Any:
    """Make a key for an algorithm."""
    if alg == "RS256":
        return generate_rsa_key(65537, 2048)
    return generate_private_key(SECP256R1()) if alg == "ES256" else Ed25519PrivateKey.generate()


def published(alg: str, key: Any, **members: Any) -> dict[str, Any]:
    """Write a key's public half as a JWK; a member given as None is left out."""
    jwk = {**ALGORITHMS[alg].to_jwk(key.public_key(), as_dict=True), "alg": alg, "use": "sig", **members}
    return {name: value for name, value in jwk.items() if value is not None}


@dataclass
class Issuer:
    """Signs tokens and publishes the keys; `fetches` counts how often it was asked."""

    url: str = ""
    private: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """By key id: the algorithm and the key."""
    jwks: list[Any] = field(default_factory=list)
    """What is published."""
    raw: bytes | None = None
    """Answered instead of the keys: a whole HTTP answer."""
    pause_s: float = 0.0
    """Between the bytes of an answer given as `raw`, else before the answer."""
    away: bool = False
    """Hang up without a word."""
    fetches: int = 0

    def add(self, kid: str, alg: str = "ES256", **members: Any) -> None:
        """Make a key and publish it."""
        key = private_key(alg)
        self.private[kid] = alg, key
        self.jwks.append(published(alg, key, kid=kid, **members))

    def withdraw(self, kid: str) -> None:
        """Publish a key no longer; it can still sign."""
        self.jwks = [jwk for jwk in self.jwks if jwk.get("kid") != kid]

    def sign(self, kid: str, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Sign a token with a key; a header or claim given as None is left out."""
        alg, key = self.private[kid]
        payload = {"sub": "alice", "scope": "orders:read", "exp": int(time.time()) + 600, **claims}
        header = {"kid": kid, **(headers or {})}
        return jwt.encode(
            {name: value for name, value in payload.items() if value is not None},
            key,
            alg,
            {name: value for name, value in header.items() if value is not None},
        )

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.fetches += 1
            if self.raw is not None and self.pause_s:
                for byte in self.raw:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(self.pause_s)
            elif not self.away:
                await asyncio.sleep(self.pause_s)
                body = json.dumps({"keys": self.jwks}).encode()
                writer.write(self.raw or b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def issuing(port: int = 0) -> AsyncIterator[Issuer]:
    """Run an issuer."""
    issuer = Issuer()
    async with listening(issuer.answer, port) as its_port:
        issuer.url = f"http://127.0.0.1:{its_port}/jwks"
        yield issuer
