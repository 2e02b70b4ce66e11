"""Our calls of pycuda on the real package, over a driver of our own (pycuda_driver.c).

``python pycuda_contract.py`` with a Python that has pycuda prints JSON: what pycuda documents of
the names that we use, and what running them gave. ``--write`` keeps the former in pycuda_api.json,
so that tests on other machines can compare our calls with it. Needs gcc and nm.

pycuda is compiled when it is installed. Without CUDA's toolkit: pip install nvidia-cuda-nvcc
nvidia-cuda-crt nvidia-cuda-runtime nvidia-cuda-profiler-api, an empty libcuda.so to link with, and
in its source ``configure.py --cuda-root=.../nvidia/cu13 --no-cuda-enable-curand``.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
API = HERE / "pycuda_api.json"
NAMES = (
    "init",
    "Error",
    "Device",
    "Device.retain_primary_context",
    "Context.push",
    "Context.pop",
    "Context.detach",
    "Stream",
    "Stream.handle",
    "Stream.is_done",
    "Stream.synchronize",
    "Event",
    "Event.record",
    "Event.synchronize",
    "Event.time_since",
    "event_flags.BLOCKING_SYNC",
    "host_alloc_flags.DEVICEMAP",
    "mem_alloc",
    "DeviceAllocation.free",
    "pagelocked_zeros",
    "PagelockedHostAllocation.free",
    "PagelockedHostAllocation.get_device_pointer",
    "memcpy_htod_async",
    "memcpy_dtoh_async",
)
"""What PyCuda of fer_edge/trt/cuda_pycuda.py uses."""


def compile_driver(folder: Path, driver: Path) -> None:
    """Compile libcuda.so.1: our functions, and all others that pycuda's module asks for."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", driver], capture_output=True, text=True
    )
    wanted = set(re.findall(r"\bcu[A-Z]\w+", listed.stdout))
    ours = set(re.findall(r"^int (cu\w+)\(", (HERE / "pycuda_driver.c").read_text(), re.MULTILINE))
    rest = "".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(wanted - ours))
    (folder / "rest.c").write_text(rest)
    out = ["-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1"]
    subprocess.run(["gcc", HERE / "pycuda_driver.c", folder / "rest.c", *out], check=True)


def described(driver: Any) -> dict[str, str]:
    """Return the first line of each name's documentation, which has its signature."""
    import inspect

    found = {}
    for name in NAMES:
        value = driver
        for part in name.split("."):
            value = getattr(value, part)
        if inspect.isclass(value):
            value = value.__init__ if name != "Error" else value
        if inspect.isfunction(value):
            found[name] = str(inspect.signature(value))
            continue
        lines = [line.strip() for line in (value.__doc__ or "").splitlines() if line.strip()]
        signature = [line.partition(" :")[0] for line in lines if "->" in line]
        found[name] = " | ".join(signature) or type(value).__name__
    return found


def run(library: Any) -> dict[str, Any]:
    """Use everything once, in three ways to wait, and from several threads."""
    import numpy as np

    sys.path.insert(0, str(HERE.parents[1]))
    from fer_edge.trt.cuda import CudaError
    from fer_edge.trt.cuda_pycuda import PyCuda

    report: dict[str, Any] = {}
    for wait in ("auto", "spin", "block"):
        cuda = PyCuda(wait=wait)  # type: ignore[arg-type]
        held: list[Any] = []

        def use(cuda: Any = cuda, held: list[Any] = held) -> None:
            with cuda.current():
                stream, start, end = cuda.stream(), cuda.event(), cuda.event()
                memory, source, result = cuda.malloc(64), cuda.host(64), cuda.host(64)
                source.array[:] = np.arange(64)
                cuda.record(start, stream)
                cuda.upload(memory, source, 64, stream)
                cuda.download(result, memory, 32, stream)
                cuda.record(end, stream)
                cuda.synchronize(stream)
                mapped = cuda.host(8, mapped=True)
                held.append(
                    {
                        "copied": result.array.tolist(),
                        "zeroed": mapped.array.tolist(),
                        "mapped": mapped.device == mapped.address,
                        "elapsed": cuda.elapsed_ns(start, end),
                        "handle": isinstance(cuda.stream_handle(stream), int),
                        "memory": isinstance(int(memory), int),
                    }
                )
                held.append((stream, start, end, memory, source, result, mapped))

        def close(cuda: Any = cuda, held: list[Any] = held) -> None:
            """As Lane.close and TensorRTBackend.close: in a thread that did not make them."""
            with cuda.current():
                for item in held:
                    if isinstance(item, tuple):
                        stream, start, end, memory, *buffers = item
                        cuda.free(memory)
                        for buffer in buffers:
                            cuda.free_host(buffer)
                        cuda.free_event(start)
                        cuda.free_event(end)
                        cuda.free_stream(stream)
                cuda.close()

        for work in (use, use, close):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        report[wait] = [item for item in held if isinstance(item, dict)]
        library.fer_edge_alive.restype = ctypes.c_char_p
        report[f"{wait} alive"] = json.loads(library.fer_edge_alive())
    library.fer_edge_devices(0)
    try:
        PyCuda()
    except CudaError as error:
        report["no device"] = str(error)
    return report


def child(folder: str) -> None:
    library = ctypes.CDLL(str(Path(folder, "libcuda.so.1")), mode=ctypes.RTLD_GLOBAL)
    import pycuda
    import pycuda.driver

    answer = {
        "version": pycuda.VERSION_TEXT,
        "names": described(pycuda.driver),
        "run": run(library),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


def ask(python: str) -> dict[str, Any] | None:
    """Return what a child process of ``python`` says; None if it has no pycuda."""
    code = "import importlib.util as u; s = u.find_spec('pycuda'); print(s.origin if s else '')"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    if not found.stdout.strip():
        return None
    (driver,) = Path(found.stdout.strip()).parent.glob("_driver*.so")
    with tempfile.TemporaryDirectory() as folder:
        compile_driver(Path(folder), driver)
        command = [python, "-W", "error", str(HERE / "pycuda_contract.py"), "child", folder]
        environment = {**os.environ, "LD_LIBRARY_PATH": folder}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode or "PyCUDA" in done.stderr:
        raise AssertionError(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["child"]:
        child(arguments[1])
        return
    answer = ask(sys.executable)
    if answer is None:
        raise SystemExit("this Python has no pycuda")
    if arguments == ["--write"]:
        table = {"version": answer["version"], "names": answer["names"]}
        API.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
