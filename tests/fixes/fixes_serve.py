"""Advice of ``fer-edge serve``: in the answers of the server, and of its command."""

from __future__ import annotations

import errno
import logging
import socket
from contextlib import closing
from typing import Any
from unittest import mock

import numpy as np
from fixes_lab import Lab, case
from fixtures_detector import FakeDetector
from fixtures_serve import Site, png

from fer_edge.errors import NumericsError
from fer_edge.faces import detect
from fer_edge.serve import Settings
from fer_edge.serve import engine as engine_module
from fer_edge.serve.server import bind

ROW = detect.DetectorRow(f"{FakeDetector.__module__}:FakeDetector", (), "pip install nothing")
CROP = png(np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8))
FORM = {"content_type": "multipart/form-data; boundary=b"}


def site_of(lab: Lab, **settings: Any) -> Site:
    return Site(Settings(**{"bundle": lab.bundle().path, **settings}))


def answers(site: Site, content: bytes = CROP, query: str = "", **headers: str) -> None:
    """Post a picture; the server must answer with its face."""
    response = site.post(content, query, **headers)
    assert response.status_code == 200, response.text
    assert response.json()["answers"]


def sent(site: Site, *pictures: bytes, query: str = "") -> Any:
    files = [("file", (f"{place}.png", picture)) for place, picture in enumerate(pictures)]
    return site.run(lambda client: client.post(f"/v1/predict{query}", files=files))


def in_form(site: Site, *pictures: bytes) -> None:
    response = sent(site, *pictures)
    assert response.status_code == 200, response.text
    assert len(response.json()["answers"]) == len(pictures)


@case
def bodies_of_requests(lab: Lab) -> None:
    site = site_of(lab)
    lab.answered(site.post(CROP, content_type="text/plain"))
    lab.answered(site.post(b""))
    lab.answered(site.post(CROP, content_type="multipart/form-data"))
    lab.answered(site.post(b"--b--\r\n", **FORM))
    lab.answered(site.post(b"x", **FORM))
    field = b'--b\r\nContent-Disposition: form-data; name="q"\r\n\r\n1\r\n--b--\r\n'
    lab.answered(site.post(field, **FORM))
    lab.works(lambda: answers(site))
    lab.works(lambda: in_form(site, CROP, CROP))
    lab.answered(site.post(b"--b\r\n", **FORM))
    lab.works(lambda: in_form(site, CROP))
    lab.answered(site.post(CROP, content_encoding="gzip"))
    lab.works(lambda: answers(site))
    many = [CROP] * 65
    lab.answered(sent(site, *many))
    lab.works(lambda: [in_form(site, *many[:64]), in_form(site, *many[64:])])
    plain = png(np.full((64, 64, 3), 90, np.uint8), "JPEG")
    start = plain.index(b"\xff\xda")
    lab.answered(site.post(plain[:start] + 51 * plain[start:-2] + plain[-2:]))
    lab.works(lambda: answers(site, plain))
    with mock.patch("PIL.Image.MAX_IMAGE_PIXELS", 1000):
        lab.answered(site.post(CROP))
        lab.works(lambda: answers(site, png(lab.gray[:20, :20])))


@case
def limits_of_a_server(lab: Lab) -> None:
    small = site_of(lab, max_bytes=100, max_pixels=2304)
    large = png(np.random.default_rng(0).integers(0, 255, (96, 96)).astype(np.uint8))
    lab.answered(small.post(large))
    lab.works(lambda: answers(site_of(lab, max_bytes=1_000_000), large))
    small = site_of(lab, max_pixels=2304)
    lab.answered(small.post(large))
    lab.works(lambda: answers(small, png(lab.gray)))
    lab.answered(small.post(large))
    lab.works(lambda: answers(site_of(lab, max_pixels=96 * 96), large))
    lab.answered(site_of(lab, timeout_s=1e-9).post(large))
    lab.works(lambda: answers(site_of(lab, timeout_s=10.0), large))
    budget = small.app.state.budget
    budget.change(budget.most)
    lab.answered(small.post(png(lab.gray)))
    budget.change(-budget.most)  # the others have had their answers
    lab.works(lambda: answers(small, png(lab.gray)))


@case
def options_of_requests(lab: Lab) -> None:
    site = site_of(lab)
    lab.answered(site.post(CROP, "?detect=true"))
    lab.works(lambda: answers(site, CROP, "?detect=false"))
    with mock.patch.dict(detect.DETECTORS, {"fake": ROW}):
        lab.works(lambda: site_of(lab, detector="fake").post(CROP, "?detect=true"))
    lab.answered(sent(site, CROP, CROP, query="?box=1,2,50,60"))
    lab.works(lambda: answers(site, CROP, "?box=1,2,50,60"))
    lab.answered(site.post(CROP, "?abstain=true"))
    lab.works(lambda: answers(site))
    for path in ("/predict", "/v1/predict"):
        lab.answered(site.get(path))
    lab.answered(site.post(CROP, "?detect=maybe"))
    paths = lab.works(lambda: site.get("/openapi.json").json())["paths"]
    assert "post" in paths["/v1/predict"]
    assert "detect" in str(paths["/v1/predict"]["post"]["parameters"])


@case
def names_of_a_server(lab: Lab) -> None:
    site = site_of(lab)
    lab.answered(site.get("/healthz", headers={"host": "camera.example"}))
    lab.works(lambda: site.get("/healthz").raise_for_status())
    named = site_of(lab, names=("camera.example",))
    lab.works(lambda: named.get("/", headers={"host": "camera.example"}).raise_for_status())
    lab.answered(site.post(CROP, origin="http://other.example"))
    lab.answered(site.post(CROP, sec_fetch_site="cross-site"))
    lab.works(lambda: answers(site, origin="http://127.0.0.1:8000", sec_fetch_site="same-origin"))


@case
def faults_of_a_server(lab: Lab) -> None:
    """The answers name the log, and the log says what it was."""
    site = site_of(lab)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("fer_edge")
    log.addHandler(handler)
    try:
        for owner, name, error in (
            (engine_module, "rows_of", RuntimeError("broken")),
            (engine_module.Engine, "_check", NumericsError("not finite")),
        ):
            with mock.patch.object(owner, name, side_effect=error):
                lab.answered(site.post(CROP))
            lab.works(lambda: messages.pop())
            assert messages == []
    finally:
        log.removeHandler(handler)


@case
def starting_a_server(lab: Lab) -> None:
    def local(port: int = 0) -> None:
        bind("127.0.0.1", port).close()

    for host in (".x", "192.0.2.1"):
        lab.refused(lambda host=host: bind(host, 0))
        lab.works(local)
    with closing(bind("127.0.0.1", 0)) as taken:
        lab.refused(lambda: bind("127.0.0.1", taken.getsockname()[1]))
        lab.works(local)
    # A container may allow all ports to everybody.
    denied = PermissionError(errno.EACCES, "Permission denied")
    with mock.patch.object(socket.socket, "bind", side_effect=denied):
        lab.refused(lambda: local(80))
    lab.works(lambda: local(0))
    serve = ("serve", "--bundle", lab.bundle().path, "--port", "0")
    weights = lab.file("weights.onnx", "x")
    with (
        mock.patch("fer_edge.serve.server.run") as run,
        mock.patch.dict(detect.DETECTORS, {"fake": ROW}),
    ):
        lab.refused([*serve, "--no-detect", "--timeout", "nan"])
        lab.works([*serve, "--no-detect", "--timeout", "10"])
        lab.refused([*serve, "--detector-model", weights])
        lab.works([*serve, "--detector-model", weights, "--detector", "fake"])
        settings = run.call_args.args[0]
        assert (settings.detector, settings.detector_model) == ("fake", weights)
        lab.refused([*serve, "--detector", "fake", "--no-detect"])
        lab.works([*serve, "--no-detect"])
        gone = lab.folder() / "gone.onnx"
        lab.refused(lambda: detect.detector("fake", model=gone))
        lab.works(lambda: detect.detector("fake", model=weights))
