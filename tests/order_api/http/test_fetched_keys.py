"""How keys are fetched: new ones are taken soon, and an issuer that is wrong, slow or away does no harm."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections import Counter
from typing import Any

import pytest

from order_api.http import keys as keys_module
from order_api.http.keys import JWKS_BYTES_MAX, KEYS_MAX, PAUSE_S, STALE_S, WAITING_MAX
from order_api.settings import ApiSettings
from tests.order_api.http.key_verifier import OTHER_ALGORITHM, UNKNOWN, Verifier, refreshing, segment
from tests.order_api.issuer import Issuer, issuing
from tests.order_api.support import Api, running, until

pytestmark = pytest.mark.usefixtures("no_hurry")
_AWAY = "the keys that tokens are checked with can't be fetched; nothing was done"
_OK = b"HTTP/1.1 200 OK\r\n"
_NEVER_S = 3600.0
_WAIT_S = 8.0
"""Longer than this process is held up, so that some wait while others are served."""


async def test_rotation_takes_new_keys_at_once_and_forgets_withdrawn_ones(issuer: Issuer) -> None:
    """A new key works with its first token; a withdrawn one ends with the next fetch, for remembered tokens too."""
    verifier = Verifier(issuer)
    old = issuer.sign("ES256")
    assert "alice" == await verifier.user(old)
    issuer.add("next")
    verifier.now_s += PAUSE_S
    assert "alice" == await verifier.user(issuer.sign("next"))
    assert "alice" == await verifier.user(old)
    assert 2 == issuer.fetches
    issuer.withdraw("ES256")
    assert "alice" == await verifier.user(old)  # not known yet
    verifier.now_s += PAUSE_S
    assert UNKNOWN == await verifier.refused(_nobody())
    assert UNKNOWN == await verifier.refused(old)
    assert "alice" == await verifier.user(issuer.sign("next"))


def _nobody() -> str:
    return segment({"alg": "ES256", "kid": "nobody"}) + ".e30.AAAA"


async def test_a_key_replaced_under_its_own_id_is_another_key(issuer: Issuer) -> None:
    """What the first key signed is forgotten, though its id is still published."""
    verifier = Verifier(issuer)
    old = issuer.sign("ES256")
    assert "alice" == await verifier.user(old)
    issuer.withdraw("ES256")
    issuer.add("ES256")
    verifier.now_s += PAUSE_S
    assert UNKNOWN == await verifier.refused(_nobody())
    assert "the token's signature is wrong" == await verifier.refused(old)


async def test_invented_key_ids_do_not_become_fetches(issuer: Issuer) -> None:
    """A flood of unknown key ids is one fetch in five seconds, whether they come together or one by one.

    Of those that come together only so many wait for it; the others hear at once that it can't be told now.
    """
    issuer.pause_s = 0.1
    verifier = Verifier(issuer)
    unknown = [segment({"alg": "RS256", "kid": f"k{n}"}) + ".e30.AAAA" for n in range(200)]
    answers = Counter(await asyncio.gather(*(verifier.refusal(bearer) for bearer in unknown)))
    assert {("invalid-token", UNKNOWN): WAITING_MAX, ("unavailable", _AWAY): 200 - WAITING_MAX} == answers
    assert {UNKNOWN} == {await verifier.refused(bearer) for bearer in unknown}
    assert 1 == issuer.fetches
    verifier.now_s += PAUSE_S
    await asyncio.gather(*(verifier.refusal(bearer) for bearer in unknown))
    assert 2 == issuer.fetches
    for _ in range(3):
        verifier.now_s += PAUSE_S  # what can't be a key's is no reason to ask
        assert OTHER_ALGORITHM == await verifier.refused(segment({"alg": "none", "kid": "x"}) + ".e30.")
    assert 2 == issuer.fetches


async def test_a_client_that_hangs_up_does_not_end_the_fetch(issuer: Issuer) -> None:
    """Whoever waits for the same fetch gets its keys."""
    issuer.pause_s = 0.2
    verifier = Verifier(issuer)
    impatient, patient = (asyncio.create_task(verifier.user(issuer.sign(kid))) for kid in ("RS256", "ES256"))
    await until(lambda: issuer.fetches)
    impatient.cancel()
    assert "alice" == await patient
    assert 1 == issuer.fetches


async def test_an_outage_takes_nothing_away(issuer: Issuer) -> None:
    """With the issuer away the known keys go on for a day; a token of an unknown key is then a 503, since who knows."""
    verifier = Verifier(issuer)
    assert "alice" == await verifier.user(issuer.sign("ES256"))
    issuer.add("next")
    issuer.away = True
    verifier.now_s += STALE_S - 10
    assert ("unavailable", _AWAY) == await verifier.refusal(issuer.sign("next"))
    assert "alice" == await verifier.user(issuer.sign("RS256"))
    assert None is await verifier.keys.check()
    assert verifier.registry.get_sample_value("jwks_age_seconds") >= STALE_S - 10  # type: ignore[operator]  # it is there
    assert 1 == verifier.registry.get_sample_value("jwks_fetches_total", {"outcome": "failed"})
    issuer.away = False
    verifier.now_s += PAUSE_S
    assert "alice" == await verifier.user(issuer.sign("next"))


async def test_keys_of_long_ago_are_believed_no_more(issuer: Issuer) -> None:
    """Who keeps us from the issuer keeps a withdrawn key good for a stated time only, for remembered tokens too."""
    verifier = Verifier(issuer)
    token = issuer.sign("ES256")
    assert "alice" == await verifier.user(token)
    issuer.away = True
    async with refreshing(verifier):
        verifier.now_s += STALE_S + 1
        assert ("unavailable", _AWAY) == await verifier.refusal(_nobody())  # a fetch has failed by now
        assert ("unavailable", _AWAY) == await verifier.refusal(token)
        assert await verifier.keys.check()
        issuer.away = False
        verifier.now_s += PAUSE_S
        assert "alice" == await verifier.user(token)


async def test_an_issuer_that_hangs_holds_up_nobody_whose_key_is_known(
    settings: ApiSettings, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invented key ids wait for a moment, few at a time and in nobody's place: each good token is served meanwhile."""
    monkeypatch.setattr(keys_module, "PAUSE_S", pause_s := 0.5)
    monkeypatch.setattr(keys_module, "WAIT_S", _WAIT_S)
    published_keys = settings.model_copy(
        update={"jwt_secret": None, "jwt_jwks_url": issuer.url, "jwt_audience": "o", "api_in_flight_max": 4}
    )
    async with running(published_keys) as api:
        await until(lambda: _ready(api))
        issuer.pause_s = _NEVER_S
        issuer.fetches = 0
        await asyncio.sleep(pause_s)  # since the first fetch: from here on an unknown key is a reason to ask again
        invented = [asyncio.create_task(_get(api, _nobody())) for _ in range(40)]
        await until(lambda: issuer.fetches)
        good = [await _get(api, issuer.sign("EdDSA", aud="o", jti=str(n))) for n in range(20)]
        assert [404] * 20 == [answer.status_code for answer in good]
        assert not all(task.done() for task in invented)  # so they did wait meanwhile
        answers = await asyncio.gather(*invented)  # and no longer than they should: the issuer never answers
        assert {(503, "unavailable")} == {(answer.status_code, answer.json()["code"]) for answer in answers}
        monkeypatch.setattr(keys_module, "WAIT_S", 0.5)
        assert 503 == (await _get(api, _nobody())).status_code
        assert 404 == (await _get(api, issuer.sign("RS256", aud="o"))).status_code


async def test_those_who_wait_for_keys_are_few(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than may wait hears at once that it can't be told now."""
    monkeypatch.setattr(keys_module, "WAIT_S", _WAIT_S)
    verifier = Verifier(issuer)
    assert "alice" == await verifier.user(issuer.sign("ES256"))
    verifier.now_s += PAUSE_S
    issuer.pause_s = _NEVER_S
    waiting = [asyncio.create_task(verifier.refusal(_nobody())) for _ in range(WAITING_MAX)]
    await until(lambda: issuer.fetches == 2)
    assert ("unavailable", _AWAY) == await verifier.refusal(_nobody())
    assert "alice" == await verifier.user(issuer.sign("RS256"))
    assert not any(task.done() for task in waiting)
    assert {("unavailable", _AWAY)} == set(await asyncio.gather(*waiting))
    assert 2 == issuer.fetches


async def test_a_rotated_key_is_taken_within_seconds_of_the_issuers_return(issuer: Issuer) -> None:
    """After an issuer that hung, the next token of a new key is let in as soon as a fetch may be tried again."""
    verifier = Verifier(issuer)
    assert "alice" == await verifier.user(issuer.sign("ES256"))
    issuer.add("next")
    issuer.pause_s = 0.5
    verifier.now_s += PAUSE_S
    assert "alice" == await verifier.user(issuer.sign("next"))
    issuer.add("last")
    assert UNKNOWN == await verifier.refused(issuer.sign("last"))  # the keys are as new as can be asked for
    verifier.now_s += PAUSE_S
    assert "alice" == await verifier.user(issuer.sign("last"))


_ANSWERS = {
    "no HTTP": b"garbage\r\n\r\n",
    "an error": b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\n{}",
    "no JSON": _OK + b"\r\nhello",
    "half of it": _OK + b"content-length: 100\r\n\r\n{",
    "no keys": _OK + b'\r\n{"keys": []}',
    "keys that are none": _OK + b'\r\n{"keys": {}}',
    "a list": _OK + b"\r\n[]",
    "null": _OK + b"\r\nnull",
    "a deep nest": _OK + b'\r\n{"keys":' + b"[" * 100_000,
    "too much": _OK + b'\r\n{"keys": [' + b" " * 300_000 + b"]}",
    "a packed bomb": _OK + b"content-encoding: gzip\r\n\r\n" + gzip.compress(b'{"keys": []}' + b" " * 10_000_000),
}


@pytest.mark.parametrize("raw", _ANSWERS.values(), ids=_ANSWERS)
async def test_whatever_the_issuer_answers_the_keys_stay(issuer: Issuer, raw: bytes) -> None:
    """Errors, garbage, nothing at all, too much and packed bombs are an outage, no more; also as the first answer."""
    fresh, verifier = Verifier(issuer), Verifier(issuer)
    assert "alice" == await verifier.user(issuer.sign("ES256"))
    issuer.raw = raw
    for one in (fresh, verifier):
        one.now_s += PAUSE_S
        assert ("unavailable", _AWAY) == await one.refusal(_nobody())
    assert "alice" == await verifier.user(issuer.sign("RS256"))
    assert "the keys of tokens could not be fetched" == await fresh.keys.check()


async def test_more_than_any_issuer_publishes_is_not_read(issuer: Issuer) -> None:
    """An answer is read up to a bound, and of its keys only so many: good ones among them are no reason to go on."""
    token = issuer.sign("ES256")
    keys = json.dumps({"keys": issuer.jwks}).encode()
    issuer.raw = _OK + b"\r\n" + keys + b" " * JWKS_BYTES_MAX
    assert ("unavailable", _AWAY) == await Verifier(issuer).refusal(token)
    issuer.raw = None
    issuer.jwks[:0] = [{}] * KEYS_MAX
    assert ("unavailable", _AWAY) == await Verifier(issuer).refusal(token)


async def test_a_redirect_is_not_followed(issuer: Issuer) -> None:
    """Keys come from the address that was set, or not at all."""
    async with issuing() as attacker:
        attacker.add("mine")
        issuer.raw = b"HTTP/1.1 302 Found\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % attacker.url.encode()
        verifier = Verifier(issuer)
        assert ("unavailable", _AWAY) == await verifier.refusal(attacker.sign("mine"))
        assert 0 == attacker.fetches
        assert "the keys of tokens could not be fetched" == await verifier.keys.check()


async def test_a_slow_issuer_is_given_up(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch has one deadline: bytes that dribble in do not stretch it."""
    monkeypatch.setattr(keys_module, "FETCH_S", 0.3)
    issuer.raw, issuer.pause_s = _OK + b"\r\n" + b" " * 10_000, 0.02
    verifier = Verifier(issuer)
    began = time.monotonic()
    assert ("unavailable", _AWAY) == await verifier.refusal(issuer.sign("ES256"))
    assert time.monotonic() - began < 30  # of 200


async def test_an_api_without_keys_is_not_ready_and_answers_503(settings: ApiSettings, issuer: Issuer) -> None:
    """Before the first fetch nobody is known: 503, not 401, and not ready; from then on an outage does no harm."""
    issuer.away = True
    published_keys = settings.model_copy(update={"jwt_secret": None, "jwt_jwks_url": issuer.url, "jwt_audience": "o"})
    async with running(published_keys) as api:
        token = issuer.sign("EdDSA", aud="o")
        answer = await _get(api, token)
        assert (503, "unavailable", _AWAY) == (answer.status_code, answer.json()["code"], answer.json()["detail"])
        assert int(answer.headers["retry-after"]) > 0
        assert 401 == (await api.client.get("/orders/x")).status_code
        ready = await api.client.get("/health/ready")
        assert (503, True) == (ready.status_code, "could not be fetched" in ready.json()["checks"]["token keys"])
        issuer.away = False
        await until(lambda: _ready(api))
        issuer.away = True
        assert 404 == (await _get(api, token)).status_code
        assert 401 == (await _get(api, issuer.sign("EdDSA", aud="x"))).status_code
        assert await _ready(api)
        assert 1 <= await api.metric('jwks_fetches_total{outcome="ok"}')


async def _get(api: Api, token: str) -> Any:
    return await api.client.get("/orders/x", headers={"authorization": f"Bearer {token}"})


async def _ready(api: Api) -> bool:
    return bool("ok" == (await api.client.get("/health/ready")).json()["checks"]["token keys"])
