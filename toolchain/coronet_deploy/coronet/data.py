"""Training pictures as users of pytorch-CycleGAN-and-pix2pix lay them out.

Paired: `train/` (with `val/` or `test/`) of files that hold A and B side by side, or `trainA/` and
`trainB/` (`testA/`, `testB/`) with files of the same names. Unpaired: the same four folders, any
names. What a training step sees is a function of the seed and the step alone, so a run that was
stopped and resumed sees what it would have seen.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from coronet_deploy.errors import BadInput
from coronet_deploy.images import (
    Array,
    Pixels,
    at_size,
    folder_with_pictures,
    from_pixels,
    has_pictures,
    list_pictures,
    matched_pictures,
    open_pair,
    open_rgb,
    require_pair,
    require_whole,
)

if TYPE_CHECKING:
    from PIL.Image import Image

_T = TypeVar("_T")

_FLIPPED = 0.5  # share of the pictures that training sees mirrored
_MOST_KEPT = 4 << 30  # bytes of decoded pictures of one folder
_CONTAINER = Path("/sys/fs/cgroup/memory.max")  # bytes that a container may use
_SHARE_KEPT = 1 / 8  # of this machine's memory, at most: there are a training and a held-out set


Told = Callable[[str, int, int], None]
"""Is given what is worked through, such as "pictures in DIR", and how many of how many are done."""


def untold(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


class Direction(StrEnum):
    """Which domain is the generator's input: A (the left half of a pair) or B (the right)."""

    A_TO_B = "AtoB"
    B_TO_A = "BtoA"


class Pictures(Protocol):
    """Pictures of an input and an output domain, in the recipe's direction."""

    @property
    def names(self) -> list[str]:
        """The files' names, in order."""

    def __len__(self) -> int:
        """Return how many there are to look at one by one."""

    def batch(self, step: int, size: int, crop: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return pictures of both domains for a step, each (size, 3, crop, crop) in [-1, 1]."""

    def whole(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return the given pictures of both domains, uncropped, each (N, 3, load, load)."""

    def spread(self, domain: int, most: int) -> Iterator[Image]:
        """Yield a few pictures of the input (0) or output domain, as their files have them."""


class _Files:
    """Files decoded on demand; as many as fit into a bound are kept decoded.

    The first are read at once, so that a broken one is found before training begins; of the rest
    it is seen that they begin and end as pictures do.
    """

    def __init__(
        self,
        paths: list[Path],
        open_domains: Callable[[Path], Sequence[Image]],
        load: int,
        budget: int,
        told: Told,
        require: Callable[[Path], None] = require_whole,
    ) -> None:
        self._paths, self._open, self._load = paths, open_domains, load
        self._held: dict[int, Pixels] = {}
        room = 1  # until the first tells how large they are
        for i, path in enumerate(paths):
            if i < room:
                self._held[i] = self._read(path)
                room = max(budget // self._held[0].nbytes, 1)
            else:
                require(path)
            told(f"pictures in {path.parent}", i + 1, len(paths))

    @property
    def names(self) -> list[str]:
        """The files' names, in order."""
        return [path.name for path in self._paths]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Pixels:
        held = self._held.get(index)
        return self._read(self._paths[index]) if held is None else held

    def _read(self, path: Path) -> Pixels:
        """Return a file's domains as (domains, load, load, 3) pixels."""
        return np.stack([at_size(one, self._load, self._load) for one in self._open(path)])

    def spread(self, domain: int, most: int) -> Iterator[Image]:
        """Yield a few pictures of a domain, from all over, as their files have them."""
        return (self._open(self._paths[i])[domain] for i in _spread(len(self), most))


class PairedPictures:
    """Pairs of pictures: input, then truth; both are cropped and flipped alike."""

    def __init__(self, files: _Files) -> None:
        self._files = files

    @property
    def names(self) -> list[str]:
        """The files' names, in order."""
        return self._files.names

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._files)

    def batch(self, step: int, size: int, crop: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return input and truth of a step; see `Pictures.batch`.

        Every pair is seen once an epoch, in an order shuffled by epoch.
        """
        chosen = []
        for index in range(step * size, (step + 1) * size):
            rng = np.random.default_rng([seed, 1, index])
            pair = self._files[_shuffled(index, len(self._files), seed)]
            chosen.append(_augmented(pair, crop, rng))
        return _halves(np.stack(chosen))

    def whole(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return input and truth of the given pairs; see `Pictures.whole`."""
        return _halves(from_pixels(np.stack([self._files[i] for i in indices])))

    def spread(self, domain: int, most: int) -> Iterator[Image]:
        """Yield a few pictures of a domain; see `Pictures.spread`."""
        return self._files.spread(domain, most)


class UnpairedPictures:
    """Two piles of pictures; what is drawn from the one says nothing about the other."""

    def __init__(self, inputs: _Files, outputs: _Files) -> None:
        self._piles = inputs, outputs

    @property
    def names(self) -> list[str]:
        """The files' names, the input's pile first."""
        return [name for pile in self._piles for name in pile.names]

    def __len__(self) -> int:
        """Return the pictures of the smaller pile."""
        return min(map(len, self._piles))

    def batch(self, step: int, size: int, crop: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return pictures of both domains for a step; see `Pictures.batch`.

        Every input is seen once an epoch, in an order shuffled by epoch, beside a random output;
        each is cropped and flipped on its own.
        """
        inputs, outputs = self._piles
        chosen = []
        for index in range(step * size, (step + 1) * size):
            rng = np.random.default_rng([seed, 1, index])
            source = inputs[_shuffled(index, len(inputs), seed)]
            other = outputs[int(rng.integers(len(outputs)))]
            chosen.append(np.concatenate([_augmented(p, crop, rng) for p in (source, other)]))
        return _halves(np.stack(chosen))

    def whole(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return the given pictures of both piles; see `Pictures.whole`."""
        pairs = [np.concatenate([pile[i] for pile in self._piles]) for i in indices]
        return _halves(from_pixels(np.stack(pairs)))

    def spread(self, domain: int, most: int) -> Iterator[Image]:
        """Yield a few pictures of a domain; see `Pictures.spread`."""
        return self._piles[domain].spread(0, most)


class Ahead:
    """Pictures whose next batch is made by a thread while the present one is learned from.

    `pinned` ones lie where a GPU can fetch them while it computes.
    """

    def __init__(self, pictures: Pictures, *, pinned: bool = False) -> None:
        self._pictures, self._pinned = pictures, pinned
        self._thread = ThreadPoolExecutor(1)
        self._next: tuple[tuple[int, int, int, int], Future[tuple[Tensor, Tensor]]] | None = None

    def batch(
        self, step: int, size: int, crop: int, seed: int, stride: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Return the batch of `step`, and begin that of `step + stride`."""
        wanted = step, size, crop, seed
        if self._next is not None and self._next[0] == wanted:
            batch = self._next[1].result()
        else:
            batch = self._made(*wanted)
        following = step + stride, size, crop, seed
        self._next = following, self._thread.submit(self._made, *following)
        return batch

    def _made(self, step: int, size: int, crop: int, seed: int) -> tuple[Tensor, Tensor]:
        x, y = self._pictures.batch(step, size, crop, seed)
        return (x.pin_memory(), y.pin_memory()) if self._pinned else (x, y)


def open_training(
    data: Path,
    direction: Direction,
    load: int,
    crop: int,
    *,
    paired: bool,
    told: Told = untold,
) -> tuple[Pictures, Pictures | None]:
    """Return the pictures to train on, at `load`, and those held out for samples, at `crop`.

    `told` hears of each picture, for thousands take their time.

    Raises:
        BadInput: a folder is missing or empty, a picture cannot be read, pairs do not match.

    """
    _require_layout(data, paired=paired)
    if paired and not (data / "trainA").is_dir():
        held = _held_out(data)
        return (
            side_by_side(data / "train", direction, load, told),
            side_by_side(held, direction, crop, told) if held else None,
        )
    make = matching if paired else unpaired
    held_out = (data / "testA").is_dir() and (data / "testB").is_dir()
    return (
        make(data / "trainA", data / "trainB", direction, load, told),
        make(data / "testA", data / "testB", direction, crop, told) if held_out else None,
    )


def _require_layout(data: Path, *, paired: bool) -> None:
    """Let a folder through that is laid out as wanted; of another layout it is said which."""
    if not data.is_dir():
        raise BadInput(f"{data} is not a folder of pictures")
    has_pairs = (data / "train").is_dir()
    missing = [name for name in ("trainA", "trainB") if not (data / name).is_dir()]
    if not missing or (paired and has_pairs):
        return
    if has_pairs:
        hint = (
            "its train is for Pix2Pix, which takes pairs side by side: CycleGAN takes pictures of "
            "the one kind in trainA and of the other in trainB"
        )
    elif has_pictures(data):
        hint = "it holds pictures itself: --data takes the folder that such folders are in"
    elif paired:
        hint = "pairs side by side go into train, or A into trainA and B, by the same names, trainB"
    else:
        hint = "pictures of the one kind go into trainA, and of the other into trainB"
    lacking = " and no ".join(["train", *missing] if paired else missing)
    raise BadInput(f"{data} has no {lacking}", hint=hint)


def _held_out(data: Path) -> Path | None:
    """Return the folder of the pairs for samples: val, or where it is missing or empty, test."""
    val, test = (path if path.is_dir() else None for path in (data / "val", data / "test"))
    if val is None or (test and not has_pictures(val) and not folder_with_pictures(val)):
        return test
    return val


def some(pictures: Pictures, most: int = 6) -> tuple[Tensor, Tensor]:
    """Return a few pictures of both domains, from all over the folder, uncropped."""
    return pictures.whole(_spread(len(pictures), most))


def _spread(count: int, most: int) -> list[int]:
    """Return at most so many of `count` places, from all over."""
    return list(range(0, count, max(count // most, 1)))[:most]


def _budget() -> int:
    """Return how many bytes of decoded pictures may be kept for one set.

    That is a share of what this host, or the container that this is, has for each process.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # there is none, or it has no bound: "max"
        memory = min(memory, int(_CONTAINER.read_text()))
    here = os.environ.get("LOCAL_WORLD_SIZE", "")  # as torchrun tells
    processes = int(here) if here.isdecimal() else 1
    return min(_MOST_KEPT, int(memory * _SHARE_KEPT / max(processes, 1)))


def side_by_side(
    folder: Path, direction: Direction, load: int, told: Told = untold
) -> PairedPictures:
    """Return the pairs in `folder`: one file each, A left of B."""

    def halves(path: Path) -> Sequence[Image]:
        return _ordered(open_pair(path), direction)

    files = _Files(list_pictures(folder), halves, load, _budget(), told, require_pair)
    return PairedPictures(files)


def matching(
    a: Path, b: Path, direction: Direction, load: int, told: Told = untold
) -> PairedPictures:
    """Return the pairs of files of the same names in two folders (see `matched_pictures`)."""
    pairs = dict(matched_pictures(a, b))

    def both(path: Path) -> Sequence[Image]:
        return _ordered([open_rgb(path), open_rgb(pairs[path])], direction)

    def require(path: Path) -> None:
        for one in (path, pairs[path]):
            require_whole(one)

    return PairedPictures(_Files(list(pairs), both, load, _budget(), told, require))


def unpaired(
    a: Path, b: Path, direction: Direction, load: int, told: Told = untold
) -> UnpairedPictures:
    """Return the pictures of two folders that have nothing to do with each other."""
    piles = [
        _Files(list_pictures(folder), lambda path: [open_rgb(path)], load, _budget() // 2, told)
        for folder in (a, b)
    ]
    return UnpairedPictures(*_ordered(piles, direction))


def _ordered(domains: Sequence[_T], direction: Direction) -> Sequence[_T]:
    """Return what is of A and of B, the input's first."""
    return domains if direction is Direction.A_TO_B else domains[::-1]


def _shuffled(index: int, count: int, seed: int) -> int:
    """Return the `index`-th place of an endless sequence of epochs, each in an order of its own."""
    epoch, place = divmod(index, count)
    return int(_order(epoch, count, seed)[place])


@lru_cache(maxsize=4)  # a batch can reach into the next epoch; there are a reader and its thread
def _order(epoch: int, count: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return an epoch's order of `count` pictures."""
    return np.random.default_rng([seed, 0, epoch]).permutation(count)


def _augmented(pictures: Pixels, crop: int, rng: np.random.Generator) -> Array:
    """Return (N, H, W, 3) pixels, cropped and flipped at random and alike, in [-1, 1]."""
    top, left = (rng.integers(0, side - crop + 1) for side in pictures.shape[1:3])
    pictures = pictures[:, top : top + crop, left : left + crop]
    return from_pixels(pictures[:, :, ::-1] if rng.random() < _FLIPPED else pictures)


def _halves(pairs: Array) -> tuple[Tensor, Tensor]:
    """Return (N, 2, H, W, 3) pairs as two tensors of (N, 3, H, W).

    numpy lays them out, for this runs in `Ahead`'s thread: a kernel of torch's would start threads
    of OpenMP for that one too, and with more of them than cores none waits awake any more, at which
    every kernel of the training takes 40 microseconds longer.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(pairs.transpose(1, 0, 4, 2, 3)))
    return tensor[0], tensor[1]
