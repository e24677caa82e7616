"""A page for each problem, made from the table of problems: HTML for the running service, Markdown for `docs/`.

Nothing of a request gets into a page.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from order_api.http.problems import MEDIA_TYPE, PROBLEMS, TYPE_PREFIX, Code, Kind
from order_api.openapi.schemas import Members
from order_api.openapi.words import FIELD_MEANINGS

INDEX_TITLE: Final = "Problems"
INDEX_TEXT: Final = (
    "Whatever goes wrong is answered as an RFC 9457 problem."
    " Decide by its `code`; its `type` is the address of its page."
)
STYLE: Final = (
    "body{max-width:44rem;margin:2rem auto;padding:0 1rem;font:1rem/1.5 system-ui,sans-serif}"
    "code,pre{font-family:ui-monospace,monospace;background:#f2f2f2}code{padding:0 .2em}"
    "pre{padding:1rem;overflow-x:auto}td{padding:.3rem 1rem .3rem 0;vertical-align:top}"
)
STYLE_SOURCE: Final = f"'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'"
"""What a Content-Security-Policy calls exactly this style."""


class ProblemExample(NamedTuple):
    """An answer: its body as JSON, and the headers that are its own."""

    body: dict[str, Any]
    headers: Mapping[str, str]


ProblemExamples = Mapping[Code, ProblemExample]
"""An answer of each problem."""


class Section(NamedTuple):
    """A part of a page. A `code` part is shown as it stands."""

    heading: str
    text: str
    code: str | None = None


def markdown_page(code: Code, example: ProblemExample) -> str:
    """Write the page of a problem."""
    parts = [f"# {PROBLEMS[code].title}", _first_line(code)]
    for section in _sections(code):
        parts += [f"## {section.heading}", section.text]
        parts += [f"```{section.code}\n{_answer(code, example)}\n```"] if section.code else []
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_index() -> str:
    """Write the list of all problems."""
    rows = [f"| [`{code}`]({code}.md) | {kind.status} | {kind.title} |" for code, kind in _by_status()]
    origin = (
        "Generated from `order_api/http/problems.py` by `make docs`; a running API shows the same under `/problems/`."
    )
    table = "\n".join(["| code | status | title |", "| --- | --- | --- |", *rows])
    return f"# {INDEX_TITLE}\n\n{INDEX_TEXT}\n\n{origin}\n\n{table}\n"


def html_page(code: Code, example: ProblemExample) -> str:
    """Write the page of a problem."""
    parts = [f"<h1>{_marked(PROBLEMS[code].title)}</h1>", f"<p>{_marked(_first_line(code))}</p>"]
    for section in _sections(code):
        parts += [f"<h2>{section.heading}</h2>"]
        parts += [f"<p>{_marked(section.text)}</p>"] if section.text else []
        parts += [f"<pre>{escape(_answer(code, example), quote=False)}</pre>"] if section.code else []
    return _html(PROBLEMS[code].title, [*parts, f'<p><a href="{TYPE_PREFIX}">All problems</a></p>'])


def html_index() -> str:
    """Write the list of all problems."""
    rows = [
        f'<tr><td><a href="{TYPE_PREFIX}{code}"><code>{code}</code></a><td>{kind.status}<td>{_marked(kind.title)}'
        for code, kind in _by_status()
    ]
    head = [f"<h1>{INDEX_TITLE}</h1>", f"<p>{_marked(INDEX_TEXT)}</p>"]
    return _html(INDEX_TITLE, [*head, "<table>", *rows, "</table>"])


def _by_status() -> list[tuple[Code, Kind]]:
    return sorted(PROBLEMS.items(), key=lambda row: (row[1].status, row[0]))


def _first_line(code: Code) -> str:
    return f"`{PROBLEMS[code].status}` `{code}`, with `type` `{TYPE_PREFIX}{code}`"


def _sections(code: Code) -> list[Section]:
    kind = PROBLEMS[code]
    members = " ".join(f"`{name}`: {FIELD_MEANINGS[f'{Members.__name__}.{name}']}" for name in kind.members)
    return [
        Section("What it means", kind.meaning),
        Section("When it comes", kind.when),
        Section("What helps", kind.remedy),
        *([Section("Members of its own", members)] if members else []),
        Section("Example", "", "http"),
    ]


def _answer(code: Code, example: ProblemExample) -> str:
    status = PROBLEMS[code].status
    headers = {"content-type": MEDIA_TYPE, **example.headers}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\n".join([*lines, "", json.dumps(example.body, indent=2)])


def _html(title: str, body: list[str]) -> str:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en">{head}<style>{STYLE}</style>\n' + "\n".join(body) + "\n</html>\n"


def _marked(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
