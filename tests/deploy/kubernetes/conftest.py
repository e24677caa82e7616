"""One API server for all these tests, and a strict namespace for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.kubernetes import cluster as clusters
from tests.deploy.kubernetes.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Find or start an API server."""
    with clusters.cluster() as one:
        yield one


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Give this test a namespace of its own, with Pod Security `restricted`."""
    with cluster.namespace() as name:
        yield name
