"""The HTTP API: routes, their parameters and their description as OpenAPI.

FastAPI's pages of documentation load scripts from a CDN, so they are off; ``/openapi.json`` is
served, and any viewer reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from fer_edge.errors import unknown
from fer_edge.serve import describe
from fer_edge.serve.bodies import Budget, Receive, Share, Upload, read_pictures
from fer_edge.serve.engine import Engine, Outcome, Work
from fer_edge.serve.guard import Guard
from fer_edge.serve.metrics import MEDIA_TYPE, Metrics
from fer_edge.serve.page import MEDIA_TYPES, page_files
from fer_edge.serve.problems import RequestError
from fer_edge.serve.settings import Settings
from fer_edge.version import __version__

__all__ = ["PredictOptions", "app_of"]

_NO_STORE = {"cache-control": "no-store"}
_Choice = Literal["true", "false"]
_NUMBER = r"-?[0-9]{1,7}(\.[0-9]{1,6})?"


class PredictOptions(BaseModel):
    """The query parameters of ``/v1/predict``."""

    model_config = ConfigDict(extra="forbid")

    detect: _Choice | None = Field(
        None,
        description="Whether to look for faces; false: each picture is the crop of one face, as "
        "with --no-detect. By default true if the server has a detector.",
    )
    every_face: _Choice = Field(
        "false",
        description="Answer also for faces that are too small, cut by the border or turned away.",
    )
    abstain: _Choice = Field(
        "false",
        description="The label 'uncertain' if the confidence is below the bundle's threshold.",
    )
    box: list[Annotated[str, Field(pattern=f"^{_NUMBER}(,{_NUMBER}){{3}}$")]] = Field(
        default=[],
        description="Your own face, left,top,right,bottom in pixels; may be repeated. Only for one "
        "picture; no face is looked for.",
    )


def app_of(settings: Settings, *, open_engine: bool = True) -> FastAPI:
    """Return the application; its state has ``engine`` and ``metrics``.

    With ``open_engine``, the network is loaded now, and what :class:`~fer_edge.Classifier` raises
    is raised. Else :meth:`Engine.open` must be called before the first picture.
    """
    metrics = Metrics()
    engine = Engine(settings, metrics)
    if open_engine:
        engine.open()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(
        title="fer-edge serve",
        version=__version__,
        description=describe.API,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        openapi_url="/openapi.json",
    )
    app.state.engine, app.state.metrics = engine, metrics
    app.state.budget = Budget(settings.held_bytes, metrics.body_bytes)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _query_problem)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    _add_page(app)
    _add_state(app)
    app.post(
        "/v1/predict",
        summary="Find the faces in pictures and classify them.",
        response_class=JSONResponse,
        openapi_extra={"requestBody": describe.BODY},
        responses=describe.predict_responses(engine),
    )(predict)
    return app


async def predict(request: Request, options: Annotated[PredictOptions, Query()]) -> JSONResponse:
    """Answer with the objects that ``fer-edge predict --format json`` prints.

    The body is one picture, or a form with several files. A picture of a form that cannot be used
    is in ``errors``, and the others are answered.
    """
    engine: Engine = request.app.state.engine
    engine.check_place()
    loop = asyncio.get_running_loop()
    until = loop.time() + engine.settings.timeout_s
    with request.app.state.budget.share() as share:
        pictures = await _pictures(request, share, until)
        work = _work(engine, options, pictures)
        outcomes = await engine.answer(work, until, partial(_gone, request.receive))
    return _response(work, outcomes)


async def _pictures(request: Request, share: Share, until: float) -> list[Upload]:
    engine: Engine = request.app.state.engine
    settings = engine.settings
    reading = read_pictures(request.receive, request.headers, settings.max_bytes, share)
    try:
        return await asyncio.wait_for(reading, until - asyncio.get_running_loop().time())
    except asyncio.TimeoutError:
        raise RequestError(
            408,
            f"the body was not complete after {settings.timeout_s:g} seconds",
            fix="send a smaller picture, or start the server with a higher --timeout",
        ) from None


def _work(engine: Engine, options: PredictOptions, pictures: list[Upload]) -> Work:
    """Return the request's work; RequestError 422 for options that do not fit it."""
    has_detector = engine.settings.detector is not None
    if options.detect == "true" and not has_detector:
        raise RequestError(
            422,
            "this server has no face detector",
            fix="send crops of faces with detect=false, or start the server with --detector NAME",
        )
    if options.box and (len(pictures) > 1 or options.detect is not None):
        raise RequestError(
            422, "box is for one picture, and without detect", fix="send one picture a request"
        )
    if options.abstain == "true" and engine.classifier.threshold is None:
        raise RequestError(
            422,
            "the server's bundle has no confidence threshold, which abstain needs",
            fix="leave abstain out, or fit one: fer-edge confidence RUN, then fer-edge build RUN",
        )
    boxes = [tuple(map(float, box.split(","))) for box in options.box]
    return Work(
        pictures,
        detect=has_detector and options.detect != "false",
        every_face=options.every_face == "true",
        abstain=options.abstain == "true",
        boxes=boxes or None,  # type: ignore[arg-type]
    )


async def _gone(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _response(work: Work, outcomes: list[Outcome]) -> JSONResponse:
    problems = [(outcome.name, outcome.problem) for outcome in outcomes if outcome.problem]
    if len(problems) == len(outcomes) == 1:
        raise problems[0][1]
    stages = ("read", "detect", "classify")
    spent = {s: sum(outcome.seconds.get(s, 0.0) for outcome in outcomes) for s in stages}
    spent = {"wait": work.waited_s, **spent}
    content = {
        "answers": [row for outcome in outcomes for row in outcome.rows],
        "errors": [{"image": name, **problem.body} for name, problem in problems],
        "milliseconds": {stage: round(1e3 * value, 3) for stage, value in spent.items()},
    }
    status = 200 if len(problems) < len(outcomes) else problems[0][1].status
    if status != 200:
        content = {"error": "no picture could be used", "fix": "errors says why", **content}
    return JSONResponse(content, status, headers=_NO_STORE)


def _add_page(app: FastAPI) -> None:
    """Add the files of the page; they are in memory."""
    for name, content in page_files().items():

        async def file(content: bytes = content, name: str = name) -> Response:
            headers = {"cache-control": "no-cache"}
            return Response(content, headers=headers, media_type=MEDIA_TYPES[name])

        path = "/" if name == "index.html" else f"/{name}"
        # Without its defaults as parameters of the API, hence no FastAPI route.
        app.add_route(path, _endpoint(file), methods=["GET"], include_in_schema=False)


def _endpoint(answer: Any) -> Any:
    async def endpoint(_: Request) -> Response:
        response: Response = await answer()
        return response

    return endpoint


def _add_state(app: FastAPI) -> None:
    """Add what monitoring asks for."""
    engine: Engine = app.state.engine

    @app.get("/healthz", summary="200 after the self-test of the bundle has passed.",
             responses=describe.HEALTH)  # fmt: skip
    async def healthz() -> JSONResponse:
        if engine.ready:
            return JSONResponse({"status": "ok"}, headers=_NO_STORE)
        raise RequestError(503, "the network is not loaded", retry_after=1)

    @app.get("/readyz", summary="200 if the next request has a place in the queue.",
             responses=describe.HEALTH)  # fmt: skip
    async def readyz() -> JSONResponse:
        engine.check_place()
        return JSONResponse({"status": "ok"}, headers=_NO_STORE)

    @app.get("/v1/model", summary="What runs, and the limits.", responses=describe.MODEL)
    async def model() -> JSONResponse:
        if not engine.ready:
            raise RequestError(503, "the network is not loaded", retry_after=1)
        return JSONResponse(describe.model_facts(engine), headers=_NO_STORE)

    @app.get("/metrics", summary="Prometheus metrics.", responses=describe.METRICS,
             response_class=Response)  # fmt: skip
    async def metrics() -> Response:
        text = app.state.metrics.text()
        return Response(text, headers={**_NO_STORE, "content-type": MEDIA_TYPE})


async def _http_problem(_: Request, error: Exception) -> JSONResponse:
    """Answer what Starlette refuses (404, 405) in the form of all errors."""
    assert isinstance(error, HTTPException)
    message = {404: "there is no such path", 405: "this path has no such method"}.get(
        error.status_code, str(error.detail)
    )
    body = {"error": message, "fix": "see /openapi.json"}
    return JSONResponse(body, error.status_code, headers={**(error.headers or {}), **_NO_STORE})


async def _query_problem(_: Request, error: Exception) -> JSONResponse:
    """Answer a wrong query parameter with its name and what is allowed."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][1]) if len(first["loc"]) > 1 else "the query"
    if first["type"] == "extra_forbidden":
        known = unknown("parameter", name, PredictOptions.model_fields)
        problem = RequestError(422, str(known), fix=known.fix)
    else:
        problem = RequestError(
            422, f"{name} is {first['input']!r:.80}: {first['msg']}", fix="see /openapi.json"
        )
    return JSONResponse(problem.body, 422, headers=_NO_STORE)
