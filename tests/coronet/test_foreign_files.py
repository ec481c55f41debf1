"""Files that say `.pth`: what is none is said to be none, and other pictures than RGB work."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from coronet_deploy.cli import main
from coronet_deploy.coronet.checkpoint import load_checkpoint
from coronet_deploy.coronet.foreign import read_tensors
from coronet_deploy.errors import BadInput
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.vocabulary import Architecture

PLACES = {"stem": 1, "down": 4, "enter": 7, "up1": 16, "up2": 19, "tail": 23}
PLACES_IN_BLOCK = {"conv1": 1, "conv2": 5}


def theirs(inputs: int = 3, outputs: int = 3) -> dict[str, Tensor]:
    """Return the tensors of a small ResNet-6 by that project's names."""
    torch.manual_seed(2)
    plan = replace(
        full_plan(Architecture.RESNET_6, width=1), input_channels=inputs, output_channels=outputs
    )
    return {named(name): tensor for name, tensor in build_generator(plan).state_dict().items()}


def named(ours: str) -> str:
    parts = ours.split(".")
    if parts[0] != "blocks":
        return f"model.{PLACES[parts[0]]}.{parts[1]}"
    return f"model.{10 + int(parts[1])}.conv_block.{PLACES_IN_BLOCK[parts[2]]}.{parts[3]}"


def saved(
    change: Callable[[Tensor], Tensor], key: str = "model.4.weight"
) -> Callable[[Path], None]:
    """Return what writes the tensors with the one of `key` changed."""

    def write(path: Path) -> None:
        tensors = theirs()
        torch.save(tensors | {key: change(tensors[key])}, path)

    return write


def quantised(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # torch will have it no longer some day
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "Git LFS": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\n"),
        "is a Git LFS pointer, not the file itself (git lfs pull)",
    ),
    "page": (lambda p: p.write_text("<!DOCTYPE html><html>404</html>"), "is not a torch file"),
    "empty": (lambda p: p.write_bytes(b""), "is not a torch file: it is empty"),
    "sparse": (saved(Tensor.to_sparse), "tensor 'model.4.weight' is sparse"),
    "meta": (saved(lambda t: t.to("meta")), "tensor 'model.4.weight' is on the meta device"),
    "quantised": (
        saved(quantised),
        "tensor 'model.4.weight' is quantised",
    ),
    "8 bits": (
        saved(lambda t: t.to(torch.float8_e4m3fn)),
        "tensor 'down.weight' is torch.float8_e4m3fn, not torch.float32",
    ),
    "one number for all": (
        saved(lambda _: torch.zeros(1, 1, 1, 1).expand(60_000, 60_000, 3, 3)),
        "tensor 'model.4.weight' has more elements than the file has numbers",
    ),
    "long and thin": (
        saved(lambda _: torch.zeros(60_000, 1, 1, 1), "model.7.weight"),
        "the network needs [60000, 2, 3, 3]",
    ),
    "too wide": (
        saved(lambda _: torch.zeros(70_000, 1, 1, 1), "model.7.weight"),
        "tensor 'enter.weight' has 70000 channels, not 1 to 65536",
    ),
    "no channel": (
        saved(lambda _: torch.zeros(0, 3, 7, 7), "model.1.weight"),
        "tensor 'stem.weight' has 0 channels",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_bad_torch_file_gets_one_line(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.pth"
    write, said = REFUSED[kind]
    write(path)
    capfd.readouterr()
    assert main(["inspect", str(path)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"coronet-deploy: error: {path}")
    assert said in err
    assert "could run code" not in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", [b"hi\n", b"hello, hello\n"])
def test_a_byte_that_no_pickle_has_is_not_all_that_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.pth"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"notes\.pth is not a whole torch file: its bytes make no"):
        read_tensors(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_cut_anywhere_is_refused(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(theirs(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for size in [*range(0, 600, 3), *range(600, len(whole), 61)]:
        path.write_bytes(whole[:size])
        with pytest.raises(BadInput, match=r"net\.pth is not a (whole )?torch file"):
            load_checkpoint(path)


def test_a_number_that_changed_on_the_way_is_found(tmp_path: Path) -> None:
    path, tensors = tmp_path / "net.pth", theirs()
    torch.save(tensors, path)
    numbers = tensors["model.7.weight"].numpy().tobytes()
    whole = path.read_bytes()
    assert whole.count(numbers) == 1
    place = whole.index(numbers) + 3
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
    with pytest.raises(BadInput, match=r"net\.pth is not a whole torch file: its net/data/\d+ is"):
        load_checkpoint(path)
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save(tensors, path)
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    assert load_checkpoint(path).id == "net"


def test_a_small_file_of_large_parts_is_not_unpacked(tmp_path: Path) -> None:
    path, packed = tmp_path / "net.pth", tmp_path / "packed.pth"
    torch.save(theirs() | {"large": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as plain:
        for name, method in ((path, zipfile.ZIP_STORED), (packed, zipfile.ZIP_DEFLATED)):
            with zipfile.ZipFile(name.with_suffix(".new"), "w", method) as archive:
                for one in plain.namelist():
                    archive.writestr(one, plain.read(one))
            name.with_suffix(".new").replace(name)
    with pytest.raises(BadInput, match=r"its parts say to be 10 times as large as it"):
        read_tensors(packed)
    assert read_tensors(path)["large"].numel() == 1 << 20


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["net.ckpt", "net.PTH", "net.pth.tar", "net"])
def test_a_torch_file_is_one_by_any_name(name: str, zipped: bool, tmp_path: Path) -> None:
    path, known = tmp_path / name, tmp_path / "known.pth"
    torch.save(theirs(), path, _use_new_zipfile_serialization=zipped)
    torch.save(theirs(), known)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        assert torch.equal(
            load_checkpoint(path).generator()(x), load_checkpoint(known).generator()(x)
        )
    torch.save([theirs()], path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match="is not a state_dict of tensors"):
        load_checkpoint(path)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (6, 3)])
def test_other_channels_than_rgb_materialize(
    inputs: int, outputs: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "net.pth", tmp_path / "dense.safetensors"
    torch.save(theirs(inputs, outputs), path)
    assert main(["materialize", str(path), "--output", str(output), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["max_abs"] == 0
    dense = load_checkpoint(output)
    x = torch.rand(1, inputs, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.equal(dense.generator()(x), load_checkpoint(path).generator()(x))
    assert main(["evaluate", str(path), "--data", str(tmp_path)]) == 2
    assert f"net.pth takes pictures of {inputs} channels" in capfd.readouterr().err


def test_a_picture_of_very_many_channels_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.pth"
    torch.save(theirs(inputs=40), path)
    assert main(["materialize", str(path), "--output", str(tmp_path / "d.safetensors")]) == 2
    assert f"{path}: 40 input channels, from 1 to 32" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "id_", "output"),
    [
        ("Latest Net_G a\\b\x1b[31m\udcff", "latest-net_g-a-b[31m", "latest-net-g-a-b-31m"),
        ("x" * 240, "x" * 200, "x" * 200),
    ],
)
def test_any_file_name_makes_an_id(
    name: str,
    id_: str,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{name}.pth"
    with path.open("wb") as file:
        torch.save(theirs(), file)
    assert load_checkpoint(path).id == id_
    assert load_checkpoint(path).header.title.isprintable()
    assert main(["materialize", os.fspath(path), "--json"]) == 0
    assert load_checkpoint(Path("out") / f"{output}-dense.safetensors").id == id_


def test_a_module_of_weights_by_another_name_is_still_code(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(build_generator(full_plan(Architecture.RESNET_6, width=4)), path)
    with pytest.raises(BadInput, match="it could run code"):
        load_checkpoint(path)
