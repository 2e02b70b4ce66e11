"""``fer-edge doctor``: what can run here, and why not."""

from __future__ import annotations

import json
from collections.abc import Container
from typing import TYPE_CHECKING

import click

from fer_edge.cli.shared.options import format_option
from fer_edge.cli.shared.output import print_json, print_rows

if TYPE_CHECKING:
    from fer_edge.backends.health import Check
    from fer_edge.plugins import PlugIn

__all__ = ["check_plug_ins", "command", "tell_plug_ins"]

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
    """Show what can run on this machine: GPU, libraries, backends, plug-ins; problems with a fix.

    Each package is tested in a separate process, so that a broken package cannot stop this command.
    Nothing is installed or changed.

    \b
    Example:
      fer-edge doctor
      fer-edge doctor --format json
    """
    from fer_edge.backends.health import Check, check_machine, probe
    from fer_edge.cli.shared.output import log

    with log.status("checking this machine"):
        answer = probe(_BACKENDS)
        checks = check_machine()
        plug_ins = check_plug_ins()
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
    checks += plug_ins
    rows = [check.to_dict() for check in checks]
    if fmt == "json":
        print_json({"checks": rows, "backends": backends, "target": target})
        return
    problems = sum(check.status == "problem" for check in checks)
    caption = f"{problems} problem{'s' * (problems != 1)}" if problems else "no problems"
    print_rows(rows, fmt, title="fer-edge doctor", caption=caption)


def check_plug_ins() -> list[Check]:
    """Return a row for each plug-in; the code of each package is imported in its own process."""
    from fer_edge.backends import BACKENDS
    from fer_edge.backends.health import Check, probe
    from fer_edge.faces import DETECTORS
    from fer_edge.models import MODELS
    from fer_edge.plugins import KINDS, plug_ins, recipe_files, refusals
    from fer_edge.runs.recipe import recipe_names

    found = [plug for kind in KINDS for plug in plug_ins(kind)]
    rows = []
    for package in sorted({plug.package for plug in found}):
        code = f"from fer_edge.cli.doctor import tell_plug_ins; tell_plug_ins({package!r})"
        answer = probe(code)
        for plug in found:
            if plug.package == package:
                reason, fix = answer.values.get(f"{plug.kind} {plug.name}", (answer.error, ""))
                names = [path.stem for path in recipe_files(plug)] if plug.kind == "recipe" else []
                of = f"{package} {plug.version}" + (f" ({', '.join(names)})" if names else "")
                text = f"{of}: {reason}" if reason else of
                name = f"plug-in {plug.kind} {plug.name}"
                rows.append(Check(name, "problem" if reason else "ok", text, fix))
    own: dict[str, Container[str]] = {
        "model": MODELS,
        "detector": DETECTORS,
        "backend": BACKENDS,
        "recipe": recipe_names(),
    }
    for kind in KINDS:
        rows += [Check(f"plug-in {kind}", "problem", line) for line in refusals(kind, own[kind])]
    return rows


def tell_plug_ins(package: str) -> None:
    """Print, as JSON lines, why each plug-in of a package does not work, and the fix; "" if not."""
    from fer_edge.errors import FerEdgeError
    from fer_edge.plugins import KINDS, plug_ins

    for plug in (plug for kind in KINDS for plug in plug_ins(kind) if plug.package == package):
        reason, fix = "", ""
        try:
            _try(plug)
        except FerEdgeError as error:
            reason, fix = str(error), error.fix or ""
        click.echo(json.dumps({f"{plug.kind} {plug.name}": (reason, fix)}))


def _try(plug: PlugIn) -> None:
    """Load what a plug-in declares; UnavailableError, RecipeError or UsageError if it cannot."""
    from fer_edge.backends import backend_from_plug_in
    from fer_edge.errors import UnavailableError
    from fer_edge.faces import DetectorRow
    from fer_edge.models import ModelEntry
    from fer_edge.plugins import recipe_files
    from fer_edge.runs.recipe import load_recipe

    if plug.kind == "model":
        plug.load(ModelEntry)
    elif plug.kind == "detector":
        plug.load(DetectorRow)
    elif plug.kind == "backend":
        reason = backend_from_plug_in(plug).unavailable_reason()
        if reason:
            raise UnavailableError(reason)
    else:
        files = recipe_files(plug)
        if not files:
            raise plug.broken(f"there is no folder {plug.place} with TOML files")
        for path in files:
            load_recipe(path)
