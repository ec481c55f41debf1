"""Whether a phone draws the picture: its output beside this host's, for real pictures.

The reference is the artifact itself, run here by its reference runtime; that one was held against
torch when it was exported. Kernels of eight bits differ by whole steps, which add up: of one INT8
ResNet, XNNPACK's and LiteRT's plain ones on one processor drew pictures 45 to 50 dB from each
other. So a file without a manifest is asked itself whether it is one of eight bits.

A back end with arithmetic of its own (a GPU, an NPU) is held to FP16's bound, since that is what it
computes in, whatever the file's number type. Where it rounds every sum as it grows, a right picture
can be below that: XNNPACK's kernels of that kind (AVX512-FP16) draw the bundled generators at 54 to
81 dB. No phone was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coronet_deploy.bench.host import OnDisk
from coronet_deploy.export.manifest import Embedded
from coronet_deploy.export.outputs import PICTURE, ValueRange, spread_of
from coronet_deploy.images import Array
from coronet_deploy.verify.channels import of_channels
from coronet_deploy.verify.eight_bits import has_int8_weights
from coronet_deploy.verify.parity import DEFAULT_BOUNDS_DB, compare
from coronet_deploy.verify.runtimes import open_session, runtime_of
from coronet_deploy.verify.stored import to_real, to_stored
from coronet_deploy.vocabulary import DType, Parity, TensorContract

# Takes the bytes of an input tensor, returns those of the output tensor.
Translate = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Reference:
    """What this host makes of the pictures with one artifact.

    `inputs` are the input tensors' bytes, `outputs` the pictures, (1, H, W, 3) real values;
    errors are measured against `value_range`, or against what the pictures reach if it is None.
    `dtype` is the artifact's number type, None where nothing tells it.
    """

    name: str
    inputs: tuple[bytes, ...]
    outputs: tuple[Array, ...]
    output: TensorContract
    value_range: ValueRange | None = PICTURE
    dtype: DType | None = None

    def judge(self, outputs: Sequence[bytes], bound_db: float) -> Parity:
        """Compare the phone's output tensors with the reference.

        Raises:
            GateFailed: one is not of the right size, or holds values that are not finite.

        """
        shape, dtype = self.output.shape, np.dtype(self.output.dtype)
        stored = [np.frombuffer(one, dtype).reshape(shape) for one in outputs]
        pictures = [to_real(one, self.output) for one in stored]
        against = spread_of(self.value_range, self.outputs)
        return compare(self.name, self.outputs, pictures, bound_db, against)

    @property
    def output_bytes(self) -> int:
        """Size of the output tensor."""
        return int(np.prod(self.output.shape)) * np.dtype(self.output.dtype).itemsize


def make_reference(subject: OnDisk, pictures: Callable[[int, int], list[Array]]) -> Reference:
    """Return what this host's runtime makes of `pictures(height, width)` with the artifact.

    Pictures are (H, W, 3) float32 real values in [-1, 1], given as many channels as it takes.

    Raises:
        CoronetError: the runtime is not installed, or does not load the artifact.

    """
    with open_session(subject.path, runtime_of(subject.path), 1) as session:
        _, height, width, channels = session.input_shape
        batch = [of_channels(one[np.newaxis], channels) for one in pictures(height, width)]
        inputs = tuple(to_stored(one, session.input).tobytes() for one in batch)
        outputs = tuple(session.run(one).copy() for one in batch)
        told = subject.manifest
        if "dtype" not in told:
            told = {**_told_inside(session.metadata), **told}
        dtype = _dtype(subject.path, told)
        return Reference(subject.name, inputs, outputs, session.output, _told_range(told), dtype)


def _told_inside(metadata: str | None) -> Mapping[str, Any]:
    """Return what a file says of itself as its manifest does; nothing of one that others wrote."""
    embedded = Embedded.of_metadata(metadata) if metadata is not None else None
    return embedded.as_json() if embedded else {}


def _dtype(path: Path, manifest: Mapping[str, Any]) -> DType | None:
    """Return an artifact's number type; of one that tells none, whether it is one of eight bits."""
    if (told := manifest.get("dtype")) in set(DType):
        return DType(told)
    return DType.INT8 if has_int8_weights(path) else None


def _told_range(manifest: Mapping[str, Any]) -> ValueRange | None:
    """Return what a manifest says its pictures range over, if anything; without one, [-1, 1]."""
    told = manifest.get("output", {"value_range": PICTURE}).get("value_range")
    return None if told is None else (float(told[0]), float(told[1]))


def bound_db(dtype: DType | None, backend: str) -> float:
    """Return the PSNR that the phone's pictures must reach, by number type and back end.

    An artifact of no known number type is held to FP16's.
    """
    own = DEFAULT_BOUNDS_DB[DType.FP16 if dtype is None else dtype]
    return own if backend == "cpu" else min(own, DEFAULT_BOUNDS_DB[DType.FP16])


def parity_json(parity: Parity) -> dict[str, Any]:
    """Return a parity as plain JSON values."""
    return {**asdict(parity), "passed": parity.passed}
