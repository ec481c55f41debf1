"""Rewrites of a graph, one a file, and the order in which a runtime wants them.

All but `round_weights` are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coronet_deploy.export.graph import Graph
from coronet_deploy.export.passes.batch_norm import FoldBatchNorm
from coronet_deploy.export.passes.borders import SplitBorders
from coronet_deploy.export.passes.clamps import SplitClamp
from coronet_deploy.export.passes.columns import SumColumns
from coronet_deploy.export.passes.dead_bias import DropDeadBiases
from coronet_deploy.export.passes.depthwise import SplitDepthwise
from coronet_deploy.export.passes.half_weights import RoundWeights
from coronet_deploy.export.passes.instance_norm import DecomposeInstanceNorm
from coronet_deploy.export.passes.joined_inputs import SumJoinedInputs
from coronet_deploy.export.passes.known_zeros import SkipZeros
from coronet_deploy.export.passes.large_weights import SplitLargeWeights
from coronet_deploy.export.passes.long_sums import SplitLongSums
from coronet_deploy.export.passes.permutations import UnrollPermutations
from coronet_deploy.export.passes.plain_choices import PlainChoices
from coronet_deploy.export.passes.plain_operators import PlainOperators
from coronet_deploy.export.passes.reflect_pad import UnrollReflectPad
from coronet_deploy.export.passes.relu import FuseRelu, HoistRelu
from coronet_deploy.export.passes.rewriting import Pass
from coronet_deploy.export.passes.stem import PairInputs
from coronet_deploy.export.passes.strides import StrideConvolutions
from coronet_deploy.export.passes.subexpressions import ShareSubexpressions
from coronet_deploy.export.passes.subpixel import SubpixelConvolution
from coronet_deploy.export.passes.tail import PairPixels, QuadPixels
from coronet_deploy.export.passes.tiling import ONNX_RUNTIME
from coronet_deploy.export.passes.trim_taps import TrimTaps
from coronet_deploy.export.passes.upsampling import MergeUpsampling
from coronet_deploy.export.passes.winograd import Winograd
from coronet_deploy.export.passes.zero_padding import SplitZeroPadding
from coronet_deploy.vocabulary import Runtime

Preference = Literal["speed", "size"]


@dataclass(frozen=True)
class PassReport:
    """What one pass did: nodes before and after it."""

    name: str
    nodes_before: int
    nodes_after: int
    changed: bool


INTEGER_SUBPIXEL_ONNX = True
"""Whether an integer ONNX file has plain convolutions in the place of transposed ones, for which
ONNX Runtime has no integer kernel."""

SUBPIXEL_CHANNELS_ONNX = 30
"""From how many channels ONNX Runtime's transposed convolution is slower, in float."""


def passes_for(
    runtime: Runtime,
    prefer: Preference = "speed",
    *,
    integer: bool = False,
    throughout: bool = False,
    half: bool = False,
    wide: bool = False,
) -> tuple[Pass, ...]:
    """Return the passes that `lower` runs, in order."""
    single = not (integer or half)
    plainly = runtime is Runtime.TFLITE or not single
    apart = PlainOperators(keep_narrow=single) if plainly else PlainChoices(learnt=True)
    # An integer graph comes with biases that keep a norm's channels in the middle of their range.
    folding: tuple[Pass, ...] = (
        SkipZeros(),
        StrideConvolutions(),
        MergeUpsampling(),
        FoldBatchNorm(),
        apart,
        *(() if integer else (DropDeadBiases(),)),
    )
    rounding: tuple[Pass, ...] = (RoundWeights(),) if half else ()
    multiplication: tuple[Pass, ...]
    tflite = runtime is Runtime.TFLITE
    squares = () if wide else (QuadPixels(join_inputs=tflite, fill=tflite and not integer),)
    if runtime is Runtime.ONNX:
        # ONNX Runtime has kernels of its own for all the rest, in float.
        if integer and INTEGER_SUBPIXEL_ONNX:
            plain = SubpixelConvolution(winograd=False, depth_to_space=True, integer=True)
            return (*folding, HoistRelu(), FuseRelu(), plain, TrimTaps(), *squares)
        multiplication = (Winograd(ONNX_RUNTIME, depth_to_space=True, half=half),)
        plain = SubpixelConvolution(
            winograd=False, depth_to_space=True, least_channels=SUBPIXEL_CHANNELS_ONNX
        )
        multiplied = multiplication if prefer == "speed" else ()
        columns = () if half else (SumColumns(pairs=False),)
        return (*folding, plain, TrimTaps(), *multiplied, *rounding, *columns, *squares)
    multiplication = (Winograd(half=half),) if prefer == "speed" else ()
    return (
        *folding,
        SplitClamp(),
        HoistRelu(),
        *((DecomposeInstanceNorm(),) if throughout else ()),
        FuseRelu(),
        *(() if throughout else (SplitDepthwise(),)),
        SubpixelConvolution(winograd=prefer == "speed", integer=integer),
        TrimTaps(),
        *multiplication,
        *rounding,
        *((SplitLongSums(),) if half else ()),
        *(() if integer else (SplitLargeWeights(), SumJoinedInputs())),
        *(() if integer else (SplitBorders(),)),
        UnrollReflectPad(),
        # In half precision a pixel would be a sum of rounded numbers.
        *(() if integer or half else (SumColumns(),)),
        *squares,
        PairPixels(),
        PairInputs(),
        *(() if throughout else (DecomposeInstanceNorm(join_pixels=True),)),
        UnrollPermutations(),
        SplitZeroPadding(),
        ShareSubexpressions(),
    )


def run_passes(graph: Graph, passes: tuple[Pass, ...]) -> tuple[Graph, tuple[PassReport, ...]]:
    """Return `graph` after all `passes`, and what each did."""
    reports = []
    for step in passes:
        after = step.run(graph)
        changed = after.nodes != graph.nodes
        reports.append(PassReport(step.name, len(graph.nodes), len(after.nodes), changed))
        graph = after
    return graph, tuple(reports)


def lower(
    graph: Graph,
    runtime: Runtime,
    *,
    prefer: Preference = "speed",
    integer: bool = False,
    throughout: bool = False,
    half: bool = False,
    wide: bool = False,
) -> tuple[Graph, tuple[PassReport, ...]]:
    """Return `graph` as `runtime` runs it fastest, and what each pass did.

    `prefer="size"` leaves out rewrites that buy speed with a larger file. `integer` is for graphs
    whose convolutions are to compute in integers, and with `throughout` all the rest too; rewrites
    that eight bits do not survive are left out of those whatever `prefer` says. With `half`,
    products may be summed in float16. With `wide`, values are integers of 16 bits, for which LiteRT
    has no DepthToSpace.
    """
    # Winograd's transformed values do not fit eight bits, and integer convolutions are fast
    # without.
    chosen: Preference = "size" if integer else prefer
    passes = passes_for(
        runtime, chosen, integer=integer, throughout=throughout, half=half, wide=wide
    )
    return run_passes(graph, passes)
