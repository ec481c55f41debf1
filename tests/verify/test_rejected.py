"""What the gate rejects: kept for a look, and never taken for what stood there before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from coronet_deploy.errors import GateFailed
from coronet_deploy.export.build import Built, build
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.manifest import Source
from coronet_deploy.export.subject import Subject
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.verify import release as room
from coronet_deploy.verify.release import Order, release
from coronet_deploy.vocabulary import Architecture, DType, Kind, Runtime
from lowering import smooth_picture, trained

_NAME = "small_32x32_fp32.onnx"


@pytest.fixture
def order(tmp_path: Path) -> Order:
    torch.manual_seed(0)
    plan = full_plan(Architecture.RESNET_6, width=2)
    source = Source(sha256="0" * 64, kind=Kind.DENSE)
    subject = Subject("small", source, trained(build_generator(plan)), 3, plan)
    given = Pictures(("a",), (smooth_picture(32, 32),))
    return Order(subject, tmp_path, given, given, runtimes=(Runtime.ONNX,))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_older_artifact_of_that_name_stays_and_is_told(order: Order) -> None:
    hard = replace(order, bounds_db={DType.FP32: 190.0})
    with pytest.raises(GateFailed, match=r"kept as [^;]*$"):
        release(hard)
    release(order)
    before = _contents(order.output_dir)
    assert set(before) == {_NAME, f"{_NAME}.json", f"{_NAME}.png"}
    with pytest.raises(GateFailed) as caught:
        release(hard)
    rejected = order.output_dir / f"{_NAME}.rejected"
    told = f"(kept as {rejected}; {order.output_dir / _NAME} is of an earlier export)"
    assert str(caught.value).endswith(told)
    after = _contents(order.output_dir)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {rejected.name, f"{rejected.name}.png"}


def test_what_draws_no_numbers_is_kept_without_the_grid_of_another(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GateFailed, match="PSNR"):
        release(replace(order, bounds_db={DType.FP32: 190.0}))
    rejected = order.output_dir / f"{_NAME}.rejected"
    assert set(_contents(order.output_dir)) == {rejected.name, f"{rejected.name}.png"}

    def spoilt(*arguments: object, **options: object) -> Built:
        built = build(*arguments, **options)  # type: ignore[arg-type] # they are build's own
        model = onnx.load_from_string(built.data)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32:
                tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.nan, tensor.name))
        return replace(built, data=model.SerializeToString())

    monkeypatch.setattr(room, "build", spoilt)
    with pytest.raises(GateFailed, match="not finite") as caught:
        release(order)
    assert f"kept as {rejected}" in str(caught.value)
    assert set(_contents(order.output_dir)) == {rejected.name}


def test_artifacts_of_other_weights_are_named_before_they_are_replaced(order: Order) -> None:
    told: list[str] = []
    release(order, told.append)
    release(order, told.append)
    assert not [line for line in told if "replaced" in line]
    other = replace(order.subject, source=Source(sha256="1" * 64, kind=Kind.DENSE))
    release(replace(order, subject=other), told.append)
    (line,) = (line for line in told if "replaced" in line)
    assert line == f"made of other weights, and replaced in {order.output_dir}: {_NAME}"
    assert told.index(line) < max(i for i, one in enumerate(told) if one == f"{_NAME}: building")
    (order.output_dir / f"{_NAME}.json").write_text("{}")
    release(order, told.append)
    assert len([line for line in told if "replaced" in line]) == 1
