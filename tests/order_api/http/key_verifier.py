"""A verifier of tokens by an issuer's keys, with a clock that a test sets, and the reasons that it gives."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.datastructures import Headers

from order_api.http.keys import JwksKeys
from order_api.http.problems import Problem
from order_api.http.tokens import Tokens
from tests.order_api.issuer import Issuer

UNKNOWN = "the token is signed with a key that its issuer does not publish"
OTHER_ALGORITHM = "the token is signed with another algorithm than is used here"


class Verifier:
    """Verifies tokens by the issuer's keys, with a clock that a test sets."""

    def __init__(self, issuer: Issuer, **options: Any) -> None:
        self.now_s = 0.0
        self.registry = CollectorRegistry()
        self.keys = JwksKeys(issuer.url, registry=self.registry, clock=lambda: self.now_s)
        self.tokens = Tokens(self.keys, **options)

    async def user(self, token: str) -> str:
        """Return who is let in."""
        return (await self.tokens.caller(Headers({"authorization": f"Bearer {token}"}))).user_id

    async def refusal(self, token: str) -> tuple[str, str | None]:
        """Return the problem's code and detail."""
        with pytest.raises(Problem) as refused:
            await self.user(token)
        return refused.value.code, refused.value.detail

    async def refused(self, token: str) -> str | None:
        """Return why a token is called invalid."""
        code, detail = await self.refusal(token)
        assert "invalid-token" == code
        return detail


@asynccontextmanager
async def refreshing(verifier: Verifier) -> AsyncIterator[None]:
    """Run the background refresh."""
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(verifier.keys.run(stopping))
        yield
        stopping.set()


def segment(value: Any) -> str:
    """Write a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
