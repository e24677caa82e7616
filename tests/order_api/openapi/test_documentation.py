"""The documentation: it has every call and every problem, its examples hold, and it is served without another host."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from pydantic import SecretStr
from schemathesis.specs.openapi.definitions import OPENAPI_31

from contracts.orders import Order
from contracts.vocabulary import OrderStatus, OrderType
from order_api.description import OPERATIONS, api_document
from order_api.http.limits import RateLimit
from order_api.http.problems import PROBLEMS, Code
from order_api.http.routing import all_routes
from order_api.openapi.declarations import HEADERS, LIMIT_HEADERS
from order_api.openapi.pages import SWAGGER_UI_FILES
from order_api.openapi.schemas import problem_name
from order_api.openapi.words import STATUS_MEANINGS, TYPE_MEANINGS
from order_api.orders.description.problem_examples import problem_examples
from order_api.orders.views import OrderState
from order_api.settings import ApiSettings
from tests.order_api.orders.changes.support import patch, put, rests
from tests.order_api.support import Api, Orchestrator, running, token

PROBLEM = "application/problem+json"
FORMATS = FormatChecker(("uuid",))


@FORMATS.checks("date-time", raises=ValueError)
def _is_a_time(text: object) -> bool:
    return datetime.fromisoformat(str(text)).tzinfo is not None


def _validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    """Make a validator of a part of the document, with what its references lead to."""
    return Draft202012Validator({**schema, "components": api_document()["components"]}, format_checker=FORMATS)


def _described() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in api_document()["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def test_the_document_is_openapi() -> None:
    """The document is valid by the meta-schema of OpenAPI 3.1, and each schema in it by that of JSON Schema 2020-12."""
    assert [] == [error.message for error in Draft202012Validator(OPENAPI_31).iter_errors(api_document())]
    schemas = [*api_document()["components"]["schemas"].values()]
    schemas += [parameter["schema"] for _, operation in _described() for parameter in operation["parameters"]]
    for schema in schemas:
        Draft202012Validator.check_schema(schema)
    assert r"\Z" not in json.dumps(api_document())


def test_every_reference_leads_somewhere() -> None:
    """No `$ref` is broken, every schema is used, and every link names an operation."""
    text = json.dumps(api_document())
    used = set(re.findall(r'"#/components/(\w+)/([\w.-]+)"', text))
    parts = api_document()["components"]
    assert {(kind, name) for kind in ("schemas", "headers") for name in parts[kind]} >= used
    assert used >= {("schemas", name) for name in parts["schemas"] if name not in _NEVER_ANSWERED}
    assert {operation["operationId"] for _, operation in _described()} >= set(
        re.findall(r'"operationId": "(\w+)"', text)
    )


def test_no_schema_adds_to_another() -> None:
    """Each problem has all its members in one schema: generators of clients leave out what is put together of parts."""
    assert '"allOf"' not in json.dumps(api_document())
    for code in PROBLEMS:
        schema = api_document()["components"]["schemas"][problem_name(code)]
        assert {"type", "title", "status", "detail", "instance", "code"} <= set(schema["required"])


_NEVER_ANSWERED = {"MethodNotAllowedProblem", "OriginNotAllowedProblem"}
"""Of no call: the answers to a method that no call has, and to a page of another host that opens a WebSocket."""


@pytest.mark.parametrize("kind", [Order, OrderState])
def test_an_order_that_is_answered_has_every_field(kind: type[Order | OrderState]) -> None:
    """What is not known is null and not left out, so a client may rely on each field; that is not so of old events."""
    assert list(kind.__struct_fields__) == api_document()["components"]["schemas"][kind.__name__]["required"]


async def test_the_document_has_every_route(api: Api) -> None:
    """Every call that is served is described, the hot one too, and nothing else."""
    document = (await api.client.get("/openapi.json")).json()
    assert api_document() == document
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    served = {
        (method, route.path)
        for route in all_routes(api.app.routes)
        if not route.path.startswith("/docs")
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert served == described


def test_every_answer_has_an_example_that_fits() -> None:
    """Each answer with a schema has an example, each problem of it has its own, and each fits its schema."""
    for name, operation in _described():
        for status, answer in operation["responses"].items():
            for media_type, content in answer.get("content", {}).items():
                examples = content.get("examples", {})
                assert examples or content["schema"] == {"type": "string"}, (name, status)
                for title, example in examples.items():
                    errors = [error.message for error in _validator(content["schema"]).iter_errors(example["value"])]
                    assert [] == errors, (name, status, title)
                if media_type == PROBLEM:
                    assert {int(status)} == {PROBLEMS[Code(code)].status for code in examples}


def test_every_parameter_and_body_has_an_example_that_fits() -> None:
    """What is shown as a parameter or a body of a request would be accepted."""
    for name, operation in _described():
        for parameter in operation["parameters"]:
            examples = [parameter["example"]] if "example" in parameter else parameter["schema"]["examples"]
            assert parameter["description"], name
            for example in examples:
                _validator(parameter["schema"]).validate(example)
        for content in operation.get("requestBody", {}).get("content", {}).values():
            for example in content["examples"].values():
                _validator(content["schema"]).validate(example["value"])
    for header in HEADERS.values():
        _validator(header.schema).validate(header.example)


def test_everything_says_what_it_means() -> None:
    """Every operation, answer, schema, field and value of the document is said in words."""
    for name, operation in _described():
        assert operation["summary"], name
        assert all(answer["description"] for answer in operation["responses"].values()), name
    for struct, schema in api_document()["components"]["schemas"].items():
        assert schema["description"], struct
        assert [] == [name for name, field in schema.get("properties", {}).items() if not field["description"]], struct
    assert (set(OrderStatus), set(OrderType)) == (set(STATUS_MEANINGS), set(TYPE_MEANINGS))
    for kind in PROBLEMS.values():
        assert all(text.endswith(".") for text in (kind.meaning, kind.when, kind.remedy)), kind.title


def test_there_is_an_example_of_every_problem() -> None:
    """Each code has one example, with the members that the table says and no others."""
    assert set(PROBLEMS) == problem_examples().keys()
    always = {"type", "title", "status", "detail", "instance", "code"}
    for code, example in problem_examples().items():
        assert always | set(PROBLEMS[code].members) == example.body.keys(), code


async def test_examples_of_problems_are_what_a_running_api_answers(api: Api, orchestrator: Orchestrator) -> None:
    """Each problem that can be provoked from outside has the members and the headers of its example."""
    answers = await _provoked(api, orchestrator)
    for code, answer in answers.items():
        example = problem_examples()[code]
        assert (code, PROBLEM) == (answer.json()["code"], answer.headers["content-type"])
        assert example.body.keys() == answer.json().keys(), code
        assert example.headers.keys() <= answer.headers.keys(), code
        own = {name: value for name, value in answer.json().items() if name not in {"detail", "instance"}}
        same = ("type", "title", "status", "code", *(["errors"] if code is Code.INVALID_REQUEST else []))
        assert {name: example.body[name] for name in same} == {name: own[name] for name in same}, code


async def _provoked(api: Api, orchestrator: Orchestrator) -> dict[Code, httpx2.Response]:
    """Provoke each problem that a client can provoke."""
    first = (await api.submit({"client_order_id": "a"}, key="a")).json()["order_id"]
    await api.submit({"client_order_id": "b"}, key="b")
    ended, filled = str(uuid4()), str(uuid4())
    await orchestrator.shows(ended, phase="COMPLETED")
    await orchestrator.shows(filled, phase="SETTLING")
    invalid = {"asset_id": "BTC", "quantity": 0.01, "side": "BUY"}
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    hold = {"user_id": "bob", "asset_id": "USD", "amount": "2", "expires_at": until}
    service: dict[str, Any] = {"scope": "holds:write"}
    named = {"headers": {"Idempotency-Key": "a"}, **service}
    held, over = [(await api.call("POST", "/holds", json=hold, **service)).headers["location"] for _ in range(2)]
    await api.call("POST", "/holds", json=hold, **named)
    await api.call("PUT", f"{held}/capture", json={"amount": "1", "to": "@fees"}, **service)
    await orchestrator.run("UPDATE api.holds SET status = 'CAPTURED' WHERE hold_id::text = $1", over[-36:])
    on_hold = await rests(orchestrator, progress={"suspended": {"requested_by": "@operator:ann"}})
    await orchestrator.says(on_hold, "held", "OrderHoldRequested", requested_by="@operator:ann")
    api.wire.works = False
    unpublished = await api.submit()
    api.wire.works = True
    return {
        Code.MALFORMED_JSON: await _post(api, b'{"asset_id": "BTC", "quantity": 0.01'),
        Code.INVALID_REQUEST: await _post(api, json.dumps(invalid).encode()),
        Code.BODY_TOO_LARGE: await _post(api, b" " * 20_000),
        Code.UNSUPPORTED_MEDIA_TYPE: await api.call("POST", "/orders", content=b"{}"),
        Code.MISSING_TOKEN: await api.client.get(f"/orders/{first}"),
        Code.INVALID_TOKEN: await api.client.get("/orders", headers={"Authorization": f"Bearer {token(exp=1)}"}),
        Code.INSUFFICIENT_SCOPE: await api.submit(scope="orders:read"),
        Code.OTHER_USER: await api.submit({"user_id": "bob"}),
        Code.NOT_FOUND: await api.get("/order"),
        Code.ORDER_NOT_FOUND: await api.get(f"/orders/{uuid4()}"),
        Code.METHOD_NOT_ALLOWED: await api.call("DELETE", f"/orders/{first}"),
        Code.IDEMPOTENCY_KEY_REUSED: await api.submit({"quantity": "2"}, key="a"),
        Code.CLIENT_ORDER_ID_REUSED: await api.submit({"quantity": "2", "client_order_id": "a"}),
        Code.KEYS_DISAGREE: await api.submit({"client_order_id": "b"}, key="a"),
        Code.ORDER_NOT_CANCELABLE: await api.cancel(ended),
        Code.TOO_LATE_TO_CANCEL: await api.cancel(filled),
        Code.HOLD_NOT_FOUND: await api.call("GET", f"/holds/{uuid4()}", **service),
        Code.HOLD_KEY_REUSED: await api.call("POST", "/holds", json=hold | {"amount": "3"}, **named),
        Code.HOLD_CAPTURE_DIFFERS: await api.call(
            "PUT", f"{held}/capture", json={"amount": "2", "to": "@fees"}, **service
        ),
        Code.HOLD_NOT_HELD: await api.call("PUT", f"{over}/release", **service),
        Code.AMEND_REFUSED: await patch(api, ended),
        Code.VERSION_MISMATCH: await patch(api, on_hold, headers={"if-match": '"9"'}),
        Code.ORDER_NOT_RESTING: await put(api, ended, "hold"),
        Code.HELD_BY_OPERATOR: await put(api, on_hold, "release"),
        Code.NOT_PUBLISHED: unpublished,
    }


async def test_the_example_of_too_many_requests_is_what_is_answered(
    settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is too fast gets the members and the headers of the example, and every header is as it is described."""
    monkeypatch.setattr("order_api.app.RateLimit", partial(RateLimit, clock=lambda: 1000.0))
    async with running(settings.model_copy(update={"api_rate_limit_per_s": 1})) as api:
        answers = [await api.get("/orders") for _ in range(4)]
    refused = next(answer for answer in answers if answer.status_code == 429)
    example = problem_examples()[Code.RATE_LIMITED]
    assert example.body == {**refused.json(), "instance": "/orders"}
    assert example.headers.keys() <= refused.headers.keys()
    for name in LIMIT_HEADERS:
        value = refused.headers[name]
        _validator(HEADERS[name].schema).validate(int(value) if HEADERS[name].schema["type"] == "integer" else value)


@pytest.mark.parametrize(
    ("code", "request_"),
    [
        (Code.BAD_REQUEST, b"GET / HTTP/9\r\n\r\n"),
        (Code.HEADERS_TOO_LARGE, b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"a" * 20_000 + b"\r\n\r\n"),
    ],
)
async def test_the_examples_of_what_is_no_request_are_what_is_answered(api: Api, code: Code, request_: bytes) -> None:
    """What never becomes a request is answered by the same document as anything else."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(request_)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    example = problem_examples()[code]
    assert example.body == json.loads(body)
    assert {f"{name}: {value}" for name, value in example.headers.items()} <= set(head.decode().split("\r\n"))


async def _post(api: Api, content: bytes) -> httpx2.Response:
    return await api.call("POST", "/orders", content=content, headers={"Content-Type": "application/json"})


async def test_the_type_of_every_problem_leads_to_its_page(api: Api) -> None:
    """Each `type` resolves to a small page without a script; the list links them all; another name is a 404 problem."""
    for code, kind in PROBLEMS.items():
        page = await api.client.get(problem_examples()[code].body["type"])
        assert (200, "text/html; charset=utf-8") == (page.status_code, page.headers["content-type"])
        assert f"<h1>{kind.title}</h1>" in page.text
        assert len(page.content) < 5_000
        assert "<script" not in page.text
        _assert_strict(page)
    listed = (await api.client.get("/problems/")).text
    assert sorted(PROBLEMS) == sorted(re.findall(r'href="/problems/([a-z-]+)"', listed))
    for name in ("none", "Not-Found", "%2e%2e%2fapp.py", "<script>"):
        answer = await api.client.get(f"/problems/{name}")
        assert (404, PROBLEM) == (answer.status_code, answer.headers["content-type"]), name


async def test_the_docs_need_no_other_host_and_no_inline_script(api: Api) -> None:
    """Whatever `/docs` loads is ours, may be kept for good under its address, and is no script in the page itself."""
    page = await api.client.get("/docs")
    assert (200, "no-cache") == (page.status_code, page.headers["cache-control"])
    assert "://" not in page.text
    assert [""] * 2 == re.findall(r"<script[^>]*>([^<]*)</script>", page.text)
    _assert_strict(page)
    places = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(SWAGGER_UI_FILES) + 1 == len(places)
    for place in places:
        file = await api.client.get(place)
        assert (200, "public, max-age=31536000, immutable") == (file.status_code, file.headers["cache-control"]), place
    version = places[0].split("/")[2]
    for wrong in (f"/docs/{version}/main.py", "/docs/other/start.js", f"/docs/{version}/..%2f__init__.py"):
        assert 404 == (await api.client.get(wrong)).status_code, wrong


def _assert_strict(page: httpx2.Response) -> None:
    """Hold a page to a policy that begins with nothing and names no other host and no inline script."""
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert ("'none'", "'none'", "'none'") == tuple(
        policy[name] for name in ("default-src", "base-uri", "frame-ancestors")
    )
    assert not re.search(r"unsafe|\*|://", page.headers["content-security-policy"])


async def test_documentation_needs_no_token_and_no_database(settings: ApiSettings) -> None:
    """All of it is public, and there when the service is not."""
    away = settings.model_copy(update={"database_url": SecretStr("postgresql://api:x@127.0.0.1:1/x")})
    async with running(away) as api:
        for path in ("/docs", "/openapi.json", "/problems/", "/problems/unavailable"):
            assert 200 == (await api.client.get(path)).status_code, path


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one.scopes], ids=lambda one: one.name)
async def test_every_other_call_needs_a_token(api: Api, operation: Any) -> None:
    """What has scopes in the table is not served without a token."""
    ids = {name: uuid4() for name in ("order_id", "hold_id", "endpoint_id")}
    path = operation.path.format(**ids, client_order_id="x", event_id="x", asset_id="BTC")
    assert 401 == (await api.client.request(operation.method.upper(), path)).status_code
