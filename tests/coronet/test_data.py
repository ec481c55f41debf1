"""What training sees: a function of seed and step, of files that are what they should be."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coronet_deploy.coronet import data as data_module
from coronet_deploy.coronet.data import Ahead, Direction, open_training
from coronet_deploy.errors import BadInput
from coronet_deploy.images import open_rgb
from support import Cli

SIDE = 12


def flat(folder: Path, count: int, start: int, suffix: str = ".png") -> None:
    """Write pictures of one grey each, so that a crop tells which it is of."""
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (SIDE, SIDE), (start + i,) * 3).save(folder / f"{i:02d}{suffix}")


def grey(picture: torch.Tensor) -> int:
    return round((float(picture.mean()) + 1) * 127.5)


@pytest.fixture
def piles(tmp_path: Path) -> Path:
    for name, count, start in (("trainA", 5, 10), ("trainB", 7, 110), ("testA", 2, 50)):
        flat(tmp_path / "piles" / name, count, start)
    return tmp_path / "piles"


def test_every_input_is_seen_once_an_epoch_beside_outputs_that_do_not_depend_on_it(
    piles: Path,
) -> None:
    train, held_out = open_training(piles, Direction.A_TO_B, SIDE, 8, paired=False)
    assert len(train) == 5
    assert held_out is None  # there is no testB
    seen = [train.batch(step, 1, 8, seed=3) for step in range(400)]
    assert all(x.shape == y.shape == (1, 3, 8, 8) for x, y in seen)
    inputs = [grey(x) - 10 for x, _ in seen]
    outputs = [grey(y) - 110 for _, y in seen]
    for epoch in range(80):
        assert sorted(inputs[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    assert inputs[:5] != inputs[5:10] or inputs[5:10] != inputs[10:15]
    met = {(a, b) for a, b in zip(inputs, outputs, strict=True)}
    assert len(met) == 5 * 7
    back, _ = open_training(piles, Direction.B_TO_A, SIDE, 8, paired=False)
    assert grey(back.batch(0, 1, 8, seed=3)[0]) >= 110


@pytest.mark.parametrize("paired", [True, False])
def test_a_step_sees_the_same_whenever_it_is_taken(paired: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    train, _ = open_training(tmp_path, Direction.A_TO_B, 16, 12, paired=paired)
    ahead = Ahead(train)
    in_order = [ahead.batch(step, 2, 12, seed=1) for step in range(6)]
    again, _ = open_training(tmp_path, Direction.A_TO_B, 16, 12, paired=paired)
    for step in (5, 0, 3):
        for now, then in zip(again.batch(step, 2, 12, seed=1), in_order[step], strict=True):
            assert torch.equal(now, then)
    assert not torch.equal(train.batch(0, 2, 12, seed=2)[0], in_order[0][0])
    # A batch of two is two batches of one: a team shares a batch out in this way.
    for i in range(2):
        for one, both in zip(train.batch(i, 1, 12, seed=1), in_order[0], strict=True):
            assert torch.equal(one[0], both[i])


COUNTS = """
import os, sys, time
from pathlib import Path
import torch
from coronet_deploy.coronet.data import Ahead, Direction, open_training

torch.set_num_threads(2)
pictures, _ = open_training(Path(sys.argv[1]), Direction.A_TO_B, 286, 256, paired=False)
ahead = Ahead(pictures)
x, _ = ahead.batch(0, 1, 256, 0)
ahead.batch(1, 1, 256, 0)  # which the thread has made
before = len(os.listdir("/proc/self/task"))
torch.relu(x)  # the process's own threads, if they did not stand before
print(before, len(os.listdir("/proc/self/task")))
"""


def test_reading_ahead_starts_no_threads_of_openmp(tmp_path: Path) -> None:
    # With more of them than cores none waits awake, and every kernel of a training takes longer.
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (300, 300), (40 * i, 90, 30)).save(tmp_path / name / f"{i}.png")
    line = [sys.executable, "-c", COUNTS, str(tmp_path)]
    free = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=free)
    before, after = map(int, done.stdout.split())
    assert after == before + 1


def test_pairs_are_cropped_and_flipped_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    (tmp_path / "train").mkdir()
    for i in range(3):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        pair = np.concatenate([pixels, 255 - pixels], 1)
        Image.fromarray(pair).save(tmp_path / "train" / f"{i}.png")
    train, _ = open_training(tmp_path, Direction.A_TO_B, SIDE, 8, paired=True)
    seen = [train.batch(step, 1, 8, seed=6) for step in range(30)]
    for x, y in seen:
        torch.testing.assert_close(x, -y)
    assert len({float(x[0, 0, 0, 0]) for x, _ in seen}) > 15


def test_pairs_in_two_folders_are_matched_by_name(tmp_path: Path) -> None:
    flat(tmp_path / "trainA", 3, 10)
    flat(tmp_path / "trainB", 3, 110, ".bmp")
    train, _ = open_training(tmp_path, Direction.B_TO_A, SIDE, 8, paired=True)
    for step in range(6):
        x, y = train.batch(step, 1, 8, seed=7)
        assert grey(x) - grey(y) == 100
    (tmp_path / "trainB" / "01.bmp").rename(tmp_path / "trainB" / "x.bmp")
    with pytest.raises(BadInput, match=r"01\.png has no picture of the same name in .*trainB"):
        open_training(tmp_path, Direction.A_TO_B, SIDE, 8, paired=True)
    (tmp_path / "trainB" / "x.bmp").rename(tmp_path / "trainB" / "02.png")
    with pytest.raises(BadInput, match=r"02\.bmp and 02\.png have one name"):
        open_training(tmp_path, Direction.A_TO_B, SIDE, 8, paired=True)


def test_sets_that_do_not_fit_into_memory_train_alike(
    piles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = open_training(piles, Direction.A_TO_B, SIDE, 8, paired=False)
    expected = [whole.batch(step, 2, 8, seed=1) for step in range(10)]
    read: list[Path] = []
    real = open_rgb

    def counted(path: Path) -> Image.Image:
        read.append(path)
        return real(path)

    monkeypatch.setattr(data_module, "open_rgb", counted)
    monkeypatch.setattr(data_module, "_MOST_KEPT", 2 * 3 * SIDE * SIDE * 3)  # three of a pile
    part, _ = open_training(piles, Direction.A_TO_B, SIDE, 8, paired=False)
    assert len(read) == 6
    for step, batch in enumerate(expected):
        for now, then in zip(part.batch(step, 2, 8, seed=1), batch, strict=True):
            assert torch.equal(now, then)
    assert not {"00.png", "01.png", "02.png"} & {path.name for path in read[6:]}


def test_pictures_of_every_mode_become_upright_rgb(tmp_path: Path) -> None:
    grey16 = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(grey16).save(tmp_path / "grey16.png")
    opened = np.asarray(open_rgb(tmp_path / "grey16.png"))
    assert opened.shape == (8, 8, 3)
    assert np.abs(opened[:, :, 0] - grey16 / 257).max() <= 0.5

    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[0, 0] = 10, 20, 30, 255
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    opened = np.asarray(open_rgb(tmp_path / "rgba.png"))
    assert opened[0, 0].tolist() == [10, 20, 30]
    assert (opened[1:] == 255).all()

    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(tmp_path / "palette.png")
    assert np.asarray(open_rgb(tmp_path / "palette.png"))[0, 0].tolist() == [200, 100, 50]

    Image.new("L", (3, 5), 77).save(tmp_path / "grey.jpg")
    assert np.asarray(open_rgb(tmp_path / "grey.jpg")).tolist() == [[[77] * 3] * 3] * 5

    sideways = Image.new("RGB", (16, 8), "black")
    sideways.paste("white", (0, 0, 8, 8))
    exif = sideways.getexif()
    exif[0x0112] = 6  # the camera was turned: what is left in the file belongs on top
    sideways.save(tmp_path / "turned.png", exif=exif)
    opened = np.asarray(open_rgb(tmp_path / "turned.png"))
    assert opened.shape == (16, 8, 3)
    assert opened[:8].min() == 255
    assert opened[8:].max() == 0


def bomb(path: Path) -> None:
    """Write a small file that says it is a picture of 60,000 by 60,000."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


BROKEN: dict[str, Callable[[Path], object]] = {
    "a bomb": bomb,
    "a web page": lambda path: path.write_text("<html>404</html>"),
    "empty": lambda path: path.write_bytes(b""),
    "a texture": lambda path: path.write_bytes(
        b"DDS " + struct.pack("<18I", 124, 7, 8, 8, *[0] * 14) + struct.pack("<13I", 32, *[0] * 12)
    ),
    "of numbers without a range": lambda path: Image.fromarray(
        np.linspace(0, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    ).save(path, "TIFF"),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:50]),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.filterwarnings("error")
def test_what_is_no_picture_is_refused_by_name(kind: str, piles: Path) -> None:
    bad = piles / "trainB" / "04.png"
    BROKEN[kind](bad)
    with pytest.raises(BadInput) as caught:
        open_training(piles, Direction.A_TO_B, SIDE, 8, paired=False)
    assert str(caught.value).startswith(f"{bad} is not a readable picture")
    assert "\n" not in str(caught.value)


def test_what_a_mac_leaves_beside_pictures_is_passed_over(piles: Path) -> None:
    before = open_training(piles, Direction.A_TO_B, SIDE, 8, paired=False)[0].names
    (piles / "trainA" / "._00.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (piles / "trainB" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    pictures, _ = open_training(piles, Direction.A_TO_B, SIDE, 8, paired=False)
    assert pictures.names == before


def test_pictures_of_kinds_that_can_be_read_are_not_passed_over(piles: Path) -> None:
    for i, suffix in enumerate((".JFIF", ".gif", ".pgm", ".tga", ".jp2", ".avif")):
        kind = "JPEG" if suffix == ".JFIF" else None
        Image.new("L", (SIDE, SIDE), 200).save(piles / "trainA" / f"{5 + i:02d}{suffix}", kind)
    train, _ = open_training(piles, Direction.A_TO_B, SIDE, SIDE, paired=False)
    seen = [grey(train.batch(step, 1, SIDE, seed=3)[0]) for step in range(11)]
    assert len(train.names) == 11 + 7
    assert sum(abs(one - 200) <= 2 for one in seen) == 6


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".jxl"])
def test_pictures_of_kinds_that_are_not_read_are_not_passed_over(suffix: str, piles: Path) -> None:
    bad = piles / "trainB" / f"05{suffix}"
    bad.write_bytes(b"\0\0\0\x20ftypheic" + bytes(20))
    with pytest.raises(BadInput) as caught:
        open_training(piles, Direction.A_TO_B, SIDE, 8, paired=False)
    told = f"{bad} is a picture of a kind that is not read (1 of "
    assert str(caught.value).startswith(told)
    # A phone calls some of its JPEG files so.
    Image.new("L", (SIDE, SIDE), 200).save(bad, "JPEG")
    assert bad.name in open_training(piles, Direction.A_TO_B, SIDE, 8, paired=False)[0].names


def test_pictures_in_folders_of_folders_are_not_passed_over_in_silence(piles: Path) -> None:
    held = piles / "trainB" / "more"
    held.mkdir()
    for path in (piles / "trainB").glob("*.png"):
        path.rename(held / path.name)
    with pytest.raises(BadInput, match=r"trainB holds no picture \(those in its folder more are"):
        open_training(piles, Direction.A_TO_B, SIDE, 8, paired=False)


def test_a_link_to_nothing_is_not_passed_over(piles: Path) -> None:
    (piles / "trainA" / "07.png").symlink_to("/unmounted/07.png")
    with pytest.raises(BadInput, match=r"trainA/07\.png is a link to /unmounted/07\.png, which"):
        open_training(piles, Direction.A_TO_B, SIDE, 8, paired=False)
    for path in (piles / "trainA").iterdir():
        path.unlink()
        path.symlink_to(f"/unmounted/{path.name}")
    with pytest.raises(BadInput, match=r"is not there .*\(6 of 6 in .*trainA are: bring back"):
        open_training(piles, Direction.A_TO_B, SIDE, 8, paired=False)


def test_training_on_a_bomb_costs_one_line(cli: Cli, piles: Path, tmp_path: Path) -> None:
    bomb(piles / "trainA" / "02.png")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[model]\nid = "t"\ntitle = "t"\ntask = "cyclegan"\narchitecture = "resnet_6blocks"\n'
        'norm = "instance"\nwidth = 8\n[data]\nload = 28\ncrop = 24\n'
        "[search]\nsteps = 2\ntarget = 0.5\n[finetune]\nsteps = 1\n"
    )
    result = cli("train", recipe, "--data", piles, "--output", tmp_path / "out")
    assert result.returncode == 2
    assert f"{piles / 'trainA' / '02.png'} is not a readable picture" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


FORMATS = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "PPM": ".ppm",
    "GIF": ".gif",
    "AVIF": ".avif",
    "JPEG2000": ".jp2",
    "TGA": ".tga",
}


@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_cut_short_is_found_before_training_however_many_there_are(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_module, "_MOST_KEPT", 1)  # one of a pile is decoded at once
    noise = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(noise).save(tmp_path / name / f"{i}{FORMATS[kind]}", kind)
    bad = tmp_path / "trainB" / f"2{FORMATS[kind]}"
    for paired in (False, True):
        open_training(tmp_path, Direction.A_TO_B, SIDE, 8, paired=paired)
    held = bad.read_bytes()
    bad.write_bytes(held[: len(held) * 2 // 3])
    for paired in (False, True):
        with pytest.raises(BadInput, match=rf"{bad.name} is not a readable picture"):
            open_training(tmp_path, Direction.A_TO_B, SIDE, 8, paired=paired)


def test_odd_endings_of_whole_pictures_are_let_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_module, "_MOST_KEPT", 1)
    (tmp_path / "train").mkdir()
    pair = Image.new("RGB", (2 * SIDE, SIDE), "red")
    for i, after in enumerate((b"", b"\0" * 40, b"a camera's own")):
        path = tmp_path / "train" / f"{i}.jpg"
        pair.save(path)
        path.write_bytes(path.read_bytes() + after)
    upright = pair.transpose(Image.Transpose.ROTATE_90)
    exif = upright.getexif()
    exif[0x0112] = 6  # the camera was turned: upright, it is a pair
    upright.save(tmp_path / "train" / "3.jpg", exif=exif)
    train, _ = open_training(tmp_path, Direction.A_TO_B, SIDE, 8, paired=True)
    assert len(train) == 4
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "train" / "4.jpg")
    with pytest.raises(BadInput, match=rf"4\.jpg is {SIDE}x{SIDE}: not two pictures"):
        open_training(tmp_path, Direction.A_TO_B, SIDE, 8, paired=True)
