"""``fer-edge models``: the networks that can be trained, with size and cost."""

from __future__ import annotations

import click

from fer_edge.cli._options import format_option

__all__ = ["command"]


@click.command("models")
@format_option
def command(fmt: str) -> None:
    """List the networks: name, parameters, multiply-accumulates, input, source, reported accuracy.

    Parameters are counted as deployed, with BatchNorm folded into the convolutions.
    Multiply-accumulates are counted for the convolutions and linear layers of one image. "reported"
    is the top-1 accuracy on FER2013 that the network's source reports.

    \b
    Example:
      fer-edge models
      fer-edge models --format json
    """
    from fer_edge.cli._output import print_rows
    from fer_edge.models import MODELS, ModelSpec

    rows = []
    for name, entry in MODELS.items():
        spec = ModelSpec(name)
        parameters, macs = entry.parameters, entry.macs
        if parameters is None or macs is None:
            from fer_edge.models.profile import count_spec

            parameters, macs = count_spec(spec)
        plain = fmt in ("json", "csv")
        reported = entry.reported
        rows.append(
            {
                "name": name,
                "params": parameters if plain else f"{parameters:,}",
                "mmac": round(macs / 1e6, 1),
                "input": f"{spec.channels}x{spec.size}x{spec.size}",
                "source": entry.source,
                "reported": reported if plain or reported is None else f"{100 * reported:.2f} %",
                "summary": entry.summary,
            }
        )
    print_rows(rows, fmt, caption="parameters with BatchNorm folded; MMAC for one image")
