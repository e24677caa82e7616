"""The certificates of the profile `secure`: good for the broker's names alone, and left alone while they are good."""

from __future__ import annotations

import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "certificates.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make certificates as the compose file does."""
    _make(tmp_path)
    return tmp_path


def _make(folder: Path) -> str:
    command = [sys.executable, str(SCRIPT), str(folder), str(folder), "kafka", "localhost", "127.0.0.1"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own words


def _shake_hands(folder: Path, host: str) -> None:
    """Connect a client to a server, in memory, as strictly as the newest Python does; raises `ssl.SSLError`."""
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(folder / "broker.pem")
    client_side = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    client.do_handshake()


@pytest.mark.parametrize("host", ["kafka", "localhost", "127.0.0.1"])
def test_clients_trust_the_broker_by_every_name_that_it_has(folder: Path, host: str) -> None:
    """Containers and this machine use different names of the broker, and one certificate has them all."""
    _shake_hands(folder, host)


def test_no_other_name_is_trusted(folder: Path) -> None:
    """With this certificate a server can't pretend to be another one."""
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _shake_hands(folder, "postgres")


def test_good_certificates_are_left_alone(folder: Path) -> None:
    """A second `docker compose up` leaves the certificates of what runs as they are."""
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert "left alone" in _make(folder)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_key_is_the_broker_s_alone_and_the_authority_s_is_nowhere(folder: Path) -> None:
    """Only its owner can read the broker's key; the authority's key is not kept, for it could sign further ones."""
    assert 0o400 == (folder / "broker.pem").stat().st_mode & 0o777
    assert {"ca.pem", "broker.pem"} == {file.name for file in folder.iterdir()}
    assert "PRIVATE" not in (folder / "ca.pem").read_text()
