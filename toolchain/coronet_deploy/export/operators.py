"""The operators of a `Graph`: frozen dataclasses of attributes that know their output's shape.

Values are NHWC with N = 1. Convolution weights are OHWI, depthwise ones 1HW(C * multiplier),
and arrive as inputs, as every constant does; attributes are plain numbers. `infer` takes the
shapes of the inputs in order and raises ValueError, quoting them, if they do not fit.

Captured from torch:  Conv2d, DepthwiseConv2d, ConvTranspose2d, BatchNorm, InstanceNorm,
    ReflectPad, ZeroPad, Relu, LeakyRelu, PRelu, Elu, Gelu, Tanh, Sigmoid, Rsqrt, Add, Sub, Mul,
    Concat, Slice, Reshape, Mean, DepthToSpace, Minimum; and those of `arithmetic`, `choosing`,
    `pooling`, `resizing`, `products`, `permuting` (but for Transpose) and `groups`
Made by passes for TFLite: Transpose (`permuting`)
Made by integer plans: Requantize
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

Shape = tuple[int, ...]


class Activation(StrEnum):
    """What a convolution or an arithmetic operator does to its result before storing it."""

    NONE = "none"
    RELU = "relu"


@dataclass(frozen=True)
class Padding:
    """Rows and columns added around a picture; negative where a rewrite crops."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @property
    def height(self) -> int:
        """Rows added."""
        return self.top + self.bottom

    @property
    def width(self) -> int:
        """Columns added."""
        return self.left + self.right

    def __bool__(self) -> bool:
        return self != Padding()


class Operator(ABC):
    """What a node computes from its inputs."""

    kind: ClassVar[str]

    @abstractmethod
    def infer(self, *shapes: Shape) -> Shape:
        """Return the output's shape."""


def _channels_fit(kind: str, x: Shape, have: int, weight: Shape) -> None:
    if len(x) != 4 or len(weight) != 4 or x[3] != have:  # noqa: PLR2004 - NHWC
        raise ValueError(f"{kind}: input {x} does not fit weight {weight}")


def _windows(kind: str, x: Shape, kernel: Shape, stride: tuple[int, int], pad: Padding) -> Shape:
    height = (x[1] + pad.height - kernel[0]) // stride[0] + 1
    width = (x[2] + pad.width - kernel[1]) // stride[1] + 1
    if height < 1 or width < 1:
        raise ValueError(f"{kind}: input {x} is smaller than the kernel {kernel}")
    return height, width


def reach(weight: Shape, dilation: tuple[int, int]) -> Shape:
    """Return the rows and columns from a kernel's first tap to its last."""
    return tuple((n - 1) * d + 1 for n, d in zip(weight[1:3], dilation, strict=True))


@dataclass(frozen=True)
class Conv2d(Operator):
    """Convolution of (x, weight OHWI[, bias (O,)]), zero-padded."""

    kind: ClassVar[str] = "conv2d"
    stride: tuple[int, int] = (1, 1)
    padding: Padding = field(default_factory=Padding)
    dilation: tuple[int, int] = (1, 1)
    activation: Activation = Activation.NONE

    @property
    def steps_by_one(self) -> bool:
        """Whether windows are neighbours, and so are the taps of each."""
        return self.stride == self.dilation == (1, 1)

    def infer(self, *shapes: Shape) -> Shape:
        """Return (1, H', W', O)."""
        x, weight = shapes[:2]
        _channels_fit(self.kind, x, weight[-1], weight)
        windows = _windows(self.kind, x, reach(weight, self.dilation), self.stride, self.padding)
        return (x[0], *windows, weight[0])


@dataclass(frozen=True)
class DepthwiseConv2d(Operator):
    """Convolution of each channel by its own `multiplier` kernels: (x, weight 1HWO[, bias])."""

    kind: ClassVar[str] = "depthwise_conv2d"
    stride: tuple[int, int] = (1, 1)
    padding: Padding = field(default_factory=Padding)
    multiplier: int = 1
    dilation: tuple[int, int] = (1, 1)
    activation: Activation = Activation.NONE

    def infer(self, *shapes: Shape) -> Shape:
        """Return (1, H', W', C * multiplier)."""
        x, weight = shapes[:2]
        _channels_fit(self.kind, x, weight[3] // self.multiplier, weight)
        windows = _windows(self.kind, x, reach(weight, self.dilation), self.stride, self.padding)
        return (x[0], *windows, weight[3])


@dataclass(frozen=True)
class ConvTranspose2d(Operator):
    """Transposed convolution of (x, weight OHWI[, bias]), as torch defines its padding.

    Output rows: (H - 1) * stride - 2 * padding + kernel + output_padding.
    """

    kind: ClassVar[str] = "conv_transpose2d"
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)
    activation: Activation = Activation.NONE

    def infer(self, *shapes: Shape) -> Shape:
        """Return (1, H', W', O)."""
        x, weight = shapes[:2]
        _channels_fit(self.kind, x, weight[3], weight)
        size = tuple(
            (x[1 + i] - 1) * self.stride[i]
            - 2 * self.padding[i]
            + weight[1 + i]
            + self.output_padding[i]
            for i in (0, 1)
        )
        if min(size) < 1:
            raise ValueError(f"{self.kind}: input {x} gives an empty picture {size}")
        return (x[0], *size, weight[0])


class Elementwise(Operator):
    """Keeps the first input's shape."""

    def infer(self, *shapes: Shape) -> Shape:
        """Return the first input's shape."""
        return shapes[0]


@dataclass(frozen=True)
class BatchNorm(Elementwise):
    """(x - mean) / sqrt(variance + epsilon) * scale + shift; inputs in the order x, scale, shift,
    mean, variance, each (C,) but the first.
    """  # noqa: D205 - the order of the inputs belongs to the formula

    kind: ClassVar[str] = "batch_norm"
    epsilon: float = 1e-5


@dataclass(frozen=True)
class InstanceNorm(Elementwise):
    """Subtracts each channel's mean over the picture, divides by sqrt(its variance + epsilon).

    Inputs: x[, scale (C,), shift (C,)]; the variance is the biased one.
    """

    kind: ClassVar[str] = "instance_norm"
    epsilon: float = 1e-5


@dataclass(frozen=True)
class Relu(Elementwise):
    """max(x, 0)."""

    kind: ClassVar[str] = "relu"


@dataclass(frozen=True)
class LeakyRelu(Elementwise):
    """Return x where positive, else slope * x."""

    kind: ClassVar[str] = "leaky_relu"
    slope: float = 0.01


@dataclass(frozen=True)
class PRelu(Elementwise):
    """Of (x, slope (C,)): x where positive, else its channel's slope * x."""

    kind: ClassVar[str] = "prelu"


@dataclass(frozen=True)
class Elu(Elementwise):
    """Return x where positive, else exp(x) - 1."""

    kind: ClassVar[str] = "elu"


@dataclass(frozen=True)
class Gelu(Elementwise):
    """x * (1 + erf(x / sqrt(2))) / 2."""

    kind: ClassVar[str] = "gelu"


@dataclass(frozen=True)
class Tanh(Elementwise):
    """tanh(x)."""

    kind: ClassVar[str] = "tanh"


@dataclass(frozen=True)
class Sigmoid(Elementwise):
    """1 / (1 + exp(-x))."""

    kind: ClassVar[str] = "sigmoid"


@dataclass(frozen=True)
class Rsqrt(Elementwise):
    """1 / sqrt(x)."""

    kind: ClassVar[str] = "rsqrt"


class Broadcast(Operator):
    """Combines two inputs whose sizes are equal or 1, axis by axis from the last."""

    def infer(self, *shapes: Shape) -> Shape:
        """Return the broadcast shape."""
        a, b = shapes
        rank = max(len(a), len(b))
        pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
        size = []
        for m, n in pairs:
            if m != n and 1 not in (m, n):
                raise ValueError(f"{self.kind}: shapes {a} and {b} do not fit")
            size.append(n if m == 1 else m)
        return tuple(size)


@dataclass(frozen=True)
class Add(Broadcast):
    """a + b."""

    kind: ClassVar[str] = "add"
    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class Sub(Broadcast):
    """a - b."""

    kind: ClassVar[str] = "sub"
    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class Mul(Broadcast):
    """a * b."""

    kind: ClassVar[str] = "mul"
    activation: Activation = Activation.NONE


@dataclass(frozen=True)
class Minimum(Broadcast):
    """The smaller of a and b."""

    kind: ClassVar[str] = "minimum"


class _Pad(Operator):
    padding: Padding

    def infer(self, *shapes: Shape) -> Shape:
        """Return (1, H + rows, W + columns, C)."""
        n, h, w, c = shapes[0]
        return n, h + self.padding.height, w + self.padding.width, c


@dataclass(frozen=True)
class ZeroPad(_Pad):
    """Puts zeros around the picture; amounts are not negative."""

    kind: ClassVar[str] = "zero_pad"
    padding: Padding


@dataclass(frozen=True)
class ReflectPad(_Pad):
    """Mirrors the picture around its border pixels, which are not repeated."""

    kind: ClassVar[str] = "reflect_pad"
    padding: Padding

    def infer(self, *shapes: Shape) -> Shape:
        """Return the padded shape; each amount must be smaller than the picture."""
        _, h, w, _ = shapes[0]
        p = self.padding
        if max(p.top, p.bottom) >= h or max(p.left, p.right) >= w:
            raise ValueError(f"{self.kind}: {p} does not fit the input {shapes[0]}")
        return super().infer(*shapes)


@dataclass(frozen=True)
class Concat(Operator):
    """Puts its inputs one after the other along `axis`."""

    kind: ClassVar[str] = "concat"
    axis: int

    def infer(self, *shapes: Shape) -> Shape:
        """Return the joined shape."""
        a, first = self.axis, shapes[0]
        if any(s[:a] + s[a + 1 :] != first[:a] + first[a + 1 :] for s in shapes):
            raise ValueError(f"{self.kind}: shapes {shapes} do not fit along axis {a}")
        return (*first[:a], sum(s[a] for s in shapes), *first[a + 1 :])


@dataclass(frozen=True)
class Slice(Operator):
    """The block of `size` that starts at `begin`."""

    kind: ClassVar[str] = "slice"
    begin: Shape
    size: Shape

    def infer(self, *shapes: Shape) -> Shape:
        """Return `size`."""
        blocks = zip(self.begin, self.size, shapes[0], strict=True)
        if any(b < 0 or n < 1 or b + n > whole for b, n, whole in blocks):
            raise ValueError(f"{self.kind}: {self.begin} + {self.size} is outside {shapes[0]}")
        return self.size


@dataclass(frozen=True)
class Reshape(Operator):
    """The same numbers in the same order, in another shape."""

    kind: ClassVar[str] = "reshape"
    shape: Shape

    def infer(self, *shapes: Shape) -> Shape:
        """Return `shape`."""
        if math.prod(self.shape) != math.prod(shapes[0]):
            raise ValueError(f"{self.kind}: {shapes[0]} does not hold {self.shape}")
        return self.shape


@dataclass(frozen=True)
class Mean(Operator):
    """The mean over `axes`, which stay with size 1."""

    kind: ClassVar[str] = "mean"
    axes: tuple[int, ...]

    def infer(self, *shapes: Shape) -> Shape:
        """Return the shape with `axes` of size 1."""
        return tuple(1 if i in self.axes else n for i, n in enumerate(shapes[0]))


@dataclass(frozen=True)
class DepthToSpace(Operator):
    """(1, H, W, b*b*C) to (1, b*H, b*W, C); channel (i*b + j)*C + c goes to row i, column j."""

    kind: ClassVar[str] = "depth_to_space"
    block: int

    def infer(self, *shapes: Shape) -> Shape:
        """Return (1, b*H, b*W, C)."""
        n, h, w, c = shapes[0]
        if c % self.block**2:
            raise ValueError(f"{self.kind}: {c} channels do not fill blocks of {self.block}")
        return n, h * self.block, w * self.block, c // self.block**2


@dataclass(frozen=True)
class Requantize(Elementwise):
    """The same real numbers, stored in integers of `bits` bits; in floats if that is 32."""

    kind: ClassVar[str] = "requantize"
    bits: int
