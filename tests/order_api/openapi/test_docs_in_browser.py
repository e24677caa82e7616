"""The documentation as a person meets it: in a real browser, without the internet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import ConsoleMessage, Page, Request, async_playwright

from order_api.description import OPERATIONS
from order_api.http.problems import PROBLEMS
from order_api.openapi.document import SENT
from tests.order_api.support import Api, token
from tests.support.infrastructure import chromium

pytestmark = pytest.mark.browser

PATIENCE_S = 90
WITHOUT_INTERNET = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
WATCH = "window.violations = []; addEventListener('securitypolicyviolation', e => violations.push(e.violatedDirective))"


@dataclass
class Visit:
    """A browser's page, and all that it asked for and complained about."""

    page: Page
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Begin to listen."""
        self.page.on("request", self._requested)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))

    async def violations(self) -> Any:
        """Tell what the page's Content-Security-Policy forbade."""
        return await self.page.evaluate("window.violations")

    def _requested(self, request: Request) -> None:
        if (url := urlsplit(request.url)).scheme != "data":
            self.hosts.add(url.netloc)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)


@pytest_asyncio.fixture
async def visit() -> AsyncIterator[Visit]:
    """Open a browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=[WITHOUT_INTERNET])
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        await page.add_init_script(WATCH)
        one = Visit(page)
        one.watch()
        yield one
        await browser.close()


async def test_the_docs_show_every_call_and_ask_no_other_host(api: Api, visit: Visit) -> None:
    """`/docs` renders all operations from this host alone, and its strict policy has nothing to forbid."""
    await visit.page.goto(f"http://127.0.0.1:{api.port}/docs")
    shown = len(OPERATIONS) + len(SENT)  # and each webhook
    await visit.page.locator(".opblock").nth(shown - 1).wait_for()
    assert shown == await visit.page.locator(".opblock").count()
    for operation in ("operations-orders-submitOrder", "operations-documentation-readProblem"):
        await visit.page.locator(f"#{operation} .opblock-summary-control").click()
        await visit.page.locator(f"#{operation} .responses-table .response").first.wait_for()
    assert {f"127.0.0.1:{api.port}"} == visit.hosts
    assert ([], []) == (visit.complaints, await visit.violations())


async def test_a_call_can_be_tried_out_with_a_token(api: Api, visit: Visit) -> None:
    """Authorize, try out, execute: an order is accepted, and read again."""
    page = visit.page
    await page.goto(f"http://127.0.0.1:{api.port}/docs")
    await page.locator(".auth-wrapper > .authorize").click()
    await page.locator(".modal-ux input").fill(token())
    await page.locator(".modal-ux .modal-btn.authorize").click()
    await page.locator(".modal-ux .btn-done").click()
    assert 202 == await _try_out(page, "submitOrder")
    [order] = (await api.get("/orders")).json()["orders"]
    assert 200 == await _try_out(page, "listOrders")
    answer = page.locator("#operations-orders-listOrders .live-responses-table .highlight-code").first
    assert order["order_id"] in await answer.inner_text()
    assert ([], []) == (visit.complaints, await visit.violations())


async def test_the_page_of_a_problem_is_as_plain_as_its_policy(api: Api, visit: Visit) -> None:
    """A problem's page shows its title in its own style, and leads to the list of all; nothing is forbidden on it."""
    await visit.page.goto(f"http://127.0.0.1:{api.port}/problems/too-late-to-cancel")
    assert "It is too late to cancel" == await visit.page.locator("h1").inner_text()
    assert "auto" == await visit.page.locator("pre").evaluate("element => getComputedStyle(element).overflowX")
    await visit.page.get_by_text("All problems").click()
    assert len(PROBLEMS) == await visit.page.locator("tr").count()
    assert ({f"127.0.0.1:{api.port}"}, [], []) == (visit.hosts, await visit.violations(), _but_icon(visit.complaints))


async def _try_out(page: Page, operation: str) -> int:
    block = page.locator(f"#operations-orders-{operation}")
    await block.locator(".opblock-summary-control").click()
    await block.locator(".try-out__btn").click()
    await block.locator(".execute").click()
    status = block.locator(".live-responses-table .response-col_status").nth(1)
    return int((await status.inner_text()).split()[0])


def _but_icon(complaints: list[str]) -> list[str]:
    """Leave out that there is no icon, which a browser asks for by itself."""
    return [complaint for complaint in complaints if "favicon" not in complaint]
