"""The HTTP API: the same answers as ``predict --format json``, and every refusal."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fixtures_bundle import bundle_of_classes, golden_images
from fixtures_serve import SiteMaker, lines_of, png

from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.errors import UsageError
from fer_edge.serve import engine as engine_module
from fer_edge.serve.metrics import Metrics


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert all(row["latency_ms"] is None or row["latency_ms"] > 0 for row in rows)
    return [{**row, "latency_ms": None} for row in rows]


def predicted(
    capsys: pytest.CaptureFixture[str], bundle: Path, files: list[Path], *options: str
) -> list[dict[str, Any]]:
    main(["predict", *map(str, files), "--bundle", str(bundle), "--format", "json", *options])
    return without_times(lines_of(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("query", "options", "looked_for"),
    [
        ("", ["--detector", "fake"], {"no face", "unclear"}),
        ("?every_face=true", ["--detector", "fake", "--every-face"], {"no face"}),
        ("?detect=false", ["--no-detect"], set()),
    ],
)
def test_the_answers_are_those_of_predict(
    site_of: SiteMaker,
    photo: bytes,
    crop: bytes,
    tiny_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    query: str,
    options: list[str],
    looked_for: set[str],
) -> None:
    contents = {
        "two faces.png": photo,
        "cröp.png": crop,
        "small.png": png(golden_images(1)[0, 0]),
        "none.jpg": png(np.full((90, 120, 3), 90, np.uint8), "JPEG"),
        "cut.png": png(np.pad(np.array([[[0, 255, 255]]], np.uint8), ((0, 30), (0, 30), (0, 0)))),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    expected = predicted(capsys, tiny_bundle.path, [tmp_path / n for n in contents], *options)
    labels = {row["label"] for row in expected}
    assert {"no face", "unclear"} & labels == looked_for

    site = site_of()
    files = [("file", (str(tmp_path / name), content)) for name, content in contents.items()]
    answer = site.run(lambda client: client.post(f"/v1/predict{query}", files=files))
    assert answer.status_code == 200
    body = answer.json()
    assert [list(row) for row in body["answers"]] == [list(row) for row in expected]
    assert without_times(body["answers"]) == expected
    assert body["errors"] == []
    assert set(body["milliseconds"]) == {"wait", "read", "detect", "classify"}

    one = site.post(photo, query).json()["answers"]
    (tmp_path / "-").write_bytes(photo)
    of_one = predicted(capsys, tiny_bundle.path, [tmp_path / "-"], *options)
    assert without_times(one) == [{**row, "image": "-"} for row in of_one]


def test_own_boxes(site_of: SiteMaker, photo: bytes) -> None:
    site = site_of()
    found = site.post(photo, "?box=10,20,58,68&box=150.5,60,198,108").json()["answers"]
    assert [row["box"] for row in found] == [[10, 20, 58, 68], [150.5, 60, 198, 108]]
    outside = site.post(photo, "?box=900,900,910,910")
    assert (outside.status_code, "is not in the picture" in outside.text) == (400, True)
    assert site.post(photo, "?box=1,2,3").status_code == 422
    assert site.post(photo, "?box=1,2,3,4&detect=true").status_code == 422


def test_a_wrong_file_does_not_harm_the_others(
    site_of: SiteMaker, photo: bytes, crop: bytes
) -> None:
    files = [
        ("file", ("a.png", photo)),
        ("file", ("b.png", b"no picture")),
        ("file", ("c.png", b"")),
        ("file", ("d.png", crop)),
    ]
    site = site_of()
    answer = site.run(lambda client: client.post("/v1/predict?every_face=true", files=files))
    assert answer.status_code == 200
    assert [row["image"] for row in answer.json()["answers"]] == ["a.png", "a.png", "d.png"]
    errors = answer.json()["errors"]
    assert [row["image"] for row in errors] == ["b.png", "c.png"]
    assert errors[0]["error"].startswith("b.png is not an image that can be read")
    assert errors[0]["fix"] == "convert it to JPEG or PNG"

    bad = site.run(lambda client: client.post("/v1/predict", files=files[1:3]))
    assert bad.status_code == 400
    assert [row["image"] for row in bad.json()["errors"]] == ["b.png", "c.png"]


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header states a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (b"no picture", {}, 400, "is not an image that can be read"),
        (b"", {}, 400, "the body is empty"),
        (bomb(4000, 3000), {}, 413, "has 4000x3000 pixels, more than 10,000,000"),
        (bomb(40_000, 30_000), {}, 413, "is too large"),
        (bytes(100_001), {}, 413, "more than 100,000 bytes"),
        (b"x", {"content_type": "text/plain"}, 415, "the type text/plain"),
        (b"x", {"content_type": "application/x-www-form-urlencoded"}, 415, "is not a picture"),
        (b"x", {"content_encoding": "gzip"}, 415, "gzip"),
        (b"x", {"content_type": "multipart/form-data"}, 400, "no boundary"),
        (b"x", {"content_type": "multipart/form-data; boundary=b"}, 400, "damaged"),
        (b"--b\r\n", {"content_type": "multipart/form-data; boundary=b"}, 400, "not complete"),
        (b"--b--\r\n", {"content_type": "multipart/form-data; boundary=b"}, 400, "no file"),
        (
            b'--b\r\nContent-Disposition: form-data; name="q"\r\n\r\n1\r\n--b--\r\n',
            {"content_type": "multipart/form-data; boundary=b"},
            422,
            "field 'q' is not a file",
        ),
    ],
)
def test_refused_bodies(
    site_of: SiteMaker, content: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    site = site_of(max_bytes=100_000, max_pixels=10_000_000)
    for sent in (content, _in_parts(content)):
        answer = site.post(sent, **headers)
        assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
        assert set(answer.json()) == {"error", "fix"}
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert site.app.state.budget.held == 0


async def _in_parts(content: bytes) -> Any:
    """Send a body without Content-Length."""
    for start in range(0, len(content), 10_000):
        yield content[start : start + 10_000]


def test_too_many_files(site_of: SiteMaker) -> None:
    files = [("file", (f"{i}.png", b"x")) for i in range(65)]
    answer = site_of().run(lambda client: client.post("/v1/predict", files=files))
    assert (answer.status_code, "more than 64 files" in answer.text) == (413, True)


def test_a_jpeg_with_many_scans(site_of: SiteMaker, photo: bytes) -> None:
    """Each scan is decoded over all pixels: a small file would take minutes."""
    plain = png(np.full((64, 64, 3), 90, np.uint8), "JPEG")
    start = plain.index(b"\xff\xda")
    scan = plain[start:-2]
    site = site_of()
    assert site.post(plain[:start] + 51 * scan + plain[-2:]).status_code == 400
    assert "more than 50 scans" in site.post(plain[:start] + 51 * scan + plain[-2:]).text
    # What follows the picture, as a telephone's short film does, is none of it.
    assert site.post(plain + 200 * b"\xff\xda").status_code == 200


@pytest.mark.parametrize(
    ("query", "words", "fix"),
    [
        ("?detct=true", "unknown parameter 'detct'", "did you mean 'detect'?"),
        ("?detect=maybe", "detect is 'maybe'", "openapi"),
        ("?abstain=true", "no confidence threshold", "fer-edge confidence"),
    ],
)
def test_refused_options(
    site_of: SiteMaker, photo: bytes, query: str, words: str, fix: str
) -> None:
    answer = site_of().post(photo, query)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert fix in answer.json()["fix"]


def test_a_server_without_a_detector(site_of: SiteMaker, photo: bytes) -> None:
    site = site_of(detector=None)
    assert [row["box"] for row in site.post(photo).json()["answers"]] == [None]
    answer = site.post(photo, "?detect=true")
    assert (answer.status_code, "--detector" in answer.json()["fix"]) == (422, True)
    assert site.get("/v1/model").json()["detector"] is None


def test_other_paths_and_methods(site_of: SiteMaker) -> None:
    site = site_of()
    assert site.get("/photos/anna.jpg").json()["error"] == "there is no such path"
    answer = site.get("/v1/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert site.get("/docs").status_code == site.get("/redoc").status_code == 404


def test_what_runs(site_of: SiteMaker) -> None:
    site = site_of(queue=7, max_pixels=9_999)
    facts = site.get("/v1/model").json()
    bundle = site.engine.classifier.bundle
    assert facts["name"] == bundle.manifest.name
    assert facts["digest"] == bundle.manifest.sha256
    assert facts["classes"] == [*bundle.labels]
    assert (facts["precision"], facts["synthetic"]) == ("int8", True)
    assert (facts["limits"]["queue"], facts["limits"]["pixels"]) == (7, 9_999)


def test_classes_of_ones_own(site_of: SiteMaker, tmp_path: Path, crop: bytes) -> None:
    bundle, _ = bundle_of_classes(tmp_path / "own", ("cat", "label", "dog"))
    site = site_of(bundle=bundle.path, detector=None)
    (row,) = site.post(crop).json()["answers"]
    assert row["label"] in {"cat", "label", "dog"}
    assert row["cat"] + row["class label"] + row["dog"] == pytest.approx(1, abs=1e-5)
    schema = site.get("/openapi.json").json()["paths"]["/v1/predict"]["post"]["responses"]["200"]
    items = schema["content"]["application/json"]["schema"]["properties"]["answers"]["items"]
    assert set(items["required"]) == set(row)


def test_healthy_only_after_the_self_test(
    site_of: SiteMaker, crop: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(open_engine=False)
    for path in ("/healthz", "/readyz", "/v1/model"):
        answer = site.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert site.post(crop).status_code == 503

    def fail(*_: object) -> None:
        raise UsageError("the self-test failed")

    with monkeypatch.context() as patch:
        patch.setattr("fer_edge.classifier.self_test", fail)
        with pytest.raises(UsageError, match="self-test"):
            site.engine.open()
        assert site.get("/healthz").status_code == 503
    site.engine.open()
    assert site.get("/healthz").json() == site.get("/readyz").json() == {"status": "ok"}
    assert site.post(crop).status_code == 200


def test_metrics(site_of: SiteMaker, photo: bytes) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    site = site_of()
    site.post(photo)
    site.post(b"no picture")
    site.get("/photos/anna.jpg")
    site.run(lambda client: client.request("BREW", "/"))
    text = site.get("/metrics").text
    assert "anna" not in text
    assert "BREW" not in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counted = {
        (s.labels["route"], s.labels["method"], s.labels["status"]): s.value
        for s in families["fer_edge_requests"].samples
        if s.name.endswith("_total")
    }
    assert counted == {
        ("/v1/predict", "POST", "200"): 1,
        ("/v1/predict", "POST", "400"): 1,
        ("other", "GET", "404"): 1,
        ("/", "other", "405"): 1,
    }

    def value(name: str, **labels: str) -> float:
        family = families[name.removesuffix("_total").removesuffix("_count")]
        (found,) = [s.value for s in family.samples if s.name == name and s.labels == labels]
        return found

    assert value("fer_edge_pictures_total", result="answered") == 1
    assert value("fer_edge_pictures_total", result="refused") == 1
    assert value("fer_edge_faces_total") == 2
    assert value("fer_edge_queue_length") == 0
    assert value("fer_edge_request_seconds_count", route="/v1/predict") == 2
    for stage in ("wait", "read", "detect", "classify"):
        assert value("fer_edge_stage_seconds_count", stage=stage) == (2 if stage == "wait" else 1)
    (info,) = families["fer_edge_info"].samples
    assert info.labels["digest"] == site.engine.classifier.bundle.manifest.sha256


def test_a_fault_of_the_server_shows_no_text(
    site_of: SiteMaker, photo: bytes, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret: photos/anna.jpg")

    monkeypatch.setattr(engine_module, "rows_of", fail)
    site = site_of()
    answer = site.post(photo)
    assert (answer.status_code, answer.json()["error"]) == (500, "the server has a fault")
    assert "anna" not in answer.text + caplog.text
    assert "RuntimeError" in caplog.text
    assert site.engine.pending == 0 or site.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:9000"}, 200),  # a tunnel
        ({"host": "[::1]:8000"}, 200),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"host": "evil.example:8000"}, 403),  # DNS rebinding
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "192.168.1.7:8000"}, 403),
        ({"host": ""}, 403),
        ({"host": "[::1"}, 403),
        ({"host": "localhost:8000@evil.example"}, 403),
        ({"host": "localhost/evil.example"}, 403),
        ({"host": "LOCALHOST.:80"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://localhost:8000"}, 403),  # another origin than the address
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
    ],
)
def test_only_this_servers_page_may_ask(
    site_of: SiteMaker, crop: bytes, headers: dict[str, str], status: int
) -> None:
    site = site_of()
    assert site.get("/v1/model", headers=headers).status_code == status
    navigates = "sec-fetch-mode" in headers
    sent = {name.replace("-", "_"): value for name, value in headers.items()}
    assert site.post(crop, **sent).status_code == (403 if navigates else status)
    refused = site.get("/v1/model", headers={"host": "evil.example"})
    assert "access-control-allow-origin" not in refused.headers
    assert "--allow-host" in refused.json()["fix"]


def test_names_of_a_server_that_others_reach(site_of: SiteMaker) -> None:
    site = site_of(loopback=False, names=("faces.example", "0.0.0.0"))
    for host, status in {
        "192.168.1.7:8000": 200,
        "Faces.example": 200,
        "localhost": 200,
        "evil.example": 403,
    }.items():
        assert site.get("/healthz", headers={"host": host}).status_code == status


def test_two_registries_do_not_meet() -> None:
    first, second = Metrics(), Metrics()
    first.picture(3)
    assert b"fer_edge_faces_total 3.0" in first.text()
    assert b"fer_edge_faces_total 0.0" in second.text()


def test_a_client_of_another_kind(site_of: SiteMaker, photo: bytes) -> None:
    """An image/* type is believed only as far as that it is a picture."""
    site = site_of()
    for kind in ("image/jpeg", "image/x-unknown", "application/octet-stream", "IMAGE/PNG; q=1"):
        answer: httpx.Response = site.post(photo, content_type=kind)
        assert answer.status_code == 200


def test_a_damaged_form_writes_nothing_of_the_library_to_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without a handler of its own, Python prints a library's warnings on stderr."""
    import logging

    from fer_edge.serve import bodies

    assert bodies.MultipartParser.__module__.startswith("python_multipart")
    root, library = logging.getLogger(), logging.getLogger("python_multipart.multipart")
    before, root.handlers = root.handlers, []
    try:
        library.warning("Expected boundary character 45, got 97 at index 2")
    finally:
        root.handlers = before
    assert capfd.readouterr().err == ""
