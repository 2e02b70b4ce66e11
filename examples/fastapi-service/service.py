"""A service of your own in twenty lines: POST a picture to /faces.

`uvicorn service:app` starts it; `fer-edge serve` has limits, metrics and a page.
"""

import os
from threading import Lock
from typing import Any

from fastapi import FastAPI, HTTPException, UploadFile

from fer_edge import FaceAnalyzer, UsageError

app = FastAPI(title="Faces")
analyze = FaceAnalyzer(os.environ.get("BUNDLE"), detector=os.environ.get("DETECTOR"))
turn = Lock()  # FastAPI calls from several threads, an analyzer takes one at a time


@app.post("/faces")
def faces(picture: UploadFile) -> list[dict[str, Any]]:
    try:
        with turn:
            found = analyze(picture.file).faces
    except UsageError as error:
        raise HTTPException(400, str(error)) from None
    return [{"label": face.label, "box": face.box, "problem": face.problem} for face in found]
