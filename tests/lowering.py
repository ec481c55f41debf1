"""What the tests of the lowering share: pictures, networks, and runtimes fed with bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from coronet_deploy.coronet.checkpoint import Header, Stage, save_checkpoint
from coronet_deploy.export.build import build
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.interpret import interpret
from coronet_deploy.export.manifest import Source
from coronet_deploy.export.passes import lower
from coronet_deploy.export.study import Study
from coronet_deploy.export.subject import Subject
from coronet_deploy.images import Array, from_pixels
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import Architecture, ChannelPlan, DType, Kind, Runtime

LEAST_DB = {
    DType.FP32: 110,
    DType.FP16: 60,
    DType.INT8: 40,
    DType.INT8_FULL: 34,
    DType.INT16X8: 45,
    DType.A16W8: 45,
}
"""What small networks of operators of one kind draw at the least, beside torch."""

INTEGER = {DType.INT8_FULL, DType.INT16X8, DType.A16W8}
"""The number types that are integers throughout."""


class Does(nn.Module):
    """Draws what a function does."""

    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        return self.what(x)


def smooth_picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Array:
    """Return (1, height, width, channels) in [-1, 1]: noise of 16-pixel grain, blown up."""
    random = np.random.default_rng(seed)
    grain = (max(width // 16, 2), max(height // 16, 2))
    planes = []
    for _ in range(channels):
        noise = Image.fromarray(random.integers(0, 256, grain[::-1], dtype=np.uint8))
        planes.append(np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)))
    return from_pixels(np.stack(planes, axis=-1)[None])


def difference(before: Graph, after: Graph, seed: int = 0) -> float:
    """Return how far apart two graphs draw one picture, both computed in float64."""
    _, height, width, channels = before.input_shape
    picture = smooth_picture(height, width, channels, seed)
    drawn = (interpret(graph, picture, np.float64) for graph in (before, after))
    return float(np.abs(next(drawn) - next(drawn)).max())


def furthest(network: nn.Module, height: int, width: int) -> float:
    """Return how far, at most, the captured graph is from torch, or one lowered from it."""
    picture = smooth_picture(height, width)
    graph = capture(network, height, width)
    captured = float(np.abs(interpret(graph, picture) - run_torch(network, picture)).max())
    return max(captured, *(difference(graph, lower(graph, runtime)[0]) for runtime in Runtime))


def trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give BatchNorms the statistics of a network that has learnt something; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.normal_(layer.weight, 1, 0.1, generator)
            nn.init.normal_(layer.bias, 0, 0.1, generator)
    return module.eval()


def shrunk(plan: ChannelPlan, widths: Sequence[int]) -> ChannelPlan:
    """Return `plan` with its groups' channels taken from `widths`, over and over."""
    groups = {name: widths[i % len(widths)] for i, name in enumerate(plan.groups)}
    return ChannelPlan(
        plan.architecture, plan.norm, groups, plan.input_channels, plan.output_channels
    )


def own_subject(network: nn.Module) -> Subject:
    """Return what an export is told of a network of one's own, in eval mode."""
    source = Source(sha256="0" * 64, kind=Kind.MODULE, module="tests:network")
    return Subject("network", source, network.eval())


def artifacts(dtypes: Iterable[DType]) -> list[tuple[Runtime, DType]]:
    """Return each runtime with those of `dtypes` that are written for it."""
    others = {Runtime.TFLITE: DType.A16W8, Runtime.ONNX: DType.INT16X8}
    return [(runtime, d) for runtime, d in product(Runtime, dtypes) if d is not others[runtime]]


class Shared:
    """A network that was captured, studied and drawn by torch once for all of its artifacts."""

    def __init__(self, network: nn.Module, pictures: Pictures) -> None:
        _, height, width, channels = pictures.values[0].shape
        self._subject = own_subject(network)
        self._study = Study(capture(network, height, width, channels), pictures)
        self._drawn = [run_torch(network, x) for x in pictures.values]

    def draw(self, runtime: Runtime, dtype: DType, folder: Path) -> tuple[float, bool]:
        """Return how many dB an artifact is from torch at worst, and whether it is one part."""
        study = self._study
        built = build(study.graph, runtime, dtype, self._subject, study.pictures, study=study)
        path = folder / f"own{runtime.suffix}"
        path.write_bytes(built.data)
        with open_session(path, runtime, 1) as session:
            drawn = map(session.run, study.pictures.values)
            apart = [psnr_db(*both) for both in zip(self._drawn, drawn, strict=True)]
            return min(apart), session.partitions.fully_accelerated


Share = Callable[[Hashable, Callable[[], nn.Module], Pictures], Shared]


def small_checkpoint(folder: Path) -> Path:
    """Return the checkpoint, made in `folder`, of a dense ResNet-6 of width 4, seeded weights."""
    torch.manual_seed(11)
    plan = full_plan(Architecture.RESNET_6, width=4)
    header = Header(
        format_version=1,
        stage=Stage.DENSE,
        id="small",
        title="A small generator",
        task="test",
        plan=plan.as_json(),
        total=dict(plan.groups),
    )
    path = folder / "small.safetensors"
    save_checkpoint(path, header, build_generator(plan).state_dict())
    return path


def run_torch(module: nn.Module, picture: Array) -> Array:
    """Return what torch draws: (1, H, W, C) to the same layout."""
    with torch.inference_mode():
        drawn = module(torch.from_numpy(np.ascontiguousarray(picture.transpose(0, 3, 1, 2))))
    result: Array = drawn.numpy().transpose(0, 2, 3, 1)
    return result


def run_tflite(data: bytes, picture: Array) -> Array:
    """Return what LiteRT draws through the file's signature."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    drawn: Array = interpreter.get_signature_runner("serving_default")(input=picture)["output"]
    return drawn


def is_one_partition(data: bytes) -> bool:
    """Return whether XNNPACK takes the whole graph, in one piece."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    plan = [details["op_name"] for details in interpreter._get_ops_details()]
    accelerated: bool = CompiledModel.from_buffer(data).is_fully_accelerated()
    return accelerated and plan.count("DELEGATE") == 1


def run_onnx(data: bytes, picture: Array) -> Array:
    """Return what ONNX Runtime draws, in NHWC as everything here."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feed = {"input": np.ascontiguousarray(picture.transpose(0, 3, 1, 2))}
    drawn: Array = session.run(["output"], feed)[0].transpose(0, 2, 3, 1)
    return drawn
