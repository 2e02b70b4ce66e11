"""The API keeps its own description: schemathesis makes requests from it and checks the answers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from fixtures_serve import SiteMaker
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

HOST = {"host": "localhost"}


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """Small pictures, and bytes that are none."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=40))
    side = draw(st.integers(1, 64))
    file = io.BytesIO()
    pixels = np.full((side, draw(st.integers(1, 64)), 3), draw(st.integers(0, 255)), np.uint8)
    Image.fromarray(pixels).save(file, draw(st.sampled_from(["PNG", "JPEG", "BMP"])))
    return file.getvalue()


def operations(schema: Any) -> dict[str, Any]:
    return {
        f"{found.ok().method.upper()} {found.ok().path}": found.ok()
        for found in schema.get_all_operations()
    }


def test_the_description_is_kept(site_of: SiteMaker) -> None:
    site = site_of(max_bytes=5_000)
    for kind in ("image/png", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, pictures())
    schema = schemathesis.openapi.from_asgi("/openapi.json", site.app, headers=HOST)
    found = operations(schema)
    assert set(found) == {
        *("GET /healthz", "GET /readyz", "GET /v1/model", "GET /metrics", "POST /v1/predict"),
    }
    # No schema can say that bytes are a picture, and that a box is inside of it.
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    statuses: set[int] = set()
    for name, operation in found.items():
        examples = 30 if name == "POST /v1/predict" else 2

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            answer = case.call(headers=HOST)
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])
            statuses.add(answer.status_code)

        check()
    assert {200, 400} <= statuses
    assert not {500, 501, 502} & statuses
