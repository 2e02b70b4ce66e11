"""A Classifier in other processes: forked while threads predict, pickled, copied, interrupted.

The scripts run in processes of their own, since a fork of pytest would copy all that it has loaded.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_bundle import golden_images
from fixtures_measure import torch_bundle
from PIL import Image

import fer_edge
from fer_edge import Bundle, Classifier, FerEdgeError
from fer_edge.backends.base import MOST_THREADS
from fer_edge.bundle import BundleWriter
from fer_edge.errors import MissingExtraError, UsageError

__all__ = ["torch_bundle"]

FACES = golden_images(8)[:, 0]
FORKS = 12

HEAD = """
import json, os, signal, sys, threading, time
import numpy as np
from fer_edge import Classifier
from fer_edge.errors import FerEdgeError
bundle, backend, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
faces = np.random.default_rng(0).integers(0, 256, (8, 48, 48), np.uint8)
classify = Classifier(bundle, backend=backend, precision="fp32", threads=threads)
wanted = [p.probabilities for p in classify.predict_batch(list(faces))]

def works(classify):
    for face, probabilities in zip(faces, wanted):
        got = classify.predict(face).probabilities
        if any(abs(got[name] - probabilities[name]) > 1e-5 for name in got):
            return False
    return len(classify.predict_batch(list(faces))) == len(faces)

def ended(pid, patience=60):
    for _ in range(patience * 100):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hang"

def answer(**content):
    print(json.dumps(content), flush=True)
    os._exit(0)
"""

FORK = (
    HEAD
    + """
stop = threading.Event()
def work():
    while not stop.is_set():
        classify.predict_batch(list(faces[:3]))
        classify.predict(faces[0])
workers = [threading.Thread(target=work, daemon=True) for _ in range(3)]
for worker in workers:
    worker.start()
ends, errors = [], os.pipe()
for i in range(int(sys.argv[4])):
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = 0 if works(classify) else 3
            classify.close()
        except FerEdgeError as error:
            os.write(errors[1], f"{error} | {error.fix}\\n".encode())
            code = error.exit_code
        if i % 2:
            sys.exit(code)  # with all that an interpreter destroys at its end
        os._exit(code)
    ends.append(ended(pid))
stop.set()
for worker in workers:
    worker.join(60)
os.close(errors[1])
told = sorted(set(os.read(errors[0], 1 << 16).decode().splitlines()))
answer(ends=ends, told=told, parent=works(classify), alive=any(w.is_alive() for w in workers))
"""
)


def answer_of(script: str, *arguments: object, cwd: Path | None = None) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(fer_edge.__file__).parents[1])},
    )
    assert ended.returncode == 0, ended.stderr
    content: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return content


@pytest.mark.parametrize(
    ("backend", "threads"), [("onnxruntime", 1), ("onnxruntime", 2), ("openvino", 1)]
)
def test_a_fork_while_threads_predict(tiny_bundle: Bundle, backend: str, threads: int) -> None:
    got = answer_of(FORK, tiny_bundle.path, backend, threads, FORKS)
    assert got == {"ends": [0] * FORKS, "told": [], "parent": True, "alive": False}


def with_golden(bundle: Path, copy: Path) -> Path:
    """A copy of a bundle that has a self-test: its network's own logits."""
    from fer_edge.backends.pytorch import PyTorchBackend

    images = golden_images(4)
    with PyTorchBackend(bundle / "checkpoint.safetensors") as backend:
        np.savez(copy.with_suffix(".npz"), images=images, logits=backend.infer(images))
    with BundleWriter(copy, Bundle.open(bundle)) as writer:
        writer.add_file(copy.with_suffix(".npz"), "golden.npz", format="npz")
    return copy


def test_a_fork_with_pytorch(torch_bundle: Path, tmp_path: Path) -> None:
    bundle = with_golden(torch_bundle, tmp_path / "bundle")
    got = answer_of(FORK, bundle, "pytorch", 1, 4)
    assert got == {"ends": [0] * 4, "told": [], "parent": True, "alive": False}
    refused = answer_of(FORK, bundle, "pytorch", 2, 2)
    assert refused["ends"] == [5] * 2
    assert "pytorch with 2 threads does not work" in refused["told"][0]


def test_a_fork_that_openvino_does_not_survive(tiny_bundle: Bundle) -> None:
    got = answer_of(FORK, tiny_bundle.path, "openvino", 2, 2)
    assert got["ends"] == [5] * 2
    assert got["parent"]
    (told,) = got["told"]
    assert "openvino with 2 threads does not work in a process that was forked" in told
    assert "get_context('spawn')" in told
    assert "threads=1" in told


OPEN_IN_CHILD = (
    HEAD
    + """
ends = []
for wanted_threads in (1, 2):
    pid = os.fork()
    if pid == 0:
        try:
            with Classifier(bundle, backend=backend, threads=wanted_threads) as own:
                own.predict_batch(list(faces))
            os._exit(0)
        except FerEdgeError as error:
            os._exit(error.exit_code)
    ends.append(ended(pid))
answer(ends=ends)
"""
)


@pytest.mark.parametrize(("backend", "ends"), [("onnxruntime", [0, 0]), ("openvino", [0, 5])])
def test_a_child_opens_its_own(tiny_bundle: Bundle, backend: str, ends: list[int]) -> None:
    assert answer_of(OPEN_IN_CHILD, tiny_bundle.path, backend, 2)["ends"] == ends


HELD = (
    HEAD
    + """
from fer_edge.backends import fork
fork._PATIENCE_S = 0.2
inside, stop = threading.Event(), threading.Event()
backend_of, run = classify._backend, classify._backend.infer
def never_ends(images):
    inside.set()
    stop.wait()
    return run(images)
backend_of.infer = never_ends
worker = threading.Thread(target=classify.predict, args=(faces[0],), daemon=True)
worker.start()
inside.wait()
backend_of.infer = run
pid = os.fork()
if pid == 0:
    try:
        os._exit(0 if works(classify) else 3)
    except FerEdgeError as error:
        os._exit(error.exit_code)
code = ended(pid)
stop.set()
worker.join(60)
answer(child=code, parent=works(classify))
"""
)


@pytest.mark.parametrize(("backend", "child"), [("onnxruntime", 0), ("openvino", 5)])
def test_an_inference_that_hangs_does_not_stop_a_fork(
    tiny_bundle: Bundle, backend: str, child: int
) -> None:
    assert answer_of(HELD, tiny_bundle.path, backend, 1) == {"child": child, "parent": True}


CHANGED = (
    HEAD
    + """
os.chdir("/")
pid = os.fork()
if pid == 0:
    os._exit(0 if works(classify) else 3)
same = ended(pid)
import shutil
shutil.copyfile(sys.argv[4], sys.argv[5])
pid = os.fork()
if pid == 0:
    try:
        works(classify)
    except FerEdgeError as error:
        os._exit(error.exit_code)
answer(same=same, changed=ended(pid))
"""
)


def test_a_child_never_takes_another_file(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """With two threads the child loads the graph again: from a relative path, with its digest."""
    graph = tiny_bundle.path / "model.fp32.onnx"
    other = tmp_path / "other.onnx"
    other.write_bytes(graph.read_bytes() + b"\x08\x08")
    name = tiny_bundle.path.name
    got = answer_of(CHANGED, name, "onnxruntime", 2, other, graph, cwd=tiny_bundle.path.parent)
    assert got == {"same": 0, "changed": 6}


NESTED = (
    HEAD
    + """
told = []
run = classify._backend.infer
def handler(*_):
    # First of all: a child must not send itself the signal, fork, and so on without end.
    classify._backend.infer = run
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    for call in (lambda: classify.predict(faces[1]), classify.close):
        try:
            call()
        except FerEdgeError as error:
            told.append(str(error))
    pid = os.fork()
    if pid == 0:
        os._exit(0 if works(classify) else 3)
    told.append(ended(pid))
def infer(images):
    os.kill(os.getpid(), signal.SIGUSR1)
    return run(images)
signal.signal(signal.SIGUSR1, handler)
classify._backend.infer = infer
classify.predict(faces[0])
answer(told=told, parent=works(classify))
"""
)


def test_a_signal_handler_that_predicts_and_forks(tiny_bundle: Bundle) -> None:
    got = answer_of(NESTED, tiny_bundle.path, "onnxruntime", 1)
    predict, close, child = got["told"]
    assert child == 0
    assert predict == "predict was called within predict, by a signal handler"
    assert close == "close was called within predict, by a signal handler"
    assert got["parent"]


SIGNALS = (
    HEAD
    + """
class Own(Exception):
    pass

raised = []
kinds = [Own, RuntimeError, ValueError, TimeoutError, KeyboardInterrupt, SystemExit, MemoryError]
def handler(*_):
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise kinds[len(raised) % len(kinds)]("from the handler")
signal.signal(signal.SIGALRM, handler)
many = list(np.tile(faces, (8, 1, 1)))
while len(raised) < 100:
    kind = kinds[len(raised) % len(kinds)]
    signal.setitimer(signal.ITIMER_REAL, 0.0005 * (1 + len(raised) % 9))
    try:
        while True:
            classify.predict_batch(many)
    except BaseException as error:
        raised.append([kind.__name__, type(error).__name__, str(error)])
answer(raised=raised, works=works(classify))
"""
)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_what_a_signal_handler_raises_stays_what_it_is(tiny_bundle: Bundle, backend: str) -> None:
    got = answer_of(SIGNALS, tiny_bundle.path, backend, 1)
    assert [(got_, text) for _, got_, text in got["raised"]] == [
        (kind, "from the handler") for kind, _, _ in got["raised"]
    ]
    assert got["works"]


POOL = """
import json, multiprocessing, sys
from fer_edge import Classifier

if __name__ == "__main__":
    bundle, backend, how, *files = sys.argv[1:]
    classify = Classifier(bundle, backend=backend, precision="fp32")
    wanted = [p.probabilities for p in map(classify.predict, files)]
    if how == "loky":
        from joblib import Parallel, delayed
        got = Parallel(n_jobs=2)(delayed(classify.predict)(file) for file in files)
    else:
        with multiprocessing.get_context(how).Pool(2) as pool:
            got = pool.map(classify.predict, files)
    print(json.dumps({"same": [p.probabilities for p in got] == wanted}))
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"face-{i}.png" for i in range(4)]
    for path, face in zip(paths, FACES):
        Image.fromarray(face).save(path)
    return paths


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("how", ["fork", "spawn", "loky"])
def test_pools(tiny_bundle: Bundle, files: list[Path], backend: str, how: str) -> None:
    if how == "loky":
        pytest.importorskip("joblib")
    assert answer_of(POOL, tiny_bundle.path, backend, how, *files) == {"same": True}


def sent(thing: Any, protocol: int = pickle.DEFAULT_PROTOCOL) -> Any:
    """Return what arrives in another process."""
    return pickle.loads(pickle.dumps(thing, protocol))  # noqa: S301


def test_pickles_and_copies(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(Classifier):
        pass

    monkeypatch.chdir(tiny_bundle.path.parent)
    original = Classifier(tiny_bundle.path.name, precision="fp32", threads=2)
    monkeypatch.chdir("/")
    wanted = original.predict(FACES[0]).probabilities
    copies = [sent(original), copy.copy(original), copy.deepcopy(original)]
    copies.append(sent(original.predict).__self__)
    original.close()
    for other in copies:
        assert type(other) is Classifier
        assert (other.precision, other.threads, other.backend) == ("fp32", 2, "onnxruntime")
        with other:
            assert other.predict(FACES[0]).probabilities == wanted
    with Mine(tiny_bundle.path) as mine, copy.copy(mine) as same:
        assert type(same) is Mine
    answer = original.__reduce__()
    assert all(type(part) in {str, int, type(tiny_bundle.path), type} for part in answer[1])


def test_a_pickle_of_a_damaged_bundle_is_refused(tiny_bundle: Bundle) -> None:
    with Classifier(tiny_bundle) as classify:
        (tiny_bundle.path / "model.fp32.onnx").write_bytes(b"other")
        with pytest.raises(FerEdgeError, match=r"model\.fp32\.onnx"):
            sent(classify)


def every_error() -> list[type[FerEdgeError]]:
    """All classes of errors, those of every module too."""
    from fer_edge.trt import cuda

    assert cuda.CudaError
    found = [FerEdgeError]
    for kind in found:
        found += [sub for sub in kind.__subclasses__() if sub.__module__.startswith("fer_edge")]
    return found


def test_errors_come_back_from_a_worker() -> None:
    """Whatever an error's arguments: one that cannot be unpickled makes a pool wait for ever."""
    assert len(every_error()) >= 10
    for kind in every_error():
        error = (
            MissingExtraError("timm", "train")
            if kind is MissingExtraError
            else kind("what is wrong", fix="what helps")
        )
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            same = sent(error, protocol)
            assert type(same) is kind
            assert (str(same), same.fix) == (str(error), error.fix)
            assert same.__dict__ == error.__dict__


TELEMETRY = """
import json, os, sys
import fer_edge
before = len(os.listdir("/proc/self/task"))
import onnxruntime
after = len(os.listdir("/proc/self/task"))
print(json.dumps({"threads": after - before, "asked": os.environ["ORT_DISABLE_TELEMETRY"]}))
"""


def test_onnxruntime_sends_nothing() -> None:
    """Its sender is a thread; numpy's threads start in the same import, so numpy comes first."""
    got = answer_of("import numpy\n" + TELEMETRY)
    assert got == {"threads": 0, "asked": "1"}
    kept = answer_of(
        "import os, json\nos.environ['ORT_DISABLE_TELEMETRY'] = '0'\nimport fer_edge\n"
        "print(json.dumps({'asked': os.environ['ORT_DISABLE_TELEMETRY']}))",
    )
    assert kept["asked"] == "0", "what the user set stays"


@pytest.mark.parametrize(
    "threads", [0, -1, 10**9, pytest.param(10**5000, id="1e5000"), MOST_THREADS + 1]
)
def test_numbers_of_threads(tiny_bundle: Bundle, threads: int) -> None:
    with pytest.raises(UsageError, match=f"from 1 to {MOST_THREADS:,}") as raised:
        Classifier(tiny_bundle, threads=threads)
    assert "CPU cores" in str(raised.value.fix)


@pytest.mark.parametrize("threads", [None, "2", 1.5, True])
def test_threads_are_a_number(tiny_bundle: Bundle, threads: Any) -> None:
    with pytest.raises(UsageError, match="threads is a whole number, not"):
        Classifier(tiny_bundle, threads=threads)
