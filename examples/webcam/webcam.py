"""Faces of a camera or a video, frame by frame, with OpenCV and the API.

`fer-edge camera` does more: it follows faces and smooths their labels.
"""

from __future__ import annotations

import argparse

import cv2

from fer_edge import FaceAnalyzer

GREEN = (0, 255, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", default="0", help="a camera's number, or a video")
    parser.add_argument("--bundle", help="a folder that `fer-edge build` made")
    parser.add_argument("--detector", default="blazeface", help="fast enough for a camera")
    parser.add_argument("--write", metavar="FILE.avi", help="write the frames, open no window")
    options = parser.parse_args()

    video = cv2.VideoCapture(int(options.source) if options.source.isdigit() else options.source)
    writer = None
    with FaceAnalyzer(options.bundle, detector=options.detector) as analyze:
        while True:
            there, frame = video.read()
            if not there:
                break
            for face in analyze(frame, bgr=True).faces:
                if face.box is None:
                    continue
                left, top, right, bottom = map(round, face.box)
                cv2.rectangle(frame, (left, top), (right, bottom), GREEN, 2)
                text = face.label or face.problem or ""
                cv2.putText(frame, text, (left, top - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.6, GREEN, 2)
            if options.write is None:
                cv2.imshow("faces: q ends", frame)
                if cv2.waitKey(1) == ord("q"):
                    break
                continue
            if writer is None:
                size, kind = frame.shape[1::-1], cv2.VideoWriter.fourcc(*"MJPG")
                writer = cv2.VideoWriter(options.write, kind, 25, size)
            writer.write(frame)
    video.release()
    if writer is not None:
        writer.release()


if __name__ == "__main__":
    main()
