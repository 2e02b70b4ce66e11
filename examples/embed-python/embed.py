"""Answers inside a program of your own: crops with Classifier, photographs with FaceAnalyzer."""

from __future__ import annotations

import argparse
from pathlib import Path

from fer_edge import Classifier, FaceAnalyzer, FerEdgeError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--bundle", help="a folder that `fer-edge build` made")
    parser.add_argument("--detector", help="'whole' if each picture is the crop of one face")
    options = parser.parse_args()

    # Open the engine once and keep it: opening checks all digests and runs the self-test.
    with Classifier(options.bundle) as classify:
        if options.detector == "whole":
            # One call for many crops is faster than one call for each.
            for path, answer in zip(options.pictures, classify.predict_batch(options.pictures)):
                print(f"{path.name}: {answer.label} {answer.confidence:.3f}")
            return
        with FaceAnalyzer(classify, detector=options.detector) as analyze:
            for path in options.pictures:
                try:
                    faces = analyze(path).faces
                except FerEdgeError as error:  # one line, and error.fix says what to do
                    print(f"{path.name}: {error}")
                    continue
                print(f"{path.name}: {len(faces)} faces")
                for face in faces:
                    # A face that is too small, cut by the border or turned away has no answer.
                    box = [round(edge) for edge in face.box or ()]
                    print(f"  {box} {face.problem or face.label}")


if __name__ == "__main__":
    main()
