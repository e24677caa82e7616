"""The routes of the documentation: the OpenAPI document, Swagger UI at `/docs`, the pages of the problems. All public.

They load nothing from another host and no page may: Swagger UI's files are those of an installed package, and each page
has a Content-Security-Policy that names what it needs.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Any, ClassVar, Final

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from contracts import codec
from order_api.http.bodies import JSON
from order_api.http.problems import PROBLEMS, TYPE_PREFIX, Code, Problem
from order_api.openapi.declarations import HTML, Example, Parameter, Returns, operation
from order_api.openapi.document import TITLE
from order_api.openapi.problem_pages import STYLE_SOURCE, ProblemExamples, html_index, html_page
from order_api.openapi.schemas import reference

SWAGGER_UI: Final = "fastapi_swagger.resources"
"""The package whose files are served."""
SWAGGER_UI_FILES: Final = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
START: Final = "start.js"
START_SCRIPT: Final = """\
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#ui",
  validatorUrl: null,
  queryConfigEnabled: false,
  persistAuthorization: false,
  displayRequestDuration: true,
  docExpansion: "list",
});
"""
SWAGGER_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PROBLEM_POLICY: Final = (
    f"default-src 'none'; style-src {STYLE_SOURCE}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ASKED_EACH_TIME: Final = {"cache-control": "no-cache"}
_KEPT: Final = {"cache-control": "public, max-age=31536000, immutable"}


class Index(msgspec.Struct, frozen=True):
    """Where to begin: addresses on this server."""

    MEANINGS: ClassVar = {
        "documentation": "For people.",
        "description": "The OpenAPI document, for programs.",
        "orders": "Where orders are submitted and listed.",
        "problems": "What can go wrong.",
        "health": "Whether the service is ready.",
    }
    documentation: str
    description: str
    orders: str
    problems: str
    health: str


INDEX: Final = Index("/docs", "/openapi.json", "/orders", TYPE_PREFIX, "/health")


def _index() -> dict[str, Example]:
    return {"index": Example("The addresses", msgspec.to_builtins(INDEX))}


_CODE: Final = Parameter("code", "path", "The problem's `code`.", reference(Code.__name__), Code.ORDER_NOT_FOUND)


class PageRoutes:
    """The routes of the documentation that the document itself names."""

    def __init__(self, document: Mapping[str, Any], problems: ProblemExamples) -> None:
        self._document = json.dumps(document, separators=(",", ":")).encode()
        self._problems = problems

    @operation(
        *("GET", "/", "readIndex"),
        {200: Returns("The addresses of the documentation, of the orders and of the health.", Index, _index)},
        tag="documentation",
    )
    async def index(self, _: Request) -> Response:
        """Where to begin."""
        return Response(codec.encode(INDEX), headers=_ASKED_EACH_TIME, media_type=JSON)

    @operation(
        *("GET", "/openapi.json", "readDescription", {200: Returns("OpenAPI 3.1.")}),
        summary="This document",
        tag="documentation",
    )
    async def openapi(self, _: Request) -> Response:
        """Give the OpenAPI document."""
        return Response(self._document, headers=_ASKED_EACH_TIME, media_type=JSON)

    @operation(
        *("GET", TYPE_PREFIX, "listProblems", {200: Returns("A page that lists them.", media_type=HTML)}),
        tag="documentation",
    )
    async def problems(self, _: Request) -> Response:
        """All problems."""
        return _problem_page(html_index())

    @operation(
        *("GET", f"{TYPE_PREFIX}{{code}}", "readProblem", {200: Returns("A page about it.", media_type=HTML)}),
        description="The `type` of a problem is the address of its page.",
        parameters=(_CODE,),
        problems=(Code.NOT_FOUND,),
        summary="What a problem means and what helps",
        tag="documentation",
    )
    async def problem(self, request: Request) -> Response:
        """Show the page of a problem."""
        code = request.path_params["code"]
        if code not in PROBLEMS:
            raise Problem(Code.NOT_FOUND)
        return _problem_page(html_page(Code(code), self._problems[Code(code)]))


def _problem_page(html: str) -> Response:
    return HTMLResponse(html, headers={**_ASKED_EACH_TIME, "content-security-policy": PROBLEM_POLICY})


def swagger_routes() -> list[Route]:
    """Make the routes of `/docs`; a file of Swagger UI that is missing shows at once."""
    swagger = _SwaggerUi()
    return [Route("/docs", swagger.page), Route("/docs/{version}/{name}", swagger.file)]


class _SwaggerUi:
    """Swagger UI under our own address. Its files' address changes with their content, so browsers may keep them."""

    def __init__(self) -> None:
        self._files: Mapping[str, bytes] = {
            START: START_SCRIPT.encode(),
            **{name: files(SWAGGER_UI).joinpath(name).read_bytes() for name in SWAGGER_UI_FILES},
        }
        self._version = sha256(b"".join(self._files.values())).hexdigest()[:16]
        place = f"/docs/{self._version}"
        css, bundle, icon = (f"{place}/{name}" for name in SWAGGER_UI_FILES)
        self._page = (
            '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width"><title>{TITLE}</title>\n'
            f'<link rel="icon" href="{icon}"><link rel="stylesheet" href="{css}">\n'
            f'<div id="ui"></div><script src="{bundle}"></script><script src="{place}/{START}"></script>\n</html>\n'
        )

    async def page(self, _: Request) -> Response:
        """Show the calls, to be tried out."""
        return HTMLResponse(self._page, headers={**_ASKED_EACH_TIME, "content-security-policy": SWAGGER_POLICY})

    async def file(self, request: Request) -> Response:
        """Give one of the files."""
        name = request.path_params["name"]
        if request.path_params["version"] != self._version or name not in self._files:
            raise Problem(Code.NOT_FOUND)
        return Response(self._files[name], headers=_KEPT, media_type=mimetypes.guess_type(name)[0])
