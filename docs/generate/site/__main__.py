"""Builds the site: `make docs-site`. Every warning of Sphinx is an error, such as a link to a missing heading.

Mermaid's JavaScript, which draws the diagrams, comes out of a package that the lock file pins; Furo brings its styles
and scripts, and uses the fonts of the reader's machine. So what is built asks no other host for anything.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from sphinx.application import Sphinx

from docs.generate.site.pages import ROOT, SiteError, Stage, stage

FOLDER: Final = ROOT / "build" / "site"
STATIC: Final = ROOT / "docs" / "site"
MERMAID: Final = "nicegui/elements/mermaid/dist"

SETTINGS: Final = {
    "project": "Order Saga",
    "copyright": "the Order Saga authors, MIT licence",
    "extensions": ["myst_parser"],
    "myst_heading_anchors": 4,
    "html_theme": "furo",
    "html_title": "Order Saga",
    "html_favicon": "_static/icon.svg",
    "html_use_index": False,
    "html_css_files": ["site.css"],
    "html_js_files": [("diagrams.js", {"type": "module"})],
    "html_copy_source": False,
    "html_show_sourcelink": False,
    "html_show_sphinx": False,
    "html_last_updated_fmt": None,
    "html_permalinks_icon": "#",
    "html_theme_options": {
        "light_css_variables": {"color-brand-primary": "#0b5f6b", "color-brand-content": "#0b5f6b"},
        "dark_css_variables": {"color-brand-primary": "#6cc5d1", "color-brand-content": "#6cc5d1"},
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the site, and serve it if asked to."""
    parser = argparse.ArgumentParser(prog="make docs-site ARGS=...", description=main.__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the site is built (default: build/site)")
    parser.add_argument("--serve", type=int, metavar="PORT", help="then serve it on 127.0.0.1 until Ctrl-C")
    options = parser.parse_args(arguments)
    try:
        made = stage()
    except SiteError as error:
        sys.stderr.write(f"make docs-site: {error}\n")
        return 1
    if status := build(made, options.folder):
        sys.stderr.write("make docs-site: FAILED: every warning above is an error\n")
        return status
    sys.stdout.write(f"the site is in {options.folder}; make docs-site ARGS='--serve 8080' shows it\n")
    if options.serve is not None:
        serve(options.folder, options.serve)
    return 0


def build(made: Stage, folder: Path) -> int:
    """Let Sphinx make the pages, from nothing; return its status, which is 1 after any warning."""
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name)
        for page, text in made.texts.items():
            _write(source / f"{page}.md", text)
        for path in made.downloads:
            _write(source / path.removeprefix("docs/"), (ROOT / path).read_text())
        static = source / "_static"
        shutil.copytree(STATIC, static)
        shutil.copytree(_mermaid(), static / "mermaid", ignore=shutil.ignore_patterns("*.map"))
        app = Sphinx(
            srcdir=source,
            confdir=None,
            outdir=folder,
            doctreedir=source / ".doctrees",
            buildername="html",
            confoverrides={**SETTINGS, "html_static_path": [str(static)], "exclude_patterns": ["_static"]},
            status=None,
            warningiserror=True,
        )
        app.build()
        return app.statuscode


def serve(folder: Path, port: int) -> None:
    """Serve the built site on this machine only."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}/\n")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def _mermaid() -> Path:
    """Find the folder of Mermaid's JavaScript."""
    return Path(str(importlib.metadata.distribution("nicegui").locate_file(MERMAID)))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
