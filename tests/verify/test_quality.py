"""A generator judged by true pictures: figures, layouts of data, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from coronet_deploy.errors import BadInput, GateFailed
from coronet_deploy.images import Array, Pixels, from_pixels, to_pixels
from coronet_deploy.verify import distances
from coronet_deploy.verify.distances import (
    SUBSETS,
    Features,
    frechet_distance,
    halves,
    kernel_distance,
)
from coronet_deploy.verify.examples import find_examples
from coronet_deploy.verify.features import SqueezeNet, read_squeezenet
from coronet_deploy.verify.quality import judge
from quality_data import (
    squeezenet_tensors,
    write_pairs,
    write_picture,
    write_squeezenet,
)

SIZE = (32, 48)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> SqueezeNet:
    given = os.environ.get("CORONET_TEST_FEATURES")
    made = tmp_path_factory.mktemp("features") / "squeezenet.safetensors"
    return read_squeezenet(Path(given) if given else write_squeezenet(made))


def _identity(picture: Array) -> Array:
    return picture


def _dim(picture: Array) -> Array:
    return picture / np.float32(10) - np.float32(0.9)


def test_the_direction_says_which_half_is_the_input(tmp_path: Path) -> None:
    sheet = np.zeros((32, 96, 3), np.uint8)
    sheet[:, 48:] = 200
    for name in ("a.png", "b.png"):
        Image.fromarray(sheet).save(tmp_path / name)
    for direction, left in (("AtoB", 0), ("BtoA", 200)):
        pairs = list(find_examples(tmp_path, direction).read_pairs(*SIZE))
        given, truth = pairs[0]
        assert len(pairs) == 2
        assert (given.max(), truth.max()) == (left, 200 - left)
        assert given.shape == truth.shape == (*SIZE, 3)


def test_pictures_of_another_size_cannot_be_judged(tmp_path: Path) -> None:
    def doubled(picture: Array) -> Array:
        return picture.repeat(2, axis=1).repeat(2, axis=2)

    examples = find_examples(write_pairs(tmp_path, 2), "AtoB")
    with pytest.raises(BadInput, match=r"a\.onnx makes pictures of shape \(64, 96, 3\)"):
        judge("a.onnx", doubled, SIZE, examples)


@pytest.mark.parametrize("where", ["pairs", "targets"])
def test_a_broken_picture_is_found_before_the_first_is_drawn(
    where: str, tmp_path: Path, network: SqueezeNet
) -> None:
    if where == "pairs":
        last = write_pairs(tmp_path, 3) / "02.png"
    else:
        for i in range(6):
            name = "inputs" if i < 3 else "targets"
            write_picture(tmp_path / name / f"{i:02}.png", i, *SIZE)
        last = tmp_path / "targets" / "05.png"
    last.write_bytes(last.read_bytes()[:300])
    drawn: list[Array] = []

    def draw(picture: Array) -> Array:
        drawn.append(picture)
        return picture

    with pytest.raises(BadInput, match=f"{last} is not a readable picture"):
        judge("x", draw, SIZE, find_examples(tmp_path, "AtoB"), [network])
    assert not drawn


def test_figures_of_a_generator_that_is_off_by_a_constant(tmp_path: Path) -> None:
    # Input black, truth at 0.1 (and 0.3) above: the identity is off by just that.
    for name, level in (("a.png", 26), ("b.png", 77)):
        sheet = np.zeros((32, 96, 3), np.uint8)
        sheet[:, 48:] = level
        Image.fromarray(sheet).save(tmp_path / name)
    quality = judge("x", _identity, SIZE, find_examples(tmp_path, "AtoB"))
    likeness = quality.likeness
    assert likeness is not None
    errors = np.array([26, 77]) / 127.5
    assert likeness.pairs == 2
    assert likeness.l1.mean == pytest.approx(errors.mean(), rel=1e-5)
    assert likeness.l1.worst == pytest.approx(errors.max(), rel=1e-5)
    psnr = 10 * np.log10(4 / errors**2)
    assert likeness.psnr_db.mean == pytest.approx(psnr.mean(), abs=1e-4)
    assert likeness.psnr_db.worst == pytest.approx(psnr.min(), abs=1e-4)
    assert likeness.ssim.worst < likeness.ssim.mean < 0.1


def test_distances_tell_true_pictures_from_others(tmp_path: Path, network: SqueezeNet) -> None:
    examples = find_examples(write_pairs(tmp_path, 8), "AtoB")
    truths = iter([truth for _, truth in examples.read_pairs(*SIZE)])

    def perfect(_: Array) -> Array:
        return from_pixels(next(truths))[None]

    same = judge("x", perfect, SIZE, examples, [network])
    dim = judge("x", _dim, SIZE, examples, [network])
    assert same.likeness is not None
    assert same.likeness.l1.worst == 0
    (near,), (far,) = same.distances, dim.distances
    assert near.names == ("SqueezeNet-FD", "SqueezeNet-KID")
    assert near.frechet < 1e-6 < far.frechet
    # A set against itself: the unbiased estimate is below nought.
    assert near.kernel.value < 0 < far.kernel.value
    assert not near.frechet_reliable
    assert near.frechet_floor is not None
    assert near.kernel.subset_size == 4
    assert far.kernel_floor is not None
    assert far.kernel.value > 10 * abs(far.kernel_floor)
    again = judge("x", _dim, SIZE, examples, [network])
    assert (again.likeness, again.distances) == (dim.likeness, dim.distances)


def test_distances_are_those_that_stand_alone(tmp_path: Path, network: SqueezeNet) -> None:
    examples = find_examples(write_pairs(tmp_path, 8), "AtoB")
    said: list[str] = []
    (found,) = judge("x", _dim, SIZE, examples, [network], told=said.append).distances
    given, true, generated = (
        np.stack([network.features(picture) for picture in pictures])
        for pictures in (
            [left for left, _ in examples.read_pairs(*SIZE)],
            [right for _, right in examples.read_pairs(*SIZE)],
            [to_pixels(_dim(from_pixels(left)[None])[0]) for left, _ in examples.read_pairs(*SIZE)],
        )
    )
    # To the last digit: what is shared between them is computed as for each alone.
    assert found.frechet == frechet_distance(generated, true)
    assert found.frechet_untouched == frechet_distance(given, true)
    assert found.frechet_floor == frechet_distance(*halves(true))
    assert found.kernel == kernel_distance(generated, true)
    assert found.kernel_untouched == kernel_distance(given, true).value
    assert found.kernel_floor == kernel_distance(*halves(true)).value
    assert said == ["SqueezeNet-FD and SqueezeNet-KID of 8 pictures"]


def test_only_a_distance_that_shows_its_spread_draws_subsets(
    tmp_path: Path, network: SqueezeNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    real = distances._mmd2

    def counted(first: Features, second: Features) -> float:
        drawn.append(len(first))
        return real(first, second)

    monkeypatch.setattr(distances, "_mmd2", counted)
    judge("x", _dim, SIZE, find_examples(write_pairs(tmp_path, 8), "AtoB"), [network])
    assert len(drawn) == SUBSETS + 3


def test_pairs_a_folder_further_down_are_told(tmp_path: Path) -> None:
    """As training data have them: train/ and val/."""
    for name in ("train", "val", "notes"):
        (tmp_path / name).mkdir()
    write_pairs(tmp_path / "train", 2)
    write_pairs(tmp_path / "val", 2)
    with pytest.raises(BadInput, match="holds neither pairs") as refused:
        find_examples(tmp_path, "AtoB")
    assert refused.value.hint == f"pictures are in {tmp_path / 'train'}, {tmp_path / 'val'}"


def test_unpaired_folders_have_distances_alone(tmp_path: Path, network: SqueezeNet) -> None:
    for folder, count in (("inputs", 3), ("targets", 4)):
        for i in range(count):
            write_picture(tmp_path / folder / f"{i}.png", i, 40, 40)
    examples = find_examples(tmp_path, None)
    quality = judge("x", _identity, SIZE, examples, [network])
    assert (quality.generated, quality.true) == (3, 4)
    assert quality.likeness is None
    assert quality.distances[0].kernel.spread is None
    assert [len(row) for row in quality.shown] == [2, 2, 2]
    with pytest.raises(BadInput, match="--features"):
        judge("x", _identity, SIZE, examples)


def test_domains_of_cyclegan_are_taken_by_direction(tmp_path: Path) -> None:
    for folder, count in (("testA", 3), ("testB", 2)):
        for i in range(count):
            write_picture(tmp_path / folder / f"{i}.png", i, 20, 20)
    found = find_examples(tmp_path, "BtoA")
    assert [path.parent.name for path in found.inputs] == ["testB"] * 2
    assert [path.parent.name for path in found.targets] == ["testA"] * 3


def test_pairs_in_two_folders_are_judged_as_those_side_by_side(tmp_path: Path) -> None:
    """As Pix2Pix can be trained on them: trainA and trainB, testA and testB."""
    for path in write_pairs(tmp_path / "beside", 6).iterdir():
        with Image.open(path) as sheet:
            for name, left in (("testA", 0), ("testB", 48)):
                (tmp_path / "apart" / name).mkdir(parents=True, exist_ok=True)
                half = sheet.crop((left, 0, left + 48, 32))
                half.save(tmp_path / "apart" / name / path.with_suffix(".bmp").name)
    for direction in ("AtoB", "BtoA"):
        beside, apart = (
            judge("x", _dim, SIZE, find_examples(tmp_path / name, direction, 4, matched=True))
            for name in ("beside", "apart")
        )
        assert apart.likeness == beside.likeness
        assert (apart.generated, apart.true) == (4, 4)
        for shown, other in zip(apart.shown, beside.shown, strict=True):
            assert all(map(np.array_equal, shown, other))
    (tmp_path / "apart" / "testB" / "03.bmp").unlink()
    with pytest.raises(BadInput, match=r"03\.bmp has no picture of the same name in .*testB"):
        find_examples(tmp_path / "apart", "AtoB", 4, matched=True)
    with pytest.raises(BadInput) as refused:
        judge("x", _dim, SIZE, find_examples(tmp_path / "apart", "AtoB"))
    assert "--paired" in str(refused.value.hint)


def test_a_count_takes_the_same_pictures_each_time(tmp_path: Path) -> None:
    write_pairs(tmp_path, 20)
    some = find_examples(tmp_path, "AtoB", 6).pairs
    assert some == find_examples(tmp_path, "AtoB", 6).pairs
    assert list(some) == sorted(some)
    assert [path.name for path in some] != [f"{i:02}.png" for i in range(6)]
    assert len(find_examples(tmp_path, "AtoB", 50).pairs) == 20


def test_a_picture_that_is_not_finite_fails_the_generator(tmp_path: Path) -> None:
    def broken(picture: Array) -> Array:
        result = picture.copy()
        result[0, 3, 4, 1] = np.nan
        return result

    with pytest.raises(GateFailed, match="broken: picture 1 has 1 values that are not finite"):
        judge("broken", broken, SIZE, find_examples(write_pairs(tmp_path, 2), "AtoB"))


def test_features_are_those_of_the_layers_written_out(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    import torch
    from torch.nn import functional as F

    pixels: Pixels = rng.integers(0, 256, (227, 227, 3)).astype(np.uint8)
    found = read_squeezenet(write_squeezenet(tmp_path / "f.safetensors")).features(pixels)
    w = {k: torch.from_numpy(v.astype(np.float32)) for k, v in squeezenet_tensors().items()}

    def conv(x: torch.Tensor, name: str, stride: int = 1, padding: int = 0) -> torch.Tensor:
        layer = f"features.{name}"
        y = F.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], stride, padding)
        return F.relu(y)

    bgr = pixels[:, :, ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    x = conv(torch.from_numpy(bgr.transpose(2, 0, 1).copy())[None], "0", stride=2)
    for layer in range(2, 13):
        if layer in {2, 6, 11}:
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        else:
            squeezed = conv(x, f"{layer}.squeeze")
            wide = conv(squeezed, f"{layer}.expand3x3", padding=1)
            x = torch.cat([conv(squeezed, f"{layer}.expand1x1"), wide], 1)
    expected = x.double().mean((2, 3))[0].numpy()
    expected *= np.sqrt(512) / np.linalg.norm(expected)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_feature_files_that_are_not_squeezenet_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    tensors = squeezenet_tensors()
    gone = tensors.pop("features.8.squeeze.bias")
    save_file(tensors, path)
    with pytest.raises(BadInput, match=r"missing features\.8\.squeeze\.bias, left over nothing"):
        read_squeezenet(path)
    save_file({**tensors, "features.8.squeeze.bias": gone[:-1]}, path)
    with pytest.raises(BadInput, match=r"features\.8\.squeeze\.bias' is \[47\], not \[48\]"):
        read_squeezenet(path)
    save_file({**tensors, "features.8.squeeze.bias": gone * np.float16("inf")}, path)
    with pytest.raises(BadInput, match="not finite"):
        read_squeezenet(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        read_squeezenet(path)
