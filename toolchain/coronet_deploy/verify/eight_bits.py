"""Whether a file's weights are of eight bits, as the file itself tells: of one without a manifest.

What its values are computed in may be another type, which no file says in one place.
"""

from __future__ import annotations

from pathlib import Path

from coronet_deploy.verify.runtimes import runtime_of
from coronet_deploy.vocabulary import Runtime

_AXES_LEAST = 2
"""Of a layer's weights. Zero points have less, and float graphs of integer pictures have them."""


def has_int8_weights(path: Path) -> bool:
    """Tell whether an artifact that its runtime loads holds weights in int8 or uint8.

    Without the package `onnx` no ONNX file is known to.

    Raises:
        BadInput: the file's name is not that of an artifact.

    """
    return _in_tflite(path) if runtime_of(path) is Runtime.TFLITE else _in_onnx(path)


def _in_tflite(path: Path) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes())
    kinds = {schema.TensorType.INT8, schema.TensorType.UINT8}
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            if tensor.Type() in kinds and tensor.ShapeLength() >= _AXES_LEAST:
                buffer = model.Buffers(tensor.Buffer())
                if buffer.DataLength() or buffer.Size():  # or it is a value, made at run time
                    return True
    return False


def _in_onnx(path: Path) -> bool:
    try:
        import onnx
    except ImportError:
        return False
    kinds = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    weights = onnx.load(str(path), load_external_data=False).graph.initializer
    return any(one.data_type in kinds and len(one.dims) >= _AXES_LEAST for one in weights)
