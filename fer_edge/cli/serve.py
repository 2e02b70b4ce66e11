"""``fer-edge serve``: a page and an HTTP API on this machine."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import click

from fer_edge.cli.shared.names import detector_name, found
from fer_edge.cli.shared.options import detector_model_option, engine_options, threads_option
from fer_edge.cli.shared.output import print_text
from fer_edge.errors import UsageError, require
from fer_edge.pipes import say

__all__ = ["command"]


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@click.option(
    "--allow-host",
    "names",
    metavar="NAME",
    multiple=True,
    help="A further name of this server, as in http://NAME:8000; may be repeated.",
)
@engine_options
@click.option(
    "--detector",
    metavar="NAME",
    help="What finds the faces, as for predict; blazeface is fast, for the webcam.  [default: "
    "blazeface-tiles if it is installed; else each picture is one face]",
)
@detector_model_option
@click.option("--no-detect", is_flag=True, help="Each picture is the crop of one face.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes; each opens the bundle itself and works on two pictures at a time.",
)
@threads_option
@click.option(
    "--queue",
    type=click.IntRange(0, 10_000),
    default=32,
    show_default=True,
    help="Requests that wait in each process; more are answered with 503 and Retry-After.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 3600, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds for a request, from its first byte to its answer.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(1_000, 1 << 30),
    default=20_000_000,
    show_default=True,
    help="The largest body of a request. A process holds four times as much in all.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(2_304, 178_000_000),
    default=25_000_000,
    show_default=True,
    help="The largest picture.",
)
def command(
    host: str,
    port: int,
    names: tuple[str, ...],
    bundle: str | None,
    root: Path,
    backend: str,
    precision: str | None,
    detector: str | None,
    detector_model: Path | None,
    no_detect: bool,
    workers: int,
    threads: int,
    queue: int,
    timeout_s: float,
    max_bytes: int,
    max_pixels: int,
) -> None:
    """Serve a page and an HTTP API that find faces in pictures and classify them.

    The page takes a photograph (drop, choose, paste) or the webcam. POST /v1/predict takes a
    picture as the body, or a form with several files, and answers with the objects of
    `predict --format json`. GET /v1/model, /healthz, /readyz, /metrics (Prometheus, all workers
    together) and /openapi.json. Pictures stay in memory; none is written or logged.

    Only this machine can connect, unless --host says otherwise, and there is no authentication.
    Requests of other sites' pages, and under other names than localhost, this machine's and
    --allow-host, are refused. The address is printed when the server answers. SIGTERM and Ctrl-C
    finish the requests in flight; exit code 0.

    \b
    Example:
      fer-edge serve
      fer-edge serve --port 0 --workers 2 --queue 64
      curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/v1/predict
    """
    for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        require(module, "serve")
    from fer_edge.runs.find import A_BUNDLE
    from fer_edge.serve import Settings
    from fer_edge.serve.server import bind, is_loopback, run

    if not timeout_s > 0:  # "nan" is a number to click
        raise UsageError(f"--timeout is {timeout_s}, not a number of seconds", fix="--timeout 10")
    finder = detector_name(detector, detector_model, no_detect=no_detect)
    taken = found(bundle, root, A_BUNDLE).path
    with bind(host, port) as sock:
        loopback = is_loopback(sock)
        if not loopback:
            say(f"warning: other machines can reach {host}, and there is no authentication")
        settings = Settings(
            taken.absolute(),
            backend=backend,
            precision=precision,
            detector=finder,
            detector_model=detector_model,
            threads=threads,
            queue=queue,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
            max_pixels=max_pixels,
            loopback=loopback,
            names=(*names, host),
        )
        url = _url(host, sock.getsockname()[1])
        run(settings, sock, workers, lambda: print_text(url))


def _url(host: str, port: int) -> str:
    """Return the address to open; for "all addresses", this machine's own."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return f"http://{host}:{port}/"
    if address.is_unspecified:
        return f"http://localhost:{port}/"
    return f"http://[{host}]:{port}/" if address.version == 6 else f"http://{host}:{port}/"
