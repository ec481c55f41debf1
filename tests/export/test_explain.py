"""What `export --explain` counts, and what it shows."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coronet_deploy.cli._explain import explanations, show
from coronet_deploy.export.build import emit
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.cost import graph_macs
from coronet_deploy.export.figures import figures_of
from coronet_deploy.export.manifest import Source
from coronet_deploy.export.passes import lower, run_passes
from coronet_deploy.export.passes.minimal import MINIMAL
from coronet_deploy.export.subject import Subject
from coronet_deploy.export.tflite_file import end_names, pack, read_model, with_metadata
from coronet_deploy.networks.cost import macs
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify.explain import AFTER, BEFORE, explain
from coronet_deploy.verify.release import Order
from coronet_deploy.vocabulary import Architecture, DType, Kind, Runtime
from lowering import Does, run_tflite, smooth_picture
from support import Cli, fill


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights in every run."""
    torch.manual_seed(0)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("architecture", [Architecture.RESNET_6, Architecture.UNET_128])
def test_a_graph_costs_what_its_plan_says(architecture: Architecture, *, published: bool) -> None:
    plan = full_plan(architecture, width=3)
    graph = capture(build_generator(plan), 128, 256)
    assert graph_macs(graph, published=published) == macs(plan, 128, 256, published=published)


@pytest.mark.parametrize("runtime", Runtime)
def test_figures_of_a_convolution_are_those_on_paper(runtime: Runtime) -> None:
    # 8 x 10 pixels of 3 channels to 4 x 5 of 6: 3 * 3 * 3 * 6 products a pixel.
    graph = capture(nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh()), 8, 10)
    lowered, _ = run_passes(graph, MINIMAL if runtime is Runtime.TFLITE else ())
    data = emit(lowered, runtime, DType.FP32, {})
    figures = figures_of(data, runtime)
    assert figures.macs == 4 * 5 * 3 * 3 * 3 * 6
    assert figures.file_bytes == len(data)
    picture, weights, output = 8 * 10 * 3, 3 * 3 * 3 * 6 + 6, 4 * 5 * 6
    moved = picture + weights + output + 2 * output
    if runtime is Runtime.ONNX:
        assert (figures.operators, figures.moved_bytes) == (2, 4 * moved)
    else:  # a padding of its own: the picture and four numbers a side go in, more pixels come out
        padded = 10 * 12 * 3
        extra = picture + 8 + padded + (padded - picture)
        assert (figures.operators, figures.moved_bytes) == (3, 4 * (moved + extra))


class _Heads(nn.Module):
    """Attention of two heads, whose numbers are permuted."""

    def forward(self, x: Tensor) -> Tensor:
        q = x.view(1, 2, -1, x[0, 0].numel()).transpose(2, 3)
        return F.scaled_dot_product_attention(q, q, q).transpose(2, 3).reshape(x.shape)


@pytest.mark.parametrize("runtime", Runtime)
def test_steps_of_heads_have_figures(runtime: Runtime) -> None:
    graph = capture(nn.Sequential(nn.Conv2d(3, 8, 4, 4), _Heads(), nn.Hardswish()), 16, 24)
    assert "permute" in graph.count()
    for step in explain(graph, runtime, DType.FP32, "speed", None):
        assert not step.reason
        assert step.figures.macs >= graph_macs(graph)


def test_half_a_weight_is_half_the_bytes_and_unpacking_it_is_no_operator() -> None:
    graph = capture(nn.Conv2d(3, 64, 3), 8, 8)
    full, half = (
        figures_of(emit(graph, Runtime.TFLITE, d, {}), Runtime.TFLITE)
        for d in (DType.FP32, DType.FP16)
    )
    assert full.operators == half.operators == 1
    assert half.file_bytes < full.file_bytes


def test_a_transposed_convolution_counts_by_its_input() -> None:
    graph = capture(nn.ConvTranspose2d(3, 5, 2, 2), 6, 7)
    for runtime in Runtime:
        data = emit(graph, runtime, DType.FP32, {})
        assert figures_of(data, runtime).macs == 6 * 7 * 2 * 2 * 3 * 5


def test_the_steps_lead_from_many_partitions_to_one(tmp_path: Path) -> None:
    graph = capture(build_generator(full_plan(Architecture.RESNET_6, width=24)), 48, 48)
    lowered, reports = lower(graph, Runtime.TFLITE)
    artifact = tmp_path / "made.tflite"
    artifact.write_bytes(emit(lowered, Runtime.TFLITE, DType.FP32, {}))
    steps = explain(graph, Runtime.TFLITE, DType.FP32, "speed", artifact)
    names = [step.name for step in steps]
    assert names == [BEFORE, *(r.name for r in reports if r.changed), AFTER]
    by_name = dict(zip(names, steps, strict=True))
    assert by_name[BEFORE].partitions > 10
    assert by_name[BEFORE].outside > 10
    assert by_name["unroll_reflect_pad"].partitions == 1
    assert by_name[AFTER].outside == 0
    assert by_name["winograd"].figures.macs < 0.8 * by_name[BEFORE].figures.macs
    assert by_name["winograd"].figures.file_bytes > 1.5 * by_name[BEFORE].figures.file_bytes
    # The last pass is the artifact.
    assert steps[-1].figures == steps[-2].figures


def test_a_file_taken_apart_is_put_together_again() -> None:
    graph, picture = capture(nn.Conv2d(3, 4, 3), 8, 8), smooth_picture(8, 8)
    data = emit(graph, Runtime.TFLITE, DType.FP32, {"a": "1"})
    again = with_metadata(pack(read_model(data)), {"b": "ü"})
    assert (run_tflite(again, picture) == run_tflite(data, picture)).all()
    model = read_model(again)
    told = {m.name: bytes(model.buffers[m.buffer].data).decode() for m in model.metadata}
    assert told == {b"a": "1", b"b": "ü"}
    assert end_names(again) == ("input", "output")


def test_the_command_shows_tables_of_eighty_columns_and_json(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.ReflectionPad2d(1), torch.nn.Conv2d(3, 3, 3))\n"
    )
    line = ("export", "tiny:net", "--size", "16x16", "--output", "out", "--explain")
    env = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = cli(*line, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "unroll_reflect_pad" in done.stdout
    done = cli(*line, "--json", "--runtime", "tflite", cwd=tmp_path)
    (told,) = json.loads(done.stdout)["explained"]
    assert told["artifact"] == "net_16x16_fp32.tflite"
    assert told["steps"][0]["step"] == BEFORE
    assert told["steps"][0]["partitions"] == 1
    assert told["steps"][0]["outside"] == 1
    assert told["steps"][-1]["outside"] == 0
    assert onnx.load(tmp_path / "out" / "net_16x16_fp32.onnx").graph.node


def _wide() -> nn.Module:
    """Return a network whose BatchNorm float16 cannot hold until it is folded."""
    norm = nn.BatchNorm2d(3)
    assert norm.running_var is not None
    norm.running_var.fill_(1e10)
    nn.init.constant_(norm.weight, 1e5)
    return nn.Sequential(nn.Conv2d(3, 3, 3), norm).eval()


def test_a_step_that_cannot_be_written_is_told_with_its_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = explain(capture(_wide(), 8, 8), Runtime.ONNX, DType.FP16, "speed", None)
    assert [step.name for step in steps] == [BEFORE, "fold_batch_norm", "round_weights"]
    assert "float16" in steps[0].reason
    assert not steps[1].reason
    assert [step.figures.operators for step in steps[1:]] == [3, 3]
    pictures = Pictures(("a",), (smooth_picture(8, 8),))
    source = Source(sha256="0" * 64, kind=Kind.MODULE, module="a:b")
    networks = (_wide(), Does(torch.erfinv))
    orders = [
        Order(Subject("x", source, network), Path("out"), pictures, pictures, dtypes=[DType.FP16])
        for network in networks
    ]
    told = explanations(orders, [])
    assert [len(one["steps"]) for one in told] == [3, 3, 0, 0]
    assert "erfinv" in told[-1]["reason"]
    show(told)
    shown = capsys.readouterr().out
    assert f"{BEFORE}: ONNX" in shown
    assert "erfinv" in shown


def test_a_full_disk_is_the_reason_of_a_step(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    fill(disk)
    (step,) = explain(capture(nn.Conv2d(3, 3, 3), 8, 8), Runtime.ONNX, DType.FP32, "speed", None)
    assert "No space left" in step.reason
    assert str(disk) in step.reason
