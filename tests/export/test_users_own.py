"""Generators of the user's own: found by name, read strictly, exported like any other."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from coronet_deploy.errors import BadInput, ConversionFailed
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.manifest import read_manifest
from coronet_deploy.export.own import is_own, load_own
from coronet_deploy.storage import sha256_of
from coronet_deploy.verify.channels import to_show, with_channels
from coronet_deploy.verify.gate import translate
from coronet_deploy.verify.layers import compare_layers
from coronet_deploy.verify.release import Order, release
from coronet_deploy.vocabulary import DType, Kind, Runtime
from lowering import smooth_picture
from support import Cli

_CODE = """
import torch
from torch import nn

print("a line that their code prints")


class Sketch(nn.Module):
    def __init__(self, channels=3, width=6):
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 3, 2, 1)
        self.norm = nn.InstanceNorm2d(width)
        self.leave = nn.ConvTranspose2d(width, channels, 4, 2, 1)

    def forward(self, x):
        return torch.sigmoid(self.leave(torch.relu(self.norm(self.enter(x)))))


class Softened(Sketch):
    def __init__(self):
        super().__init__()
        self.soft = nn.Softmax(1)

    def forward(self, x):
        return self.soft(super().forward(x))


def seeded():
    torch.manual_seed(3)
    return Sketch()


def grey():
    torch.manual_seed(3)
    return Sketch(channels=1)


def spoilt():
    sketch = seeded()
    sketch.enter.weight.data[0] = float("nan")
    return sketch


class Noting(Sketch):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.only = nn.LazyConv2d(3, 3, padding=1)

    def forward(self, x):
        return self.only(x)


class Tuple(Sketch):
    def forward(self, x):
        return (super().forward(x),)


class Dict(Sketch):
    def forward(self, x):
        print("a line that their forward prints")
        return {"y": super().forward(x)}


class Late(Sketch):
    def forward(self, x):
        from sketch_parts import twice

        return super().forward(twice(x))


class Branching(Sketch):
    def forward(self, x):
        return super().forward(x) if x.mean() > 0 else x * 2


class Overflowing(Sketch):
    def forward(self, x):
        return super().forward(x) * 3e38 * 3e38


def broken():
    raise RuntimeError("no\\nweights here")


def leaving():
    raise SystemExit(0)


made = seeded()
number = 7
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a current folder that holds the user's code."""
    (tmp_path / "sketches.py").write_text(_CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("sketches", None)
    sys.modules.pop("sketch_parts", None)


def _pictures(height: int, width: int) -> Pictures:
    return Pictures(("a", "b"), tuple(smooth_picture(height, width, seed=i) for i in (1, 2)))


@pytest.mark.parametrize("name", ["sketches:seeded", "sketches:Sketch", "sketches:made"])
def test_a_function_a_class_and_a_module_all_give_one(theirs: Path, name: str) -> None:
    subject = load_own(name)
    assert subject.model == name.partition(":")[2].lower()
    assert subject.source.kind is Kind.MODULE
    assert subject.source.module == name
    assert not subject.generator.training
    assert str(theirs) not in sys.path


def test_weights_are_read_strictly_from_either_kind_of_file(theirs: Path) -> None:
    wanted = {
        k: v.clone() * 2 for k, v in load_own("sketches:seeded").generator.state_dict().items()
    }
    save_file(wanted, theirs / "doubled.safetensors")
    torch.save({f"module.{k}": v for k, v in wanted.items()}, theirs / "doubled.pt")
    for path in (theirs / "doubled.safetensors", theirs / "doubled.pt"):
        subject = load_own("sketches:Sketch", path)
        assert subject.model == "doubled"
        assert subject.source.sha256 == sha256_of(path)
        loaded = subject.generator.state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in wanted.items())


def test_without_a_file_the_hash_is_of_the_weights(theirs: Path) -> None:
    del theirs
    one, again, other = (load_own(f"sketches:{n}") for n in ("seeded", "made", "grey"))
    assert one.source.sha256 == again.source.sha256 != other.source.sha256


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nosuch:thing", "No module named 'nosuch'"),
        ("sketches:nothing", "sketches has no 'nothing'"),
        ("sketches:Sketch.none", "sketches.Sketch has no 'none'"),
        ("sketches:number", "gives a int, not a torch.nn.Module"),
        ("sketches:torch", "gives a module, not a torch.nn.Module"),
        ("sketches:broken", "RuntimeError: no weights here"),
        ("sketches:leaving", "SystemExit"),
        ("sketches:spoilt", "'enter.weight' holds numbers that are not finite"),
        ("sketches:Noting", "'_extra_state', a dict and not a tensor"),
        ("sketches:Lazy", "'only.weight' has no shape yet"),
        ("sketches", "names no generator"),
    ],
)
def test_what_gives_no_generator_is_one_line(theirs: Path, name: str, words: str) -> None:
    del theirs
    with pytest.raises(BadInput) as caught:
        load_own(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code in a file of weights ran",)


def test_weights_that_do_not_fit_are_refused(
    theirs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = load_own("sketches:seeded").generator.state_dict()
    bad = {
        "missing": ({k: v for k, v in state.items() if k != "leave.bias"}, "missing leave.bias"),
        "extra": (state | {"more": torch.zeros(1)}, "left over more"),
        "shape": (state | {"enter.bias": torch.zeros(7)}, "'enter.bias' is [7]"),
        "nan": (state | {"enter.bias": torch.full((6,), torch.nan)}, "not finite"),
    }
    for name, (tensors, words) in bad.items():
        path = theirs / f"{name}.safetensors"
        save_file(dict(tensors), path)
        with pytest.raises(BadInput) as caught:
            load_own("sketches:seeded", path)
        assert words in str(caught.value)
        assert str(path) in str(caught.value)
        assert ("does not fit sketches:seeded" in str(caught.value)) is (
            name in {"missing", "extra"}
        )
    (theirs / "cut.safetensors").write_bytes((theirs / "nan.safetensors").read_bytes()[:200])
    (theirs / "code.pt").write_bytes(pickle.dumps(_Code(), protocol=2))
    for name in ("cut.safetensors", "code.pt", "none.pt"):
        with pytest.raises(BadInput, match=name):
            load_own("sketches:seeded", theirs / name)
    assert "code in a file of weights ran" not in capfd.readouterr().out


def test_a_file_is_a_checkpoint_whatever_its_name(theirs: Path) -> None:
    assert is_own("sketches:seeded")
    (theirs / "sketches:seeded").write_bytes(b"")
    assert not is_own("sketches:seeded")
    assert not is_own("folder/model.safetensors")


@pytest.mark.parametrize(("name", "channels"), [("grey", 1), ("seeded", 3)])
def test_artifacts_of_any_channels_draw_what_torch_draws(
    theirs: Path, name: str, channels: int
) -> None:
    subject = load_own(f"sketches:{name}", channels=channels)
    order = Order(
        subject,
        theirs / "out",
        _pictures(32, 48),
        _pictures(32, 48),
        dtypes=(DType.FP32, DType.FP16, DType.INT8),
    )
    artifacts = release(order)
    assert len(artifacts) == 6
    for artifact in artifacts:
        manifest = read_manifest(artifact.path.with_name(f"{artifact.path.name}.json"))
        assert manifest.source.module == f"sketches:{name}"
        assert manifest.source.plan is None
        assert manifest.input.colours == {1: "grey", 3: "RGB"}[channels]
        assert (manifest.input.mean, manifest.input.std) == (127.5, 127.5)
        assert manifest.output.value_range == (0.0, 1.0)
        assert manifest.output.pixel == "real * 255"
        # (24 x 16 pixels of a 3x3 and a 4x4 kernel, to and from 6 channels)
        assert manifest.macs.real == 24 * 16 * 6 * channels * (9 + 16)
        assert manifest.macs.published == 24 * 16 * 6 * channels * (9 + 4 * 16)
        assert manifest.size == (32, 48)
        assert manifest.partitions is not None
        if manifest.dtype is not DType.INT8:
            assert manifest.partitions.parts == 1


@pytest.mark.parametrize("name", ["Tuple", "Dict"])
def test_one_picture_alone_in_a_tuple_or_a_dict_is_taken(
    theirs: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    subject = load_own(f"sketches:{name}")
    order = Order(subject, theirs / "out", _pictures(16, 16), _pictures(16, 16), [Runtime.ONNX])
    (artifact,) = release(order)
    manifest = read_manifest(artifact.path.with_name(f"{artifact.path.name}.json"))
    compare_layers(artifact.path, manifest, subject, order.pictures.values[0])
    assert artifact.parity.passed
    told = capfd.readouterr()
    assert told.out == ""
    assert ("their forward prints" in told.err) is (name == "Dict")


def test_what_a_forward_imports_late_is_found(theirs: Path) -> None:
    (theirs / "sketch_parts.py").write_text("def twice(x):\n    return x * 2\n")
    subject = load_own("sketches:Late")
    pictures = _pictures(16, 16)
    sys.modules.pop("sketch_parts", None)
    assert translate(subject.generator, pictures)[0].shape == (1, 16, 16, 3)
    sys.modules.pop("sketch_parts", None)
    assert capture(subject.generator, 16, 16).count()["mul"] == 1
    assert str(theirs) not in sys.path


def test_the_name_of_a_file_says_what_rewrites_were_left_out(theirs: Path) -> None:
    order = Order(load_own("sketches:seeded"), theirs, _pictures(16, 16), _pictures(16, 16))
    plain = {order.name_of(r, d) for r in Runtime for d in DType}
    small = replace(order, prefer="size")
    for runtime in Runtime:
        for dtype in DType:
            rewritten = dtype in {DType.FP32, DType.FP16}
            assert (small.name_of(runtime, dtype) not in plain) is rewritten
    assert small.name_of(Runtime.ONNX, DType.FP32) == "seeded_16x16_fp32_prefer-size.onnx"


def test_two_pictures_are_not_one() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x, x

    with pytest.raises(BadInput, match="Two gives a tuple, not one picture"):
        translate(Two(), _pictures(16, 16))


def test_torchs_dump_of_a_branch_is_kept_off_stderr(
    theirs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    del theirs
    subject = load_own("sketches:Branching")
    capfd.readouterr()
    with pytest.raises(ConversionFailed, match="data-dependent"):
        capture(subject.generator, 16, 16)
    assert "def forward" not in capfd.readouterr().err


def test_channels_out_of_bounds_name_the_flag(theirs: Path) -> None:
    del theirs
    with pytest.raises(BadInput, match="--channels 0: from 1 to 32"):
        load_own("sketches:seeded", channels=0)


def test_torch_that_overflows_is_said_before_anything_is_made(theirs: Path) -> None:
    subject = load_own("sketches:Overflowing")
    order = Order(subject, theirs / "out", _pictures(16, 16), _pictures(16, 16))
    with pytest.raises(BadInput, match="torch itself gives"):
        release(order)
    assert not (theirs / "out").exists()


def test_the_command_takes_a_name_and_several_sizes(cli: Cli, theirs: Path) -> None:
    save_file(load_own("sketches:seeded").generator.state_dict(), theirs / "mine.safetensors")
    given = ("--weights", "mine.safetensors", "--output", "out")
    done = cli("export", "sketches:Sketch", *given, "--size", "32x48,16x16", "--json", cwd=theirs)
    assert done.returncode == 0, done.stderr
    # What their code prints is not in the way of the JSON.
    rows = json.loads(done.stdout)["artifacts"]
    assert [Path(row["path"]).name for row in rows] == [
        f"mine_{size}_fp32.{runtime}"
        for size in ("32x48", "16x16")
        for runtime in ("onnx", "tflite")
    ]
    path = rows[0]["path"]
    flags = ("--checkpoint", "sketches:Sketch", "--weights", "mine.safetensors")
    done = cli("verify", path, *flags, "--layers", "--json", cwd=theirs)
    assert done.returncode == 0, done.stderr
    layers = json.loads(done.stdout)["artifacts"][0]["layers"]
    assert {"enter", "norm", "leave"} < {layer["layer"] for layer in layers["layers"]}
    assert layers["first_wrong"] is None
    done = cli("verify", path, "--checkpoint", "sketches:grey", "--channels", 1, cwd=theirs)
    assert done.returncode == 2
    assert "sketches:Sketch with weights" in done.stderr


def test_an_operator_that_is_not_supported_ends_the_command_in_one_line(
    cli: Cli, theirs: Path
) -> None:
    done = cli("export", "sketches:Softened", "--size", "16x16", "--output", "out", cwd=theirs)
    assert done.returncode == 4
    last = done.stderr.splitlines()[-1]
    for word in ("softmax", "'soft'", "supported: ", "instance_norm"):
        assert word in last
    assert "Traceback" not in done.stderr
    assert not (theirs / "out").exists()
    done = cli("export", "--weights", "mine.safetensors", cwd=theirs)
    assert done.returncode == 2
    assert "--weights goes with a generator of your own" in done.stderr


class _AnySize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, : int(x.abs().sum().item()) % 3 + 1]


def test_a_shape_that_depends_on_the_picture_is_refused() -> None:
    with pytest.raises(ConversionFailed, match="cannot be captured at 16x16"):
        capture(_AnySize(), 16, 16)


def test_pictures_get_the_channels_a_network_takes() -> None:
    given = _pictures(8, 12)
    assert with_channels(given, 3) is given
    (grey, *_) = with_channels(given, 1).values
    assert grey.shape == (1, 8, 12, 1)
    assert np.allclose(grey[..., 0], given.values[0] @ [0.299, 0.587, 0.114], atol=1e-6)
    (many, *_) = with_channels(given, 7).values
    assert many.shape == (1, 8, 12, 7)
    assert np.array_equal(many[..., :3], given.values[0])
    planes = [many[..., i] for i in range(7)]
    assert not any(np.array_equal(a, b) for i, a in enumerate(planes) for b in planes[:i])
    assert to_show(many, 4, 24).shape == (1, 4, 24, 3)
    assert np.array_equal(to_show(grey, 8, 12)[..., 2], grey[..., 0])
