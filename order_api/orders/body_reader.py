"""From a body's bytes to a Struct, or to the problem that lists every field that breaks its rule. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import msgspec

from contracts import codec
from contracts.decimals import Exact
from contracts.vocabulary import check_instant
from order_api.http.problems import BrokenRule, Code, FieldError, Problem, invalid

T = TypeVar("T", bound=msgspec.Struct)
_NOT_JSON: Final = (msgspec.MsgspecError, ValueError, RecursionError)


class BodyReader(Generic[T]):
    """Reads bodies of one kind. `rules` has each field's rule in words, `what` the thing that they are fields of."""

    def __init__(self, kind: type[T], rules: Mapping[str, str], what: str) -> None:
        self._rules = rules
        self._what = what
        self._fields = {field.name: field for field in msgspec.structs.fields(kind)}
        self._read = msgspec.json.Decoder(kind, dec_hook=_read_decimal).decode

    def __call__(self, raw: bytes) -> T:
        """Read a body; raise the problem that says where the JSON breaks, or lists the fields that break a rule."""
        body: T | None = None
        fields: Any = None
        try:
            try:
                body = self._read(raw)
                for name in self._fields:
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
        known = self._fields
        missing = [name for name, field in known.items() if field.required and name not in fields]
        broken = [BrokenRule(name, "must come once", fields[name], repeated=True) for name in doubled]
        broken += [BrokenRule(name, "is required") for name in missing]
        for name, value in fields.items():
            if name in doubled:
                continue
            if name not in known:
                rule = f"is not a field of {self._what}; these are: {', '.join(known)}"
                broken.append(BrokenRule(name, rule, value))
            elif not _fits(value, known[name].type):
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
