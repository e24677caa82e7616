"""The calls about the service itself: health, metrics and documentation. They need no token."""

from __future__ import annotations

from typing import Any

from order_client.answers import Index, Liveness, ReadinessReport
from order_client.core import Steps, fetch, fetch_text
from order_client.requests import get, segment
from order_client.surface import Calls, operation


class OperatingCalls(Calls):
    """Ask how the service is, and what it can."""

    @operation
    def read_index(self) -> Steps[Index]:
        """Read where to begin."""
        return fetch(self.session, get("/"), Index)

    @operation
    def read_description(self) -> Steps[dict[str, Any]]:
        """Read the OpenAPI document."""
        return fetch(self.session, get("/openapi.json"), dict[str, Any])

    @operation
    def list_problems(self) -> Steps[str]:
        """Read the page of all problems, as HTML."""
        return fetch_text(self.session, get("/problems/"))

    @operation
    def read_problem(self, code: str) -> Steps[str]:
        """Read the page about a problem, as HTML."""
        return fetch_text(self.session, get(f"/problems/{segment(code)}"))

    @operation
    def read_health(self) -> Steps[ReadinessReport]:
        """Ask whether the service is ready. If it is not after some retries, raises a `ProblemError` of status 503."""
        return fetch(self.session, get("/health"), ReadinessReport)

    @operation
    def read_readiness(self) -> Steps[ReadinessReport]:
        """Ask the same as `read_health`."""
        return fetch(self.session, get("/health/ready"), ReadinessReport)

    @operation
    def read_liveness(self) -> Steps[Liveness]:
        """Ask whether the process answers."""
        return fetch(self.session, get("/health/live"), Liveness)

    @operation
    def read_metrics(self) -> Steps[str]:
        """Read the metrics, in Prometheus' text format."""
        return fetch_text(self.session, get("/metrics"))
