"""The codec: an encoded message decodes to itself, and broken bytes affect their own message alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.balance import BalanceRefusal, BalanceRefused, RefundBalance, ReserveBalance
from contracts.codec import MESSAGES, Message, decode, decoder, encode, outgoing
from contracts.decimals import Money, Price, Quantity
from contracts.envelope import UnreadableMessage, read_envelope
from contracts.examples import example
from contracts.orders import OrderRequested, OrderStatusChanged
from contracts.topics import TOPICS
from contracts.vocabulary import HoldState, OrderType
from tests.contracts.bodies import ORDER_ID, REQUEST, as_sent, outcome, storable
from tests.contracts.strategies import (
    EDGE_VALUES,
    JSON_VALUES,
    TEXTS,
    THOROUGH,
    any_message,
    body,
    broken_texts,
    messages,
    paths,
    with_value,
)

NOW = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def texts(value: object) -> list[str]:
    """Collect every text in a message."""
    if isinstance(value, msgspec.Struct):
        return [text for name in value.__struct_fields__ for text in texts(getattr(value, name))]
    return [value] if isinstance(value, str) else []


# Round trips


@pytest.mark.parametrize("message_type", MESSAGES)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_round_trip(message_type: str, data: st.DataObject) -> None:
    """Each message decodes to an equal message, with equal fields of the same types."""
    message = data.draw(messages(MESSAGES[message_type]))
    back = decode(message_type, encode(message))
    assert message == back
    kinds = [type(getattr(message, name)) for name in message.__struct_fields__]
    assert kinds == [type(getattr(back, name)) for name in back.__struct_fields__]


@given(any_message())
@THOROUGH
def test_bodies_are_plain_json(message: Message) -> None:
    """Python's own JSON parser reads our output; no decimal is a number; a newer field without a value is left out."""
    decoded = json.loads(encode(message), parse_float=lambda text: pytest.fail(f"a JSON number with a point: {text}"))
    optional = type(message).__struct_config__.omit_defaults
    defaults = {f.name: f.default for f in msgspec.structs.fields(message)} if optional else {}
    told = [name for name in message.__struct_fields__ if defaults.get(name, ...) != getattr(message, name)]
    assert told == list(decoded)


@given(any_message(), st.dictionaries(TEXTS, JSON_VALUES, min_size=1, max_size=3), st.randoms())
@THOROUGH
def test_unknown_fields_are_ignored(message: Message, unknown: dict[str, Any], random: Any) -> None:
    """Fields of a later version change nothing, at any place and with any value."""
    fields = json.loads(encode(message))
    mixed = list((unknown | fields).items())
    random.shuffle(mixed)
    assert message == decode(type(message).__name__, as_sent(dict(mixed)))


def test_defaults_of_a_minimal_request() -> None:
    """A request with only the five required fields is a valid order."""
    expected = OrderRequested(ORDER_ID, "alice", "BTC", OrderType.MARKET_BUY, Quantity("0.01"))
    assert expected == decode("OrderRequested", as_sent(REQUEST))
    assert (None, None, None, None) == (
        expected.price,
        expected.slippage_bps,
        expected.client_order_id,
        expected.requested_at,
    )


def test_white_space_around_a_body() -> None:
    """White space around a body does not change it."""
    pretty = f"\n {json.dumps(REQUEST, indent=4)}\r\n\t".encode()
    assert decode("OrderRequested", as_sent(REQUEST)) == decode("OrderRequested", pretty)


def test_times_are_compared_as_instants() -> None:
    """Times with different offsets are equal when they are the same instant."""
    request = decode("OrderRequested", as_sent(REQUEST | {"requested_at": "2026-03-02T20:00:00+05:30"}))
    assert isinstance(request, OrderRequested)
    assert request.requested_at == NOW


def test_decoder_of_another_type() -> None:
    """`decoder` reads our own documents with wire decimals by the same rules."""
    assert {"a": Money("0.5")} == decoder(dict[str, Money]).decode(b'{"a":"0.5"}')
    with pytest.raises(msgspec.ValidationError, match="must be a decimal"):
        decoder(dict[str, Money]).decode(b'{"a":0.5}')


def test_encode_of_a_list() -> None:
    """A list is encoded by the same rules as a message."""
    assert encode([Money("0.50"), Price("100")]) == b'["0.5","100"]'


@pytest.mark.parametrize("amount", ["-1", "1E-19", "1000000000000000000", "NaN"])
def test_encode_refuses_what_the_wire_can_not_carry(amount: str) -> None:
    """A value with too many digits is refused when it is encoded, so that nothing rounds it later."""
    message = RefundBalance("c", ORDER_ID, "h", "alice", "USD", Money(amount))
    with pytest.raises(ValueError, match="not a wire decimal"):
        encode(message)


def test_encode_refuses_a_foreign_type() -> None:
    """A type that could not be decoded is not encoded."""
    with pytest.raises(TypeError, match="no writer"):
        encode([object()])


# Outgoing messages


@pytest.mark.parametrize("message_type", MESSAGES)
def test_outgoing(message_type: str) -> None:
    """A message goes to its topic, keyed by the text of the topic's key field, in an envelope that can be read."""
    message = example(message_type)
    topic = next(topic for topic in TOPICS if type(message) in topic.messages)
    sent = outgoing(message, message_id="id-1", source="test", time=NOW, traceparent=None, attempt=2)
    assert (topic.name, str(getattr(message, topic.key)), "id-1") == (sent.topic, sent.key, sent.id)
    envelope = read_envelope(sent.headers)
    assert ("id-1", message_type, "test", NOW, None, 2) == msgspec.structs.astuple(envelope)
    assert message == decode(envelope.type, sent.value)


def test_keys_are_the_text_of_the_field() -> None:
    """An order id as a key is its canonical text; an owner is its name."""
    reserve = ReserveBalance("c", ORDER_ID, "h", "alice", "USD", Money("1"))
    refused = BalanceRefused("c", ORDER_ID, "h", HoldState.REFUSED, BalanceRefusal.INSUFFICIENT_BALANCE, "no")
    keys = [outgoing(message, message_id="i", source="s", time=NOW).key for message in (reserve, refused)]
    assert ["alice", str(ORDER_ID)] == keys


# Decoding raises nothing but UnreadableMessage


@given(broken_texts())
@settings(deadline=None, max_examples=1000)
def test_decode_is_total(broken: tuple[str, bytes]) -> None:
    """Any bytes give a message, an invalid order or `UnreadableMessage`; PostgreSQL can store each text in them."""
    message = outcome(*broken)
    assert message is None or all(map(storable, texts(message)))


@given(st.sampled_from([*MESSAGES, "Unknown"]), st.binary(max_size=300))
@settings(deadline=None, max_examples=2000)
def test_decode_of_random_bytes(message_type: str, value: bytes) -> None:
    """Random bytes raise `UnreadableMessage`."""
    assert outcome(message_type, value) is None


@pytest.mark.parametrize("message_type", MESSAGES)
def test_edge_values_in_every_field(message_type: str) -> None:
    """With good, nearly good and absurd values in each field, one at a time, `decode` raises nothing unexpected."""
    for path in paths(message_type):
        for text in EDGE_VALUES:
            message = outcome(message_type, with_value(message_type, path, text))
            assert message is None or all(map(storable, texts(message))), (path, text)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="array"),
        pytest.param(b'"x"', id="text"),
        pytest.param(b"{}", id="no fields"),
        pytest.param(b"[" * 200_000, id="deep and open"),
        pytest.param(b"[" * 200_000 + b"]" * 200_000, id="deep"),
        pytest.param(b'{"a":' * 200_000, id="deep objects"),
        pytest.param(b"9" * 100_000, id="huge number"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param("{}".encode("utf-16"), id="utf-16"),
        pytest.param(b'{"order_id"', id="cut"),
        pytest.param(b"\0", id="nul"),
        pytest.param(None, id="tombstone"),
    ],
)
@pytest.mark.parametrize("message_type", ["OrderRequested", "BalanceReserved", "OrderStatusChanged"])
def test_unreadable(message_type: str, value: bytes | None) -> None:
    """The error for an unreadable body names the message type."""
    with pytest.raises(UnreadableMessage, match=f"^{message_type}") as caught:
        decode(message_type, value)
    assert storable(caught.value.reason)


@pytest.mark.parametrize("tail", [b"[" * 200_000 + b"]" * 200_000, b'"\\ud800"', b"nul", b"01", b'"\\q"', b'"\x01"'])
def test_broken_json_in_an_unknown_field_is_unreadable(tail: bytes) -> None:
    """Broken JSON in an unknown field makes the message unreadable."""
    value = as_sent(REQUEST)[:-1] + b',"later":' + tail + b"}"
    with pytest.raises(UnreadableMessage):
        decode("OrderRequested", value)


def test_unknown_type() -> None:
    """The error quotes an unknown type, shortened, and stays one line in a log."""
    with pytest.raises(UnreadableMessage, match="unknown message type") as caught:
        decode("Strange\n" + "x" * 5000, b"{}")
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 100


def test_invalid_order_is_no_message() -> None:
    """Only the codec makes `InvalidOrder`; as a message type on the wire it is unknown."""
    with pytest.raises(UnreadableMessage, match="unknown message type"):
        decode("InvalidOrder", b"{}")


def test_an_error_names_the_field() -> None:
    """The error names the broken field."""
    with pytest.raises(UnreadableMessage) as caught:
        decode("BalanceReserved", as_sent(body("BalanceReserved") | {"amount": 500.5}))
    assert "decimal as a string" in caught.value.reason
    assert "$.amount" in caught.value.reason


# NUL


@pytest.mark.parametrize("field", ["command_id", "hold_id", "reason"])
def test_a_nul_in_any_text_is_unreadable(field: str) -> None:
    """PostgreSQL stores no NUL in text or jsonb, so the codec refuses it before it can fail a batch's transaction."""
    value = as_sent(body("BalanceRefused") | {field: "a\0b"})
    with pytest.raises(UnreadableMessage, match=f"NUL character - at `\\$.{field}`"):
        decode("BalanceRefused", value)


def test_a_nul_in_a_nested_text_is_unreadable() -> None:
    """A NUL in a nested text, such as an event's snapshot, is refused as well."""
    fields = body("OrderStatusChanged")
    fields["order"]["reason"] = "\0"
    with pytest.raises(UnreadableMessage, match="NUL"):
        decode("OrderStatusChanged", as_sent(fields))


@pytest.mark.parametrize("reason", ['say "no"', "back\\slash", "\\u0000", "line\nline", "\x01", "\u2028", "Ω", "😀"])
def test_other_odd_texts_pass(reason: str) -> None:
    """Only NUL is refused; escapes, control characters and text that looks like an escaped NUL are accepted."""
    refused = decode("BalanceRefused", as_sent(body("BalanceRefused") | {"reason": reason}))
    assert isinstance(refused, BalanceRefused)
    assert reason == refused.reason
    assert refused == decode("BalanceRefused", encode(refused))


# Times


@pytest.mark.parametrize("message_type", [name for name in MESSAGES if name != "OrderRequested"])
def test_times_at_the_ends_of_the_calendar_are_unreadable(message_type: str) -> None:
    """A year that overflows in UTC, or when a delay is added, is refused in any field, nested ones included."""
    times = [path for path in paths(message_type) if path[-1].endswith(("_at", "as_of"))]
    for path in times:
        for text in ('"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59-23:59"', '"1969-12-31T23:59:59Z"'):
            with pytest.raises(UnreadableMessage, match="from 1970 to 2999"):
                decode(message_type, with_value(message_type, path, text))


def test_the_times_of_an_event() -> None:
    """An event has three times, two of them in its order, so the test above covers nested fields."""
    times = [path for path in paths(OrderStatusChanged.__name__) if path[-1].endswith("_at")]
    assert [("occurred_at",), ("order", "created_at"), ("order", "updated_at")] == times
