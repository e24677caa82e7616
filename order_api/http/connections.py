"""How many connections the API takes, and what one that is ended is told: a problem, as everywhere."""

from __future__ import annotations

import resource
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from order_api.http.middleware import HEADERS
from order_api.http.problems import Code, Problem
from order_api.settings import ApiSettings
from saga_kit.runtime.connections import SPARE_MAX, ConnectionRefusal, Connections

OWN_FILES: Final = 200
"""That the process needs for itself: database, broker, libraries that are loaded late."""

log = structlog.get_logger(__name__)


def make_room(connections_max: int) -> None:
    """Let this process have so many files open, besides its own: most systems allow 1,024 unless they are asked.

    Without it the process could not even reach its database once clients have taken all.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + SPARE_MAX + OWN_FILES
    if soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            log.warning("the system allows fewer open files than API_CONNECTIONS_MAX needs", files=allowed)


def make_connections(settings: ApiSettings, registry: CollectorRegistry) -> Connections:
    """Make the connections of an API process."""
    return Connections(
        settings.api_connections_max,
        registry=registry,
        per_user=settings.api_connections_per_user_max,
        answer=write_problem,
    )


def write_problem(refusal: ConnectionRefusal) -> bytes:
    """Write the headers and body of a refusal."""
    answer = Problem(Code(str(refusal)), headers={"connection": "close"}).response("/")
    headers = b"".join(b"%b: %b\r\n" % header for header in {**HEADERS, **dict(answer.raw_headers)}.items())
    return headers + b"\r\n" + bytes(answer.body)
