"""The envelope is CloudEvents 1.0 in Kafka's binary mode, compatible with another implementation in both directions."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, to_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from contracts.codec import MESSAGES, Message, decode, outgoing
from contracts.envelope import (
    ATTEMPT_MAX,
    HEADER_LENGTH_MAX,
    REASON_LENGTH_MAX,
    Envelope,
    UnreadableMessage,
    first_appended,
    format_time,
    read_envelope,
    write_headers,
)
from contracts.examples import example
from contracts.vocabulary import YEAR_MAX, YEAR_MIN
from tests.contracts.strategies import INSTANTS, THOROUGH, any_message

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOW = datetime(2026, 3, 2, 14, 30, 0, 250_000, tzinfo=UTC)
HEADERS: dict[str, bytes | None] = {
    "ce_specversion": b"1.0",
    "ce_id": b"id-1",
    "ce_type": b"OrderRequested",
    "ce_source": b"/somewhere",
    "ce_time": b"2026-03-02T14:30:00.250Z",
    "content-type": b"application/json",
}
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=HEADER_LENGTH_MAX).filter(str.isprintable)
ODD_VALUES = st.none() | st.binary() | NAMES.map(str.encode)
SENT_AT = INSTANTS.filter(lambda time: YEAR_MIN <= time.astimezone(UTC).year <= YEAR_MAX)
"""Headers state times in UTC, so the first and last hours of all years may belong to years that are out of range."""
ENVELOPES = st.builds(
    Envelope,
    id=NAMES,
    type=NAMES,
    source=NAMES,
    time=SENT_AT,
    # W3C Trace Context: there is no version ff.
    traceparent=st.none() | st.from_regex(r"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True),
    attempt=st.integers(1, ATTEMPT_MAX),
)


def read(**changes: bytes | None) -> Envelope:
    """Read valid headers with some of them changed (`_` stands for `-`)."""
    changed = {name if name in HEADERS else name.replace("_", "-"): value for name, value in changes.items()}
    return read_envelope(list((HEADERS | changed).items()))


@given(ENVELOPES)
@THOROUGH
def test_round_trip(envelope: Envelope) -> None:
    """An envelope read from its own headers equals the original."""
    assert envelope == read_envelope(write_headers(envelope))


def test_headers_of_a_minimal_request() -> None:
    """The six headers of the specification are enough, and are read with their values."""
    assert Envelope("id-1", "OrderRequested", "/somewhere", NOW, None, 1) == read()


def test_first_attempts_do_not_say_so() -> None:
    """`attempt` and `traceparent` are written only if they differ from the default."""
    first, second = Envelope("i", "t", "s", NOW), Envelope("i", "t", "s", NOW, TRACEPARENT, 2)
    assert not {"attempt", "traceparent"} & dict(write_headers(first)).keys()
    assert (b"2", TRACEPARENT.encode()) == (
        dict(write_headers(second))["attempt"],
        dict(write_headers(second))["traceparent"],
    )


def test_a_record_that_was_published_again_keeps_its_age() -> None:
    """The earlier of the two times counts; an invalid time is ignored, because only our services write that header."""
    assert datetime(2026, 1, 1, tzinfo=UTC) == read(first_appended_at=b"2026-01-01T00:00:00Z").time
    assert NOW == read(first_appended_at=b"2026-12-01T00:00:00Z").time
    assert NOW == read(first_appended_at=b"yesterday").time


def test_a_record_that_is_published_again_carries_its_first_time() -> None:
    """The header is added once: not to a record that has it, and not if the broker's time is unknown."""
    said = first_appended(int(NOW.timestamp() * 1000), [])
    assert [("first-appended-at", b"2026-03-02T14:30:00.250000Z")] == said
    assert [[], []] == [first_appended(1, said), first_appended(-1, [])]


# The CloudEvents project's library as the test oracle


@given(any_message(), NAMES, NAMES, SENT_AT)
@THOROUGH
def test_the_oracle_reads_ours(message: Message, message_id: str, source: str, time: datetime) -> None:
    """The CloudEvents project's own library reads the attributes and the body of our records."""
    sent = outgoing(message, message_id=message_id, source=source, time=time)
    event = from_binary(KafkaMessage(headers=dict(sent.headers), key=sent.key, value=sent.value), JSONFormat())
    assert (message_id, type(message).__name__, source, time, "1.0", "application/json") == (
        event.get_id(),
        event.get_type(),
        event.get_source(),
        event.get_time(),
        event.get_specversion(),
        event.get_datacontenttype(),
    )
    assert json.loads(sent.value) == event.get_data()
    assert sent.key == event.get_extension("partitionkey")


@given(st.sampled_from(list(MESSAGES)), NAMES, NAMES, SENT_AT)
@THOROUGH
def test_we_read_the_oracle(message_type: str, message_id: str, source: str, time: datetime) -> None:
    """We read the records of a producer that uses the CloudEvents project's library and none of our code."""
    body = json.loads(outgoing(example(message_type), message_id="i", source="s", time=time).value)
    attributes: dict[str, Any] = {
        "id": message_id,
        "type": message_type,
        "source": source,
        "time": time,
        "specversion": "1.0",
        "datacontenttype": "application/json",
    }
    written = to_binary(CloudEvent(attributes, body), JSONFormat())
    assert Envelope(message_id, message_type, source, time) == read_envelope(list(written.headers.items()))
    assert example(message_type) == decode(message_type, written.value)


# Missing and invalid headers


@pytest.mark.parametrize("name", ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time"])
@pytest.mark.parametrize("value", [None, b""], ids=["null", "empty"])
def test_a_missing_header_is_named(name: str, value: bytes | None) -> None:
    """A header that is absent, null or empty makes the message unreadable, and the error names the header."""
    without = [(other, text) for other, text in HEADERS.items() if other != name]
    for headers in (without, [*without, (name, value)]):
        with pytest.raises(UnreadableMessage, match=f"^header {name} is missing"):
            read_envelope(headers)


@pytest.mark.parametrize("name", ["ce_id", "ce_type", "ce_source"])
@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (b"\xff\xfe", "is not UTF-8"),
        (b"\xed\xa0\x80", "is not UTF-8"),
        (b"a\0b", "printable"),
        (b"a\nb", "printable"),
        (b"\x7f", "printable"),
        ("\x85".encode(), "printable"),
        (b"x" * (HEADER_LENGTH_MAX + 1), "at most 1024"),
    ],
    ids=["bytes", "surrogate", "nul", "newline", "delete", "next line", "long"],
)
def test_text_that_can_not_be_stored(name: str, value: bytes, rule: str) -> None:
    """Text that the database or a log line could not store unchanged is refused."""
    with pytest.raises(UnreadableMessage, match=f"^header {name} .*{rule}"):
        read(**{name: value})


@pytest.mark.parametrize("text", ["ä", "x" * HEADER_LENGTH_MAX, "a b", "urn:uuid:1?x#y", "😀"], ids=range(5))
def test_printable_text_is_an_id(text: str) -> None:
    """Any printable text is a valid id, because other producers choose their own ids."""
    assert text == read(ce_id=text.encode()).id


@pytest.mark.parametrize("version", [b"0.3", b"1", b"1.0 ", b"2.0", b"\xff"])
def test_other_versions_of_cloud_events(version: bytes) -> None:
    """Only version 1.0 of CloudEvents is read."""
    with pytest.raises(UnreadableMessage, match=r"^header ce_specversion must be '1\.0'"):
        read(ce_specversion=version)


@pytest.mark.parametrize(
    "time",
    [
        *(b"yesterday", b"2026-03-02", b"1700000000", b"2026-03-02T25:00:00Z", b"2026-02-30T00:00:00Z", b"\xff", b"\0"),
        *(b'"', b"2026-W10-1", b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59", b"2026-03-02T14:30:00Z\n"),
    ],
)
def test_invalid_times_are_refused(time: bytes) -> None:
    """A time that some Python version would not parse, or that overflows, is refused."""
    with pytest.raises(UnreadableMessage, match=r"^header ce_time must be an RFC 3339 time"):
        read(ce_time=time)


@pytest.mark.parametrize(
    "time",
    [
        *(b"2026-03-02T14:30:00.25Z", b"2026-03-02T14:30:00.250000+00:00", b"2026-03-02T20:00:00.25+05:30"),
        *(b"2026-03-02t14:30:00.25z", b"2026-03-02 14:30:00.25Z", b"2026-03-02T14:30:00.25"),
    ],
)
def test_valid_times_are_read(time: bytes) -> None:
    """Each valid spelling of one instant is read; a time without a zone is UTC."""
    actual = read(ce_time=time).time
    assert actual == NOW
    assert actual.tzinfo is not None


@given(INSTANTS)
@THOROUGH
def test_format_time(time: datetime) -> None:
    """Times are written in UTC with a Z and with all microseconds."""
    text = format_time(time)
    assert text.endswith("Z")
    assert time == datetime.fromisoformat(text)


def test_format_time_of_another_zone() -> None:
    """A time of another zone is written in UTC, as the same instant."""
    assert format_time(NOW.astimezone(timezone(timedelta(hours=-3)))) == "2026-03-02T14:30:00.250000Z"


@pytest.mark.parametrize(
    "content_type", [None, b"application/json", b"application/json; charset=utf-8", b"Application/JSON ;x=y"]
)
def test_content_types_that_are_json(content_type: bytes | None) -> None:
    """Any spelling of the JSON content type is accepted, and so is a missing one."""
    assert read() == read(content_type=content_type)


@pytest.mark.parametrize(
    "content_type", [b"", b"text/plain", b"application/cloudevents+json", b"application/jsonx", b"\xff", b"\0" * 5000]
)
def test_other_content_types(content_type: bytes) -> None:
    """Structured mode and other formats are refused; the error quotes the content type, shortened."""
    with pytest.raises(UnreadableMessage, match=r"^header content-type must be application/json, got b'") as caught:
        read(content_type=content_type)
    assert len(caught.value.reason) < 250


@pytest.mark.parametrize(
    "traceparent",
    [
        *(b"", b"00", b"\0" * 55, b"x" * 55, b"\xff" * 55, TRACEPARENT.upper().encode(), TRACEPARENT.encode() + b"-x"),
        None,
    ],
)
def test_a_broken_trace_is_no_reason_to_lose_an_order(traceparent: bytes | None) -> None:
    """A broken `traceparent` counts as absent, as W3C Trace Context says."""
    assert read() == read(traceparent=traceparent)


def test_a_valid_traceparent_is_read() -> None:
    """A valid `traceparent` is read unchanged."""
    assert TRACEPARENT == read(traceparent=TRACEPARENT.encode()).traceparent


@pytest.mark.parametrize(
    ("attempt", "number"),
    [
        *((b"1", 1), (b"7", 7), (b"999999999", ATTEMPT_MAX), (b"0", 1), (b"-1", 1), (b"", 1), (b"1.5", 1)),
        *((b"x", 1), (b"1" * 5000, 1), ("\u0661".encode(), 1), (b"1\n", 1), (b"1_0", 1), (b"\xff", 1), (None, 1)),
    ],
)
def test_attempts(attempt: bytes | None, number: int) -> None:
    """An attempt is a number from 1; it is only informative, so anything else counts as 1."""
    assert number == read(attempt=attempt).attempt


def test_of_a_header_that_comes_twice_the_last_counts() -> None:
    """Of a repeated header the last value counts, as most clients read headers into a dictionary."""
    assert read_envelope([*HEADERS.items(), ("ce_id", b"id-2")]).id == "id-2"
    assert read_envelope([("ce_id", b"\xff"), *HEADERS.items()]).id == "id-1"


def test_headers_of_others_are_ignored() -> None:
    """Headers that a proxy or an agent adds are ignored, in any encoding."""
    others: list[tuple[str, bytes | None]] = [("x", b"\xff"), ("", b""), ("ce_custom", None), ("ce_dataschema", b"\0")]
    assert read() == read_envelope([*others, *HEADERS.items()])


@given(st.dictionaries(st.sampled_from([*HEADERS, "traceparent", "attempt", "x"]), ODD_VALUES))
@THOROUGH
def test_reading_is_total(changes: dict[str, bytes | None]) -> None:
    """Any headers give an envelope or `UnreadableMessage`."""
    try:
        envelope = read_envelope(list((HEADERS | changes).items()))
    except UnreadableMessage as error:
        reason = error.reason
    else:
        assert envelope == read_envelope(write_headers(envelope))
        return
    assert reason.isprintable()
    assert len(reason) <= REASON_LENGTH_MAX


def test_the_error_carries_its_reason() -> None:
    """The error has one reason, in its attribute and its text, shortened to the column of a dead letter."""
    error = UnreadableMessage("x" * 1000)
    assert ("x" * REASON_LENGTH_MAX, "x" * REASON_LENGTH_MAX) == (error.reason, str(error))


def test_values_are_frozen() -> None:
    """An envelope cannot be changed."""
    with pytest.raises(AttributeError):
        read().id = "other"  # type: ignore[misc] # that is the test
    assert read() == msgspec.structs.replace(read())


@pytest.mark.parametrize("name", ["ce_id", "ce_type", "ce_source", "ce_time"])
def test_a_huge_header_is_refused_and_not_held_in_memory(name: str) -> None:
    """A header of a megabyte uses no memory after its message is refused, however many come."""
    start = b"2026-01-01T00:00:00." if name == "ce_time" else b""
    headers = dict(write_headers(Envelope("1", "Item", "/test", datetime(2026, 1, 1, tzinfo=UTC))))
    tracemalloc.start()
    try:
        for number in range(20):
            huge = start + b"%07d" % number + b"0" * 900_000 + (b"Z" if start else b"")
            with pytest.raises(UnreadableMessage, match=f"header {name} must be at most"):
                read_envelope(list((headers | {name: huge}).items()))
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()
