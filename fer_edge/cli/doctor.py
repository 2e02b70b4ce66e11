"""``fer-edge doctor``: what can run here, and why not."""

from __future__ import annotations

import click

from fer_edge.cli._options import format_option
from fer_edge.cli._output import print_json, print_rows

__all__ = ["command"]

# This runs in a separate process, since checking a backend imports its library.
_BACKENDS = """
import json
from fer_edge.backends import BACKENDS, backend_class
from fer_edge.trt.targets import default_target
from fer_edge.errors import FerEdgeError
reasons = {}
for name in BACKENDS:
    try:
        reasons[name] = backend_class(name).unavailable_reason()
    except (FerEdgeError, ImportError) as error:
        reasons[name] = str(error)
print(json.dumps({"backends": reasons}), flush=True)
name, why = default_target()
print(json.dumps({"target": {"name": name, "why": why}}))
"""


@click.command()
@format_option
def command(fmt: str) -> None:
    """Show what can run on this machine: GPU, libraries, backends; problems with their fix.

    Each package is tested in a separate process, so that a broken package cannot stop this command.
    Nothing is installed or changed.

    \b
    Example:
      fer-edge doctor
      fer-edge doctor --format json
    """
    from fer_edge.backends.health import Check, check_machine, probe
    from fer_edge.cli._output import log

    with log.status("checking this machine"):
        answer = probe(_BACKENDS)
        checks = check_machine()
    backends = answer.values.get("backends", {})
    for name, reason in backends.items():
        if name != "null":
            text = reason or "can run here"
            checks.append(Check(f"backend {name}", "missing" if reason else "ok", text))
    target = answer.values.get("target")
    if target is None:
        checks.append(Check("default --target", "problem", answer.error))
    else:
        checks.append(Check("default --target", "info", f"{target['name']}: {target['why']}"))
    rows = [check.to_dict() for check in checks]
    if fmt == "json":
        print_json({"checks": rows, "backends": backends, "target": target})
        return
    problems = sum(check.status == "problem" for check in checks)
    caption = f"{problems} problem{'s' * (problems != 1)}" if problems else "no problems"
    print_rows(rows, fmt, title="fer-edge doctor", caption=caption)
