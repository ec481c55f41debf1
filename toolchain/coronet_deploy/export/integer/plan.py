"""A lowered graph in which every operator computes in integers, and the format of every value.

Two widths serve: `bits=8` keeps values in eight bits, but for the arithmetic of instance norms and
residual streams, whose sums and squares take 16; `bits=16` keeps all in 16 (weights are int8 in
both). Where a value changes its width stands a `Requantize`. Values that an operator only moves
(slices, concatenations, reshapes, zeros around) share the format of what they are moved from.
With 16 bits ELU and GELU compute in float32, for want of integer kernels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from coronet_deploy.export import operators as ops
from coronet_deploy.export.calibrate import Pictures, with_flips
from coronet_deploy.export.equalize import equalized
from coronet_deploy.export.graph import INPUT, OUTPUT, Edit, Graph, Node, rewrite
from coronet_deploy.export.int8_weights import with_int8_weights
from coronet_deploy.export.integer.formats import (
    FLOAT_BITS,
    PICTURE_8,
    PIXELS_8,
    SIGMOID_8,
    SIGMOID_16,
    TANH_8,
    TANH_16,
    Format,
)
from coronet_deploy.export.integer.kernels import (
    above_zero,
    with_finer_roots,
    with_room_for_sums,
    without_depth_to_space,
    without_prelu,
)
from coronet_deploy.export.manifest import Quantization
from coronet_deploy.export.passes import PassReport, lower
from coronet_deploy.export.pixels import HALF_STEP, MOVING, moved_from, takes_pixels
from coronet_deploy.export.ranges import observe
from coronet_deploy.export.sensitivity import int8_layers
from coronet_deploy.ranges import FULL_UNET_MARGIN, Range, Seen, fitted
from coronet_deploy.vocabulary import Runtime

_ARITHMETIC = ops.Add | ops.Sub | ops.Mul | ops.Mean | ops.Rsqrt | ops.InstanceNorm | ops.BatchNorm
_NARROW = ops.Elu | ops.Gelu  # which LiteRT computes in eight bits or in float
_CONVOLUTIONS = ops.Conv2d | ops.DepthwiseConv2d | ops.ConvTranspose2d
_HEADROOM = 2.0  # of 16-bit values over what was seen; it costs one bit
_ROOT_HEADROOM = 4.0  # a channel flatter than any seen has a larger reciprocal deviation


@dataclass(frozen=True)
class IntegerPlan:
    """`formats` has one for every value in integers; `framed` if pictures come and leave in float.

    `pictures` names what was calibrated on.
    """

    graph: Graph
    formats: Mapping[str, Format]
    passes: tuple[PassReport, ...]
    pictures: tuple[str, ...]
    framed: bool


def plan_integer(
    graph: Graph,
    runtime: Runtime,
    pictures: Pictures,
    bits: int,
    margin: float = FULL_UNET_MARGIN,
) -> IntegerPlan:
    """Return how `graph`, as it was captured, is to compute in integers throughout.

    With `bits=8` the picture comes and leaves in integers, with `bits=16` in float32. `margin`
    widens the ranges of 8-bit values.

    Raises:
        ConversionFailed: values are not finite on the pictures.

    """
    pictures, framed = with_flips(pictures), bits == 16  # noqa: PLR2004 - the wide scheme
    graph = without_prelu(graph)
    # 16 bits have room for channels of unlike size, and weights round better as they are.
    alike, evened = equalized(graph, pictures, between=not framed, reach=not framed)
    lowered, reports = lower(alike, runtime, integer=True, throughout=True, wide=framed)
    if framed and runtime is Runtime.TFLITE:
        lowered = without_depth_to_space(lowered)
    layers = {layer.name for layer in int8_layers(lowered)}
    lowered = _with_biases(with_int8_weights(lowered, layers))
    pixels = not framed and takes_pixels(lowered)
    if pixels:
        lowered = _brighter(lowered)
    wide = _wide(lowered, runtime)
    placed = _with_requantizing(lowered, bits, wide, framed=framed)
    wide = _wide(placed, runtime) if wide else wide  # the last one has another name now
    widths = {INPUT: FLOAT_BITS if framed else bits}
    widths |= {node.output: _width(node, bits, wide) for node in placed.nodes}
    widths = {name: width for name, width in widths.items() if width != FLOAT_BITS}
    seen = observe(placed, widths, pictures)
    formats = _formats(placed, widths, seen, runtime, margin)
    if pixels:
        for name in moved_from(placed, INPUT):
            formats[name] = PIXELS_8
    if runtime is Runtime.TFLITE:
        formats = with_room_for_sums(placed, formats, _groups(placed, widths))
    placed = above_zero(placed, formats)
    if runtime is Runtime.TFLITE:
        placed, formats = with_finer_roots(placed, formats, seen)
    reports = (*evened, *reports)
    return IntegerPlan(placed, formats, reports, pictures.names, framed)


def summary(plan: IntegerPlan) -> Quantization:
    """Return what a manifest says of the plan."""
    layers = [node.output for node in plan.graph.nodes if isinstance(node.op, _CONVOLUTIONS)]
    return Quantization(
        calibration_pictures=plan.pictures,
        int8_layers=tuple(layers),
        float_layers=(),
        int8_macs_share=1.0,
    )


def _width(node: Node, bits: int, wide: Collection[str]) -> int:
    """Return the bits of the integers in which a node computes."""
    if isinstance(node.op, ops.Requantize):
        return node.op.bits
    if isinstance(node.op, _NARROW) and bits != 8:  # noqa: PLR2004 - the one width they know
        return FLOAT_BITS
    return 16 if isinstance(node.op, _ARITHMETIC) or node.output in wide else bits


def _wide(graph: Graph, runtime: Runtime) -> frozenset[str]:
    """Return the ReLUs of what comes in 16 bits, in ONNX, and the reshapes of a number a channel.

    In eight, half of a ReLU's steps would be for what is below zero. TFLite's arithmetic has the
    ReLU in it; ONNX Runtime's has not. A number a channel is a norm's.
    """
    makers = {node.output: node.op for node in graph.nodes}
    return frozenset(
        node.output
        for node in graph.nodes
        if isinstance(makers.get(node.inputs[0]), _ARITHMETIC)
        and (
            (isinstance(node.op, ops.Relu) and runtime is Runtime.ONNX)
            or (isinstance(node.op, ops.Reshape) and _is_statistic(graph, node))
        )
    )


def _is_statistic(graph: Graph, node: Node) -> bool:
    """Return whether a node reads or makes one pixel."""
    return any(math.prod(graph.shapes[name][1:3]) == 1 for name in (node.inputs[0], node.output))


def _with_biases(graph: Graph) -> Graph:
    """Give every convolution a bias: an integer one has a format that depends on its layer."""

    def visit(edit: Edit, node: Node) -> str | None:
        if not isinstance(node.op, _CONVOLUTIONS) or len(node.inputs) > 2:  # noqa: PLR2004 - x, weight, bias
            return None
        zeros = np.zeros(edit.constants[node.inputs[1]].shape[0], np.float32)
        if isinstance(node.op, ops.DepthwiseConv2d):
            zeros = np.zeros(edit.constants[node.inputs[1]].shape[3], np.float32)
        return edit.emit(node.op, *node.inputs, edit.constant(zeros, "bias"))

    return rewrite(graph, visit)


def _brighter(graph: Graph) -> Graph:
    """Let the first convolutions add half a step to the picture (see `PIXELS_8`)."""
    moved = moved_from(graph, INPUT)
    first = {node.output for node in graph.nodes if node.inputs[0] in moved} - moved

    def visit(edit: Edit, node: Node) -> str | None:
        if node.output not in first:
            return None
        x, weight, bias = node.inputs
        more = edit.constants[weight].astype(np.float64).sum(axis=(1, 2, 3)) * HALF_STEP
        return edit.emit(node.op, x, weight, edit.constant(edit.constants[bias] + more, "bias"))

    return rewrite(graph, visit)


def _with_requantizing(graph: Graph, bits: int, wide: Collection[str], *, framed: bool) -> Graph:
    """Put a Requantize wherever an operator reads another width than its own.

    One stands too before a concatenation that joins a value whose format is fixed with others.
    """
    leaving = FLOAT_BITS if framed else bits
    have = {INPUT: leaving}
    held: dict[str, type[Any]] = {INPUT: ops.Requantize}  # by what fixes their format
    twins: dict[tuple[str, int], str] = {}

    def visit(edit: Edit, node: Node) -> str:
        want = _width(node, bits, wide)
        origins = {held.get(name) for name in node.inputs if name not in edit.constants}
        mixed = isinstance(node.op, ops.Concat) and len(origins) > 1
        inputs = []
        for name in node.inputs:
            constant = name in edit.constants
            if constant or (have[name] == want and not (mixed and name in held)):
                inputs.append(name)
                continue
            if (name, want) not in twins:
                twin = edit.emit(ops.Requantize(want), name, name=f"{name}/int{want}")
                twins[name, want] = twin
                have[twin] = want
            inputs.append(twins[name, want])
        if node.output == OUTPUT and want != leaving:
            inner = edit.emit(node.op, *inputs, name=f"{OUTPUT}/int{want}")
            return edit.emit(ops.Requantize(leaving), inner)
        value = edit.emit(node.op, *inputs, name=node.output)
        have[value] = have[node.output] = want
        kept = isinstance(node.op, MOVING) and not mixed and inputs[0] in held
        if kept or isinstance(node.op, ops.Tanh | ops.Sigmoid):
            held[value] = held[node.output] = held[inputs[0]] if kept else type(node.op)
        return value

    return rewrite(graph, visit)


def _groups(graph: Graph, widths: Mapping[str, int]) -> list[list[str]]:
    """Return the values of `widths`, those together that one format must serve."""
    parent = {name: name for name in widths}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in graph.nodes:
        if isinstance(node.op, MOVING):
            for name in node.inputs:
                parent[root(name)] = root(node.output)
    groups: dict[str, list[str]] = {}
    for name in widths:
        groups.setdefault(root(name), []).append(name)
    return list(groups.values())


def _formats(
    graph: Graph,
    widths: Mapping[str, int],
    seen: Mapping[str, Seen],
    runtime: Runtime,
    margin: float,
) -> dict[str, Format]:
    makers = {node.output: node.op for node in graph.nodes}
    readers: dict[str, list[ops.Operator]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node.op)
    formats = {}
    for members in _groups(graph, widths):
        own = [name for name in members if not isinstance(makers.get(name), MOVING)]
        bits = widths[own[0]]
        chosen = _fixed(makers.get(own[0]), bits, runtime)
        if chosen is None:
            together = functools.reduce(Seen.joined, (seen[name] for name in own))
            used = [op for name in members for op in readers.get(name, [])]
            used = [op for op in used if not isinstance(op, MOVING)]
            root = isinstance(makers[own[0]], ops.Rsqrt)
            chosen = _measured(together, bits, used, margin, reciprocal=root)
        formats.update(dict.fromkeys(members, chosen))
    return formats


def _fixed(maker: ops.Operator | None, bits: int, runtime: Runtime) -> Format | None:
    """Return the format that does not come from what was seen, if a value has one."""
    if maker is None:
        return PICTURE_8
    if runtime is Runtime.ONNX:
        # Any format will do there; the picture leaves as it came.
        return PICTURE_8 if isinstance(maker, ops.Tanh) and bits == 8 else None  # noqa: PLR2004 - the narrow width
    if isinstance(maker, ops.Tanh):
        return TANH_8 if bits == 8 else TANH_16  # noqa: PLR2004 - the two widths
    if isinstance(maker, ops.Sigmoid):
        return SIGMOID_8 if bits == 8 else SIGMOID_16  # noqa: PLR2004 - the two widths
    return None


def _measured(
    seen: Seen, bits: int, readers: list[ops.Operator], margin: float, *, reciprocal: bool
) -> Format:
    if bits != 8:  # noqa: PLR2004 - 16 bits hold the extremes with room to spare
        room = _ROOT_HEADROOM if reciprocal else _HEADROOM
        return Format.of(Range(seen.low * room, max(seen.high * room, 1e-6)), bits)
    through = np.tanh if readers and all(isinstance(op, ops.Tanh) for op in readers) else None
    return Format.of(fitted(seen, through, margin), bits)
