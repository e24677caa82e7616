"""Who gets in: every way a token can be wrong, and that a remembered token ends when it expires."""

from __future__ import annotations

import base64
import json
import time
from hashlib import sha256
from typing import Any

import jwt
import pytest
from jwt import PyJWK
from starlette.datastructures import Headers

from order_api.http.keys import SharedSecret
from order_api.http.problems import Problem
from order_api.http.tokens import Caller, Scope, Tokens
from tests.order_api.support import SECRET, TRADER, Api, token


async def _caller(text: str, tokens: Tokens | None = None) -> Caller:
    return await (tokens or Tokens(SharedSecret(SECRET))).caller(Headers({"authorization": f"Bearer {text}"}))


async def _refusal(text: str, tokens: Tokens | None = None) -> str:
    with pytest.raises(Problem) as refused:
        await _caller(text, tokens)
    assert "invalid-token" == refused.value.code
    assert (
        f'error="invalid_token", error_description="{refused.value.detail}"'
        in refused.value.headers["www-authenticate"]
    )
    return refused.value.detail or ""


def _raw(header: Any, payload: Any, signature: str = "") -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, payload)]
    return ".".join([*parts, signature])


async def test_a_good_token_says_who_calls() -> None:
    """`sub` is the user; scopes are words in `scope`, or a list in `scopes`."""
    assert ("alice", frozenset(Scope)) == (await _seen(scope=" ".join(Scope)))
    assert ("alice", frozenset({"orders:read"})) == (await _seen(scope=None, scopes=["orders:read", 1]))
    assert ("alice", frozenset()) == (await _seen(scope=None))


async def _seen(**claims: Any) -> tuple[str, frozenset[str]]:
    caller = await _caller(token("alice", **claims))
    return caller.user_id, caller.scopes


async def test_every_bad_token_is_refused_with_its_reason() -> None:
    """Expired, too early, forged, of another algorithm, incomplete or unreadable: refused, and never an error."""
    now = int(time.time())
    claims = {"sub": "alice", "exp": now + 60}
    refused = {
        token(exp=now - 6): "the token has expired",
        token(exp=None): "the claim exp is missing",
        token(nbf=now + 60): "the token is not valid yet",
        token(sub=None): "the claim sub is missing",
        token("@fees"): "the claim sub must be 1 to 64 of A-Z a-z 0-9 . _ : -",
        token("a" * 65): "the claim sub must be 1 to 64 of A-Z a-z 0-9 . _ : -",
        token(scope=7): "the claim scope must be words with spaces between, or scopes a list of words",  # type: ignore[arg-type]  # what a careless issuer writes
        token(secret="b" * 40): "the token's signature is wrong",
        token()[:-3] + "AAA": "the token's signature is wrong",
        jwt.encode(claims, SECRET * 2, "HS512"): "the token is signed with another algorithm than is used here",
        jwt.encode(claims, "", "none"): "the token is signed with another algorithm than is used here",
        _raw({"alg": "none"}, claims): "the token is signed with another algorithm than is used here",
        _raw({"alg": "RS256"}, claims, "AAAA"): "the token is signed with another algorithm than is used here",
        _raw({"alg": ["HS256"]}, claims, "AAAA"): "the token is signed with another algorithm than is used here",
        _raw([], claims, "AAAA"): "the token can't be read",
        token(exp="soon"): "the token can't be read",
        token(exp=float("inf")): "the token can't be read",
        token(exp={}): "the token can't be read",
        token(exp=float("nan")): "the token can't be read",
        token(exp=[now + 60]): "the token can't be read",
        token(exp=10**400): "the claim exp must be a time in seconds since 1970",
        token(exp=1e300): "the claim exp must be a time in seconds since 1970",
        token(exp=str(now + 60)): "the claim exp must be a time in seconds since 1970",
        token(exp=-1): "the token has expired",
        token(exp=True): "the token has expired",
        token(exp=0): "the token has expired",
        token(nbf="now"): "the token can't be read",
        token(nbf=float("inf")): "the token can't be read",
        token(iat=now + 60): "the token is not valid yet",
        token(iat="x"): "the token can't be read",
        token(jti=7): "the token can't be read",
        token(sub=7): "the token can't be read",
        base64.urlsafe_b64encode(b"[" * 50_000).decode() + ".e30.AAAA": "the token can't be read",
        "x": "the token can't be read",
        "..": "the token can't be read",
        "é.é.é": "the token can't be read",
    }
    for text, reason in refused.items():
        assert reason == await _refusal(text), text[:100]


async def test_issuer_and_audience_are_demanded_when_set() -> None:
    """With an issuer or an audience set, a token without the right one is refused; without, they do not matter."""
    tokens = Tokens(SharedSecret(SECRET), issuer="us", audience="orders")
    assert "alice" == (await _caller(token(iss="us", aud="orders"), tokens)).user_id
    assert "alice" == (await _caller(token(iss="us", aud=["x", "orders"]), tokens)).user_id
    assert "the token is from another issuer" == await _refusal(token(iss="them", aud="orders"), tokens)
    assert "the token is for another audience" == await _refusal(token(iss="us", aud="x"), tokens)
    assert "the claim iss is missing" == await _refusal(token(aud="orders"), tokens)
    assert "the claim aud is missing" == await _refusal(token(iss="us"), tokens)
    assert "alice" == (await _caller(token(iss="them", aud="x"))).user_id


class _CountedSecret(SharedSecret):
    asked = 0

    async def key_for(self, kid: str | None, alg: object) -> PyJWK:
        self.asked += 1
        return await super().key_for(kid, alg)


async def test_a_remembered_token_is_verified_once_and_still_expires() -> None:
    """The cache saves the signature's check, never the expiry's; and it is bounded, the oldest goes first."""
    keys = _CountedSecret(SECRET)
    clock = [time.time()]
    tokens = Tokens(keys, leeway_s=30, clock=lambda: clock[0], remembered_max=2)
    first, second, third = (token(user, exp=int(clock[0]) + 600) for user in ("a", "b", "c"))
    for _ in range(3):
        await _caller(first, tokens)
    assert 1 == keys.asked
    for text in (second, third, first):
        await _caller(text, tokens)
    assert 4 == keys.asked
    assert 2 == len(tokens._remembered)  # noqa: SLF001 - memory is the point
    clock[0] += 625
    assert "a" == (await _caller(first, tokens)).user_id
    clock[0] += 6
    assert "the token has expired" == await _refusal(first, tokens)


async def test_a_refused_token_is_not_remembered() -> None:
    """Nobody fills the cache, or the memory, with tokens that are not good."""
    tokens = Tokens(SharedSecret(SECRET))
    for number in range(50):
        await _refusal(token(secret="b" * 40, jti=str(number)), tokens)
    assert {} == tokens._remembered  # noqa: SLF001 - memory is the point


async def test_a_token_is_named_by_its_id_or_its_hash() -> None:
    """`jti` as long as a record can hold it in one word, else a part of the token's hash: never the token itself."""
    assert "t-1" == (await _caller(token(jti="t-1"))).token_id
    for unfit in (None, "", "a b", "a\0", "a\n", "é", "a" * 129):
        text = token(jti=unfit)
        assert "sha256:" + sha256(text.encode()).hexdigest()[:16] == (await _caller(text)).token_id


async def test_a_forged_token_is_not_taken_for_a_remembered_one() -> None:
    """Only the very same text is remembered."""
    tokens = Tokens(SharedSecret(SECRET))
    good = token()
    await _caller(good, tokens)
    header, _, signature = good.split(".")
    forged = ".".join([header, _raw({}, {"sub": "bob", "exp": 2**40}).split(".")[1], signature])
    assert "the token's signature is wrong" == await _refusal(forged, tokens)


async def test_without_a_token_each_call_on_orders_is_a_401(api: Api) -> None:
    """A missing or bad token is a 401 that says how to get in; health and metrics need none."""
    for method, path in (
        ("POST", "/orders"), ("GET", "/orders/x"), ("GET", "/orders/x/status"), ("GET", "/orders/x/history"),
        ("PUT", "/orders/x/cancel"),
    ):  # fmt: skip
        for authorization in (None, "", "Bearer", "Basic YTpi", "Bearerx"):
            answer = await api.client.request(method, path, headers={"authorization": authorization or ""})
            assert (401, "missing-token") == (answer.status_code, answer.json()["code"]), (path, authorization)
            assert 'Bearer realm="orders"' == answer.headers["www-authenticate"]
        answer = await api.client.request(method, path, headers={"authorization": "Bearer x"})
        assert (401, "invalid-token") == (answer.status_code, answer.json()["code"])
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/openapi.json"):
        assert 200 == (await api.client.get(path)).status_code


async def test_a_token_without_the_scope_is_a_403_that_names_it(api: Api) -> None:
    """Reading needs orders:read, submitting and cancelling orders:write."""
    for scope, call in (("orders:read", api.submit), ("orders:write", lambda **more: api.get("/orders/x", **more))):
        answer = await call(scope=scope)
        needed = next(iter(set(TRADER.split()) - {scope}))
        assert (403, "insufficient-scope") == (answer.status_code, answer.json()["code"])
        assert f'error="insufficient_scope", scope="{needed}"' in answer.headers["www-authenticate"]
