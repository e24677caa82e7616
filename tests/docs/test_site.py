"""The documentation site as `make docs-site` builds it: whole, without a dead link, and in need of no host."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Page, Request, async_playwright

from docs.generate.site import pages
from docs.generate.site.pages import NAVIGATION, ROOT, SiteError, name, stage
from tests.support.infrastructure import chromium

LOADED: Final = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "srcset")}
FETCHED: Final = {"stylesheet", "icon", "preload", "modulepreload"}
WITHOUT_INTERNET: Final = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
BUILD: Final = """
import json, pathlib, sys
from docs.generate.site.__main__ import build
from docs.generate.site.pages import Stage
sys.exit(build(Stage(frozenset(), json.loads(sys.argv[1])), pathlib.Path(sys.argv[2])))
"""
PATIENCE_MS: Final = 90_000


class _Read(HTMLParser):
    """A page's links, what it loads, and the ids that links can lead to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "link" and dict(attrs).get("rel") not in FETCHED:
            return
        for attribute, value in attrs:
            if attribute == "id":
                self.ids.add(value or "")
            elif (tag, attribute) in LOADED:
                self.loads.append(value or "")
            elif (tag, attribute) in {("a", "href"), ("form", "action")}:
                self.links.append(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as the verb does."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(  # noqa: S603 - the project's own module
        [sys.executable, "-m", "docs.generate.site", "--folder", folder],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def read(site: Path) -> dict[Path, _Read]:
    """Read every page of the site."""
    return {page: _Read(page) for page in sorted(site.rglob("*.html"))}


def test_every_page_of_the_repository_is_a_page_of_the_site(site: Path) -> None:
    """Whatever stands in docs/, and what the navigation takes from elsewhere, has its page."""
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    wanted |= {page for part in NAVIGATION.values() for page in part}
    assert [] == [page for page in sorted(wanted) if not (site / f"{name(page)}.html").exists()]


def test_every_link_and_anchor_leads_somewhere(site: Path, read: dict[Path, _Read]) -> None:
    """A link of a page to another page, or to a heading, finds it."""
    broken = []
    for page, one in read.items():
        for link in one.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            there = target.is_file() and target.is_relative_to(site)
            if not there or (parts.fragment and unquote(parts.fragment) not in read[target].ids):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert [] == broken
    assert len(read) > 60
    assert sum(len(one.links) for one in read.values()) > 1000


def test_nothing_is_loaded_from_elsewhere(site: Path, read: dict[Path, _Read]) -> None:
    """No page loads a script, style, image or font from another host; no style imports one. Each file is there."""
    loads = {(page, load) for page, one in read.items() for load in one.loads}
    for style in site.rglob("*.css"):
        told = style.read_text()
        loads |= {(style, load.strip("'\" ")) for load in re.findall(r"url\(([^)]*)\)", told)}
        assert [] == re.findall(r"@import[^;]*", told)
    inline = {load for load in loads if load[1].startswith("data:")}
    files = {(page, page.parent / unquote(urlsplit(load).path)) for page, load in loads - inline}
    assert {(page, load) for page, load in loads if urlsplit(load).scheme not in {"", "data"}} == set()
    assert {(page, load) for page, load in loads if urlsplit(load).netloc} == set()
    assert [file for _, file in files if not file.is_file()] == []
    assert len(files) > 100


def test_a_page_that_no_part_of_the_navigation_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that nobody could find is no page: the site is not built."""
    left = {part: list(paths) for part, paths in NAVIGATION.items()}
    left["Understand it"].remove("docs/saga.md")
    monkeypatch.setattr(pages, "NAVIGATION", left)
    with pytest.raises(SiteError, match=r"docs/saga\.md"):
        stage()


@pytest.mark.parametrize("link", ["nowhere.md", "#nowhere", "other.md#nowhere"])
def test_a_broken_link_fails_the_build(tmp_path: Path, link: str) -> None:
    """A link to a page or a heading that is not there is an error of the build, not a page with a dead link."""
    text = f"# A page\n\n[there]({link})\n\n[here](other.md)\n\n```{{toctree}}\n\n/other\n```\n"
    assert 1 == _build(tmp_path, text).returncode
    assert 0 == _build(tmp_path, text.replace(f"({link})", "(other.md#other)")).returncode


def _build(folder: Path, start: str) -> subprocess.CompletedProcess[bytes]:
    """Build a site of two pages, in a process of its own: Sphinx leaves much behind in one."""
    words = (sys.executable, "-c", BUILD, json.dumps({"index": start, "other": "# Other\n"}), folder / "site")
    return subprocess.run(words, cwd=ROOT, capture_output=True, check=False)  # noqa: S603 - the project's own module


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Visit:
    """A browser's page on the site; where it asked for anything, and what it complained about."""

    page: Page
    address: str
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Begin to listen."""
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("requestfailed", self._failed)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # by leaving the page before its diagrams are drawn
            self.complaints.append(f"failed: {request.url}: {request.failure}")

    def only_here(self) -> None:
        """Hold the visit to the promise: nothing was asked of another host, and nothing was amiss."""
        assert {urlsplit(self.address).netloc} == self.hosts - {""}
        assert [] == self.complaints


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serve the site on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest_asyncio.fixture
async def visit(address: str) -> AsyncIterator[Visit]:
    """Open a browser that knows no host but this one."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=[WITHOUT_INTERNET])
        page = await browser.new_page(color_scheme="light")
        page.set_default_timeout(PATIENCE_MS)
        one = Visit(page, address)
        one.watch()
        yield one
        await browser.close()


@pytest.mark.browser
async def test_the_start_leads_to_every_part(visit: Visit) -> None:
    """The first page says what this is, and its navigation has all parts; a page of it opens."""
    await visit.page.goto(f"{visit.address}/")
    assert (await visit.page.locator("article h1").first.inner_text()).startswith("Order Saga")
    captions = visit.page.locator(".sidebar-tree .caption-text")
    assert list(NAVIGATION) == await captions.all_text_contents()
    await visit.page.locator(".sidebar-tree").get_by_text("The saga", exact=True).click()
    assert (await visit.page.locator("article h1").first.inner_text()).startswith("The saga")
    visit.only_here()


@pytest.mark.browser
async def test_the_saga_is_drawn(visit: Visit) -> None:
    """Its diagram is a drawing with every phase in it, and another one in the dark theme."""
    await visit.page.goto(f"{visit.address}/saga.html")
    drawing = visit.page.locator("pre.mermaid > svg")
    await drawing.wait_for()
    phases = await drawing.locator("g.node .nodeLabel").all_text_contents()
    assert {"VALIDATING", "SETTLING", "COMPLETED"} <= set(phases)
    light = await drawing.inner_html()
    await visit.page.evaluate("document.body.dataset.theme = 'dark'")
    await visit.page.wait_for_function(
        "light => document.querySelector('pre.mermaid > svg').innerHTML !== light", arg=light
    )
    visit.only_here()


@pytest.mark.browser
async def test_the_search_finds_a_page_by_a_word(visit: Visit) -> None:
    """A word that is typed into the search leads to the page that explains it."""
    await visit.page.goto(f"{visit.address}/")
    await visit.page.locator(".sidebar-search").fill("PgBouncer")
    await visit.page.locator(".sidebar-search").press("Enter")
    await visit.page.locator("#search-results li a").first.click()
    await visit.page.get_by_text("PgBouncer").first.wait_for()
    visit.only_here()
