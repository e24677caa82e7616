"""Fixtures for every test: real servers, a database and topics of its own. And the report of the servers in use."""

from __future__ import annotations

import gc
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from saga_kit.service import collect_seldom
from tests.support.infrastructure import PROGRAMS, Database, Infrastructure, Session, copied_database, drop_database
from tests.support.own_ports import take_a_share

SESSION = pytest.StashKey[Session]()

# On a busy machine a process may stand still for seconds, in the midst of an example or of its generation.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    """Collect garbage after each file: what its tests have left open is an error there, and not in some later test."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def infrastructure(pytestconfig: pytest.Config) -> Infrastructure:
    """PostgreSQL and a broker, the same for all tests; started when the first test asks."""
    return pytestconfig.stash[SESSION].start()


@pytest_asyncio.fixture
async def database(infrastructure: Infrastructure, pytestconfig: pytest.Config) -> AsyncIterator[Database]:
    """Give this test a migrated and otherwise empty database."""
    admin_url = infrastructure.database_url_admin
    one = await copied_database(admin_url, await pytestconfig.stash[SESSION].template())
    yield one
    await drop_database(admin_url, urlsplit(one.url).path.removeprefix("/"))


@pytest_asyncio.fixture
async def topic_prefix(infrastructure: Infrastructure) -> AsyncIterator[str]:
    """Give this test a `KAFKA_TOPIC_PREFIX` of its own; topics with this prefix are deleted afterwards."""
    prefix = f"t{secrets.token_hex(4)}."
    yield prefix
    await infrastructure.delete_topics(prefix)


def pytest_configure(config: pytest.Config) -> None:
    """Choose the servers, and a share of the ports.

    SIGTERM ends the session as Ctrl-C does, so that no container is left.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    take_a_share()
    config.stash[SESSION] = Session()


def pytest_report_header(config: pytest.Config) -> str:
    """Report the choice at the start."""
    return f"infrastructure: {config.stash[SESSION].describe()}"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where Apache Kafka is required, start it now, so that its absence fails the session at once."""
    chosen = session.config.stash[SESSION]
    if not chosen.apache_is_required or session.config.option.collectonly:
        return
    if chosen.broker_kind != "apache":
        raise pytest.UsageError(f"REQUIRE_APACHE_KAFKA is set, but there is none: {chosen.docker_trouble}")
    chosen.start()


def pytest_collection_finish() -> None:
    """Let the garbage collector run as seldom as in a service: it would take a seventh of the processor."""
    collect_seldom()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip and remember a test that needs Apache Kafka or a program that is missing."""
    chosen = item.config.stash[SESSION]
    if item.get_closest_marker("apache_kafka") is not None and chosen.start().broker_kind != "apache":
        chosen.not_run.append(item.nodeid)
        pytest.skip("needs Apache Kafka; this is the embedded broker")
    for marker, (program, is_here) in PROGRAMS.items():
        if item.get_closest_marker(marker) is None or is_here():
            continue
        if (asked := chosen.required_by(marker)) is not None:
            pytest.fail(f"needs {program}, which {asked} asks for, and there is none")
        chosen.not_seen.append((program, item.nodeid))
        pytest.skip(f"needs {program}, and there is none")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report the servers that were used, and every test that was skipped because something is missing."""
    chosen = config.stash[SESSION]
    if chosen.infrastructure is not None:
        terminalreporter.section("infrastructure")
        terminalreporter.line(chosen.describe())
        if chosen.infrastructure.broker_kind == "embedded":
            terminalreporter.line(f"NOT RUN ON APACHE KAFKA: {chosen.docker_trouble}", red=True, bold=True)
            for test in chosen.not_run:
                terminalreporter.line(f"NOT RUN: {test}", red=True)
    for (program, file), tests in Counter(
        (program, test.partition("::")[0]) for program, test in chosen.not_seen
    ).items():
        terminalreporter.line(f"NOT RUN: {tests} tests of {file}, which need {program}", red=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing running."""
    config.stash[SESSION].close()
