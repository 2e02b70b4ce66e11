"""``fer-edge serve`` as a process: addresses, limits on the wire, signals, workers, no traces."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures_serve import Running, RunningMaker, wait_for

from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.cli.serve import _url
from fer_edge.faces import detect
from fer_edge.serve import Settings

LIMIT = 6_000_000


@pytest.fixture(scope="module")
def running(_tiny_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for the tests that do not change it."""
    one = Running(
        _tiny_template,
        *("--no-detect", "--timeout", "4", "--max-bytes", str(LIMIT), "-v"),
        folder=tmp_path_factory.mktemp("served"),
    )
    yield one
    assert one.stop() == 0, one.log()


def connection(running: Running) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", running.port), 30)
    made.settimeout(30)
    return made


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


def answer_of(sock: socket.socket) -> tuple[int, dict[str, Any]]:
    answer = http.client.HTTPResponse(sock)
    answer.begin()
    return answer.status, json.loads(answer.read())


def metric(running: Running, line: str) -> float:
    text = httpx.get(f"{running.url}metrics").text
    return sum(float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(line))


def traces(pid: int, folder: Path) -> set[str]:
    """Return the files that a process has open, other than sockets and pipes, and a folder's."""
    opened = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            opened.add(str(link.readlink()))
    files = {name for name in opened if "(deleted)" in name or name.startswith(str(folder))}
    return files | {str(path) for path in folder.rglob("*")}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_nothing_is_written_during_a_large_upload(running: Running, crop: bytes) -> None:
    before = traces(running.process.pid, running.folder)
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="anna.png"\r\n\r\n'
    body = head + crop + bytes(5_000_000) + b"\r\n--b--\r\n"
    with connection(running) as sock:
        sock.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        sock.sendall(body[:4_500_000])
        wait_for(lambda: metric(running, "fer_edge_body_bytes") == 4_500_000)
        assert traces(running.process.pid, running.folder) == before
        sock.sendall(body[4_500_000:])
        status, answer = answer_of(sock)
    assert (status, answer["answers"][0]["image"]) == (200, "anna.png")
    assert traces(running.process.pid, running.folder) == before
    wait_for(lambda: "POST /v1/predict 200" in running.log())
    httpx.get(f"{running.url}photos/anna.png?x=anna")
    wait_for(lambda: "GET other 404" in running.log())
    assert "anna" not in running.log()

    with tempfile.TemporaryFile(dir=running.folder):
        assert traces(os.getpid(), running.folder) - before  # a file would be seen


def test_the_size_is_limited_while_reading(running: Running, crop: bytes) -> None:
    chunk = b"%x\r\n%s\r\n" % (65_536, bytes(65_536))
    with connection(running) as sock:
        sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(LIMIT // 65_536 + 2):
            sock.sendall(chunk)
        sock.sendall(b"0\r\n\r\n")
        status, answer = answer_of(sock)
        assert (status, f"more than {LIMIT:,} bytes" in answer["error"]) == (413, True)
        # The rest was read, so the connection goes on.
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(crop) + crop)
        assert answer_of(sock)[0] == 200


def test_a_body_without_end_is_cut_off(running: Running) -> None:
    chunk = b"%x\r\n%s\r\n" % (65_536, bytes(65_536))
    with connection(running) as sock:
        sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(OSError):
            for _ in range(20 * LIMIT // 65_536):
                sock.sendall(chunk)
    assert httpx.get(f"{running.url}healthz").status_code == 200


def test_a_client_that_asks_first_sends_nothing(running: Running) -> None:
    with connection(running) as sock:
        sock.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n")
        assert answer_of(sock)[0] == 413
        assert sock.recv(1) == b""


def test_slow_and_silent_clients_are_let_go(running: Running, crop: bytes) -> None:
    with (
        connection(running) as silent,
        connection(running) as in_the_head,
        connection(running) as in_the_body,
        connection(running) as second_head,
    ):
        in_the_head.sendall(HEAD)
        in_the_body.sendall(HEAD + b"Content-Length: 100\r\n\r\nabc")
        second_head.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(crop) + crop)
        assert answer_of(second_head)[0] == 200
        second_head.sendall(HEAD)
        status, answer = answer_of(in_the_body)
        assert (status, "not complete after 4 seconds" in answer["error"]) == (408, True)
        for sock in (silent, in_the_head, second_head):
            assert sock.recv(1) == b""
    assert httpx.get(f"{running.url}healthz").status_code == 200


def test_a_connection_that_is_cut(running: Running, crop: bytes) -> None:
    gone = 'fer_edge_requests_total{method="POST",route="/v1/predict",status="499"}'
    before = metric(running, gone)
    with connection(running) as sock:
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(crop) + crop[:40])
    wait_for(lambda: metric(running, gone) == before + 1)
    headers = {"content-type": "image/png"}
    assert httpx.post(f"{running.url}v1/predict", content=crop, headers=headers).is_success


def test_garbage_is_not_logged(running: Running) -> None:
    with connection(running) as sock:
        sock.sendall(b"\x16\x03\x01 anna.jpg\r\n\r\n")
        assert b"400" in sock.recv(100)
    assert "anna" not in running.log()


def test_sigterm_finishes_what_is_in_flight(serve: RunningMaker, crop: bytes) -> None:
    one = serve()
    with connection(one) as sock:
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(crop) + crop[:40])
        wait_for(lambda: metric(one, "fer_edge_requests_total") >= 1)  # the server is awake
        one.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(one))
        sock.sendall(crop[40:])
        status, answer = answer_of(sock)
    assert (status, len(answer["answers"])) == (200, 1)
    assert one.process.wait(60) == 0
    assert one.log().count("\n") <= 2  # the notes about the network


def refuses(running: Running) -> bool:
    try:
        connection(running).close()
    except OSError:
        return True
    return False


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in found}
    return [child for child, line in names.items() if "spawn_main" in line]


def metrics_folder(running: Running) -> Path:
    worker = children_of(running.process.pid)[0]
    lines = Path(f"/proc/{worker}/environ").read_text().split("\0")
    (folder,) = [line for line in lines if line.startswith("PROMETHEUS_MULTIPROC_DIR=")]
    return Path(folder.partition("=")[2])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")
def test_workers_add_up_and_are_started_again(serve: RunningMaker, crop: bytes) -> None:
    memory = Path("/dev/shm")
    one = serve("--workers", "2")
    metrics = metrics_folder(one)
    assert metrics.is_dir()
    assert metrics.parent == memory or not os.access(memory, os.W_OK)
    headers = {"content-type": "image/png"}
    for _ in range(8):  # each on a connection of its own, so both workers are asked
        assert httpx.post(f"{one.url}v1/predict", content=crop, headers=headers).is_success
    assert metric(one, "fer_edge_pictures_total") == 8

    first, second = children_of(one.process.pid)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: "killed by signal 9: it is started again" in one.log())
    wait_for(lambda: len(children_of(one.process.pid)) == 2)
    assert second in children_of(one.process.pid)
    assert httpx.post(f"{one.url}v1/predict", content=crop, headers=headers).is_success
    workers = children_of(one.process.pid)
    assert one.stop() == 0
    assert not metrics.exists()
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")
def test_workers_end_with_their_parent(serve: RunningMaker) -> None:
    one = serve("--workers", "2")
    workers, metrics = children_of(one.process.pid), metrics_folder(one)
    assert len(workers) == 2
    one.process.kill()
    wait_for(lambda: not any(_runs(worker) for worker in workers))
    assert not metrics.exists()
    one.process.wait()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["serve", *words])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    return (code, *capsys.readouterr())


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, int]]:
    """What the command would have run."""
    from fer_edge.serve import server

    calls: list[tuple[Settings, int]] = []

    def run(settings: Settings, sock: Any, workers: int, started: Any) -> None:
        calls.append((settings, workers))
        started()

    monkeypatch.setattr(server, "run", run)
    return calls


def test_mistakes(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bundle = ("--bundle", str(tiny_bundle.path), "--no-detect")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = command(capsys, *bundle, "--port", str(port))
        assert (code, out) == (5, "")
        assert err == f"error: port {port} is in use\nfix:   --port 0 takes a free port\n"
    for words, expected, text in [
        (("--host", "no such host"), 2, "is not known"),
        (("--host", "192.0.2.1"), 2, "192.0.2.1 is no address of this machine"),
        (("--bundle", str(tmp_path / "none")), 2, "none"),
        (("--detector", "haar"), 2, "exclude one another"),
        (("--max-bytes", "0"), 2, "max-bytes"),
        (("--timeout", "nan"), 2, "--timeout is nan"),
    ]:
        code, out, err = command(capsys, *bundle, "--port", "0", *words)
        assert (code, out, text in err) == (expected, "", True), err
    path = tiny_bundle.path / "model.fp32.onnx"
    path.write_bytes(bytes(path.stat().st_size))
    code, out, err = command(capsys, *bundle, "--port", "0")
    assert (code, out, "model.fp32.onnx" in err) == (6, "", True)
    code, out, err = command(capsys, *bundle, "--port", "0", "--workers", "2")
    assert (code, out, "model.fp32.onnx" in err, "Traceback" in err) == (6, "", True, False)


def test_a_missing_extra(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    code, _, err = command(capsys, "--bundle", str(tiny_bundle.path))
    assert (code, "pip install 'fer-edge[serve]'" in err) == (5, True)


def test_an_address_that_others_reach(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], ran: list[tuple[Settings, int]]
) -> None:
    bundle = ("--bundle", str(tiny_bundle.path), "--port", "0")
    code, out, err = command(capsys, *bundle, "--host", "0.0.0.0", "--allow-host", "a.example")
    assert (code, out.startswith("http://localhost:")) == (0, True)
    assert err.count("warning:") == 1
    assert "no authentication" in err
    code, _, err = command(capsys, *bundle, "--workers", "3", "--queue", "5", "--timeout", "2")
    assert (code, "warning" in err) == (0, False)
    (wide, _), (local, workers) = ran
    assert (wide.loopback, "a.example" in wide.names) == (False, True)
    assert (local.loopback, workers, local.queue, local.timeout_s) == (True, 3, 5, 2.0)
    assert _url("::1", 80) == "http://[::1]:80/"
    assert _url("faces.example", 80) == "http://faces.example:80/"


def test_without_a_detector_there_is_a_note(
    tiny_bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    ran: list[tuple[Settings, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detect, "_is_installed", lambda package: False)
    code, _, err = command(capsys, "--bundle", str(tiny_bundle.path), "--port", "0")
    assert (code, "no face detector is installed" in err, detect.INSTALL in err) == (0, True, True)
    assert ran[0][0].detector is None
