"""Fixtures of tests/serve: a server of the tiny network, in this process and as a real one."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fixtures_bundle import golden_images
from fixtures_detector import FakeDetector, photo_of
from PIL import Image

from fer_edge.faces import detect
from fer_edge.serve import Settings
from fer_edge.serve.app import app_of

__all__ = [
    "Running",
    "RunningMaker",
    "Site",
    "SiteMaker",
    "crop",
    "fake_detector",
    "lines_of",
    "photo",
    "png",
    "serve",
    "site_of",
    "wait_for",
]

ROOT = Path(__file__).resolve().parents[1]


def png(pixels: np.ndarray, format_: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_)
    return file.getvalue()


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A photograph with two faces that the fake detector finds."""
    return png(photo_of(golden_images(2)[:, 0], [(10, 20), (150, 60)]))


@pytest.fixture(scope="session")
def crop() -> bytes:
    """A picture of another size than 48x48 that is one face."""
    return png(golden_images(1)[0, 0].repeat(2, 0).repeat(2, 1))


@pytest.fixture
def fake_detector(monkeypatch: pytest.MonkeyPatch) -> str:
    row = detect.DetectorRow(f"{FakeDetector.__module__}:FakeDetector", (), "pip install nothing")
    monkeypatch.setitem(detect.DETECTORS, "fake", row)
    return "fake"


class Site:
    """An application and a client that calls it without a socket."""

    def __init__(self, settings: Settings, *, open_engine: bool = True) -> None:
        self.app = app_of(settings, open_engine=open_engine)
        self.engine = self.app.state.engine

    def run(self, work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        async def session() -> Any:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1:8000"
            ) as client:
                return await work(client)

        return asyncio.run(session())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.run(lambda client: client.get(path, **options))

    def post(self, content: Any, query: str = "", **headers: str) -> httpx.Response:
        sent = {"content-type": "image/png"}
        sent |= {key.replace("_", "-"): value for key, value in headers.items()}
        return self.run(
            lambda client: client.post(f"/v1/predict{query}", content=content, headers=sent)
        )


SiteMaker = Callable[..., Site]


@pytest.fixture
def site_of(_tiny_template: Path, fake_detector: str) -> Iterator[SiteMaker]:
    """``site_of(**settings)`` -> Site with the fake detector."""
    made: list[Site] = []

    def make(*, open_engine: bool = True, **settings: Any) -> Site:
        wanted = {"bundle": _tiny_template, "detector": fake_detector, **settings}
        made.append(Site(Settings(**wanted), open_engine=open_engine))
        return made[-1]

    yield make
    for site in made:
        site.engine.close()


class Running:
    """``fer-edge serve`` in a process of its own."""

    def __init__(self, bundle: Path, *options: str, folder: Path) -> None:
        self.folder = folder
        self._log = (folder / "serve.log").open("w+")
        words = ["serve", "--port", "0", "--bundle", str(bundle), *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fer_edge", *words],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder)},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.log()
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the server and return its exit code; may be called more than once."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._log.close()


RunningMaker = Callable[..., Running]


@pytest.fixture
def serve(_tiny_template: Path, tmp_path: Path) -> Iterator[RunningMaker]:
    """``serve(*options)`` -> Running; crops only, so no detector is needed."""
    running: list[Running] = []

    def start(*options: str) -> Running:
        running.append(Running(_tiny_template, "--no-detect", *options, folder=tmp_path))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def wait_for(done: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until ``done()``; fails after a long time, since it never should."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
