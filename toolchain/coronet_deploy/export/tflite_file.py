"""TFLite files taken apart and put together again, through the schema in ai-edge-litert."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np

from coronet_deploy.errors import ConversionFailed, missing_package
from coronet_deploy.export.graph import FLOAT16_MAX

try:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:
    raise missing_package(error.name or "ai-edge-litert", "export") from error

_ALIGNMENT = 16  # XNNPACK and the GPU delegate read constants in place
_ENTRY_BYTES = 256  # a tensor or an operator in a file, at most about
_WEIGHT = 1  # which input of a convolution
# Of the weights' energy: forty times what float16 loses of numbers of usual size.
_MOST_LOST = 1e-6
_LEAST_HALVED = 100  # numbers whose half is more than what unpacking them takes in the file


class AlignedBuffer(schema.BufferT):  # type: ignore[misc] # the schema ships no types
    """A buffer whose bytes are aligned and copied whole, unlike the generated one's."""

    def Pack(self, builder: Any) -> Any:  # noqa: ANN401, N802 - overrides a generated method
        """Return where the buffer stands in the file."""
        vector = None
        if self.data is not None:
            size = len(self.data)
            builder.StartVector(1, size, _ALIGNMENT)
            builder.head -= size
            builder.Bytes[builder.head : builder.head + size] = memoryview(self.data)
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc] # flatbuffers ships no types
    """Writes equal strings, vectors of numbers and tables of numbers once.

    A file of many small operators repeats shapes, zero points and options hundreds of times. What
    was written last is taken back if its equal stands in the file already.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._places: dict[tuple[Any, ...], int] = {}
        self._before = 0  # how much was written before the vector or table that is being written
        self._points = False  # whether it holds offsets, which mean something else elsewhere

    def CreateString(self, *text: Any) -> Any:  # noqa: ANN401, N802 - overrides
        """Return where the string stands."""
        if text in self._places:
            return self._places[text]
        self._points = True
        return self._places.setdefault(text, super().CreateString(*text))

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: ANN401, N802, N803 - overrides
        """Begin a vector."""
        self._before, self._points = self.Offset(), False
        self._vector = elemSize, alignment, 4 + elemSize * numElems
        return super().StartVector(elemSize, numElems, alignment)

    def EndVector(self, *length: int) -> Any:  # noqa: ANN401, N802 - overrides
        """Return where the vector stands."""
        place = super().EndVector(*length)
        if self._points:
            return place
        content = memoryview(self.Bytes)[self.head : self.head + self._vector[-1]]
        # Not the bytes themselves: weights may be hundreds of megabytes.
        return self._once(place, (*self._vector, hashlib.blake2b(content).digest()))

    def StartObject(self, numfields: int) -> None:  # noqa: N802 - overrides
        """Begin a table."""
        self._before, self._points = self.Offset(), False
        super().StartObject(numfields)

    def EndObject(self) -> Any:  # noqa: ANN401, N802 - overrides
        """Return where the table stands."""
        place = super().EndObject()
        if self._points:
            return place
        start = len(self.Bytes) - place
        # A table begins with the way to the list of its fields, which equal tables share.
        (way,) = struct.unpack_from("<i", self.Bytes, start)
        content = bytes(self.Bytes[start + 4 : len(self.Bytes) - self._before])
        return self._once(place, (place + way, content))

    def PrependUOffsetTRelative(self, off: int) -> None:  # noqa: N802 - overrides
        """Write an offset."""
        self._points = True
        super().PrependUOffsetTRelative(off)

    def _once(self, place: int, content: tuple[Any, ...]) -> int:
        known = self._places.setdefault(content, place)
        if known != place:
            self.head = len(self.Bytes) - self._before
        return known


def pack(model: Any) -> bytes:  # noqa: ANN401 - the schema ships no types
    """Return the bytes of a TFLite file: `model` as the schema's objects."""
    size = sum(64 if b.data is None else len(b.data) + 64 for b in model.buffers)
    # A builder that grows doubles, weights and all.
    size += sum(_ENTRY_BYTES * (len(g.tensors) + len(g.operators)) for g in model.subgraphs)
    builder = _SharingBuilder(size + (1 << 16))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(memoryview(builder.Bytes)[builder.Head() :])


def read_model(data: bytes) -> Any:  # noqa: ANN401 - the schema ships no types
    """Return the objects of a TFLite file, its buffers ready to be written again by `pack`.

    Raises:
        ConversionFailed: it is none.

    """
    if data[4:8] != b"TFL3":
        raise ConversionFailed("not a TFLite file: it has no TFL3 identifier")
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for place, old in enumerate(model.buffers):
        model.buffers[place] = AlignedBuffer()
        outside = memoryview(data)[old.offset : old.offset + old.size]
        # Constants may stand behind the flatbuffer, which then tells where.
        model.buffers[place].data = outside if old.size else old.data
    return model


def forget_inner_names(graph: Any) -> None:  # noqa: ANN401 - the schema ships no types
    """Leave the pieces of a layer without a name: in a small file they are a thirtieth of it."""
    names = {tensor.name for tensor in graph.tensors}
    for operator in graph.operators:
        for place in operator.outputs:
            tensor = graph.tensors[place]
            layer = tensor.name.rpartition(b"/")[0]
            # A layer's value is "<path>/<kind>"; that of a module called "input" is no piece.
            if b"/" in layer and layer in names:
                tensor.name = b""


def halve_float_weights(model: Any) -> None:  # noqa: ANN401 - the schema ships no types
    """Store what float convolutions have as weights in float16, which XNNPACK unpacks once.

    Beside layers of eight bits its rounding is nothing, and half of the bytes are many in a small
    file. Weights beyond float16's range, or lost in its smallest numbers, stay as they are.
    """
    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    tensors_of = Counter(tensor.buffer for tensor in graph.tensors)
    convolutions = {kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.TRANSPOSE_CONV}
    halved: dict[int, Any] = {}
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode not in convolutions:
            continue
        place = operator.inputs[_WEIGHT]
        weight = graph.tensors[place]
        stored = model.buffers[weight.buffer]
        alone = tensors_of[weight.buffer] == 1 and place not in halved
        if weight.type != schema.TensorType.FLOAT32 or stored.data is None or not alone:
            continue
        values = np.frombuffer(stored.data, np.float32)
        if len(values) < _LEAST_HALVED or not _held_by_float16(values):
            continue
        half, unpack = copy(weight), schema.OperatorT()
        half.type, half.name = schema.TensorType.FLOAT16, b""
        stored.data = values.astype(np.float16).view(np.uint8).data
        weight.buffer = 0
        unpack.inputs, unpack.outputs = [len(graph.tensors)], [place]
        unpack.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
        unpack.builtinOptions = schema.DequantizeOptionsT()
        graph.tensors.append(half)
        halved[place] = unpack
    if halved:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = kinds.DEQUANTIZE
        code.version = 3  # which knows float16
        for unpack in halved.values():
            unpack.opcodeIndex = len(model.operatorCodes)
        model.operatorCodes.append(code)
        graph.operators = [*halved.values(), *graph.operators]


def _held_by_float16(values: np.ndarray[Any, np.dtype[np.float32]]) -> bool:
    if not np.abs(values).max() <= FLOAT16_MAX:
        return False
    error = values - values.astype(np.float16).astype(np.float32)
    energy, lost = (float(np.square(v, dtype=np.float64).sum()) for v in (values, error))
    return lost <= _MOST_LOST * energy


def with_metadata(data: bytes, entries: Mapping[str, str]) -> bytes:
    """Return a TFLite file with `entries` as named UTF-8 buffers, as TFLite's metadata is."""
    model = read_model(data)
    model.metadata = list(model.metadata or [])
    for name, text in sorted(entries.items()):
        entry, buffer = schema.MetadataT(), AlignedBuffer()
        buffer.data = text.encode()
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    return pack(model)


def end_names(data: bytes) -> tuple[str, str]:
    """Return the names of a file's first input and first output tensor."""
    graph = schema.Model.GetRootAs(data).Subgraphs(0)
    picked = graph.Tensors(graph.Inputs(0)), graph.Tensors(graph.Outputs(0))
    names = [tensor.Name().decode() for tensor in picked]
    return names[0], names[1]
