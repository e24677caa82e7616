"""Which tokens a key lets in: those it signed itself, by its own algorithm and in time, whatever their header says."""

from __future__ import annotations

import base64
import hmac
import json
import time
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from pydantic import SecretStr, ValidationError

from order_api.settings import ApiSettings
from tests.order_api.http.key_verifier import OTHER_ALGORITHM, UNKNOWN, Verifier, refreshing, segment
from tests.order_api.issuer import ALGORITHMS, Issuer, issuing, private_key, published
from tests.order_api.support import until

pytestmark = pytest.mark.usefixtures("no_hurry")
UNREADABLE = "the token can't be read"


def _hs256(header: dict[str, Any], secret: bytes) -> str:
    """Sign as an attacker does who found a public key: PyJWT itself refuses to use one as a secret."""
    signed = f"{segment(header)}.{segment({'sub': 'alice', 'exp': int(time.time()) + 60})}"
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
        assert OTHER_ALGORITHM == await verifier.refused(segment({"alg": alg, "kid": "RS256"}) + ".e30.AAAA"), alg
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
    signed = f"{segment({'alg': alg, 'kid': kid, **header})}.{segment({'sub': 'a', 'exp': int(time.time()) + 60})}"
    signature = ALGORITHMS[alg](ALGORITHMS[alg].SHA256).sign(signed.encode(), key)
    return signed + "." + base64.urlsafe_b64encode(signature).decode().rstrip("=")


async def test_a_strange_key_id_is_an_unknown_key_and_nothing_else(issuer: Issuer) -> None:
    """A key id is compared, never used: not as a path, not as SQL, not as a format; and it must be a text."""
    verifier = Verifier(issuer)
    strange = ("../../etc/passwd", "'; DROP TABLE api.claims; --", "RS256\0", "%s{0}", "", "é" * 4000, "http://[::1]/")
    for kid in strange:
        assert UNKNOWN == await verifier.refused(issuer.sign("RS256", {"kid": kid})), kid
    for kid_of_another_kind in (1, None, ["RS256"], {"a": 1}):
        forged = segment({"alg": "RS256", "kid": kid_of_another_kind}) + ".e30.AAAA"
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


async def test_times_are_judged_with_a_little_leeway(issuer: Issuer) -> None:
    """`exp`, `nbf` and `iat` may be off by the leeway, and by no more; a remembered token ends at the same moment."""
    now, clock_s = int(time.time()), 0.0
    verifier = Verifier(issuer, leeway_s=30, clock=lambda: now + clock_s)
    assert "alice" == await verifier.user(issuer.sign("ES256", jti="the keys are here"))
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
