"""Could this version, here, go on with what the live system has in flight? Nothing is changed.

Run by the new version against the live database, before a deploy. Everything is read in streams: any number of orders.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from sqlalchemy.exc import ProgrammingError

import migrations
from contracts.codec import decode
from contracts.envelope import Outgoing, UnreadableMessage, read_envelope
from contracts.webhooks import secrets_from
from operations.access import schemas
from operations.access.database import connected, naming, stream
from operations.deployment.rehearsal import obstacle
from order_saga.worker import store
from saga_kit.runtime.errors import describe
from saga_kit.runtime.sealing import NotSealed, Seal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

EXAMPLES_MAX: Final = 3
_OUTBOXES: Final = "SELECT schemaname FROM pg_tables WHERE tablename = 'outbox'"
_OUTBOX: Final = "SELECT '{schema}/' || outbox_id AS item, payload FROM {schema}.outbox"
_ENDPOINTS_THERE: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'webhooks' AND tablename = 'endpoints'"
# One that is disabled may be enabled again; an address has a secret only while its code is on the way.
_ENDPOINTS: Final = """
    SELECT endpoint_id AS item, secrets, statement_timestamp() AS now FROM webhooks.endpoints
    WHERE kind = 'webhook' OR secrets <> '[]'"""
_CLAIMS: Final = "SELECT order_id AS item, request FROM api.claims WHERE NOT settled"


class SchemaState(NamedTuple):
    """The database's revision; the revisions that it lacks, and the one that this version does not know."""

    revision: str | None
    missing: list[str]
    unknown: list[str]


@dataclass(frozen=True, slots=True)
class DeployProblem:
    """What this version can't handle: orders, messages, claims or endpoints, why, how many, and some of them."""

    what: str
    reason: str
    count: int
    examples: list[str]


class DeployReport(NamedTuple):
    """What was looked at, and what is wrong, the most frequent first."""

    schema: SchemaState
    looked_at: dict[str, int]
    problems: list[DeployProblem]

    @property
    def passes(self) -> bool:
        """Whether this version can go on with everything."""
        return not (self.schema.missing or self.schema.unknown or self.problems)


class Tried(NamedTuple):
    """One thing that was looked at, and why it can't be handled, if so."""

    what: str
    item: object
    reason: str | None


async def check(
    database_url: str, progress: Callable[[dict[str, int]], None] | None = None, *, webhooks_keys: str = ""
) -> DeployReport:
    """Load each order and try whatever may come to it next, decode every message and claim, compare the revision.

    Of orders that rest until a price fires them, it tries one of each shape. The secrets of endpoints are opened with
    `webhooks_keys`, which are those of the new version's WEBHOOKS_KEYS.
    `progress` is called with what was looked at so far, for each thing. Raises `Trouble` for a database that can't be
    reached.
    """
    schema = await compare_schema(database_url)
    looked_at = dict.fromkeys(("orders", "messages", "claims", "endpoints"), 0)
    problems: dict[tuple[str, str], DeployProblem] = {}
    async with connected(database_url) as engine:
        async for found in _findings(engine, webhooks_keys):
            looked_at[found.what] += 1
            if found.reason is not None:
                known = problems.get((found.what, found.reason), DeployProblem(found.what, found.reason, 0, []))
                examples = [*known.examples, str(found.item)][:EXAMPLES_MAX]
                problems[found.what, found.reason] = replace(known, count=known.count + 1, examples=examples)
            if progress is not None:
                progress(looked_at)
    return DeployReport(schema, looked_at, sorted(problems.values(), key=lambda one: -one.count))


async def compare_schema(database_url: str) -> SchemaState:
    """Compare the database's revision with those that this version knows."""
    with naming(database_url):
        there = await asyncio.to_thread(migrations.current, database_url)  # it starts an event loop of its own
    expected = migrations.known()
    missing = expected[expected.index(there) + 1 :] if there in expected else [] if there else expected
    return SchemaState(there, missing, [there] if there and there not in expected else [])


async def _findings(engine: AsyncEngine, webhooks_keys: str) -> AsyncIterator[Tried]:
    endpoints = partial(_endpoints, keys=webhooks_keys)
    for what, look in (("orders", _orders), ("messages", _messages), ("claims", _claims), ("endpoints", endpoints)):
        try:
            async for found in look(engine):
                yield found
        except ProgrammingError as error:  # a table or a column that this version reads is not there
            yield Tried(what, "schema", describe(error))


async def _orders(engine: AsyncEngine) -> AsyncIterator[Tried]:
    async for row in store.in_flight(engine):
        try:
            saga = store.read(row)
        except Exception as error:  # noqa: BLE001 - a row of a shape that this version does not know
            yield Tried("orders", row[0], f"can't be loaded: {describe(error)}")
            continue
        yield Tried("orders", saga.order_id, obstacle(saga, datetime.now(UTC)))


async def _messages(engine: AsyncEngine) -> AsyncIterator[Tried]:
    there = {row["schemaname"] async for row in stream(engine, _OUTBOXES)}
    for schema in (one for one in schemas.CONSUMERS if one in there):  # what a migration lacks, the revision tells
        async for row in stream(engine, _OUTBOX.format(schema=schema)):
            try:
                messages = msgspec.msgpack.decode(row["payload"], type=list[Outgoing])
            except msgspec.MsgspecError as error:
                yield Tried("messages", row["item"], f"can't be unpacked: {describe(error)}")
                continue
            for message in messages:
                yield Tried("messages", f"{row['item']} {message.id}", _unreadable(message.headers, message.value))


def _unreadable(headers: list[tuple[str, bytes]], value: bytes) -> str | None:
    """Say why the consumer of a message could not read it, or None."""
    try:
        decode(read_envelope(headers).type, value)
    except UnreadableMessage as error:
        return str(error)
    return None


async def _endpoints(engine: AsyncEngine, *, keys: str) -> AsyncIterator[Tried]:
    there = [row async for row in stream(engine, _ENDPOINTS_THERE)]
    if not there:  # what a migration lacks, the revision tells
        return
    seal, unset = _seal(keys)
    async for row in stream(engine, _ENDPOINTS):
        yield Tried("endpoints", row["item"], unset if seal is None else _unopened(row["secrets"], row["now"], seal))


def _seal(keys: str) -> tuple[Seal | None, str]:
    """Make what opens secrets of these keys, or say why that can't be."""
    if not keys:
        return None, "WEBHOOKS_KEYS is not set here, so nothing could be signed for it"
    try:
        return Seal(keys), ""
    except ValueError:
        return None, "WEBHOOKS_KEYS holds something that is no key, so nothing could be signed for it"


def _unopened(stored: str, now: datetime, seal: Seal) -> str | None:
    """Say why the secrets that an endpoint is signed for with can't be opened, or None."""
    try:
        for secret in secrets_from(stored):
            if secret.valid_until is None or secret.valid_until > now:
                seal.open(secret.sealed)
    except msgspec.MsgspecError as error:
        return f"its secrets can't be read: {describe(error)}"
    except NotSealed:
        return "its secret is sealed with a key that WEBHOOKS_KEYS does not have: put that key back, at the end"
    return None


async def _claims(engine: AsyncEngine) -> AsyncIterator[Tried]:
    async for row in stream(engine, _CLAIMS):
        yield Tried("claims", row["item"], _unreadable_request(row["request"]))


def _unreadable_request(request: Any) -> str | None:
    try:
        decode("OrderRequested", request)
    except UnreadableMessage as error:
        return str(error)
    return None
