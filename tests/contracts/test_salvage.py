"""Salvage: a broken request becomes a failed order that keeps what is good and names what is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.codec import Message, decode, encode
from contracts.envelope import QUOTED_LENGTH_MAX, REASON_LENGTH_MAX, UnreadableMessage
from contracts.examples import example
from contracts.orders import InvalidOrder, OrderRequested
from contracts.vocabulary import PATH_NAME_RULE, OrderType
from tests.contracts.bodies import ORDER_ID, REQUEST, as_sent, outcome, salvaged, storable
from tests.contracts.strategies import EDGE_VALUES, messages, with_value

ORDER_TYPES = ", ".join(OrderType)


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


def test_a_quoted_nul_can_be_stored() -> None:
    """The reason quotes a NUL as its escape, so that the failed order can be stored."""
    invalid = salvaged(as_sent(REQUEST | {"asset_id": "B\0C"}))
    assert r'(got "B\u0000C")' in invalid.reason
    assert storable(invalid.reason)


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
