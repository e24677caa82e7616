"""The issuer's keys: every way that they, a token's header or the issuer's server can be wrong."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hmac
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from prometheus_client import CollectorRegistry
from pydantic import SecretStr, ValidationError
from starlette.datastructures import Headers

from order_api.http import keys as keys_module
from order_api.http.keys import FETCH_S, JWKS_BYTES_MAX, KEYS_MAX, PAUSE_S, STALE_S, WAIT_S, WAITING_MAX, JwksKeys
from order_api.http.problems import Problem
from order_api.http.tokens import Tokens
from order_api.settings import ApiSettings
from tests.order_api.issuer import ALGORITHMS, Issuer, issuing, private_key, published
from tests.order_api.support import Api, running, until

UNKNOWN = "the token is signed with a key that its issuer does not publish"
OTHER_ALGORITHM = "the token is signed with another algorithm than is used here"
UNREADABLE = "the token can't be read"


@pytest_asyncio.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """Run an issuer with one key of each kind."""
    async with issuing() as one:
        for alg in ALGORITHMS:
            one.add(alg, alg)
        yield one


class Verifier:
    """Verifies tokens by the issuer's keys, with a clock that a test sets."""

    def __init__(self, issuer: Issuer, **options: Any) -> None:
        self.now_s = 0.0
        self.registry = CollectorRegistry()
        self.keys = JwksKeys(issuer.url, registry=self.registry, clock=lambda: time.monotonic() + self.now_s)
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


def _segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _hs256(header: dict[str, Any], secret: bytes) -> str:
    """Sign as an attacker does who found a public key: PyJWT itself refuses to use one as a secret."""
    signed = f"{_segment(header)}.{_segment({'sub': 'alice', 'exp': int(time.time()) + 60})}"
    mac = hmac.digest(secret, signed.encode(), sha256)
    return signed + "." + base64.urlsafe_b64encode(mac).decode().rstrip("=")


async def test_each_kind_of_key_lets_its_tokens_in(issuer: Issuer) -> None:
    """RS256, ES256 and EdDSA, from one fetch."""
    verifier = Verifier(issuer)
    assert ["alice"] * 3 == [await verifier.user(issuer.sign(kid)) for kid in ALGORITHMS]
    assert 1 == issuer.fetches
    assert [] == [kid for kid in ALGORITHMS if await verifier.refused(issuer.sign(kid)[:-8] + "AAAAAAAA") is None]


async def test_a_key_is_used_with_its_own_algorithm_only(issuer: Issuer) -> None:
    """The header chooses a key and never what is done with it: no `none`, no public key as a secret, no mixture."""
    verifier = Verifier(issuer)
    [public] = [key.public_key() for alg, key in issuer.private.values() if alg == "RS256"]
    [rsa] = [jwk for jwk in issuer.jwks if jwk["kty"] == "RSA"]
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(rsa).encode(),
        rsa["n"].encode(),
        b"",
    ]
    for secret in secrets:
        for named in ({"kid": "RS256"}, {"kid": "nobody"}, {}):
            assert OTHER_ALGORITHM == await verifier.refused(_hs256({"alg": "HS256", **named}, secret))
    unknown: list[Any] = ["none", "None", "NONE", "", "RS512", "PS256", "ES384", "ES256K", "rs256", None, ["RS256"], {}]
    for alg in unknown:
        assert OTHER_ALGORITHM == await verifier.refused(_segment({"alg": alg, "kid": "RS256"}) + ".e30.AAAA"), alg
    for kid, other in (("RS256", "ES256"), ("ES256", "RS256"), ("EdDSA", "ES256")):
        assert OTHER_ALGORITHM == await verifier.refused(issuer.sign(kid, {"kid": other}))


async def test_keys_that_a_token_brings_along_are_not_looked_at(issuer: Issuer) -> None:
    """`jwk`, `jku`, `x5u` and `x5c` are an attacker's words: neither believed nor fetched."""
    async with issuing() as attacker:
        attacker.add("mine", "RS256")
        verifier = Verifier(issuer)
        own = attacker.jwks[0]
        brought: list[dict[str, Any]] = [
            {"jwk": own},
            {"jku": attacker.url},
            {"x5u": attacker.url},
            {"x5c": [own["n"]]},
        ]
        for header in brought:
            assert UNKNOWN == await verifier.refused(attacker.sign("mine", header))
            assert "the token's signature is wrong" == await verifier.refused(
                attacker.sign("mine", {**header, "kid": "RS256"})
            )
        assert 0 == attacker.fetches


async def test_a_header_that_demands_more_than_we_know_is_refused(issuer: Issuer) -> None:
    """`crit` and a detached payload (`b64`) are refused: what must be understood and is not makes a token invalid."""
    verifier = Verifier(issuer)
    headers: list[dict[str, Any]] = [
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"crit": "x"},
        {"crit": ["http://example.com/x"], "http://example.com/x": True},
        {"b64": False, "crit": ["b64"]},
    ]
    for header in headers:
        assert UNREADABLE == await verifier.refused(_forge(issuer, "ES256", header)), header


def _forge(issuer: Issuer, kid: str, header: dict[str, Any]) -> str:
    """Sign a token whose header PyJWT would not write."""
    alg, key = issuer.private[kid]
    signed = f"{_segment({'alg': alg, 'kid': kid, **header})}.{_segment({'sub': 'a', 'exp': int(time.time()) + 60})}"
    signature = ALGORITHMS[alg](ALGORITHMS[alg].SHA256).sign(signed.encode(), key)
    return signed + "." + base64.urlsafe_b64encode(signature).decode().rstrip("=")


async def test_a_strange_key_id_is_an_unknown_key_and_nothing_else(issuer: Issuer) -> None:
    """A key id is compared, never used: not as a path, not as SQL, not as a format; and it must be a text."""
    verifier = Verifier(issuer)
    strange = ("../../etc/passwd", "'; DROP TABLE api.claims; --", "RS256\0", "%s{0}", "", "é" * 4000, "http://[::1]/")
    for kid in strange:
        assert UNKNOWN == await verifier.refused(issuer.sign("RS256", {"kid": kid})), kid
    for kid_of_another_kind in (1, None, ["RS256"], {"a": 1}):
        forged = _segment({"alg": "RS256", "kid": kid_of_another_kind}) + ".e30.AAAA"
        assert UNREADABLE == await verifier.refused(forged)


async def test_a_token_that_names_no_key_needs_exactly_one_that_fits(issuer: Issuer) -> None:
    """Without a `kid`, one key of the algorithm is enough; of two, none is tried."""
    verifier = Verifier(issuer)
    anonymous = issuer.sign("RS256", {"kid": None})
    assert "alice" == await verifier.user(anonymous)
    issuer.add("second", "RS256")
    async with refreshing(verifier):
        await until(lambda: issuer.fetches == 2)
    other = issuer.sign("RS256", {"kid": None}, jti="2")
    assert "the token does not say with which key (kid) it is signed" == await verifier.refused(other)
    assert "alice" == await verifier.user(issuer.sign("ES256", {"kid": None}))


async def test_only_public_keys_for_signatures_are_taken(issuer: Issuer) -> None:
    """Keys for encryption, shared secrets, weak, broken and private ones are passed over; the good one works."""
    verifier = Verifier(issuer)
    weak = generate_rsa_key(65537, 1024)  # noqa: S505 - that is the point
    p384 = generate_private_key(SECP384R1())
    secret = base64.urlsafe_b64encode(b"s" * 40).decode().rstrip("=")
    rsa = private_key("RS256")
    issuer.private |= {
        "oct": ("HS256", b"s" * 40),
        "weak": ("RS256", weak),
        "p384": ("ES384", p384),
        "p384-as-es256": ("ES256", issuer.private["ES256"][1]),
        **dict.fromkeys(("weak", "enc", "encrypts", "ps256", "private"), ("RS256", rsa)),
    }
    issuer.jwks[:0] = [
        {"kty": "oct", "kid": "oct", "k": secret, "alg": "HS256"},
        {"kty": "oct", "kid": "RS256", "k": secret, "alg": "RS256"},
        published("RS256", weak, kid="weak"),
        published("ES256", p384, kid="p384-as-es256"),
        published("ES256", p384, kid="p384") | {"alg": "ES384"},
        published("RS256", rsa, kid="enc", use="enc"),
        published("RS256", rsa, kid="encrypts", use=None, key_ops=["encrypt"]),
        published("RS256", rsa, kid="ps256") | {"alg": "PS256"},
        {**RSAAlgorithm.to_jwk(rsa, as_dict=True), "kid": "private", "key_ops": ["verify"]},
        *({"kty": "RSA", "kid": f"broken{n}", **members} for n, members in enumerate(_BROKEN)),
        *(None, 7, "x", [], {}, {"kty": ["RSA"]}, {"kty": "RSA", "key_ops": 3}),
    ]
    assert "alice" == await verifier.user(issuer.sign("RS256"))
    for kid in ("weak", "p384-as-es256", "enc", "encrypts", "ps256", "private"):
        assert UNKNOWN == await verifier.refused(issuer.sign(kid)), kid
    assert OTHER_ALGORITHM == await verifier.refused(issuer.sign("oct"))
    assert OTHER_ALGORITHM == await verifier.refused(issuer.sign("p384"))


_BROKEN: list[dict[str, Any]] = [
    {}, {"n": 1, "e": {}}, {"n": "!!", "e": "AQAB"}, {"n": "", "e": ""}, {"alg": ["RS256"]}, {"n": "AQAB", "e": "AA"},
]  # fmt: skip


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
    return _segment({"alg": "ES256", "kid": "nobody"}) + ".e30.AAAA"


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
    unknown = [_segment({"alg": "RS256", "kid": f"k{n}"}) + ".e30.AAAA" for n in range(200)]
    answers = Counter(await asyncio.gather(*(verifier.refusal(bearer) for bearer in unknown)))
    assert {("invalid-token", UNKNOWN): WAITING_MAX, ("unavailable", _AWAY): 200 - WAITING_MAX} == answers
    assert {UNKNOWN} == {await verifier.refused(bearer) for bearer in unknown}
    assert 1 == issuer.fetches
    verifier.now_s += PAUSE_S
    await asyncio.gather(*(verifier.refusal(bearer) for bearer in unknown))
    assert 2 == issuer.fetches
    for _ in range(3):
        verifier.now_s += PAUSE_S  # what can't be a key's is no reason to ask
        assert OTHER_ALGORITHM == await verifier.refused(_segment({"alg": "none", "kid": "x"}) + ".e30.")
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
    published_keys = settings.model_copy(
        update={"jwt_secret": None, "jwt_jwks_url": issuer.url, "jwt_audience": "o", "api_in_flight_max": 4}
    )
    async with running(published_keys) as api:
        await until(lambda: _ready(api))
        issuer.pause_s = FETCH_S + 1
        issuer.fetches = 0
        await asyncio.sleep(pause_s)  # since the first fetch: from here on an unknown key is a reason to ask again
        invented = [asyncio.create_task(_get(api, _nobody())) for _ in range(40)]
        await until(lambda: issuer.fetches)
        began = time.monotonic()
        good = [await _get(api, issuer.sign("EdDSA", aud="o", jti=str(n))) for n in range(20)]
        assert [404] * 20 == [answer.status_code for answer in good]
        assert not all(task.done() for task in invented)  # so they did wait meanwhile
        answers = await asyncio.gather(*invented)
        assert time.monotonic() - began < WAIT_S + 2
        assert {(503, "unavailable")} == {(answer.status_code, answer.json()["code"]) for answer in answers}
        again = time.monotonic()
        assert 503 == (await _get(api, _nobody())).status_code
        assert time.monotonic() - again < WAIT_S + 1
        assert 404 == (await _get(api, issuer.sign("RS256", aud="o"))).status_code


async def test_those_who_wait_for_keys_are_few(issuer: Issuer) -> None:
    """One more than may wait hears at once that it can't be told now."""
    verifier = Verifier(issuer)
    assert "alice" == await verifier.user(issuer.sign("ES256"))
    verifier.now_s += PAUSE_S
    issuer.pause_s = FETCH_S + 1
    waiting = [asyncio.create_task(verifier.refusal(_nobody())) for _ in range(WAITING_MAX)]
    await until(lambda: issuer.fetches == 2)
    began = time.monotonic()
    assert ("unavailable", _AWAY) == await verifier.refusal(_nobody())
    assert "alice" == await verifier.user(issuer.sign("RS256"))
    assert time.monotonic() - began < WAIT_S / 2
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


_AWAY = "the keys that tokens are checked with can't be fetched; nothing was done"
_OK = b"HTTP/1.1 200 OK\r\n"


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
    assert time.monotonic() - began < 3


async def test_times_are_judged_with_a_little_leeway(issuer: Issuer) -> None:
    """`exp`, `nbf` and `iat` may be off by the leeway, and by no more; a remembered token ends at the same moment."""
    clock_s = 0.0
    verifier = Verifier(issuer, leeway_s=30, clock=lambda: time.time() + clock_s)
    now = int(time.time())
    for claims in ({"exp": now - 25}, {"nbf": now + 25}, {"iat": now + 25}, {"exp": now + 10.5}):
        assert "alice" == await verifier.user(issuer.sign("ES256", **claims)), claims
    for claim, time_s, why in (
        ("exp", now - 31, "the token has expired"),
        ("nbf", now + 45, "the token is not valid yet"),
        ("iat", now + 45, "the token is not valid yet"),
    ):
        assert why == await verifier.refused(issuer.sign("ES256", **{claim: time_s})), claim  # type: ignore[arg-type]  # claims only
    remembered = issuer.sign("ES256", exp=now + 100)
    assert "alice" == await verifier.user(remembered)
    clock_s = 125
    assert "alice" == await verifier.user(remembered)
    clock_s = 131
    assert "the token has expired" == await verifier.refused(remembered)


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


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({}, "set either JWT_SECRET or JWT_JWKS_URL, and not both"),
        ({"jwt_secret": SecretStr("s" * 32), "jwt_jwks_url": "https://a.example/"}, "and not both"),
        ({"jwt_jwks_url": "http://keys.example/jwks"}, "must begin with https://"),
        ({"jwt_jwks_url": "http://10.0.0.1/jwks"}, "must begin with https://"),
        ({"jwt_jwks_url": "http://127.0.0.1.example/jwks"}, "must begin with https://"),
        ({"jwt_jwks_url": "https://me:secret@keys.example/"}, "must not hold a name or password"),
        ({"jwt_jwks_url": "file:///etc/passwd"}, "must look like https://host/path"),
        ({"jwt_jwks_url": "https:///jwks"}, "must look like https://host/path"),
        ({"jwt_jwks_url": "https://a.example/", "jwt_leeway_s": 301}, "less than or equal to 300"),
    ],
)
def test_a_wrong_setting_of_keys_is_refused(wrong: dict[str, Any], why: str) -> None:
    """One source of keys, from an address that nobody else can answer for, and a bounded leeway."""
    with pytest.raises(ValidationError, match=why):
        _settings(**wrong)


def test_plain_http_is_taken_where_nobody_is_on_the_way() -> None:
    """On this machine, and at a name that no public server can have."""
    for url in (
        "http://127.0.0.1:1/x",
        "http://[::1]/x",
        "http://localhost/x",
        "http://keycloak:8080/x",
        "https://a.b",
    ):
        assert url == _settings(jwt_jwks_url=url).jwt_jwks_url


def _settings(**given: Any) -> ApiSettings:
    return ApiSettings(database_url=SecretStr("postgresql://a:b@h/c"), kafka_bootstrap_servers="h:1", **given)
