"""``fer-edge models``: the networks that can be trained, with size and cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fer_edge.cli.shared.options import format_option

if TYPE_CHECKING:
    from fer_edge.models import ModelEntry
    from fer_edge.plugins import PlugIn

__all__ = ["command"]


@click.command("models")
@format_option
def command(fmt: str) -> None:
    """List the networks: name, parameters, multiply-accumulates, input, source, reported accuracy.

    Parameters are counted as deployed, with BatchNorm folded into the convolutions.
    Multiply-accumulates are counted for the convolutions and linear layers of one image. "reported"
    is the top-1 accuracy on FER2013 that the network's source reports. "package" is where a network
    comes from: other installed packages may bring networks of their own.

    \b
    Example:
      fer-edge models
      fer-edge models --format json
    """
    from fer_edge.cli.shared.output import note, print_rows
    from fer_edge.errors import FerEdgeError
    from fer_edge.models import MODELS, model_entry
    from fer_edge.plugins import refusals

    plain = fmt in ("json", "csv")
    rows = [_row(name, entry, None, plain) for name, entry in MODELS.items()]
    for plug in _plug_ins():
        try:
            rows.append(_row(plug.name, model_entry(plug.name), plug, plain))
        except FerEdgeError as error:
            note(f"note: {error}")
    for line in refusals("model", MODELS):
        note(f"note: {line}")
    if not plain and all(row["package"] == "fer-edge" for row in rows):
        for row in rows:
            del row["package"]
    print_rows(rows, fmt, caption="parameters with BatchNorm folded; MMAC for one image")


def _plug_ins() -> Iterator[PlugIn]:
    """Yield the plug-ins whose name no other network has."""
    from fer_edge.models import MODELS
    from fer_edge.plugins import plug_ins

    found = plug_ins("model")
    names = [plug.name for plug in found]
    yield from (p for p in found if p.name not in MODELS and names.count(p.name) == 1)


def _row(name: str, entry: ModelEntry, plug: PlugIn | None, plain: bool) -> dict[str, Any]:
    from fer_edge.models import ModelSpec

    spec = ModelSpec(name)
    parameters, macs = entry.parameters, entry.macs
    if parameters is None or macs is None:
        from fer_edge.models.profile import count_spec
        from fer_edge.plugins import blamed_on

        with blamed_on(plug):
            parameters, macs = count_spec(spec)
    reported = entry.reported
    return {
        "name": name,
        "params": parameters if plain else f"{parameters:,}",
        "mmac": round(macs / 1e6, 1),
        "input": f"{spec.channels}x{spec.size}x{spec.size}",
        "source": entry.source,
        "reported": reported if plain or reported is None else f"{100 * reported:.2f} %",
        "package": "fer-edge" if plug is None else f"{plug.package} {plug.version}",
        "summary": entry.summary,
    }
