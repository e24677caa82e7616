"""How many connections the API takes. A client whose connection it ends gets a problem document first."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from order_api.http.middleware import HEADERS
from order_api.http.problems import Code, Problem
from saga_kit.runtime.connections import SPARE_MAX, ConnectionRefusal, Connections, Upgrade

OWN_FILES: Final = 200
"""For the process itself: database, broker, libraries that are loaded late."""

log = structlog.get_logger(__name__)


def make_room(connections_max: int) -> None:
    """Raise the limit of open files to so many connections and the process's own: most systems begin at 1,024.

    Without it clients could take all of them, and the process could not open a connection to its database.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + SPARE_MAX + OWN_FILES
    if soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            log.warning("the system allows fewer open files than API_CONNECTIONS_MAX needs", files=allowed)


def make_connections(
    connections_max: int,
    *,
    per_user: int,
    registry: CollectorRegistry,
    upgrades: Mapping[bytes, Upgrade] = MappingProxyType({}),
) -> Connections:
    """Make the connections of an API process."""
    return Connections(
        connections_max,
        registry=registry,
        per_user=per_user,
        answer=write_problem,
        upgrades=upgrades,
    )


def write_problem(refusal: ConnectionRefusal) -> bytes:
    """Write the headers and the body of a refusal."""
    answer = Problem(Code(str(refusal)), headers={"connection": "close"}).response("/")
    headers = b"".join(b"%b: %b\r\n" % header for header in {**HEADERS, **dict(answer.raw_headers)}.items())
    return headers + b"\r\n" + bytes(answer.body)
