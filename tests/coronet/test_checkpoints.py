"""Checkpoints: what is written is read back; what is not whole and honest is refused."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from coronet_deploy.cli import main
from coronet_deploy.coronet.checkpoint import (
    FORMAT_VERSION,
    METADATA_KEY,
    Header,
    Stage,
    load_checkpoint,
    save_checkpoint,
)
from coronet_deploy.coronet.generator import CoroNetGenerator
from coronet_deploy.coronet.hypernetwork import Form
from coronet_deploy.coronet.materialize import materialize
from coronet_deploy.errors import BadInput
from coronet_deploy.networks.generator import full_plan
from coronet_deploy.vocabulary import Architecture, Kind
from support import Cli


def header_of(generator: CoroNetGenerator, **changes: object) -> Header:
    values: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "stage": Stage.SEARCH,
        "id": "tiny",
        "title": "Tiny",
        "task": "pix2pix",
        "plan": generator.plan.as_json(),
        "total": generator.latents.total,
        "form": generator.form,
    }
    return Header.model_validate(values | changes)


@pytest.fixture
def searched() -> CoroNetGenerator:
    torch.manual_seed(1)
    plan = full_plan(Architecture.UNET_128, width=4)
    generator = CoroNetGenerator(plan, form=Form.COLLAPSED).eval()
    generator.latents.kill("down4", torch.arange(20))
    return generator


@pytest.fixture
def path(tmp_path: Path, searched: CoroNetGenerator) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, header_of(searched), searched.state_dict())
    return path


def test_a_search_checkpoint_comes_back_whole(path: Path, searched: CoroNetGenerator) -> None:
    checkpoint = load_checkpoint(path)
    assert checkpoint.kind is Kind.CORONET
    assert checkpoint.plan.groups["down4"] == 12
    assert checkpoint.full.groups["down4"] == 32
    x = torch.rand(1, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        expected = materialize(searched)(x)
        assert torch.equal(checkpoint.generator()(x), expected)
        assert float((checkpoint.network(x) - expected).abs().max()) <= 1e-4


def test_equal_checkpoints_are_equal_bytes(
    path: Path, searched: CoroNetGenerator, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "again", header_of(searched), searched.state_dict())
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_materialize_writes_the_same_generator(cli: Cli, path: Path, tmp_path: Path) -> None:
    output = tmp_path / "dense.safetensors"
    result = cli("materialize", path, "--output", output, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["max_abs"] <= 1e-4
    dense, searched = load_checkpoint(output), load_checkpoint(path)
    assert dense.kind is Kind.DENSE
    assert dense.plan == searched.plan
    x = torch.rand(1, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        assert torch.equal(dense.generator()(x), searched.generator()(x))


def test_inspect_says_what_it_is(cli: Cli, path: Path) -> None:
    result = cli("inspect", path, "--json")
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["kind"] == "coronet"
    assert said["architecture"] == "unet_128"
    assert said["plan"]["groups"]["down4"] == 12
    assert said["parameters"] < said["total_parameters"]
    assert said["macs"] < said["macs_published"]
    assert said["macs_ratio"] == pytest.approx(said["macs"] / said["total_macs"])
    table = cli("inspect", path, env=os.environ | {"COLUMNS": "80"})
    assert table.returncode == 0
    assert "down4" in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 80


WEIGHT = "network.ups.3.a"


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, (f"touch {os.environ['BOOM']}",))


Damage = Callable[[Path, CoroNetGenerator], Path]


def rewritten(
    header: Callable[[CoroNetGenerator], dict[str, object]] = lambda _: {},
    weight: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
) -> Damage:
    """Return the damage that writes other header values, or other numbers in `WEIGHT`."""

    def damage(path: Path, generator: CoroNetGenerator) -> Path:
        held = load_file(path)
        held[WEIGHT] = weight(held[WEIGHT])
        save_checkpoint(path, header_of(generator, **header(generator)), held)
        return path

    return damage


def torch_file(content: Callable[[], object], size: int | None = None) -> Damage:
    """Return the damage that gives a `.pth` file of `content`, cut after `size` bytes."""

    def damage(path: Path, _: CoroNetGenerator) -> Path:
        other = path.with_suffix(".pth")
        torch.save(content(), other)
        other.write_bytes(other.read_bytes()[:size])
        return other

    return damage


def bytes_of(change: Callable[[bytes], bytes], suffix: str = ".safetensors") -> Damage:
    """Return the damage that changes the file's bytes."""

    def damage(path: Path, _: CoroNetGenerator) -> Path:
        data = path.read_bytes()
        path.with_suffix(suffix).write_bytes(change(data))
        return path.with_suffix(suffix)

    return damage


def with_metadata(metadata: dict[str, str] | None) -> Damage:
    """Return the damage that replaces the file's metadata."""

    def damage(path: Path, _: CoroNetGenerator) -> Path:
        save_file(load_file(path), path, metadata)
        return path

    return damage


def with_header(**changes: object) -> Damage:
    """Return the damage that writes other header values, honest or not."""

    def damage(path: Path, generator: CoroNetGenerator) -> Path:
        header = header_of(generator).model_dump(mode="json") | changes
        return with_metadata({METADATA_KEY: json.dumps(header)})(path, generator)

    return damage


def with_plan(key: str, value: object, *, groups: int | None = None, **others: object) -> Damage:
    """Return the damage that writes another value of the plan, or as many `groups`' channels."""

    def damage(path: Path, generator: CoroNetGenerator) -> Path:
        plan: dict[str, object] = generator.plan.as_json() | {key: value}
        if value is None:
            del plan[key]
        if groups is not None:
            plan["groups"] = others["total"] = dict.fromkeys(generator.plan.groups, groups)
        return with_header(plan=plan, **others)(path, generator)

    return damage


def with_total(channels: int) -> Damage:
    """Return the damage that makes one group of the unpruned generator so wide."""

    def damage(path: Path, generator: CoroNetGenerator) -> Path:
        total = {**generator.latents.total, "up3": channels}
        return with_header(total=total)(path, generator)

    return damage


def as_8_bits(path: Path, _: CoroNetGenerator) -> Path:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({k: v.to(torch.float8_e4m3fn) for k, v in load_file(path).items()}, path, metadata)
    return path


def as_resnet(_: CoroNetGenerator) -> dict[str, object]:
    other = full_plan(Architecture.RESNET_9, width=4)
    return {"plan": other.as_json(), "total": other.groups}


def with_up3(generator: CoroNetGenerator) -> dict[str, object]:
    return {"plan": replace(generator.plan, groups={**generator.plan.groups, "up3": 5}).as_json()}


def nan(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.index_fill(0, torch.tensor([0]), float("nan"))


def beyond_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double().index_fill(0, torch.tensor([0]), -1e39)


PAST = {
    "act": "trained",
    "steps": 9,
    "recipe": {},
    "origin": {"file": "\x1b[31mred.pth", "sha256": 64 * "0"},
    "pictures": 4,
    "processes": 2,
    "device": "cpu",
    "tools": {},
}

DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing": (lambda path, _: path.with_name("nowhere.safetensors"), "does not exist"),
    "folder": (lambda path, _: path.parent, "is not a file"),
    "truncated": (bytes_of(lambda b: b[:-1000]), "is not a whole safetensors file"),
    "empty": (bytes_of(lambda _: b""), "is not a whole safetensors file"),
    "not ours": (with_metadata(None), "not a checkpoint of coronet-deploy"),
    "metadata": (with_metadata({METADATA_KEY: '{"colour": 3}'}), "metadata: "),
    "newer": (
        with_header(format_version=99, colour=3),
        "format_version 99 is newer than 1, the newest this version reads (upgrade coronet",
    ),
    "of no version": (with_header(format_version=0), "has format version 0"),
    "nan": (rewritten(weight=nan), "'network.ups.3.a' holds numbers that are not finite"),
    "beyond float32": (
        rewritten(weight=beyond_float32),
        "tensor 'network.ups.3.a' holds a weight that does not fit float32: -1e+39",
    ),
    "integers": (rewritten(weight=lambda tensor: tensor.int()), "is torch.int32"),
    "other architecture": (rewritten(as_resnet), "is not the generator that it says: missing"),
    "other plan": (rewritten(with_up3), "the network needs"),
    "plan above total": (
        rewritten(lambda g: {"total": {**g.latents.total, "up3": 1}}),
        "'up3' keeps 8 of 1",
    ),
    "pickle": (bytes_of(lambda _: pickle.dumps(Boom()), ".pth"), "it could run code"),
    "torch pickle": (torch_file(lambda: {"model.model.0.weight": Boom()}), "it could run code"),
    "half a torch file": (
        torch_file(lambda: {"a": torch.zeros(1000)}, size=500),
        "is not a whole torch file",
    ),
    "some other network": (
        torch_file(lambda: {"layer.weight": torch.zeros(3)}),
        "is not a ResNet or U-Net generator",
    ),
    "8 bits": (as_8_bits, "is torch.float8_e4m3fn, not torch.float32"),
    "Git LFS": (
        bytes_of(lambda _: b"version https://git-lfs.github.com/spec/v1\n"),
        "is a Git LFS pointer, not the file itself (git lfs pull)",
    ),
    "id elsewhere": (with_header(id="../../x"), "metadata: id: "),
    "absolute id": (with_header(id="/elsewhere/x"), "metadata: id: "),
    "id of NUL": (with_header(id="a\0b"), "metadata: id: "),
    "no id": (with_header(id=""), "metadata: id: "),
    "long id": (with_header(id="a" * 5000), "metadata: id: "),
    "no channel kept": (with_header(min_channels=-1), "metadata: min_channels: "),
    "negative embedding": (with_header(embedding=-3), "metadata: embedding: "),
    "huge embedding": (with_header(embedding=10**9), "metadata: embedding: "),
    "threshold": (with_header(threshold=float("nan")), "metadata: threshold: "),
    "huge threshold": (with_header(threshold=1e300), "metadata: threshold: "),
    "negative total": (with_total(-1), "metadata: total.up3: "),
    "huge total": (with_total(10**7), "metadata: total.up3: "),
    "huge plan": (
        with_plan("groups", {}, groups=10**7, total={}),
        "metadata: total.down1: ",
    ),
    "wide plan": (with_plan("groups", {}, groups=60_000), "the network needs [60000]"),
    "wide dense plan": (
        with_plan("groups", {}, groups=60_000, stage="dense"),
        "is not the generator that it says",
    ),
    "past of another kind": (with_header(history=[{"act": "bought"}]), "metadata: history.0.act: "),
    "past without a checksum": (
        with_header(history=[PAST | {"origin": {"file": "a.pth", "sha256": "none"}}]),
        "metadata: history.0.origin.sha256: ",
    ),
    "past that is no number": (
        with_header(history=[PAST | {"recipe": {"seed": float("nan")}}]),
        "metadata: history.0.recipe",
    ),
    "long past": (with_header(history=[PAST] * 65), "metadata: history: "),
    "no norm": (with_plan("norm", None), "channel plan: key 'norm' is missing"),
    "no such architecture": (with_plan("architecture", "vgg"), "'vgg' is not a valid"),
    "no such group": (with_plan("groups", {"a.b": 3}), "left over ['a.b']"),
    "no input": (with_plan("input_channels", 0), "input has 0 channels"),
    "huge input": (with_plan("input_channels", 10**9), "channels, at most 65536"),
    "a list": (torch_file(lambda: [torch.zeros(3)]), "is not a state_dict"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_bad_checkpoint_gets_one_line(
    kind: str,
    path: Path,
    searched: CoroNetGenerator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOOM", str(tmp_path / "boom"))
    damage, said = DAMAGES[kind]
    bad = damage(path, searched)
    with pytest.raises(BadInput) as caught:
        load_checkpoint(bad)
    assert said in str(caught.value)
    assert str(bad) in str(caught.value)
    assert str(caught.value).startswith(str(bad)) or kind in {"missing", "folder"}
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "truncated",
        "nan",
        "beyond float32",
        "other architecture",
        "other plan",
        "torch pickle",
    ],
)
@pytest.mark.parametrize("command", ["inspect", "materialize", "export"])
def test_a_bad_checkpoint_is_refused_by_the_command(
    command: str,
    kind: str,
    path: Path,
    searched: CoroNetGenerator,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOOM", str(tmp_path / "boom"))
    damage, said = DAMAGES[kind]
    bad = damage(path, searched)
    before = sorted(tmp_path.iterdir())
    result = cli(command, bad, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("coronet-deploy: error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("output", ["dense.pth", "dense", "dense.safetensors.txt"])
def test_materialize_writes_what_it_says(
    output: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(["materialize", str(path), "--output", str(tmp_path / output)]) == 2
    assert f"{output} does not end in .safetensors" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("linked", [False, True])
def test_materialize_does_not_replace_what_it_reads(
    linked: bool, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held, output = path.read_bytes(), path
    if linked:
        output = tmp_path / "other.safetensors"
        output.symlink_to(path)
    assert main(["materialize", str(path), "--output", str(output)]) == 2
    assert f"--output {output} is a file that is read" in capsys.readouterr().err
    assert path.read_bytes() == held


def test_a_title_commands_no_terminal(
    path: Path, searched: CoroNetGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    title = "\x1b[31mRed\x1b]0;title\x07 und grün\u202e\n"
    with_header(title=title)(path, searched)
    assert load_checkpoint(path).header.title == "[31mRed ]0;title und grün"
    assert main(["inspect", str(path)]) == 0
    assert "[31mRed ]0;title und grün" in (said := capsys.readouterr().out)
    assert not set(said) & set("\x1b\x07\u202e")


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({}, "9 steps, 4 pictures, cpu, 2 processes"),
        (
            {"search": {"steps": 3}, "machine": {"precision": "bf16"}},
            "9 steps, 3 of search, 4 pictures, bf16 on cpu, 2 processes",
        ),
        ({"search": 3, "machine": ["bf16"]}, "9 steps, 4 pictures, cpu, 2 processes"),
        ({"search": {"steps": "x"}, "machine": {"precision": [1]}}, "9 steps, 4 pictures, cpu,"),
    ],
)
def test_a_past_of_any_recipe_is_told(
    recipe: dict[str, object],
    told: str,
    path: Path,
    searched: CoroNetGenerator,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_header(history=[PAST | {"recipe": recipe}])(path, searched)
    assert main(["inspect", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"trained from \ufffd[31mred.pth (000000000000): {told}" in said
    assert "\x1b" not in said


def test_materialize_into_an_unwritable_place_leaves_nothing(
    cli: Cli, path: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    result = cli("materialize", path, "--output", tmp_path / "file" / "dense.safetensors")
    assert result.returncode == 3
    assert "cannot write" in result.stderr
    assert result.stderr.count("\n") == 1
