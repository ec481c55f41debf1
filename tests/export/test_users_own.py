"""Generators of the user's own: found by name, read strictly."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from coronet_deploy.errors import BadInput, ConversionFailed
from coronet_deploy.export.calibrate import Pictures
from coronet_deploy.export.capture import capture
from coronet_deploy.export.own import is_own, load_own
from coronet_deploy.storage import sha256_of
from coronet_deploy.verify.gate import translate
from coronet_deploy.vocabulary import Kind
from lowering import smooth_picture


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
    paths = [theirs / "doubled.safetensors"]
    for prefix in ("module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."):
        paths.append(theirs / f"{prefix}doubled.pt")
        torch.save({f"{prefix}{k}": v for k, v in wanted.items()}, paths[-1])
    for path in paths:
        subject = load_own("sketches:Sketch", path)
        assert subject.model.endswith("doubled")
        assert subject.source.sha256 == sha256_of(path)
        loaded = subject.generator.state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in wanted.items())


@pytest.mark.parametrize(
    "name", [f"sketches:{name}" for name in ("Averaged", "Scaled", "parallel", "Compiled")]
)
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_network_of_their_own_may_be_called_module(theirs: Path, name: str, ending: str) -> None:
    wanted = {
        k: v if k == "n_averaged" else v.clone() * 2
        for k, v in load_own(name).generator.state_dict().items()
    }
    assert any(key.startswith(("module.", "scaled._orig_mod.")) for key in wanted)
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        path = theirs / f"{prefix}own{ending}"
        tensors = {f"{prefix}{k}": v for k, v in wanted.items()}
        save_file(tensors, path) if ending == ".safetensors" else torch.save(tensors, path)
        loaded = load_own(name, path).generator.state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in wanted.items())


def test_weights_among_other_things_are_refused_with_the_way_out(theirs: Path) -> None:
    state = load_own("sketches:seeded").generator.state_dict()
    torch.save({"epoch": 3, "state_dict": state}, theirs / "training.pt")
    (theirs / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    for name, words in (
        ("training.pt", "not a state_dict of tensors (save the generator's state_dict() alone)"),
        ("pointer.safetensors", "is a Git LFS pointer, not the file itself (git lfs pull)"),
    ):
        with pytest.raises(BadInput) as caught:
            load_own("sketches:seeded", theirs / name)
        assert words in str(caught.value)


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
        ("sketches.py:seeded", "is a file's name, and no module's (write sketches:seeded)"),
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


def test_a_network_of_other_channels_is_told_the_flag() -> None:
    with pytest.raises(ConversionFailed, match=r"3 channels \(--channels\)"):
        capture(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh()), 16, 16)


class _AnySize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, : int(x.abs().sum().item()) % 3 + 1]


def test_a_shape_that_depends_on_the_picture_is_refused() -> None:
    with pytest.raises(ConversionFailed, match="cannot be captured at 16x16"):
        capture(_AnySize(), 16, 16)
