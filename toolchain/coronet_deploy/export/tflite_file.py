"""TFLite files taken apart and put together again, through the schema in ai-edge-litert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coronet_deploy.errors import ConversionFailed, missing_package

try:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:
    raise missing_package(error.name or "ai-edge-litert", "export") from error

_ALIGNMENT = 16  # XNNPACK and the GPU delegate read constants in place


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


def read_model(data: bytes) -> Any:  # noqa: ANN401 - the schema ships no types
    """Return the objects of a TFLite file, its buffers ready to be written again.

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


def write_model(model: Any) -> bytes:  # noqa: ANN401 - the schema ships no types
    """Return the file of what `read_model` gave."""
    size = sum(64 if b.data is None else len(b.data) + 64 for b in model.buffers)
    builder = flatbuffers.Builder(size + (1 << 16))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(memoryview(builder.Bytes)[builder.Head() :])


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
    return write_model(model)


def end_names(data: bytes) -> tuple[str, str]:
    """Return the names of a file's first input and first output tensor."""
    graph = schema.Model.GetRootAs(data).Subgraphs(0)
    picked = graph.Tensors(graph.Inputs(0)), graph.Tensors(graph.Outputs(0))
    names = [tensor.Name().decode() for tensor in picked]
    return names[0], names[1]
