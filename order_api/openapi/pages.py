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
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from contracts import codec
from order_api.http.bodies import JSON
from order_api.http.problems import PROBLEMS, TYPE_PREFIX, Code, Problem
from order_api.openapi.document import TITLE, describe
from order_api.openapi.problem_pages import STYLE_SOURCE, html_index, html_page
from order_api.openapi.schemas import INDEX

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


def page_routes() -> list[Route]:
    """Make the routes of the documentation; a file of Swagger UI that is missing shows at once."""
    swagger = _SwaggerUi()
    description = json.dumps(describe(), separators=(",", ":")).encode()

    async def openapi(_: Request) -> Response:
        return Response(description, headers=_ASKED_EACH_TIME, media_type=JSON)

    async def index(_: Request) -> Response:
        return Response(codec.encode(INDEX), headers=_ASKED_EACH_TIME, media_type=JSON)

    return [
        Route("/", index),
        Route("/openapi.json", openapi),
        Route("/docs", swagger.page),
        Route("/docs/{version}/{name}", swagger.file),
        Route(TYPE_PREFIX, _problems),
        Route(f"{TYPE_PREFIX}{{code}}", _problem),
    ]


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


async def _problems(_: Request) -> Response:
    return _problem_page(html_index())


async def _problem(request: Request) -> Response:
    code = request.path_params["code"]
    if code not in PROBLEMS:
        raise Problem(Code.NOT_FOUND)
    return _problem_page(html_page(Code(code)))


def _problem_page(html: str) -> Response:
    return HTMLResponse(html, headers={**_ASKED_EACH_TIME, "content-security-policy": PROBLEM_POLICY})
