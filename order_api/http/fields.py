"""Reads a body's JSON into a Struct, or says of every field which rule it breaks. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import msgspec

from contracts import codec
from contracts.decimals import Exact
from contracts.vocabulary import check_instant
from order_api.http.problems import BrokenRule, Code, FieldError, Problem, invalid

B = TypeVar("B", bound=msgspec.Struct)

_NOT_JSON: Final = (msgspec.MsgspecError, ValueError, RecursionError)


class BodyReader(Generic[B]):
    """Reads bodies of one kind. `rules`: the rules of its fields, in words; `what`: what it is, as in "an order"."""

    def __init__(self, kind: type[B], rules: Mapping[str, str], what: str) -> None:
        self._rules = rules
        self._what = what
        self._read = msgspec.json.Decoder(kind, dec_hook=_read_decimal).decode
        self._known = {field.name: field for field in msgspec.structs.fields(kind)}

    def read(self, raw: bytes) -> B:
        """Read a body; raise the problem that says where the JSON breaks, or lists every field that breaks its rule."""
        body: B | None = None
        fields: Any = None
        try:
            try:
                body = self._read(raw)
                for name in self._known:
                    _check_time(getattr(body, name))
            except msgspec.ValidationError:  # it stopped at the first fault: look for all of them
                body, fields = None, _read_any(raw)
            doubled = codec.doubled_names(raw)
            if body is not None and not doubled:
                return body
            broken = self._broken(fields if body is None else _read_any(raw), doubled)
        except _NOT_JSON as error:
            raise _malformed(error) from None
        raise invalid(*broken)

    def _broken(self, fields: Any, doubled: Sequence[str]) -> list[BrokenRule]:
        """Judge field by field what the decoder refused as a whole."""
        if not isinstance(fields, dict):
            return [BrokenRule("body", "must be a JSON object", fields)]
        missing = [name for name, field in self._known.items() if field.required and name not in fields]
        broken = [BrokenRule(name, "must come once", fields[name], repeated=True) for name in doubled]
        broken += [BrokenRule(name, "is required") for name in missing]
        for name, value in fields.items():
            if name in doubled:
                continue
            if name not in self._known:
                rule = f"is not a field of {self._what}; these are: {', '.join(self._known)}"
                broken.append(BrokenRule(name, rule, value))
            elif not _fits(value, self._known[name].type):
                broken.append(BrokenRule(name, f"must be {self._rules[name]}", value))
        return broken


def _malformed(error: Exception) -> Problem:
    return Problem(Code.MALFORMED_JSON, str(error), errors=[FieldError("body", f"must be JSON in UTF-8: {error}")])


def _fits(value: object, kind: Any) -> bool:
    try:
        _check_time(msgspec.convert(value, kind, dec_hook=_read_decimal))
    except msgspec.ValidationError:
        return False
    return True


def _check_time(value: object) -> None:
    """Refuse, as the decoder does, a time so far away that another offset could not tell it."""
    if isinstance(value, datetime):
        try:
            check_instant(value)
        except ValueError as error:
            raise msgspec.ValidationError(str(error)) from None


def _read_decimal(kind: type, value: object) -> object:
    if issubclass(kind, Exact):
        return kind.parse(value)
    # msgspec's contract: by this error a hook says that a type is not one of its own, and msgspec reports it.
    raise NotImplementedError(f"no reader for {kind}")


_read_any: Final = msgspec.json.decode
