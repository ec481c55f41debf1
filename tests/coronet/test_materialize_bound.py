"""The check of materializing: a dense generator that draws another picture is not written."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coronet_deploy.cli import main
from coronet_deploy.coronet import checkpoint as checkpoints
from coronet_deploy.coronet.checkpoint import (
    FORMAT_VERSION,
    Checkpoint,
    Header,
    Stage,
    load_checkpoint,
    save_checkpoint,
    save_dense,
)
from coronet_deploy.coronet.generator import CoroNetGenerator
from coronet_deploy.coronet.materialize import materialize
from coronet_deploy.errors import GateFailed
from coronet_deploy.images import Array
from coronet_deploy.networks.generator import full_plan
from coronet_deploy.vocabulary import Architecture


@pytest.fixture
def searched(tmp_path: Path) -> Checkpoint:
    """Return a checkpoint in the middle of a search, some channels dead."""
    torch.manual_seed(1)
    generator = CoroNetGenerator(full_plan(Architecture.UNET_128, width=4)).eval()
    generator.latents.kill("down4", torch.arange(20))
    header = Header(
        format_version=FORMAT_VERSION,
        stage=Stage.SEARCH,
        id="tiny",
        title="Tiny",
        task="pix2pix",
        plan=generator.plan.as_json(),
        total=generator.latents.total,
        form=generator.form,
    )
    save_checkpoint(tmp_path / "tiny.safetensors", header, generator.state_dict())
    return load_checkpoint(tmp_path / "tiny.safetensors")


def pictures() -> list[Array]:
    rng = np.random.default_rng(2)
    return [rng.uniform(-1, 1, (128, 128, 3)).astype(np.float32) for _ in range(2)]


def spoil(network: nn.Module, by: float) -> None:
    """Let a network draw one number of the second picture wrong."""
    calls = count()

    def wrong(_: nn.Module, __: tuple[Tensor], drawn: Tensor) -> Tensor:
        drawn[0, 1, 5, 7] += by * (next(calls) == 1)
        return drawn

    network.register_forward_hook(wrong)


def test_more_than_the_bound_in_one_number_of_one_picture_is_refused(
    searched: Checkpoint, tmp_path: Path
) -> None:
    output = tmp_path / "dense.safetensors"
    spoil(searched.network, 1.1e-4)
    with pytest.raises(GateFailed, match="the bound is 1e-04") as failed:
        save_dense(searched, output, pictures())
    assert str(failed.value) == (
        f"{output}: max |difference| to the checkpoint's generator is 1.10e-04, the bound is 1e-04"
    )
    assert not output.exists()


def test_what_is_no_number_is_refused(searched: Checkpoint, tmp_path: Path) -> None:
    output = tmp_path / "dense.safetensors"
    spoil(searched.network, float("nan"))
    with pytest.raises(GateFailed, match="generator is nan, the bound is 1e-04"):
        save_dense(searched, output, [*pictures(), *pictures()])
    assert not output.exists()


def test_less_than_the_bound_is_written_and_told(searched: Checkpoint, tmp_path: Path) -> None:
    output = tmp_path / "dense.safetensors"
    spoil(searched.network, 0.9e-4)
    assert save_dense(searched, output, pictures()) == pytest.approx(0.9e-4, rel=0.02)
    assert load_checkpoint(output).plan == searched.plan


def test_a_channel_in_the_wrong_place_fails_the_command(
    searched: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As if the dense generator's channels were not those that the search kept."""

    def swapped(generator: CoroNetGenerator) -> nn.Module:
        dense = materialize(generator)
        weight = dense.get_parameter("downs.3.weight")
        with torch.no_grad():
            weight[:2] = weight[:2].flip(0)
        return dense

    monkeypatch.setattr(checkpoints, "materialize", swapped)
    output = tmp_path / "dense.safetensors"
    assert main(["materialize", str(searched.path), "--output", str(output)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(
        f"coronet-deploy: error: {output}: max |difference| to the checkpoint's generator is "
    )
    assert "the bound is 1e-04" in said.err
    assert not output.exists()
    monkeypatch.undo()
    assert main(["materialize", str(searched.path), "--output", str(output)]) == 0


def test_a_place_that_cannot_be_written_is_told_before_the_checkpoint_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no checkpoint")
    (tmp_path / "file").touch()
    for output, status, said in (
        (tmp_path / "file" / "dense.safetensors", 3, "cannot write {}: Not a directory"),
        (tmp_path / "folder.safetensors", 2, "--output {} is a folder"),
    ):
        (tmp_path / "folder.safetensors").mkdir(exist_ok=True)
        assert main(["materialize", str(broken), "--output", str(output)]) == status
        assert said.format(output) in capsys.readouterr().err


def test_another_generator_of_the_same_name_is_not_replaced_in_silence(
    searched: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    output = Path("out") / "tiny-dense.safetensors"
    for _ in range(2):
        assert main(["materialize", str(searched.path)]) == 0
        assert capsys.readouterr().err == ""
    tensors = searched.network.state_dict()
    changed = {name: one + name.endswith("bias") for name, one in tensors.items()}
    save_checkpoint(tmp_path / "other.safetensors", searched.header, changed)
    assert main(["materialize", "other.safetensors"]) == 0
    assert capsys.readouterr().err == f"replaced {output}, which held another generator\n"


def test_a_checkpoint_that_has_the_name_by_default_is_not_replaced(
    searched: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    output = Path("out") / "tiny-dense.safetensors"
    output.parent.mkdir()
    data = searched.path.read_bytes()
    output.write_bytes(data)
    assert main(["materialize", str(output)]) == 2
    assert f"{output} is a file that is read, and would be lost" in capsys.readouterr().err
    assert output.read_bytes() == data


def test_the_place_by_default_is_tried_too(
    searched: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").touch()
    assert main(["materialize", str(searched.path)]) == 3
    said = capsys.readouterr().err
    assert f"cannot write {Path('out') / 'tiny-dense.safetensors'}: Not a directory" in said
