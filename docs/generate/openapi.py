"""Writes what `docs/` has of the API: `openapi.json`, its two AsyncAPI documents, and a page for each problem.

`python -m docs.generate.openapi` writes; `--check` compares and exits 1 when something is stale.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from docs.generate.webhooks import webhooks_document
from order_api.description import api_document
from order_api.http.problems import PROBLEMS
from order_api.live.document import socket_document
from order_api.openapi.problem_pages import markdown_index, markdown_page
from order_api.orders.description.problem_examples import problem_examples

DOCS: Final = Path(__file__).parents[1]
OPENAPI: Final = "openapi.json"
SOCKET: Final = "asyncapi-websocket.json"
WEBHOOKS: Final = "asyncapi-webhooks.json"
PAGES: Final = "problems"


def documents() -> dict[str, str]:
    """Make every document: its path below `docs/`, and its text."""
    pages = {f"{PAGES}/{code}.md": markdown_page(code, problem_examples()[code]) for code in PROBLEMS}
    described = json.dumps(api_document(), indent=2, ensure_ascii=False) + "\n"
    socket = json.dumps(socket_document(), indent=2, ensure_ascii=False).replace(r"\\Z", "$") + "\n"
    webhooks = json.dumps(webhooks_document(), indent=2, ensure_ascii=False) + "\n"
    return {OPENAPI: described, SOCKET: socket, WEBHOOKS: webhooks, f"{PAGES}/README.md": markdown_index(), **pages}


def stale(fresh: Mapping[str, str], folder: Path = DOCS) -> list[str]:
    """List the documents that are missing, other than they should be, or about a problem that is no more."""
    paths = [folder / OPENAPI, folder / SOCKET, folder / WEBHOOKS, *folder.glob(f"{PAGES}/*")]
    found = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths if path.exists()}
    return sorted(path for path in fresh.keys() | found.keys() if fresh.get(path) != found.get(path))


def main(arguments: Sequence[str]) -> int:
    """Write or check all documents; return the exit status."""
    fresh = documents()
    old = stale(fresh)
    if "--check" in arguments:
        sys.stderr.writelines(f"docs/{path} is stale: run 'make docs'\n" for path in old)
        return 1 if old else 0
    for path in old:
        _write(DOCS / path, fresh.get(path))
    return 0


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
