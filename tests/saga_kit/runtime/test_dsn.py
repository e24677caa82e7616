"""Connection strings: libpq's parameters work, or are refused in one line that states the valid form."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import addresses, parse_database_url, place
from tests.support.infrastructure import Infrastructure


def _driver_words(text: str) -> dict[str, str]:
    [address] = addresses(parse_database_url(text))
    return {word: value for word, [value] in parse_qs(urlsplit(address.arguments["dsn"]).query).items()}


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_every_scheme_means_the_same_driver(scheme: str) -> None:
    """The schemes of libpq, Heroku and SQLAlchemy all select the same driver."""
    url = parse_database_url(f"{scheme}://u:p%40%2F@h:1234/d?sslmode=require")
    assert ("postgresql+asyncpg", "h:1234/d") == (url.drivername, place(url))
    assert {"host": "h", "port": "1234", "user": "u", "password": "p@/", "sslmode": "require"} == _driver_words(
        f"{scheme}://u:p%40%2F@h:1234/d?sslmode=require"
    )


def test_several_hosts_are_tried_in_their_order_for_one_that_writes() -> None:
    """Both ways to list hosts are equal; unless the URL says otherwise, a host that can't write is skipped."""
    in_words = "postgresql://u:p@/d?host=a,b,[::1]&port=1,5432,3"
    for text in ("postgresql://u:p@a:1,b,[::1]:3/d", in_words):
        found = addresses(parse_database_url(text))
        assert ["a:1/d", "b:5432/d", "[::1]:3/d"] == [address.where for address in found]
        assert all("target_session_attrs=read-write" in address.arguments["dsn"] for address in found)
    [one] = addresses(parse_database_url("postgresql://u:p@[::1]:3/d"))
    assert "host=%5B%3A%3A1%5D" in one.arguments["dsn"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "postgresql://u:p@h/d?sslmode=on",
            "sslmode must be allow, disable, prefer, require, verify-ca or verify-full",
        ),
        ("postgresql://u:p@h/d?connect_timeout=soon", "connect_timeout must be a number from 1 to 60 (got 'soon')"),
        ("postgresql://u:p@h/d?connect_timeout=0", "connect_timeout must be a number from 1 to 60 (got '0')"),
        ("postgresql://u:p@h/d?channel_binding=require", "channel_binding must be disable or prefer (got 'require')"),
        ("postgresql://u:p@h/d?gssencmode=require", "gssencmode must be disable or prefer"),
        (
            "postgresql://u:p@h/d?target_session_attrs=standby",
            "target_session_attrs must be any, primary or read-write",
        ),
        ("postgresql://u:p@h/d?load_balance_hosts=random", "load_balance_hosts must be disable"),
        ("postgresql://u:p@h/d?conect_timeout=3", "the word 'conect_timeout' is not known; known are application_name"),
        (
            "postgresql://u:p@h/d?sslmode=verify-full&sslrootcert=/no/ca.pem",
            "sslrootcert: nothing can be read from /no",
        ),
        ("postgresql://u:p@h/d?sslmode=require&sslcert=/no/c.pem", "sslcert, sslkey: no pair can be read from /no"),
        ("postgresql://u:p@h/d?sslmode=require&sslrootcert=system", "sslrootcert=system needs sslmode=verify-full"),
        ("postgresql://u:p@h/d?sslcrl=/no/crl.pem", "sslcrl: nothing can be read from /no/crl.pem"),
        ("postgresql://u:p@a:x,b/d", "must look like postgresql://user:password@host:port/database"),
        ("postgresql://u:p@a:1:2/d", "must look like postgresql://user:password@host:port/database"),
        ("postgresql://u:p@/d?host=a,b&port=1,2,3", "3 ports do not go with 2 hosts"),
        ("postgresql://u:p@/d?host=a&port=70000", "port must be a number from 1 to 65535"),
        ("postgresql://u:p@h", "must name a database"),
    ],
)
def test_an_unsupported_parameter_is_one_line(
    text: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error states the fault and the valid form; a parameter that the driver would ignore is never passed on."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        parse_database_url(text)
    assert str(refused.value).startswith(words)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        "sslmode=prefer&connect_timeout=3&application_name=x&channel_binding=prefer&gssencmode=disable",
        "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=30000",
        "options=-c%20work_mem%3D8MB&target_session_attrs=read-write&client_encoding=utf8",
        "ssl=prefer&fallback_application_name=y&sslcompression=0&sslsni=1",
    ],
)
async def test_the_usual_parameters_work(infrastructure: Infrastructure, words: str) -> None:
    """A session can be made with each of these parameters, and those of the session have their effect."""
    url = parse_database_url(f"{infrastructure.database_url_admin}?{words}")
    engine = create_engine(url, application_name="ours")
    async with engine.connect() as connection:
        name = (await connection.exec_driver_sql("SHOW application_name")).scalar_one()
        memory = (await connection.exec_driver_sql("SHOW work_mem")).scalar_one()
    await engine.dispose()

    assert ("application_name=x" in words) == (name == "x")
    assert ("work_mem" in words) == (memory == "8MB")


async def test_a_password_file_and_a_service_work(
    infrastructure: Infrastructure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password file and a service file work, so that the environment needs no password."""
    there = urlsplit(infrastructure.database_url_admin)
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"*:*:*:{there.username}:{there.password}\n")
    passwords.chmod(0o600)
    services = tmp_path / "services"
    services.write_text(f"[here]\nhost={there.hostname}\nport={there.port}\nuser={there.username}\ndbname=postgres\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    file = quote(str(passwords))
    for text in (
        f"postgresql://{there.username}@{there.hostname}:{there.port}/postgres?passfile={file}",
        f"postgresql://?service=here&passfile={file}",
    ):
        engine = create_engine(parse_database_url(text), application_name="t")
        async with engine.connect() as connection:
            assert "postgres" == (await connection.exec_driver_sql("SELECT current_database()")).scalar_one()
        await engine.dispose()


async def test_the_first_host_that_serves_is_taken(infrastructure: Infrastructure) -> None:
    """Hosts that refuse or are unknown are skipped."""
    there = urlsplit(infrastructure.database_url_admin)
    login = there.netloc.rpartition("@")[0]
    text = f"postgresql://{login}@127.0.0.1:1,no-such-host.invalid:5,{there.hostname}:{there.port}/postgres"
    engine = create_engine(parse_database_url(text), application_name="t")
    async with engine.connect() as connection:
        assert 1 == (await connection.exec_driver_sql("SELECT 1")).scalar_one()
    await engine.dispose()
