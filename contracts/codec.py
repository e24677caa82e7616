"""Encodes and decodes messages with msgspec. The only module that knows every message."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime
from functools import partial
from operator import attrgetter, is_not
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, get_args

import msgspec

from contracts.decimals import Exact, format_decimal
from contracts.envelope import (
    QUOTED_LENGTH_MAX,
    REASON_LENGTH_MAX,
    Envelope,
    Outgoing,
    UnreadableMessage,
    write_headers,
)
from contracts.orders import InvalidOrder, OrderRequested
from contracts.topics import TOPICS
from contracts.vocabulary import (
    NAME_LENGTH_MAX,
    NAME_PATTERN,
    NAME_RULE,
    PATH_NAME_PATTERN,
    PATH_NAME_RULE,
    Instant,
    OrderType,
    check_instant,
    id_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

Message = msgspec.Struct
"""Any message of any conversation: a frozen Struct whose class name is its CloudEvents type."""

_BACKSLASH: Final = ord("\\")
_ORDER_TYPE_RULE: Final = f"must be one of {', '.join(OrderType)}"
_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)
"""All that reading bytes can raise: not JSON, not UTF-8, nested too deep, or against a type's rule."""


def _read_value(kind: type[Exact], value: object) -> Exact:
    return kind.parse(value)


def _write_value(value: object) -> str:
    if isinstance(value, Exact):
        return format_decimal(value)
    raise TypeError(f"no writer for {type(value)}")


MESSAGES: Final[dict[str, type[Message]]] = {
    message.__name__: message for topic in TOPICS for message in topic.messages
}
_TOPIC_OF: Final = {message: topic for topic in TOPICS for message in topic.messages}


def decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """Make a decoder for a type that holds wire decimals."""
    return msgspec.json.Decoder(kind, dec_hook=_read_value)


def _instants(kind: type[msgspec.Struct]) -> Iterator[Callable[[Any], datetime | None]]:
    """Yield a reader of each time in a message, also of those in objects within it."""
    for field in msgspec.structs.fields(kind):
        if field.type in (Instant, Instant | None):
            yield attrgetter(field.name)
        elif (within := _object(field.type)) is not None:
            for get in _instants(within):
                yield partial(_within, attrgetter(field.name), get)


def _object(kind: Any) -> type[msgspec.Struct] | None:
    """Return the type of the object that a field holds, or may hold; None for a plain value."""
    for each in get_args(kind) or (kind,):
        if isinstance(each, type) and issubclass(each, msgspec.Struct):
            return each
    return None


def _within(outer: Callable[[Any], Any], get: Callable[[Any], datetime | None], message: Message) -> datetime | None:
    found = outer(message)
    return None if found is None else get(found)


class _Reader(NamedTuple):
    decode: Callable[[bytes], Message]
    instants: tuple[Callable[[Message], datetime | None], ...]
    given: Callable[[Message, bytes], int] | None
    """Counts the fields that a message was certainly given by its body; None where objects are nested."""


def _given(kind: type[msgspec.Struct]) -> Callable[[Message, bytes], int] | None:
    """Make the counter of `_Reader.given`.

    A field with another value than its default was given. So was one that is always written, even at its default (it
    has a `default_factory`), when its name stands in the body once.
    """
    fields = msgspec.structs.fields(kind)
    if any(_object(field.type) is not None for field in fields):
        return None
    told = [field for field in fields if field.default_factory is msgspec.NODEFAULT]
    values, defaults = attrgetter(*(field.name for field in told)), tuple(field.default for field in told)
    names = [f'"{field.name}":'.encode() for field in fields if field not in told]

    def count(message: Message, body: bytes) -> int:
        return sum(map(is_not, values(message), defaults)) + sum(body.count(name) == 1 for name in names)

    return count


_READERS: Final = {
    name: _Reader(decoder(message).decode, tuple(_instants(message)), _given(message))
    for name, message in MESSAGES.items()
}
_ORDER_FIELDS: Final = {
    field.name: (field.required, decoder(field.type)) for field in msgspec.structs.fields(OrderRequested)
}
_RAW_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER: Final = msgspec.json.Encoder(enc_hook=_write_value)


def decode(message_type: str, value: bytes | None) -> Message:
    """Decode a body by its CloudEvents type. Unknown fields are ignored, so that messages can grow.

    An `OrderRequested` that breaks a rule but names its order and user comes back as `InvalidOrder`.
    Raises `UnreadableMessage`, whose reason says what is wrong.
    """
    reader = _READERS.get(message_type)
    if reader is None:
        raise UnreadableMessage(f"unknown message type {message_type[:QUOTED_LENGTH_MAX]!r}")
    if value is None:
        raise UnreadableMessage(f"{message_type} has no body")
    try:
        message = reader.decode(value)
        for get in reader.instants:
            if (time := get(message)) is not None:
                check_instant(time)
        _check_names(value, reader.given and reader.given(message, value))
        if _BACKSLASH in value:  # JSON has a NUL only as an escape, and our own bodies have hardly any
            _check_text(message)
    except _UNREADABLE as error:
        if message_type == OrderRequested.__name__:
            return _salvage(value, error)
        raise UnreadableMessage(f"{message_type}: {_in_words(error)}") from None
    return message


def doubled_names(value: bytes) -> Sequence[str]:
    """List the names that come twice in a JSON object that msgspec has decoded.

    Of two, msgspec takes the last; other readers take the first (RFC 8259, 4). Nested objects are not checked. Raises
    `RecursionError` for what is nested too deep. It costs about as much as decoding a message.
    """
    # Bytes that are not UTF-8 stand in fields that nobody reads.
    names: Sequence[str] = _find_doubled(value.decode(errors="surrogateescape"))
    return names


def _doubled(pairs: list[tuple[str, Any]]) -> Sequence[str]:
    if len(dict(pairs)) == len(pairs):
        return ()
    return [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]


# The result is made of the outermost object; numbers stay text, since a long one would be slow to read.
_find_doubled: Final = json.JSONDecoder(object_pairs_hook=_doubled, parse_int=str, parse_float=str).decode
_find_space_behind_name: Final = re.compile(rb'"[ \t\r\n]').search


def _check_names(value: bytes, given: int | None) -> None:
    """Raise `ValueError` when a name comes twice.

    Where the bytes have no more names than fields are `given`, each came once; that costs a third.
    """
    if given is not None and value.count(b'":') == given and _find_space_behind_name(value) is None:
        return
    if names := doubled_names(value):
        raise ValueError("must come once - at " + ", ".join(f"`$.{_plain(name)}`" for name in names[:3]))


def _plain(name: str) -> str:
    return ascii(name)[1:-1][:QUOTED_LENGTH_MAX]  # a sender's name may hold characters that no text of ours may


def encode(message: object) -> bytes:
    """Encode a message's body, or any other value. Raises `ValueError` for a decimal that the wire can't carry."""
    return _ENCODER.encode(message)


def outgoing(
    message: Message, *, message_id: str, source: str, time: datetime, traceparent: str | None = None, attempt: int = 1
) -> Outgoing:
    """Put a message into its envelope; its type decides topic and key."""
    kind = type(message)
    topic = _TOPIC_OF[kind]
    key = getattr(message, topic.key)
    key = key if type(key) is str else id_text(key)
    headers = write_headers(Envelope(message_id, kind.__name__, source, time, traceparent, attempt))
    return Outgoing(topic.name, key, message_id, _ENCODER.encode(message), headers)


def _check_text(message: Message) -> None:
    """Raise `ValueError` for a NUL in any text: PostgreSQL can't store one."""
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, msgspec.Struct):
            _check_text(value)
        elif isinstance(value, str) and "\0" in value:
            raise ValueError(f"must not hold a NUL character - at `$.{name}`")


def _salvage(value: bytes, error: Exception) -> InvalidOrder:
    """Keep the good fields of a request that breaks a rule; a broken one is null, and quoted in the reason.

    Raises `UnreadableMessage` when the order or the user can't be read.
    """
    try:
        raw = _RAW_FIELDS.decode(value)
        doubled = doubled_names(value)
    except msgspec.ValidationError:
        raise UnreadableMessage("OrderRequested: the body must be a JSON object") from None
    except _UNREADABLE as not_json:
        raise UnreadableMessage(f"OrderRequested: {not_json}") from None
    good: dict[str, Any] = {}
    broken = {name: f"{_plain(name)}: must come once" for name in doubled}
    for name, (required, reader) in _ORDER_FIELDS.items():
        if name in broken:
            broken[name] += f" (the last: {_quote(raw[name])})"
        elif name in raw:
            try:
                good[name] = _read_field(reader, raw[name])
            except _UNREADABLE as rule:
                words = _ORDER_TYPE_RULE if name == "order_type" else _in_words(rule)
                broken[name] = f"{name}: {words} (got {_quote(raw[name])})"
        elif required:
            broken[name] = f"{name}: is required"
    if unreadable := [words for name, words in broken.items() if name in ("order_id", "user_id")]:
        raise UnreadableMessage("OrderRequested: " + "; ".join(unreadable))
    reason = "; ".join(broken.values()) or _in_words(error)  # never empty
    return InvalidOrder(reason=reason[:REASON_LENGTH_MAX], **good)


def _read_field(reader: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> Any:
    value = reader.decode(raw)
    if isinstance(value, datetime):
        check_instant(value)
    return value


def _quote(raw: msgspec.Raw) -> str:
    text = bytes(raw).decode(errors="backslashreplace")
    return text if len(text) <= QUOTED_LENGTH_MAX else text[: QUOTED_LENGTH_MAX - 3] + "..."


def _in_words(error: Exception) -> str:
    text = str(error)
    for words, rule in _RULES.items():
        text = text.replace(words, rule)
    return text


_RULES: Final = {
    f"Expected `str` matching regex {NAME_PATTERN!r}": f"must be {NAME_RULE}",
    f"Expected `str` matching regex {PATH_NAME_PATTERN!r}": f"must be {PATH_NAME_RULE}",
    f"Expected `str` of length <= {NAME_LENGTH_MAX}": f"must be {PATH_NAME_RULE}",
}
