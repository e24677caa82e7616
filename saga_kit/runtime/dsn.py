"""Reads a PostgreSQL connection string as libpq does, and refuses in one line what the driver can't do.

An unknown parameter is refused: passed on, it would become a session setting, or be ignored without a message.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

CONNECT_TIMEOUT_S: Final = 5
PORT_MAX: Final = 65_535
SHAPE: Final = "postgresql://user:password@host:port/database"

_SEVERAL_HOSTS: Final = re.compile(
    r"^(?P<scheme>[^:/?#]+://)(?P<login>[^@/?#]*@)?(?P<hosts>[^/?#@]*,[^/?#@]*)(?P<rest>.*)$"
)
_DRIVERS: Final = {
    "host", "port", "user", "password", "dbname", "passfile", "service", "sslmode", "sslcert", "sslkey", "sslpassword",
    "sslrootcert", "sslcrl", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version",
    "target_session_attrs", "krbsrvname", "gsslib",
}  # fmt: skip
"""Parameters that asyncpg reads as libpq does."""
_NUMBERS: Final = {
    "connect_timeout": (1, 60),
    "keepalives": (0, 1),
    "keepalives_idle": (0, 86_400),
    "keepalives_interval": (0, 86_400),
    "keepalives_count": (0, 100),
    "tcp_user_timeout": (0, 86_400_000),
}
"""Numeric parameters that this module applies, and their bounds."""
_OURS: Final = {"application_name", "fallback_application_name", "options", *_NUMBERS}
_ONLY: Final = {
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
    "target_session_attrs": {"any", "primary", "read-write"},
    "channel_binding": {"disable", "prefer"},
    "gssencmode": {"disable", "prefer"},
    "load_balance_hosts": {"disable"},
    "client_encoding": {"auto", "utf8", "utf-8"},
    "sslcompression": {"0"},
    "sslsni": {"1"},
    "sslcertmode": {"allow"},
    "replication": {"false", "off", "0", "no"},
}
"""Parameters of which only these values are possible. Those that the driver does not read have no effect."""
_WHY_NOT: Final = {
    "target_session_attrs": "the services write",
    "channel_binding": "the driver has no channel binding; sslmode=verify-full proves who the server is",
    "gssencmode": "the driver does not encrypt by GSS; use sslmode",
}


@dataclass(frozen=True, slots=True)
class Address:
    """One server to connect to, as `asyncpg.connect` takes it."""

    where: str
    """For people: `host:port/database`."""
    arguments: Mapping[str, Any]
    tcp: Mapping[str, int]
    """Options of the connection's socket: libpq's `keepalives...` and `tcp_user_timeout`."""
    must_write: bool = False
    """A server that takes no writes is passed over (`target_session_attrs=read-write`)."""


def parse_database_url(text: str) -> URL:
    """Read a `postgresql://` URL and check its parameters. Raises `ValueError` that does not quote the password.

    The URL names asyncpg as its driver; libpq's parameters stay in its query, for `addresses`.
    """
    try:
        url = make_url(_hosts_as_words(text))
    except (ArgumentError, ValueError):
        raise ValueError(f"must look like {SHAPE}") from None
    if url.drivername not in {"postgresql", "postgresql+asyncpg", "postgres"}:
        raise ValueError(f"must begin with postgresql:// (got {url.drivername}://)")
    words = _words(url)
    if not (url.database or words.get("dbname") or words.get("service")):
        raise ValueError(f"must name a database: {SHAPE}")
    for word, value in words.items():
        _check(word, value)
    _check_certificates(words)
    _check_hosts(words)
    return url.set(drivername="postgresql+asyncpg", query=words)


def addresses(url: URL) -> list[Address]:
    """List the servers that a URL names, in its order, each with all that the driver needs."""
    words = _words(url)
    hosts: list[str | None] = [host or None for host in words.get("host", url.host or "").split(",")]
    ports: list[str | None] = [port or None for port in words.get("port", str(url.port or "")).split(",")]
    ports = ports * len(hosts) if len(ports) == 1 else ports
    several = len(hosts) > 1
    return [_address(url, words, host, port, several=several) for host, port in zip(hosts, ports, strict=True)]


def place(url: URL) -> str:
    """Describe for people where a URL leads to."""
    return ", ".join(address.where for address in addresses(url))


def given_settings(url: URL) -> dict[str, str]:
    """Return the session settings that a URL gives: its name, and the server's `options`."""
    words = _words(url)
    return {word: words[word] for word in ("application_name", "options") if words.get(word)}


def _hosts_as_words(text: str) -> str:
    """Move several hosts (`a:1,b:2`), which SQLAlchemy can't read, to the parameters `host` and `port`."""
    if (found := _SEVERAL_HOSTS.match(text)) is None:
        return text
    hosts, ports = [], []
    for one in found["hosts"].split(","):
        whole = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]+)(?::([0-9]+))?", one)
        if whole is None:
            raise ValueError(one)
        hosts.append(whole[1])
        ports.append(whole[2] or "5432")
    path, question, query = found["rest"].partition("?")
    words = urlencode({"host": ",".join(hosts), "port": ",".join(ports)})
    return f"{found['scheme']}{found['login'] or ''}{path}?{words}{'&' if question else ''}{query}"


def _words(url: URL) -> dict[str, str]:
    words = {word: value if isinstance(value, str) else value[-1] for word, value in url.query.items()}
    if "ssl" in words:  # what SQLAlchemy and JDBC call it
        value = words.pop("ssl")
        words.setdefault("sslmode", {"true": "require", "false": "disable"}.get(value, value))
    if "database" in words:
        words.setdefault("dbname", words.pop("database"))
    return words


def _check(word: str, value: str) -> None:
    if word not in _DRIVERS | _OURS | _ONLY.keys():
        raise ValueError(f"the word {word!r} is not known; {_known()}")
    if word in _ONLY and value.lower() not in _ONLY[word]:
        why = f": {_WHY_NOT[word]}" if word in _WHY_NOT else ""
        raise ValueError(f"{word} must be {_or(sorted(_ONLY[word]))} (got {value!r}){why}")
    if word in _NUMBERS:
        least, most = _NUMBERS[word]
        if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= most:
            raise ValueError(f"{word} must be a number from {least} to {most} (got {value!r})")


def _known() -> str:
    return f"known are {', '.join(sorted(_DRIVERS | _OURS | _ONLY.keys()))}"


def _or(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def _check_hosts(words: Mapping[str, str]) -> None:
    hosts, ports = words.get("host", "").split(","), words.get("port", "").split(",")
    if not all(re.fullmatch(r"[0-9]{0,5}", port) and int(port or 0) <= PORT_MAX for port in ports):
        raise ValueError(f"port must be a number from 1 to {PORT_MAX} (got {words['port']!r})")
    if len(ports) not in {1, len(hosts)}:
        raise ValueError(f"{len(ports)} ports do not go with {len(hosts)} hosts")


def _check_certificates(words: Mapping[str, str]) -> None:
    """Read the certificates now, so that a wrong one is one line at the start, not a failure of each connection."""
    mode, root = words.get("sslmode", ""), words.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if root == "system":
        if mode != "verify-full":
            raise ValueError("sslrootcert=system needs sslmode=verify-full")
        root = None
    elif mode.startswith("verify-") and root is None and not Path("~/.postgresql/root.crt").expanduser().exists():
        raise ValueError(f"sslmode={mode} needs sslrootcert, a file with the authorities, or sslrootcert=system")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for word, file in (("sslrootcert", root), ("sslcrl", words.get("sslcrl"))):
        if file:
            try:
                context.load_verify_locations(cafile=file)
            except OSError as error:  # ssl.SSLError is one
                raise ValueError(f"{word}: nothing can be read from {file}: {error.strerror or error}") from None
    if certificate := words.get("sslcert"):
        password = words.get("sslpassword", "")
        try:
            context.load_cert_chain(certificate, words.get("sslkey"), lambda: password)
        except OSError as error:
            cause = error.strerror or error
            raise ValueError(f"sslcert, sslkey: no pair can be read from {certificate}: {cause}") from None


def _address(url: URL, words: Mapping[str, str], host: str | None, port: str | None, *, several: bool) -> Address:
    passed = {word: value for word, value in words.items() if word in _DRIVERS}
    for word, value in (("host", host), ("port", port), ("user", url.username), ("password", url.password)):
        if value:
            passed[word] = f"[{value}]" if word == "host" and ":" in value and value[0] not in "[/" else value
    database = url.database or passed.pop("dbname", None)
    if several:
        passed.setdefault("target_session_attrs", "read-write")
    arguments: dict[str, Any] = {"timeout": float(words.get("connect_timeout", CONNECT_TIMEOUT_S))}
    if database:
        arguments["database"] = database
    if passed.get("sslrootcert") == "system":
        del passed["sslrootcert"]
        arguments["ssl"] = ssl.create_default_context()
    arguments["dsn"] = f"postgresql:?{urlencode(passed)}" if passed else None
    tcp = {word: int(words[word]) for word in _NUMBERS if word in words and word != "connect_timeout"}
    where = f"{host or words.get('service') or 'localhost'}:{port or 5432}/{database or ''}"
    return Address(where, arguments, tcp, passed.get("target_session_attrs") == "read-write")
