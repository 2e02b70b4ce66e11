"""The page: nothing from elsewhere, and in a browser a drop, a webcam and no barrier."""

from __future__ import annotations

import base64
import html
import re
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures_detector import FakeDetector
from fixtures_serve import SiteMaker, wait_for

from fer_edge.faces import detect
from fer_edge.report.responsible import RESPONSIBLE_USE
from fer_edge.serve import Settings
from fer_edge.serve.app import app_of
from fer_edge.serve.guard import ROUTES
from fer_edge.serve.page import page_files
from fer_edge.serve.server import _config, _Server, bind

SITES = re.compile(r"(?i)(?:https?:)?//[a-z0-9-]+\.[a-z]|@import|\burl\(|\bdata:")
NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'


def test_nothing_comes_from_another_server() -> None:
    for name, content in page_files().items():
        text = content.decode().replace(NAMESPACE, "")
        assert not SITES.search(text), name
    for bad in ("src='https://cdn.example/x.js'", "//fonts.example/a", "@import 'x'", "url(x)"):
        assert SITES.search(bad)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.links |= {value for key in ("href", "src") if (value := names.get(key))}
        if tag == "style" or (tag == "script" and "src" not in names):
            self.inline.append(tag)
        self.inline += [key for key in names if key == "style" or key.startswith("on")]


def test_the_page_fits_its_policy(site_of: SiteMaker) -> None:
    """The policy allows this server's own files only: no inline script or style would run."""
    site = site_of()
    page = site.get("/")
    policy = page.headers["content-security-policy"]
    sources = {word for rule in policy.split(";") for word in rule.split()[1:]}
    assert sources == {"'none'", "'self'", "blob:"}
    assert policy.startswith("default-src 'none'")
    reader = _Reader()
    reader.feed(page.text)
    assert reader.inline == []
    assert reader.links <= set(ROUTES)
    for link in reader.links - {"/v1/model", "/metrics", "/openapi.json"}:
        answer = site.get(link)
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] in {
            *("text/css", "text/javascript", "image/svg+xml"),
        }
    for paragraph in RESPONSIBLE_USE:
        assert html.escape(paragraph) in page.text


# ---- in a browser


@pytest.fixture(scope="module")
def address(_tiny_template: Path) -> Iterator[str]:
    """A server in a thread, with the fake detector."""
    row = detect.DetectorRow(f"{FakeDetector.__module__}:FakeDetector", (), "pip install nothing")
    with pytest.MonkeyPatch.context() as patch, bind("127.0.0.1", 0) as sock:
        patch.setitem(detect.DETECTORS, "fake", row)
        settings = Settings(_tiny_template, detector="fake")
        started = threading.Event()
        server = _Server(_config(app_of(settings), settings), started.set)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        assert started.wait(60)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
        server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield made
        made.close()


class Page:
    """A page of its own; it must log no error and ask no other server."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.asked: set[str] = set()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._listen)
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("#model:has-text('onnxruntime int8')")

    def _listen(self, line: Any) -> None:
        if "willReadFrequently" not in line.text:  # only the tests read the canvas
            self.problems.append(line.text)

    def drop(self, content: bytes) -> None:
        self._give(content, 'new DragEvent("drop", {dataTransfer: data, ...options})')

    def paste(self, content: bytes) -> None:
        self._give(content, 'new ClipboardEvent("paste", {clipboardData: data, ...options})')

    def _give(self, content: bytes, event: str) -> None:
        self.page.evaluate(
            """(content) => {
              const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
              const data = new DataTransfer();
              data.items.add(new File([bytes], "a.png", {type: "image/png"}));
              const options = {bubbles: true, cancelable: true};
              document.getElementById("drop").dispatchEvent(EVENT);
            }""".replace("EVENT", event),
            base64.b64encode(content).decode(),
        )

    def text(self, selector: str) -> str:
        return str(self.page.text_content(selector))

    def has(self, colour: tuple[int, int, int], x: float, y: float) -> bool:
        """Whether a place of the picture has a colour, but for its smooth edge."""
        red, green, blue, _ = self.page.evaluate(
            "([x, y]) => [...document.getElementById('picture').getContext('2d')"
            ".getImageData(Math.round(x), Math.round(y), 1, 1).data]",
            [x, y],
        )
        return all(abs(a - b) < 30 for a, b in zip((red, green, blue), colour))


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    made = Page(browser, address)
    yield made
    made.context.close()
    assert made.problems == []
    assert all(url.startswith((address, "blob:")) for url in made.asked)


def test_a_dropped_photograph(page: Page, photo: bytes) -> None:
    page.drop(photo)
    page.page.wait_for_selector("#faces > li:nth-child(2)")
    assert page.text("#summary").startswith("2 faces: ")
    bars = page.page.locator("#faces > li:nth-child(1) tr")
    assert bars.count() == 7
    shares = [float(text.split()[0]) for text in bars.locator("td:last-child").all_text_contents()]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert re.search(r"Server [\d.]+ ms .* round trip [\d.]+ ms", page.text("#times"))
    # The boxes lie where the detector says, at (10, 20) and at (150, 60) of 300 pixels.
    scale = page.page.evaluate("document.getElementById('picture').width") / 300
    yellow, green = (0xFF, 0xD2, 0x3F), (0x4A, 0xDE, 0x80)
    assert page.has(yellow, 58 * scale, 60 * scale)
    assert page.has(green, 198 * scale, 100 * scale)

    # Again, as one face: the box is gone.
    page.page.check("#crop")
    page.page.wait_for_selector("#summary:has-text('1 face:')")
    assert page.page.locator("#faces > li").count() == 1
    assert not page.has(yellow, 58 * scale, 60 * scale)


def test_a_pasted_picture(page: Page, photo: bytes) -> None:
    page.paste(photo)
    page.page.wait_for_selector("#summary:has-text('2 faces:')")
    label = str(page.page.get_attribute("#picture", "aria-label"))
    assert label == f"The picture. {page.text('#summary')}"


def posts(address: str, status: str) -> list[str]:
    """Return the line of the metrics that counts the posts with a status."""
    rows = httpx.get(f"{address}metrics").text.splitlines()
    start = f'fer_edge_requests_total{{method="POST",route="/v1/predict",status="{status}"}}'
    return [row for row in rows if row.startswith(start)]


@pytest.fixture
def other_site() -> Iterator[str]:
    """A page of another server on this machine: a browser lets it reach this machine's servers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<p>another site")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_page_of_another_site(browser: Any, address: str, other_site: str, crop: bytes) -> None:
    """It can neither read an answer nor have a picture answered."""
    context = browser.new_context()
    other = context.new_page()
    other.goto(other_site)
    answered = posts(address, "200")
    said = other.evaluate(
        """async ([address, content]) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          const body = new FormData();
          body.append("file", new File([bytes], "a.png"));
          const said = [];
          for (const mode of ["cors", "no-cors"]) {
            try {
              const answer = await fetch(address + "v1/predict", {method: "POST", mode, body});
              said.push(answer.status);
            } catch (error) {
              said.push(0);
            }
          }
          return said;
        }""",
        [address, base64.b64encode(crop).decode()],
    )
    context.close()
    assert said == [0, 0]  # 0: nothing can be read

    assert posts(address, "200") == answered
    assert [row.rpartition(" ")[2] for row in posts(address, "403")] == ["2.0"]


def test_a_chosen_file_that_is_no_picture(page: Page, photo: bytes) -> None:
    page.page.set_input_files("#file", {"name": "b.png", "mimeType": "image/png", "buffer": b"x"})
    page.page.wait_for_selector("#problem:not([hidden])")
    assert "is not an image that can be read" in page.text("#problem")
    assert page.text("#problem").endswith("Convert it to JPEG or PNG.")
    assert [p for p in page.problems if "400" in p] == page.problems  # the browser's own line
    page.problems.clear()
    page.page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": photo})
    page.page.wait_for_selector("#faces > li:nth-child(2)")
    assert page.page.locator("#problem").is_hidden()


def test_a_webcam(page: Page) -> None:
    answers: list[int] = []
    under_way = most = 0

    def begin(request: Any) -> None:
        nonlocal under_way, most
        if request.url.endswith("/v1/predict"):
            under_way += 1
            most = max(most, under_way)

    def end(response: Any) -> None:
        nonlocal under_way
        if response.url.endswith("/v1/predict"):
            under_way -= 1
            answers.append(response.status)

    page.page.on("request", begin)
    page.page.on("response", end)
    page.page.focus("#camera")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector("#camera:has-text('Stop the webcam')")
    page.page.wait_for_selector("#times:has-text('round trip')")

    def three() -> bool:
        page.page.wait_for_timeout(20)
        return len(answers) >= 3

    wait_for(three)
    assert set(answers) == {200}
    assert most == 1  # one frame at a time
    assert page.page.get_attribute("#camera", "aria-pressed") == "true"
    assert page.page.evaluate("document.getElementById('picture').width") == 640
    assert "No face was found." in page.text("#summary")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector("#camera:has-text('Webcam')[aria-pressed='false']")
    page.page.wait_for_timeout(200)
    before = len(answers)
    page.page.wait_for_timeout(300)
    assert len(answers) == before


@pytest.mark.parametrize(
    "options",
    [
        {"viewport": {"width": 1280, "height": 900}},
        {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"},
    ],
    ids=["light", "dark phone"],
)
def test_no_barrier(browser: Any, address: str, photo: bytes, options: dict[str, Any]) -> None:
    """axe-core finds nothing, and a phone need not be scrolled sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    page = Page(browser, address, bypass_csp=True, **options)
    for step in ("empty", "answered", "refused"):
        if step == "answered":
            page.drop(photo)
            page.page.wait_for_selector("#faces > li:nth-child(2)")
        elif step == "refused":
            page.drop(b"no picture")
            page.page.wait_for_selector("#problem:not([hidden])")
        found = axe.Axe().run(page.page)
        assert found.violations_count == 0, found.generate_report()
        wide = page.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= options["viewport"]["width"]
    page.context.close()


def test_the_whole_page_by_keyboard(page: Page) -> None:
    seen = []
    for _ in range(6):
        page.page.keyboard.press("Tab")
        seen.append(page.page.evaluate("document.activeElement.id || document.activeElement.href"))
    assert [name.rpartition("/")[2] for name in seen] == [
        *("choose", "camera", "crop"),
        *("openapi.json", "model", "metrics"),
    ]
