"""Repeated names: if a name comes twice in a body, neither value is used, since parsers differ in which they use."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.codec import MESSAGES, Message, decode, encode
from contracts.decimals import Quantity
from contracts.envelope import UnreadableMessage
from contracts.examples import example
from contracts.orders import InvalidOrder
from tests.contracts.bodies import REQUEST, as_sent, salvaged
from tests.contracts.strategies import THOROUGH, any_message


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
