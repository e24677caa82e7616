"""The codec: an encoded message decodes to itself, and broken bytes affect their own message alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.balance import BalanceRefusal, BalanceRefused, RefundBalance, ReserveBalance
from contracts.codec import MESSAGES, Message, decode, decoder, encode, outgoing
from contracts.decimals import Money, Price, Quantity
from contracts.envelope import QUOTED_LENGTH_MAX, REASON_LENGTH_MAX, UnreadableMessage, read_envelope
from contracts.examples import example
from contracts.orders import InvalidOrder, OrderRequested, OrderStatusChanged
from contracts.topics import TOPICS
from contracts.vocabulary import PATH_NAME_RULE, HoldState, OrderType
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

ORDER_TYPES = ", ".join(OrderType)

ORDER_ID = UUID("3f2a7c9e-1b4d-4e8a-9c6f-5d7e8a9b0c1d")
NOW = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
REQUEST: dict[str, Any] = {
    "order_id": str(ORDER_ID),
    "user_id": "alice",
    "asset_id": "BTC",
    "order_type": "MARKET_BUY",
    "quantity": "0.01",
}


def as_sent(fields: dict[str, Any]) -> bytes:
    """Write a body as any producer would."""
    return json.dumps(fields).encode()


def salvaged(value: bytes) -> InvalidOrder:
    """Decode a request that must be broken but still answerable."""
    message = decode("OrderRequested", value)
    assert isinstance(message, InvalidOrder)
    return message


def outcome(message_type: str, value: bytes) -> Message | None:
    """Decode; return None for `UnreadableMessage`. Any other exception fails the test."""
    try:
        return decode(message_type, value)
    except UnreadableMessage as error:
        reason = error.reason
    assert 0 < len(reason) <= REASON_LENGTH_MAX
    assert storable(reason)
    return None


def storable(text: str) -> bool:
    """Tell whether PostgreSQL's `text` and `jsonb` can store a text."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


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


def test_a_quoted_nul_can_be_stored() -> None:
    """The reason quotes a NUL as its escape, so that the failed order can be stored."""
    invalid = salvaged(as_sent(REQUEST | {"asset_id": "B\0C"}))
    assert r'(got "B\u0000C")' in invalid.reason
    assert storable(invalid.reason)


# Broken requests


@pytest.mark.parametrize("name", OrderRequested.__struct_fields__)
def test_a_broken_field_is_null_and_quoted(name: str) -> None:
    """Any value in a field is accepted, or null and named in the reason, or makes a dead letter; other fields stay."""
    for text in EDGE_VALUES:
        check_salvage(name, text)


def check_salvage(name: str, text: str) -> None:
    """Put one value into one field and check the decoded request."""
    value = with_value("OrderRequested", (name,), text)
    whole = example("OrderRequested")
    message = outcome("OrderRequested", value)
    try:
        json.loads(value)
        is_json = "\\ud800" not in text
    except ValueError:
        # Python will not read a number of 5000 digits; the codec quotes it.
        is_json = text == "9" * 5000
    if not is_json or (message is None and name in ("order_id", "user_id")):
        assert message is None
        return
    others = [other for other in whole.__struct_fields__ if other != name]
    assert message is not None, text
    assert [getattr(whole, other) for other in others] == [getattr(message, other) for other in others]
    if isinstance(message, InvalidOrder):
        assert getattr(message, name) is None
        assert message.reason.startswith(f"{name}: ")
        assert len(message.reason) <= REASON_LENGTH_MAX
    else:
        assert decode("OrderRequested", encode(message)) == message


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("quantity", "1e3", 'quantity: must be a decimal as a string, more than 0, such as {d} (got "1e3")'),
        ("quantity", 0.01, "quantity: must be a decimal as a string, more than 0, such as {d} (got 0.01)"),
        ("quantity", "0", 'quantity: must be a decimal as a string, more than 0, such as {d} (got "0")'),
        ("quantity", None, "quantity: must be a decimal as a string, more than 0, such as {d} (got null)"),
        ("asset_id", "B C", 'asset_id: must be 1 to 64 of A-Z a-z 0-9 . _ : - (got "B C")'),
        ("asset_id", "", 'asset_id: must be 1 to 64 of A-Z a-z 0-9 . _ : - (got "")'),
        ("client_order_id", "a\n", rf'client_order_id: must be {PATH_NAME_RULE} (got "a\n")'),
        ("order_type", "STOP_BUY", f'order_type: must be one of {ORDER_TYPES} (got "STOP_BUY")'),
        ("order_type", 7, f"order_type: must be one of {ORDER_TYPES} (got 7)"),
        ("slippage_bps", 10_001, "slippage_bps: Expected `int` <= 10000 (got 10001)"),
        ("slippage_bps", -1, "slippage_bps: Expected `int` >= 0 (got -1)"),
        ("requested_at", "3000-01-01T00:00:00Z", "requested_at: must be a time from 1970 to 2999 (got {v})"),
        ("requested_at", "yesterday", 'requested_at: Invalid RFC3339 encoded datetime (got "yesterday")'),
        (
            "requested_at",
            "2026-03-02T14:30:00",
            "requested_at: Expected `datetime` with a timezone component (got {v})",
        ),
    ],
)
def test_the_reason_names_field_rule_and_value(field: str, value: object, reason: str) -> None:
    """The reason names the field, the broken rule and the value that was sent, in one line."""
    rule = "'0.01': at most 18 digits before and 18 after the point"
    expected = reason.format(d=rule, v=json.dumps(value))
    assert expected == salvaged(as_sent(REQUEST | {field: value})).reason


@pytest.mark.parametrize("name", ["asset_id", "order_type", "quantity"])
def test_a_missing_field_is_named(name: str) -> None:
    """A request without a required field is an invalid order, and its reason names the field."""
    invalid = salvaged(as_sent({key: value for key, value in REQUEST.items() if key != name}))
    assert f"{name}: is required" == invalid.reason
    assert getattr(invalid, name) is None


@pytest.mark.parametrize("name", ["order_id", "user_id"])
@pytest.mark.parametrize("value", [None, 5, "", "not an id", "@fees", [], "a\0"], ids=repr)
def test_without_order_or_user_it_is_a_dead_letter(name: str, value: object) -> None:
    """Without a valid order id and user there is no order to look up; the error names only these two."""
    with pytest.raises(UnreadableMessage, match=f"^OrderRequested: {name}: ") as caught:
        decode("OrderRequested", as_sent(REQUEST | {name: value, "quantity": 5}))
    assert "quantity" not in caught.value.reason


def test_without_both_ids() -> None:
    """The error names both missing ids."""
    with pytest.raises(UnreadableMessage) as caught:
        decode("OrderRequested", b"{}")
    expected = "OrderRequested: order_id: is required; user_id: is required"
    assert expected == caught.value.reason


def test_several_broken_fields() -> None:
    """The reason names all broken fields, in the order of the message's fields."""
    invalid = salvaged(as_sent(REQUEST | {"quantity": "x", "asset_id": "?", "order_type": "?"}))
    assert ["asset_id", "order_type", "quantity"] == [part.split(":")[0] for part in invalid.reason.split("; ")]
    assert (None, None, None) == (invalid.asset_id, invalid.order_type, invalid.quantity)


def test_everything_broken_at_length() -> None:
    """The reason fits its maximum length, however many fields are broken and however long they are."""
    long = dict.fromkeys(OrderRequested.__struct_fields__, "?" * 100_000)
    invalid = salvaged(as_sent(long | {"order_id": str(ORDER_ID), "user_id": "alice"}))
    assert len(invalid.reason) == REASON_LENGTH_MAX


def test_a_long_value_is_quoted_short() -> None:
    """A long value is shortened, so that the next field still fits into the reason."""
    invalid = salvaged(as_sent(REQUEST | {"asset_id": "x" * 100_000, "quantity": "?"}))
    asset, quantity = invalid.reason.split("; ")
    assert asset.endswith('(got "' + "x" * (QUOTED_LENGTH_MAX - 4) + "...)")
    assert quantity.endswith('(got "?")')


def test_a_broken_text_encoding_in_a_field_is_quoted() -> None:
    """Latin-1 text in a known field breaks only that field, not the whole request."""
    invalid = salvaged(as_sent(REQUEST | {"client_order_id": "M@ller"}).replace(b"@", b"\xfc"))
    assert invalid.client_order_id is None
    assert r'(got "M\xfcller")' in invalid.reason


def twice(name: str, last: str, colon: str = ":") -> bytes:
    """Write a good request with a second value for one of its names."""
    return as_sent(REQUEST)[:-1] + f', "{name}"{colon}{last}}}'.encode()


@pytest.mark.parametrize("last", ['"1000"', '"0.01"', '"x"', "5", "null"])
@pytest.mark.parametrize("name", ["quantity", r"quan\u0074ity"])
@pytest.mark.parametrize("colon", [":", " :", "\n\t:\r "])
def test_a_value_that_comes_twice_is_not_traded_on(name: str, colon: str, last: str) -> None:
    """If a name comes twice, neither value is used, since parsers differ in which they use."""
    invalid = salvaged(twice(name, last, colon))
    assert (None, "BTC") == (invalid.quantity, invalid.asset_id)
    assert f"quantity: must come once (the last: {last})" == invalid.reason


@pytest.mark.parametrize("name", ["order_id", "user_id"])
def test_an_order_or_user_that_comes_twice_can_not_be_read(name: str) -> None:
    """A repeated order id or user makes the request unreadable, because choosing one value would be a guess."""
    with pytest.raises(UnreadableMessage, match=f"^OrderRequested: {name}: must come once"):
        decode("OrderRequested", twice(name, json.dumps(REQUEST[name])))


@pytest.mark.parametrize(("name", "told"), [("x", "x"), ("\\u0000", "\\x00"), ("n" * 99, "n" * 40)])
def test_an_odd_name_that_comes_twice_is_quoted_in_plain_text(name: str, told: str) -> None:
    """The reason is stored and published, so a repeated name with odd characters is quoted in plain text."""
    invalid = salvaged(as_sent(REQUEST)[:-1] + f', "{name}":1, "{name}":2}}'.encode())
    assert f"{told}: must come once" == invalid.reason
    assert Quantity("0.01") == invalid.quantity


def test_repeated_names_inside_an_unknown_field_are_ignored() -> None:
    """Repeated names inside an unknown field are ignored, as is all its content."""
    value = as_sent(REQUEST)[:-1] + b', "later":{"quantity":1,"quantity":2}}'
    assert decode("OrderRequested", value) == decode("OrderRequested", as_sent(REQUEST))


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_no_message_has_a_name_twice(name: str) -> None:
    """Each name comes at most once in any message, with or without spaces: commands and replies carry amounts too."""
    value = encode(example(name))
    for field in json.loads(value):
        for colon in (":", " :", "\t:"):
            doubled = value[:-1] + f',"{field}"{colon}'.encode() + msgspec.json.encode(json.loads(value)[field]) + b"}"
            if name == "OrderRequested" and field not in ("order_id", "user_id"):
                assert field in salvaged(doubled).reason
            else:
                with pytest.raises(UnreadableMessage, match=f"{field}.*must come once|must come once.*{field}"):
                    decode(name, doubled)


@given(any_message(), st.data())
@THOROUGH
def test_a_repeated_name_is_found_beside_any_optional_fields(message: Message, data: st.DataObject) -> None:
    """Whichever fields are left out, null or at their default, a name that comes twice is not read over."""
    kind, pairs = type(message), list(json.loads(encode(message)).items())
    name = data.draw(st.sampled_from(kind.__struct_fields__))
    value = data.draw(st.sampled_from([*(told for known, told in pairs if known == name), None, 0, False, "OPEN"]))
    pairs += [(name, value)] * (1 if name in dict(pairs) else 2)
    mixed = data.draw(st.permutations(pairs))
    body = "{" + ",".join(f"{json.dumps(known)}:{json.dumps(told)}" for known, told in mixed) + "}"
    try:
        read = decode(kind.__name__, body.encode())
    except UnreadableMessage:
        return
    assert isinstance(read, InvalidOrder)


def test_our_own_flat_bodies_are_not_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for repeated names is left to bodies that have more names than fields."""
    examples = [example(name) for name in MESSAGES.keys() - {"OrderStatusChanged"}]
    monkeypatch.setattr("contracts.codec.doubled_names", lambda value: pytest.fail(f"searched: {value!r}"))
    for message in examples:
        assert message == decode(type(message).__name__, encode(message))


@pytest.mark.parametrize("name", [".", "..", "", "x" * 65])
def test_a_client_order_id_is_one_that_a_path_can_carry(name: str) -> None:
    """`.` and `..` are refused: clients resolve them in a path, so the order could not be fetched or cancelled."""
    invalid = salvaged(as_sent(REQUEST | {"client_order_id": name}))
    assert invalid.reason.startswith(f'client_order_id: must be {PATH_NAME_RULE} (got "{name[:36]}')
    assert invalid.client_order_id is None


@pytest.mark.parametrize("name", ["...", "..a", ".a", "a.", "a..", ":", "-", "_", "status", "cancel", "x" * 64])
def test_all_other_client_order_ids_are_valid(name: str) -> None:
    """The rule refuses only those two names."""
    request = decode("OrderRequested", as_sent(REQUEST | {"client_order_id": name}))
    assert isinstance(request, OrderRequested)
    assert name == request.client_order_id


@given(messages(OrderRequested), st.data())
@settings(deadline=None, max_examples=1000)
def test_salvage_keeps_what_is_good(request: Message, data: st.DataObject) -> None:
    """However many fields are broken or missing, a good field keeps its value and a bad one is null and named."""
    whole = json.loads(encode(request))
    names = data.draw(st.lists(st.sampled_from([*whole][2:]), min_size=1, unique=True))
    for name in names:
        broken = ["\0", "?", -1, 1.5, [], {}, *([] if name == "queue_when_closed" else [True])]
        whole[name] = data.draw(st.sampled_from(broken))
    invalid = salvaged(as_sent(whole))
    for name in request.__struct_fields__:
        if name in names:
            assert getattr(invalid, name) is None
            assert name in invalid.reason or len(invalid.reason) == REASON_LENGTH_MAX
        else:
            assert getattr(request, name) == getattr(invalid, name)


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
