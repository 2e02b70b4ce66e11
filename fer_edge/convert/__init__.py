"""From weights to engines: each conversion is one function, ``<target>_from_<source>``.

::

    weights --onnx_from_weights--> fp32.onnx --fp16_from_onnx--> fp16.onnx
    theirs.onnx --adapted-----------^  |
                                       |------ranges_from_onnx--> Ranges
                                       `------int8_from_onnx----> int8.<target>.onnx
    fp32.onnx, int8.litert.onnx --tflite_from_onnx--> fp32.tflite, int8.litert.tflite

Precision is a transformation of graphs: the ONNX file shows what an engine runs.
:func:`fer_edge.build.pipeline.build` calls them in order and verifies the result. Importing this
package loads neither torch nor onnx.
"""

from __future__ import annotations

__all__: list[str] = []
