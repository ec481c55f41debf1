"""The words of the house: frozen dataclasses and str-enums that every room speaks.

A *channel plan* is the ordered channel counts that make a generator. An *artifact* is one
exported file plus its manifest. A *target* is a device, a back end and threads. A *launch* is one
process that runs one artifact on one target; its *samples* are single inferences in ms; a *run*
is the launches of one bench with the conditions they ran under. The launch, not the sample, is
the unit of statistics.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from coronet_deploy.errors import BadInput


class Architecture(StrEnum):
    """Generators, by the names pytorch-CycleGAN-and-pix2pix gives them."""

    RESNET_6 = "resnet_6blocks"
    RESNET_9 = "resnet_9blocks"
    UNET_128 = "unet_128"
    UNET_256 = "unet_256"

    @property
    def is_resnet(self) -> bool:
        """True for the ResNet generators, false for the U-Nets."""
        return self in {Architecture.RESNET_6, Architecture.RESNET_9}

    @property
    def blocks(self) -> int:
        """Residual blocks of a ResNet generator (6 or 9)."""
        return {Architecture.RESNET_6: 6, Architecture.RESNET_9: 9}[self]

    @property
    def downs(self) -> int:
        """Stride-2 convolutions of a U-Net generator (7 or 8)."""
        return {Architecture.UNET_128: 7, Architecture.UNET_256: 8}[self]


class Norm(StrEnum):
    """Normalisation layers: InstanceNorm without affine, or BatchNorm with affine."""

    INSTANCE = "instance"
    BATCH = "batch"


class Runtime(StrEnum):
    """File formats, named by the runtime that runs them."""

    ONNX = "onnx"
    TFLITE = "tflite"

    @property
    def suffix(self) -> str:
        """File name suffix, dot included."""
        return f".{self.value}"


class DType(StrEnum):
    """Numeric types of an artifact's weights and, where the runtime can, its arithmetic.

    The first three are what an application tries first. Of the others (`export.schemes` tells
    more), INT8_FULL has integers everywhere, pictures too; INT16X8 (TFLite) and A16W8 (ONNX) have
    16-bit values and int8 weights; INT8_DYNAMIC has every convolution in int8; INT8_WEIGHTS stores
    int8 and computes in float.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_FULL = "int8-full"
    INT16X8 = "int16x8"
    A16W8 = "a16w8"
    INT8_DYNAMIC = "int8-dynamic"
    INT8_WEIGHTS = "int8-weights"


PLAIN_DTYPES = (DType.FP32, DType.FP16, DType.INT8)
"""What every runtime has."""


class Kind(StrEnum):
    """What an artifact is made of: a checkpoint of CoroNet (latent vectors inside), a plain
    generator of a known architecture, or a module of the user's own.
    """  # noqa: D205 - one sentence

    CORONET = "coronet"
    DENSE = "dense"
    MODULE = "module"


MOST_CHANNELS = 1 << 16
"""Of a channel group: dozens of times the widest that anyone trains."""


@dataclass(frozen=True)
class ChannelPlan:
    """The ordered channel counts that make a generator.

    `groups` maps each channel group to its channels, in the order of the forward pass; layers of
    one group agree on their channels (a residual stream; both ends of a U-Net skip).
    """

    architecture: Architecture
    norm: Norm
    groups: Mapping[str, int]
    input_channels: int = 3
    output_channels: int = 3

    def __post_init__(self) -> None:
        counts = {f"group {name!r}": channels for name, channels in self.groups.items()}
        counts |= {"input": self.input_channels, "output": self.output_channels}
        for name, channels in counts.items():
            if channels < 1:
                raise BadInput(f"channel plan: {name} has {channels} channels, at least 1")
            if channels > MOST_CHANNELS:
                raise BadInput(
                    f"channel plan: {name} has {channels} channels, at most {MOST_CHANNELS}"
                )

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values; `from_json` is the inverse."""
        return {
            "architecture": self.architecture.value,
            "norm": self.norm.value,
            "input_channels": self.input_channels,
            "output_channels": self.output_channels,
            "groups": dict(self.groups),
        }

    @classmethod
    def from_json(cls, value: Any) -> ChannelPlan:  # noqa: ANN401 - it validates what it is given
        """Return the plan that `value` (from `as_json`, or a file) describes.

        Raises:
            BadInput: a key is missing, unknown or of the wrong type; names the key.

        """
        if not isinstance(value, dict):
            raise BadInput("channel plan: not a table")
        known = {"architecture", "norm", "input_channels", "output_channels", "groups"}
        if unknown := sorted(set(value) - known):
            raise BadInput(f"channel plan: unknown key {unknown[0]!r}")
        if missing := sorted(known - set(value)):
            raise BadInput(f"channel plan: key {missing[0]!r} is missing")
        groups = value["groups"]
        if not isinstance(groups, dict):
            raise BadInput("channel plan: 'groups' is not a table")
        counts = {**groups, "input_channels": value["input_channels"]}
        counts["output_channels"] = value["output_channels"]
        for name, channels in counts.items():
            if not isinstance(channels, int) or isinstance(channels, bool):
                raise BadInput(f"channel plan: {name!r} is not a whole number")
        try:
            architecture, norm = Architecture(value["architecture"]), Norm(value["norm"])
        except ValueError as error:
            raise BadInput(f"channel plan: {error}") from error
        return cls(architecture, norm, groups, value["input_channels"], value["output_channels"])


@dataclass(frozen=True)
class TensorContract:
    """What an app developer must know of an artifact's input or output tensor.

    `shape` in the order of `layout` ("NCHW" or "NHWC"); three channels are RGB. Real value =
    `scale` * (stored - `zero_point`) for integer tensors; real values lie in `value_range`, if
    anything is known of that, and in [-1, 1] pixel = (real + 1) * 127.5.
    """

    name: str
    layout: str
    shape: tuple[int, ...]
    dtype: str
    value_range: tuple[float, float] | None = (-1.0, 1.0)
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Parity:
    """An artifact's outputs beside torch's on real pictures, in real values.

    `psnr_db` is the lowest over the pictures, against the range of what the network draws, which is
    2 behind a tanh; `max_abs` the largest absolute difference; `bound_db` the gate.
    """

    psnr_db: float
    max_abs: float
    ssim: float
    pictures: int
    bound_db: float

    @property
    def passed(self) -> bool:
        """True if the artifact draws the same picture, by its bound."""
        return self.psnr_db >= self.bound_db


@dataclass(frozen=True)
class Artifact:
    """One exported file plus what its manifest says of it."""

    path: Path
    runtime: Runtime
    dtype: DType
    bytes: int
    sha256: str
    seconds: float
    parity: Parity


@dataclass(frozen=True)
class Target:
    """Where a launch runs: a device (a profile's name, or "host"), a back end, threads."""

    device: str
    backend: str
    threads: int


@dataclass(frozen=True)
class Launch:
    """One process that ran one artifact on one target.

    `samples_ms` are single inferences after warm-up, in ms, in order; `order` is the launch's
    place in the interleaved plan. `error` is set, and the samples may be empty, if it failed. A
    vendor's program that keeps none has its own figures in `details` ("samples": "none").
    """

    artifact: str
    artifact_sha256: str
    target: Target
    order: int
    samples_ms: tuple[float, ...]
    warmup_ms: tuple[float, ...] = ()
    load_ms: float | None = None
    peak_rss_mb: float | None = None
    started: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def median_ms(self) -> float | None:
        """The median of its samples, or what a program that keeps none tells; None if it failed.

        Such a program's own median, or else its mean: old builds tell no more.
        """
        if self.error is not None:
            return None
        if self.samples_ms:
            return statistics.median(self.samples_ms)
        summary = self.details.get("summary") or {}
        told = summary.get("median_ms") or summary.get("mean_ms")
        return None if told is None else float(told)


@dataclass(frozen=True)
class Run:
    """The launches of one bench, with what they ran under.

    `conditions` describe the device and how busy it was, `tools` the versions used, `artifacts`
    the manifests by artifact name. `emulated` is true if any timing is not a real device's.
    """

    id: str
    created: str
    command: tuple[str, ...]
    conditions: Mapping[str, Any]
    tools: Mapping[str, str]
    artifacts: Mapping[str, Mapping[str, Any]]
    launches: tuple[Launch, ...]
    emulated: bool = False
