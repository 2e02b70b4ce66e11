"""Write api.json: which names that we use each release has. Needs the package index and gcc.

``python tests/trt/write_api.py`` after our code has begun to use another name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from api_names import all_used_names
from stub_bindings import BINDINGS, HERE, compile_stubs, wheel


def ask(folder: str, module: str) -> dict[str, list[str]]:
    command = [sys.executable, str(HERE / "api_names.py"), folder, module]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, list[str]] = json.loads(done.stdout)
    return answer


def main() -> None:
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for version, requirement in BINDINGS.items():
            folder = Path(scratch, version)
            with zipfile.ZipFile(wheel(requirement, Path(scratch, "wheels"))) as archive:
                archive.extractall(folder)
            compile_stubs(folder, version.partition(".")[0])
            found[version] = ask(str(folder), "tensorrt_bindings")["names"]
    rtx = ask("-", "tensorrt_rtx_bindings")
    found[f"rtx-{rtx['version']}"] = rtx["names"]
    table = {
        "releases": list(found),
        "names": {
            name: [version for version, names in found.items() if name in names]
            for name in all_used_names()
        },
    }
    text = json.dumps(table, indent=1).replace("[\n   ", "[").replace("\n  ]", "]")
    (HERE / "api.json").write_text(text.replace(",\n   ", ", ") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
