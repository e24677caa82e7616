"""The documentation can't say anything else than the code: face, JSON Schemas and AsyncAPI agree with the codec."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from contracts.codec import MESSAGES, Message, decode, encode
from contracts.envelope import UnreadableMessage, read_envelope
from contracts.examples import example
from contracts.orders import InvalidOrder, Order, OrderRequested, OrderStatusChanged
from contracts.topics import TOPICS
from contracts.vocabulary import REASONS
from docs.generate.contracts import DOCS, documents, face, main
from tests.contracts.strategies import EDGE_VALUES, THOROUGH, any_message, body, broken_texts, paths, with_value

FRESH = documents()
CONDITIONAL = {
    *("limit_price", "trigger_price", "trail_amount", "trail_bps", "time_in_force", "expires_at", "queue_when_closed"),
    *("revision", "purpose", "trading", "reopens_at"),
}
"""What the examples' market order in an open market has no use for."""
ASYNCAPI: dict[str, Any] = json.loads(FRESH["asyncapi.json"])


def read_hot(message_type: str, value: bytes) -> Message | None:
    """Decode by the hot path; None when it refuses (an `InvalidOrder` is a refusal that is answered)."""
    try:
        message = decode(message_type, value)
    except UnreadableMessage:
        return None
    return None if isinstance(message, InvalidOrder) else message


def read_face(message_type: str, value: bytes) -> BaseModel | None:
    """Decode by the pydantic face; None when it refuses."""
    try:
        return face(MESSAGES[message_type]).model_validate_json(value)
    except ValidationError:
        return None


def as_built(model: BaseModel) -> dict[str, Any]:
    """Take a model apart, nested ones too."""
    return {name: as_built(value) if isinstance(value, BaseModel) else value for name, value in model}


def as_struct(message: Message) -> dict[str, Any]:
    """Take a message apart, nested ones too."""
    return {
        name: as_struct(value) if isinstance(value, msgspec.Struct) else value
        for name, value in msgspec.structs.asdict(message).items()
    }


def check_agreement(message_type: str, value: bytes) -> None:
    """Demand the same verdict, and of accepted bodies the same values of the same kinds."""
    hot, soft = read_hot(message_type, value), read_face(message_type, value)
    assert (hot is None) == (soft is None), (message_type, value)
    if hot is not None and soft is not None:
        expected, actual = as_struct(hot), as_built(soft)
        assert expected == actual
        assert [type(v) for v in expected.values()] == [type(v) for v in actual.values()]


# The face


@pytest.mark.parametrize("message_type", MESSAGES)
def test_face_and_hot_path_agree_on_every_edge(message_type: str) -> None:
    """Every edge value in every field, nested ones too: both take it, as the same value, or both refuse it."""
    for path in paths(message_type):
        for text in EDGE_VALUES:
            check_agreement(message_type, with_value(message_type, path, text))


@given(any_message())
@THOROUGH
def test_face_reads_what_the_hot_path_writes(message: Message) -> None:
    """Every message passes both, with the same values."""
    check_agreement(type(message).__name__, encode(message))


@given(any_message())
@THOROUGH
def test_hot_path_reads_what_the_face_writes(message: Message) -> None:
    """What pydantic serializes is the same message, decimals in canonical text."""
    written = face(type(message)).model_validate_json(encode(message)).model_dump_json().encode()
    assert message == decode(type(message).__name__, written)


@given(broken_texts())
@settings(deadline=None, max_examples=500)
def test_face_and_hot_path_agree_on_mutations(broken: tuple[str, bytes]) -> None:
    """Fields replaced, dropped and added, bytes changed: one verdict."""
    message_type, value = broken
    try:
        fields = json.loads(value, object_pairs_hook=list)
        twice = isinstance(fields, list) and len({str(pair[0]) for pair in fields if pair}) < len(fields)
    except (ValueError, RecursionError):
        twice = False
    assume(not twice)
    try:
        value.decode()
    except UnicodeDecodeError:
        assume(read_hot(message_type, value) is None)
    check_agreement(message_type, value)


UNKNOWN_ONLY = {
    "not UTF-8": (b'"\xff"', True, False),
    "an overlong NUL": (b'"\xc0\x80"', True, False),
    "an encoded surrogate": (b'"\xed\xa0\x80"', True, False),
    "a number of 5000 digits": (b"9" * 5000, True, False),
    "nesting": (b"[" * 300 + b"]" * 300, True, False),
    "NaN": (b"NaN", False, True),
    "Infinity": (b"-Infinity", False, True),
    "a huge exponent": (b"1e400", True, True),
    "a lone surrogate": (rb'"\ud800"', False, False),
    "broken JSON": (b"nul", False, False),
}


@pytest.mark.parametrize(("value", "hot", "soft"), UNKNOWN_ONLY.values(), ids=UNKNOWN_ONLY)
def test_where_they_differ(value: bytes, hot: bool, soft: bool) -> None:  # noqa: FBT001 - a table
    """The two differ only in unknown fields, which both ignore."""
    text = encode(example("OrderRequested"))[:-1] + b',"unknown":' + value + b"}"
    message = read_hot("OrderRequested", text)
    assert (hot, soft) == (message is not None, read_face("OrderRequested", text) is not None)
    assert message in (None, example("OrderRequested"))


def test_where_they_differ_on_a_name_that_comes_twice() -> None:
    """The hot path refuses both values, the face takes the last."""
    text = encode(example("OrderRequested"))[:-1] + b',"quantity":"1"}'
    assert read_hot("OrderRequested", text) is None
    assert read_face("OrderRequested", text) is not None
    first_is_bad = b'{"quantity":5,' + encode(example("OrderRequested"))[1:]
    assert read_hot("OrderRequested", first_is_bad) is None
    assert read_face("OrderRequested", first_is_bad) is not None


@pytest.mark.parametrize("field", [name for name in Order.__struct_fields__ if name != "reason"])
def test_the_face_names_the_field(field: str) -> None:
    """A caller of ours who is refused by the face hears where."""
    with pytest.raises(ValidationError) as caught:
        face(OrderStatusChanged).model_validate_json(with_value("OrderStatusChanged", ("order", field), '"\\u0000"'))
    assert ("order", field) == caught.value.errors()[0]["loc"][:2]


def test_the_face_says_the_rule_of_a_decimal() -> None:
    """The rule's words are those of the hot path."""
    with pytest.raises(ValidationError, match="must be a decimal as a string, more than 0"):
        face(OrderRequested).model_validate_json(with_value("OrderRequested", ("quantity",), "0.01"))


def test_a_face_is_made_once() -> None:
    """The same Struct has the same model, alone or inside another."""
    assert face(Order) is face(OrderStatusChanged).model_fields["order"].annotation


def test_a_face_takes_python_values_too() -> None:
    """Values that are what they should be already pass as they are."""
    message = example("OrderRequested")
    model = face(OrderRequested).model_validate(
        msgspec.structs.asdict(message) | {"quantity": "0.01", "price": "50000"}
    )
    assert msgspec.structs.asdict(message) == dict(model)


# The schemas


def validator(message_type: str) -> jsonschema.Draft7Validator:
    """Make a validator of a message's schema as it is written, formats included."""
    schema = json.loads(FRESH[f"schemas/{message_type}.json"])
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)


VALIDATORS = {message_type: validator(message_type) for message_type in MESSAGES}


@given(any_message())
@THOROUGH
def test_schemas_accept_every_message(message: Message) -> None:
    """What we send is what we document."""
    VALIDATORS[type(message).__name__].validate(json.loads(encode(message)))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("quantity", ["0", "0.00", "1e3", "1_000", "+1", " 1", "1.", ".5", "01", "\u0661", "1" * 19, 1, 0.5, None]),
        ("price", ["0", "-1", 1, True]),
        ("order_id", ["", "{3f2a7c9e-1b4d-4e8a-9c6f-5d7e8a9b0c1d}", "3f2a7c9e", 7]),
        ("user_id", ["", "@fees", "a b", "x" * 65, "ä", None]),
        ("order_type", ["LIMIT", "market_buy", 0, None]),
        ("slippage_bps", [-1, 10_001, "100", 1.5]),
        ("client_order_id", ["", "a/b", 7]),
        ("requested_at", [1_700_000_000, True]),
    ],
)
def test_schemas_refuse_what_the_hot_path_refuses(field: str, values: list[Any]) -> None:
    """Who validates with the schema hears of a mistake before we do."""
    for value in values:
        broken = body("OrderRequested") | {field: value}
        assert not VALIDATORS["OrderRequested"].is_valid(broken), value
        assert read_hot("OrderRequested", json.dumps(broken).encode()) is None


@pytest.mark.parametrize("reason", ["\0", "a\0b", "x" * 501, None])
def test_schemas_refuse_texts_that_can_not_be_stored(reason: str | None) -> None:
    """A participant's words are bounded, and hold no NUL."""
    assert not VALIDATORS["BalanceRefused"].is_valid(body("BalanceRefused") | {"reason": reason})


@pytest.mark.parametrize("message_type", MESSAGES)
def test_schemas_name_the_same_fields(message_type: str) -> None:
    """Names, their order, and which are required come from the Struct."""
    schema = json.loads(FRESH[f"schemas/{message_type}.json"])
    fields = msgspec.structs.fields(MESSAGES[message_type])
    assert [field.name for field in fields] == list(schema["properties"])
    assert [field.name for field in fields if field.required] == schema["required"]
    assert "additionalProperties" not in schema


def test_schemas_explain_every_reason_code() -> None:
    """Who follows orders finds the meaning of a code beside the code."""
    description = json.loads(FRESH["schemas/OrderStatusChanged.json"])["$defs"]["ReasonCode"]["description"]
    assert all(f"{code}: {reason.meaning}" in description for code, reason in REASONS.items())
    assert description.count("Retryable.") == sum(reason.retryable for reason in REASONS.values())


# AsyncAPI


def references(node: Any) -> list[str]:
    """Collect every `$ref` of a document."""
    if isinstance(node, dict):
        return [r for key, value in node.items() for r in ([value] if key == "$ref" else references(value))]
    return [r for value in node for r in references(value)] if isinstance(node, list) else []


def resolved(reference: str) -> Any:
    """Follow a reference inside the AsyncAPI document or to a schema beside it."""
    if reference.startswith("./"):
        return json.loads(FRESH[reference.removeprefix("./")])
    node: Any = ASYNCAPI
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def test_asyncapi_references_resolve() -> None:
    """No reference leads nowhere."""
    assert len(references(ASYNCAPI)) > 2 * len(MESSAGES)
    assert all(resolved(reference) for reference in references(ASYNCAPI))


def test_asyncapi_tells_every_topic() -> None:
    """Addresses, partitions and messages are those of the code."""
    assert [(topic.name, topic.partitions, {m.__name__ for m in topic.messages}) for topic in TOPICS] == [
        (channel["address"], channel["bindings"]["kafka"]["partitions"], set(channel["messages"]))
        for channel in ASYNCAPI["channels"].values()
    ]


@pytest.mark.parametrize("message_type", MESSAGES)
def test_asyncapi_examples_are_real(message_type: str) -> None:
    """An example is a record that the services take, and that its own documentation allows, headers included."""
    message = ASYNCAPI["components"]["messages"][message_type]
    (record,) = message["examples"]
    assert example(message_type) == decode(message_type, json.dumps(record["payload"]).encode())
    VALIDATORS[message_type].validate(record["payload"])
    envelope = read_envelope([(name, text.encode()) for name, text in record["headers"].items()])
    assert message_type == envelope.type
    headers = {"allOf": [resolved("#/components/schemas/CloudEvent"), message["headers"]["allOf"][1]]}
    jsonschema.Draft7Validator(headers).validate(record["headers"])
    assert not jsonschema.Draft7Validator(headers).is_valid(record["headers"] | {"ce_type": "Other"})


@pytest.mark.parametrize("message_type", MESSAGES)
def test_asyncapi_names_the_key(message_type: str) -> None:
    """Who produces reads what to put into the record's key."""
    key = next(topic.key for topic in TOPICS if MESSAGES[message_type] in topic.messages)
    described = ASYNCAPI["components"]["messages"][message_type]["bindings"]["kafka"]["key"]["description"]
    assert f"The text of `{key}`." == described


# The files


def test_documents_are_fresh() -> None:
    """What is checked in is what the code says: `make docs` writes it."""
    assert main(["--check"]) == 0
    found = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in DOCS.glob("schemas/*")}
    assert {path: text for path, text in FRESH.items() if path != "asyncapi.json"} == found


def test_documents_are_deterministic() -> None:
    """Another process, with other hash seeds, writes the same bytes."""
    code = "import json, sys; from docs.generate.contracts import documents; json.dump(documents(), sys.stdout)"
    for seed in ("1", "2"):
        written = subprocess.run(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(DOCS.parent)},
            capture_output=True,
            check=True,
        )
        assert json.loads(written.stdout) == FRESH


def test_check_finds_and_write_repairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed, a missing and a left-over document are found, named, and repaired by writing."""
    folder = ["--folder", str(tmp_path)]
    assert main(folder) == 0
    assert main([*folder, "--check"]) == 0
    (tmp_path / "asyncapi.json").write_text("{}")
    (tmp_path / "schemas/OrderRequested.json").unlink()
    (tmp_path / "schemas/Gone.json").write_text("{}")
    capsys.readouterr()
    assert main([*folder, "--check"]) == 1
    stale = ["asyncapi.json", "schemas/Gone.json", "schemas/OrderRequested.json"]
    assert [f"not fresh: {path}" for path in stale] == capsys.readouterr().out.splitlines()
    assert main(folder) == 0
    written = ["written: asyncapi.json", "removed: schemas/Gone.json", "written: schemas/OrderRequested.json"]
    assert written == capsys.readouterr().out.splitlines()
    assert main([*folder, "--check"]) == 0


def test_the_module_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m docs.generate.contracts --check` is what `make` and CI call."""
    monkeypatch.setattr(sys, "argv", ["docs.generate.contracts", "--check"])
    monkeypatch.delitem(sys.modules, "docs.generate.contracts")
    with pytest.raises(SystemExit) as left:
        runpy.run_module("docs.generate.contracts", run_name="__main__")
    assert left.value.code == 0


@given(st.sampled_from(list(MESSAGES)))
def test_examples_say_everything(message_type: str) -> None:
    """An example leaves no field out but those that have no meaning for its order, as they are left out on the wire."""
    left_out = {*CONDITIONAL, "slippage_bps"} if message_type == "OrderAmendRequested" else CONDITIONAL
    fields = [name for name in MESSAGES[message_type].__struct_fields__ if name not in left_out]
    assert fields == [name for name in body(message_type) if name not in CONDITIONAL]
