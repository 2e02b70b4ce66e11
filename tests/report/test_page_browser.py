"""The HTML report in a real browser: no violation of WCAG, no sideways scrolling, no request.

Skipped without playwright, axe-playwright-python or Chromium; nothing is downloaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures_report import made_result

from fer_edge.report.page.assemble import page_of
from fer_edge.report.page.page import write_page

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no chromium", allow_module_level=True)

LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Three classes: the time of axe grows with the cells of the matrices.
    page = page_of(made_result(("angry", "happy", "sad")))
    return write_page(page, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(params=[(1280, "light"), (360, "dark")], ids=["desk-light", "phone-dark"])
def view(request: pytest.FixtureRequest, browser: Any, path: Path) -> Iterator[Any]:
    """The page with every folded part open."""
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    page.loaded = []
    page.on("request", lambda asked: page.loaded.append(asked.url))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    yield page
    context.close()


def test_no_violation_of_wcag_in_the_browser(view: Any) -> None:
    phone = view.viewport_size["width"] < 640
    # Both views are the same elements: only their colours and their place differ.
    rules = [*LEVELS, "best-practice"] if phone else ["color-contrast", "target-size"]
    kind = "tag" if phone else "rule"
    found = axe.Axe().run(view, options={"runOnly": {"type": kind, "values": rules}}).response
    assert len(found["passes"]) >= (20 if phone else 1)  # it looked
    assert [(one["id"], one["help"]) for one in found["violations"]] == []


def test_the_page_does_not_scroll_sideways_and_asks_for_nothing(view: Any) -> None:
    width = view.viewport_size["width"]
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    # The drawing that fits is shown, and its letters are not below nine pixels.
    wide, narrow = view.locator("div.wide").first, view.locator("div.narrow").first
    assert wide.is_visible() == (width > 640)
    assert narrow.is_visible() == (width <= 640)
    smallest = view.evaluate(
        """() => Math.min(...[...document.querySelectorAll('svg text')]
            .filter(one => one.checkVisibility())
            .map(one => [parseFloat(getComputedStyle(one).fontSize), one.getScreenCTM()])
            .map(([size, to]) => size * Math.hypot(to.a, to.b)))"""
    )
    assert smallest >= 9
    assert [url for url in view.loaded if not url.startswith("file:")] == []
    assert len(view.loaded) == 1


def test_the_keyboard_reaches_the_report_first(view: Any) -> None:
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent") == "Skip to the report"
    view.keyboard.press("Enter")
    assert view.evaluate("location.hash") == "#main"
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.closest('main') !== null")


def test_dark_mode_changes_page_and_drawings(browser: Any, path: Path) -> None:
    seen = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(path.as_uri())
        seen.append(
            page.evaluate(
                """() => [getComputedStyle(document.body).backgroundColor,
                    getComputedStyle(document.querySelector('.wide svg text')).fill]"""
            )
        )
        page.close()
    (paper, ink), (dark_paper, light_ink) = seen
    assert (paper, dark_paper) == ("rgb(255, 255, 255)", "rgb(21, 23, 27)")
    assert ink != light_ink
