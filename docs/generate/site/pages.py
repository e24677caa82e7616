"""Which pages the site has, and their text: Markdown of the project with links that lead to other pages of the site.

The pages stay as they are in the repository, where their links lead to files. Here each link is turned to the page of
the site that shows this file; a file that is no page gets one that shows its text.
"""

from __future__ import annotations

import ast
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from docs.generate.site import reference

ROOT: Final = Path(__file__).parents[3]

NAVIGATION: Final = {
    "Use it": (
        "docs/orders/README.md",
        "docs/rest.md",
        "docs/streams.md",
        "docs/client.md",
        reference.CALLS,
        "docs/problems/README.md",
        "docs/webhooks.md",
        "docs/notifications.md",
        "docs/kafka.md",
        reference.MESSAGES,
        "docs/holds.md",
        "docs/own-balance-service.md",
        "docs/price-feed.md",
    ),
    "Operate it": (
        "docs/operating.md",
        "docs/upgrading.md",
        "docs/settings.md",
        "docs/topics.md",
        "docs/postgresql.md",
        "docs/backup.md",
        "docs/observability.md",
        "deploy/helm/order-saga/README.md",
        "docs/privacy.md",
        "docs/indexes.md",
        "SECURITY.md",
    ),
    "Understand it": (
        "docs/architecture.md",
        "docs/saga.md",
        "docs/invariants.md",
        "docs/promises.md",
        "docs/evidence.md",
        "docs/performance.md",
        "docs/order-costs.md",
        "docs/scaling.md",
        "docs/cells.md",
        "docs/glossary.md",
    ),
    "Build on it": ("CONTRIBUTING.md", "docs/releasing.md", "CHANGELOG.md"),
    "Decisions": ("docs/adr/README.md",),
}
"""The parts of the site and their pages, by path in the repository. Below a folder's README are its other pages."""

LANGUAGES: Final = {".py": "python", ".md": "markdown", ".yml": "yaml", ".properties": "properties"}
_FENCE: Final = re.compile(r"^(?P<mark>```+)(?P<language>\w*)\n(?P<body>.*?)^(?P=mark)$", re.MULTILINE | re.DOTALL)
# Links of the changelog to the project's host, wherever that is: the site has no such place.
_HOST: Final = re.compile(r"^\[[^\]]+\]: \.\./\.\./.*\n?", re.MULTILINE)
_LINK: Final = re.compile(r"\]\((?![a-z]+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]+)?\)")


class SiteError(Exception):
    """The site can't be made of these pages; says of which, and why."""


@dataclass(slots=True)
class Stage:
    """What Sphinx makes the site of: texts of pages by their names there, and files that go along as they are.

    `sources`: files and folders that a page links to and that are no pages.
    """

    pages: frozenset[str]
    texts: dict[str, str] = field(default_factory=dict)
    downloads: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)


def stage() -> Stage:
    """Collect all pages; raises `SiteError` for a page that no navigation has and for a link to a missing file."""
    listed = [path for paths in NAVIGATION.values() for path in paths]
    below = {path: _below(path) for path in listed if path.endswith("README.md")}
    texts = reference.pages(ROOT)
    written = {"README.md", *listed, *chain(*below.values())} - texts.keys()
    texts |= {path: (ROOT / path).read_text() for path in sorted(written)}
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    if lost := sorted(there - texts.keys()):
        raise SiteError(f"no part of the site's navigation has {', '.join(lost)}")
    made = Stage(frozenset(texts))
    for path, text in texts.items():
        made.texts[name(path)] = _text(path, text, made) + _toctree(below.get(path, ()))
    made.texts["index"] += "".join(_toctree(paths, caption) for caption, paths in NAVIGATION.items())
    for path in sorted(made.sources):
        made.texts[f"source/{path}"] = _source(ROOT / path)
    return made


def name(path: str) -> str:
    """Name a page of the repository as the site does: `docs/adr/README.md` is `adr/index`."""
    short = path.removesuffix(".md")
    if "/" not in short:
        return "index" if short == "README" else short.lower()
    return re.sub(r"/README$", "/index", short.removeprefix("docs/"))


def _below(readme: str) -> list[str]:
    """List the pages beside a README."""
    inside = sorted((ROOT / readme).parent.glob("*.md"))
    return [path.relative_to(ROOT).as_posix() for path in inside if path.name != "README.md"]


def _toctree(paths: Sequence[str], caption: str = "") -> str:
    if not paths:
        return ""
    lines = ["```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), ""]
    return "\n".join(["", "", *lines, *(f"/{name(path)}" for path in paths), "```", ""])


def _text(path: str, text: str, made: Stage) -> str:
    """Turn a page's diagrams and links; what stands in other fences stays as it is."""
    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_linked(path, text[end : fence.start()], made), _drawn(fence)]
        end = fence.end()
    return "".join([*parts, _linked(path, text[end:], made)])


def _drawn(fence: re.Match[str]) -> str:
    if fence["language"] != "mermaid":
        return fence[0]
    return f'```{{raw}} html\n<pre class="mermaid">{html.escape(fence["body"])}</pre>\n```'


def _linked(path: str, text: str, made: Stage) -> str:
    def turned(link: re.Match[str]) -> str:
        target = os.path.normpath(Path(path).parent / unquote(link["path"]))
        leads_to = os.path.relpath(_destination(path, target, made), Path(name(path)).parent)
        return f"]({leads_to}{link['anchor'] or ''})"

    return _LINK.sub(turned, _HOST.sub("", text))


def _destination(path: str, target: str, made: Stage) -> str:
    """Return the file of the site to which a link to a file of the repository leads."""
    if target == "docs/schemas":
        target = reference.MESSAGES
    if (page := f"{target}/README.md") in made.pages or (page := target) in made.pages:
        return f"{name(page)}.md"
    if not (ROOT / target).exists():
        raise SiteError(f"{path} links to {target}, which does not exist")
    if target.endswith((".json", ".svg")):
        made.downloads.add(target)
        return target.removeprefix("docs/")
    made.sources.add(target)
    return f"source/{target}.md"


def _source(path: Path) -> str:
    """Show a file, or what is in a folder, on a page that no navigation lists."""
    shown = _folder(path) if path.is_dir() else _file(path)
    return f"---\norphan: true\n---\n\n# `{path.relative_to(ROOT).as_posix()}`\n\n{shown}"


def _file(path: Path) -> str:
    text = path.read_text()
    fence = "`" * (3 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text}{fence}\n"


def _folder(path: Path) -> str:
    files = (file for file in sorted(path.rglob("*.py")) if file.stat().st_size)
    rows = ((f"`{file.relative_to(path).as_posix()}`", _says(file)) for file in files)
    return reference.table(("file", "what it is"), rows) + "\n"


def _says(file: Path) -> str:
    """Return the first line of a module's docstring."""
    return html.escape((ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0])
