"""Hypothesis strategies for any message and for broken messages, derived from the types of the messages."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import reduce
from operator import or_
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from msgspec import inspect as wire

from contracts.codec import MESSAGES, Message, encode
from contracts.decimals import EXACT, Exact
from contracts.examples import example

THOROUGH = settings(deadline=None, max_examples=200)

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
INSTANTS = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis adds the time zone
    max_value=datetime(2999, 12, 31, 23, 59, 59, 999999),  # noqa: DTZ001 - the same
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=11))]),
)


def decimals(kind: type[Exact] = Exact) -> st.SearchStrategy[Exact]:
    """Any value of a wire decimal, of every scale and magnitude, its bounds included."""
    whole_max = int(kind.maximum) if kind.maximum is not None else 10**18 - 1

    def of_scale(scale: int) -> st.SearchStrategy[Exact]:
        unit = 10**scale
        coefficient_max = whole_max * unit + (unit - 1 if kind.maximum is None else 0)
        return st.integers(1 if kind.positive else 0, coefficient_max).map(
            lambda coefficient: kind(EXACT.scaleb(Decimal(coefficient), -scale))
        )

    return st.integers(0, 18).flatmap(of_scale)


def values(kind: wire.Type) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one answer for each kind of type
    """Any value that a type allows."""
    match kind:
        case wire.Metadata():
            return values(kind.type)
        case wire.UnionType():
            return reduce(or_, map(values, kind.types))
        case wire.StructType():
            return messages(kind.cls)
        case wire.CustomType():
            return decimals(kind.cls)
        case wire.EnumType():
            return st.sampled_from(kind.cls)
        case wire.StrType(pattern=str()):
            return st.from_regex(kind.pattern or "", fullmatch=True)
        case wire.StrType():
            return st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=kind.max_length)
        case wire.VarTupleType():
            return st.lists(values(kind.item_type), min_size=kind.min_length or 0, max_size=kind.max_length).map(tuple)
        case wire.IntType():
            step = kind.multiple_of or 1
            return st.integers(kind.ge, kind.le).map(lambda number: number - number % step)
        case _:
            return {
                wire.BoolType: st.booleans(),
                wire.DateTimeType: INSTANTS,
                wire.NoneType: st.none(),
                wire.UUIDType: st.uuids(),
            }[type(kind)]


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Any message of one type."""
    return st.builds(kind, **{f.name: values(wire.type_info(f.type)) for f in msgspec.structs.fields(kind)})


def any_message() -> st.SearchStrategy[Message]:
    """Any message of any type."""
    return st.sampled_from(list(MESSAGES.values())).flatmap(messages)


def body(message_type: str) -> dict[str, Any]:
    """Return the example's body as plain JSON, to be broken."""
    decoded: dict[str, Any] = json.loads(encode(example(message_type)))
    return decoded


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)

# Each is one JSON text that is right, or nearly right, for some field.
EDGE_VALUES = (
    *("null", "true", "false", "0", "-0", "1", "-1", "100.0", "1e2", "1.5", "1e400", "10000", "10001", "0.01"),
    *("9" * 17, "9007199254740991", "9007199254740992", "9" * 400, "9" * 5000, '""', '"a"', '"a b"', r'"a\n"', '"ä"'),
    *('"0"', '"0.0"', '"-0"', '"-1"', '"+1"', '"1"', r'"1\n"', '" 1"', '"1 "', '"1."', '".5"', '"01"', '"1_000"'),
    *('"1e3"', '"1E-8"', '"NaN"', '"Infinity"', '"0x10"', '"1,5"', '"\u0661"', '"\uff11"', '"0.0000000000000000001"'),
    *('"1000000"', '"1000000.000000000000000001"', '"999999999999999999"', '"1000000000000000000"', '"1.00"'),
    *(r'"\u0000"', r'"a\u0000b"', r'"\\u0000"', r'"\ud800"', r'"\udc00\ud800"', r'"\ud83d\ude00"', '"\x7f"', r'"\/"'),
    *('"' + "x" * n + '"' for n in (64, 65, 80, 81, 500, 501)),
    *('"' + "\U0001f600" * n + '"' for n in (80, 81, 500, 501)),
    *('"@fees"', '"@operator:ann"', '"@operator:"', '"@operator:@fees"', '"alice@"', '"a.b_c:d-e"'),
    *('"MARKET_BUY"', '"market_buy"', '"LIMIT_BUY"', '"HELD"', '"PENDING"', '"STALE_PRICE"', '"HOLD_CONFLICT"'),
    *('"2026-03-02T14:30:00Z"', '"2026-03-02 14:30:00Z"', '"2026-03-02t14:30:00z"', '"2026-03-02T14:30:00"'),
    *('"2026-03-02T14:30Z"', '"2026-03-02"', '"1700000000"', "1700000000", '"2026-03-02T14:30:00.1234567Z"'),
    *('"2026-03-02T14:30:00+05:30"', '"2026-03-02T24:00:00Z"', '"2026-06-30T23:59:60Z"', '"2026-02-30T00:00:00Z"'),
    *('"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59-23:59"', '"1969-12-31T23:59:59Z"'),
    *('"1970-01-01T00:00:00Z"', '"2999-12-31T23:59:59Z"', '"3000-01-01T00:00:00Z"', '"P1D"'),
    *('"3f2a7c9e-1b4d-4e8a-9c6f-5d7e8a9b0c1d"', '"3F2A7C9E-1B4D-4E8A-9C6F-5D7E8A9B0C1D"'),
    *('"3f2a7c9e1b4d4e8a9c6f5d7e8a9b0c1d"', '"{3f2a7c9e-1b4d-4e8a-9c6f-5d7e8a9b0c1d}"'),
    *('"urn:uuid:3f2a7c9e-1b4d-4e8a-9c6f-5d7e8a9b0c1d"', '"3f2a7c9e-1b4d-4e8a-9c6f-5d7e8a9b0c1"'),
    *("[]", "{}", '["0.01"]', '{"a":1}', "[" * 100 + "]" * 100),
    *("nul", "'a'", "01", "+1", ".5", "1.", "", '"open', '"\t"', r'"\q"', "1 2"),
)


def broken_texts() -> st.SearchStrategy[tuple[str, bytes]]:
    """Return a message type, and a body with one field replaced, removed, added or wrapped, or with changed bytes."""
    return st.one_of(_replaced(), _mangled(), st.tuples(st.sampled_from(list(MESSAGES)), st.binary(max_size=200)))


@st.composite
def _replaced(draw: st.DrawFn) -> tuple[str, bytes]:
    message_type = draw(st.sampled_from(list(MESSAGES)))
    fields = body(message_type)
    for name in draw(st.lists(st.sampled_from([*fields, "surprise"]), min_size=1, max_size=3)):
        if draw(st.booleans()):
            fields[name] = draw(JSON_VALUES)
        else:
            fields.pop(name, None)
    return message_type, json.dumps(fields, ensure_ascii=draw(st.booleans())).encode()


@st.composite
def _mangled(draw: st.DrawFn) -> tuple[str, bytes]:
    message = draw(any_message())
    text = bytearray(encode(message))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return type(message).__name__, bytes(text)


def with_value(message_type: str, path: tuple[str, ...], text: str) -> bytes:
    """Replace a field's value by one JSON text."""
    fields = body(message_type)
    parent = fields
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = "@here@"
    return json.dumps(fields).replace('"@here@"', text).encode()


def paths(message_type: str) -> list[tuple[str, ...]]:
    """List the paths of all fields of a message, nested ones included."""
    return [
        (name, *rest)
        for name, value in body(message_type).items()
        for rest in ([(), *((inner,) for inner in value)] if isinstance(value, dict) else [()])
    ]
