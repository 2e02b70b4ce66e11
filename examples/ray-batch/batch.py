"""A folder of pictures with Ray Data: one engine per actor, opened once.

The rows have the numbers of `fer-edge predict --format json`; the order is that of Ray.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

from fer_edge import Classifier, UsageError


class Classify:
    """What an actor holds. It is made on the machine where it runs, so nothing is pickled."""

    def __init__(self, bundle: str | None) -> None:
        self.classify = Classifier(bundle)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        labels, confidences, problems = [], [], []
        for path in batch["path"]:
            try:
                answer = self.classify.predict(path)
                labels.append(answer.label)
                confidences.append(answer.confidence)
                problems.append("")
            except UsageError as error:  # one bad file does not end the batch
                labels.append("")
                confidences.append(0.0)
                problems.append(str(error))
        # Arrays of a fixed type: a batch without answers must have the same columns.
        return {
            "image": np.asarray(batch["path"], dtype=object),
            "label": np.asarray(labels, dtype=object),
            "confidence": np.asarray(confidences, dtype=np.float64),
            "problem": np.asarray(problems, dtype=object),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="crops of one face each")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines")
    parser.add_argument(
        "--bundle", help="a folder that `fer-edge build` made, seen by all machines"
    )
    parser.add_argument("--actors", type=int, default=2)
    options = parser.parse_args()

    kinds = {".png", ".jpg", ".jpeg", ".pgm"}
    paths = sorted(str(p) for p in options.pictures.rglob("*") if p.suffix.lower() in kinds)
    if not paths:
        raise SystemExit(f"error: there is no picture in {options.pictures}")
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    started = time.perf_counter()
    rows = (
        ray.data.from_items([{"path": path} for path in paths], override_num_blocks=options.actors)
        .map_batches(
            Classify,
            fn_constructor_args=(options.bundle,),
            batch_size=64,
            compute=ray.data.ActorPoolStrategy(size=options.actors),
            num_cpus=1,
        )
        .take_all()
    )
    seconds = time.perf_counter() - started
    rows.sort(key=lambda row: row["image"])
    with options.out.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    bad = sum(bool(row["problem"]) for row in rows)
    print(
        f"{len(rows):,} pictures, {bad} not readable, {options.actors} actors: {seconds:.1f} s, "
        f"{len(rows) / seconds:,.0f} images/s"
    )


if __name__ == "__main__":
    main()
