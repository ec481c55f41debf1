"""Artifacts in their real runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.errors import BadInput, ConversionFailed
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.verify.gate import translate
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.verify.runtimes import open_session, runtime_of
from coronet_deploy.verify.stored import to_real, to_stored
from coronet_deploy.vocabulary import Runtime, TensorContract

Exported = tuple[Path, dict[str, Any]]


@pytest.mark.parametrize("runtime", list(Runtime))
def test_a_session_speaks_nhwc_real_values_whatever_the_file_does(
    runtime: Runtime, exported: Exported, checkpoint: Path, rng: np.random.Generator
) -> None:
    pictures = tuple(rng.uniform(-1, 1, (1, 32, 48, 3)).astype(np.float32) for _ in range(2))
    references = translate(load_checkpoint(checkpoint).generator(), Pictures(("a", "b"), pictures))
    path = exported[0] / f"small_32x48_fp32{runtime.suffix}"
    with open_session(path, runtime_of(path), threads=2) as session:
        assert session.input_shape == (1, 32, 48, 3)
        assert session.partitions.fully_accelerated
        for picture, reference in zip(pictures, references, strict=True):
            assert psnr_db(reference, session.run(picture)) > 100
        # What a bench does: prepare once, invoke often; the last picture's result stays.
        session.prepare(pictures[0])
        session.invoke()
        session.invoke()
        assert psnr_db(references[0], session.fetch()) > 100


@pytest.mark.parametrize("runtime", list(Runtime))
def test_another_size_is_refused(runtime: Runtime, exported: Exported) -> None:
    path = exported[0] / f"small_32x48_fp32{runtime.suffix}"
    with (
        open_session(path, runtime, threads=1) as session,
        pytest.raises(BadInput, match=r"takes pictures of shape \(1, 32, 48, 3\)"),
    ):
        session.run(np.zeros((1, 48, 32, 3), np.float32))


@pytest.mark.parametrize("runtime", list(Runtime))
@pytest.mark.parametrize("kept", [0, 40, 5000])
def test_a_broken_file_is_one_line(
    runtime: Runtime, kept: int, exported: Exported, tmp_path: Path
) -> None:
    whole = exported[0] / f"small_32x48_fp32{runtime.suffix}"
    path = tmp_path / f"broken{runtime.suffix}"
    path.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(ConversionFailed) as caught:
        open_session(path, runtime, threads=1)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        open_session(tmp_path / "none.onnx", Runtime.ONNX, threads=1)
    with pytest.raises(BadInput, match=r"does not end in \.onnx or \.tflite"):
        runtime_of(tmp_path / "model.pb")


@pytest.mark.parametrize(("dtype", "zero_point"), [("int8", -3), ("uint8", 130)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_integer_tensors_follow_their_contract(
    dtype: str, zero_point: int, layout: str, rng: np.random.Generator
) -> None:
    shape = (1, 3, 5, 7) if layout == "NCHW" else (1, 5, 7, 3)
    contract = TensorContract("x", layout, shape, dtype, scale=2 / 255, zero_point=zero_point)
    values = rng.uniform(-0.9, 0.9, (1, 5, 7, 3)).astype(np.float32)
    stored = to_stored(values, contract)
    assert stored.dtype == dtype
    assert stored.shape == shape
    assert np.abs(to_real(stored, contract) - values).max() <= 1 / 255 + 1e-6
    far = to_stored(np.full((1, 5, 7, 3), 9, np.float32), contract)
    assert (far == np.iinfo(dtype).max).all()  # clipped, not wrapped


def test_integers_are_added_whole(tmp_path: Path, rng: np.random.Generator) -> None:
    """Two products of 255 and 127 are more than 16 bits hold."""
    stored = rng.choice(np.array([0, 255]), (1, 3, 8, 8)).astype(np.int64)
    kernel = rng.choice(np.array([-127, 127]), (3, 3, 3, 3)).astype(np.int8)
    step, share = np.float32(1 / 128), np.float32(1 / 2048)
    sums = np.zeros((1, 3, 6, 6), np.int64)
    for y, x in np.ndindex(3, 3):
        window = stored[:, :, y : y + 6, x : x + 6] - 128
        sums += np.einsum("nihw,oi->nohw", window, kernel[:, :, y, x].astype(np.int64))
    expected = np.clip(np.round(sums * (step * share) / step), -128, 127) * step
    path = tmp_path / "added.onnx"
    _write_integer_convolution(path, kernel, step, share)
    picture = ((stored - 128) * step).astype(np.float32).transpose(0, 2, 3, 1)
    with open_session(path, Runtime.ONNX, threads=1) as session:
        drawn = session.run(picture).transpose(0, 3, 1, 2)
    assert np.abs(expected).max() > 0.5
    assert np.abs(drawn - expected).max() <= step * 1.01  # one rounding


def _write_integer_convolution(
    path: Path, kernel: np.ndarray[Any, Any], step: np.float32, share: np.float32
) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    zero = np.uint8(128)
    constants = {"k": kernel, "share": share, "none": np.int8(0), "step": step, "zero": zero}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "step", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["k", "share", "none"], ["kd"]),
        helper.make_node("Conv", ["xd", "kd"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "step", "zero"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "step", "zero"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, size, size])
        for name, size in (("x", 8), ("y", 6))
    ]
    held = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "added", ends[:1], ends[1:], held)
    opset = [helper.make_opsetid("", 20)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))
