# ruff: noqa: INP001 - a script of its own, run in our image
"""Make a certificate authority and a broker's certificate for this machine: `certificates.py TRUST KEYS HOST...`.

TRUST gets `ca.pem`, which every client needs; KEYS gets `broker.pem`, the broker's key and certificate, for the broker
alone. A certificate that is still good stays as it is. The authority's own key is never written:
it signs once. For a network of several machines use certificates of an authority that you run.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)


def main() -> None:
    """Make what is missing or about to expire."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trust", type=Path, help="folder for ca.pem")
    parser.add_argument("keys", type=Path, help="folder for broker.pem")
    parser.add_argument("host", nargs="+", help="name or address by which clients reach the broker")
    parser.add_argument("--owner", type=int, help="user id that may read broker.pem, where it is not ours")
    wanted = parser.parse_args()
    authority, broker = wanted.trust / "ca.pem", wanted.keys / "broker.pem"
    if authority.exists() and broker.exists() and (until := _expires(authority)) > datetime.now(UTC) + RENEW_BEFORE:
        sys.stdout.write(f"{authority} and {broker}: good until {until:%Y-%m-%d}, left alone\n")
        return
    trusted, secret = make(wanted.host)
    authority.write_bytes(trusted)
    _write_key(broker, secret, wanted.owner)
    sys.stdout.write(f"{authority} and {broker}: made for {', '.join(wanted.host)}\n")


def make(hosts: list[str]) -> tuple[bytes, bytes]:
    """Return, in PEM, an authority's certificate, and a broker's key with the certificate that the authority signed."""
    ca_key, broker_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = _name("Order Saga, this machine only")
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca_usage = _usage("key_cert_sign", "crl_sign")
    authority = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca_usage, critical=True)
        .add_extension(ca_id, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    broker = (
        _builder(_name(hosts[0]), ca_name, broker_key.public_key())
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()  # the broker reads it at each start, with nobody to type a password
    secret = broker_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    return authority.public_bytes(pem), secret + broker.public_bytes(pem)


def _builder(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # a client's clock may be behind
        .not_valid_after(now + VALID)
    )


def _usage(*granted: str) -> x509.KeyUsage:
    known = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    known += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{use: use in granted for use in known})


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _expires(path: Path) -> datetime:
    """Return when the authority's certificate ends: the broker's, which we may not read any more, ends with it."""
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


def _write_key(path: Path, secret: bytes, owner: int | None) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)  # so nobody else can read it, even for a moment
    path.write_bytes(secret)
    path.chmod(0o400)
    if owner is not None:
        os.chown(path, owner, -1)


if __name__ == "__main__":
    main()
