"""Pictures to judge a generator on: pairs side by side or in two folders, or two piles."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coronet_deploy.errors import BadInput
from coronet_deploy.images import (
    Pixels,
    at_size,
    has_pictures,
    list_pictures,
    matched_pictures,
    open_pair,
    open_rgb,
    require_pair,
    require_whole,
    unlike_pairs,
)
from coronet_deploy.storage import is_folder, readable, sha256_of
from coronet_deploy.verify.distances import MIN_PICTURES

_SEED = 0
_TOLD = 4
_UNPAIRED = ("inputs", "targets")
_DOMAINS = {"AtoB": ("testA", "testB"), "BtoA": ("testB", "testA")}


@dataclass(frozen=True)
class Examples:
    """Files to judge a generator on.

    `pairs` hold input and truth side by side, the input on the left in direction AtoB. Without
    them, `inputs` and `targets` are files of one picture each: pairs, in order, if they are
    `matched`, and otherwise two piles that do not belong together.
    """

    folder: Path
    direction: str | None
    pairs: tuple[Path, ...] = ()
    inputs: tuple[Path, ...] = ()
    targets: tuple[Path, ...] = ()
    matched: bool = False

    @property
    def paired(self) -> bool:
        """True if every input has its true picture."""
        return bool(self.pairs) or self.matched

    @property
    def input_count(self) -> int:
        """How many pictures the generator is given."""
        return len(self.pairs or self.inputs)

    @property
    def target_count(self) -> int:
        """How many true pictures there are."""
        return len(self.pairs or self.targets)

    def digest(self) -> str:
        """Return a SHA-256 of the files' bytes and of which belong together, whatever their names.

        Raises:
            BadInput: a file cannot be read; names it.

        """
        roles = [self.pairs, self.inputs, self.targets]
        if self.matched:
            roles = [*zip(self.inputs, self.targets, strict=True)]
        digests = [[_sha256(path) for path in role] for role in roles]
        told = sorted(digests) if self.matched else [sorted(role) for role in digests]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def require_whole(self) -> None:
        """Let pictures through that begin and end as such, before hours are spent on the first.

        Raises:
            BadInput: one does not, or is no pair where pairs are wanted; names it.

        """
        for path in self.pairs:
            require_pair(path)
        for path in (*self.inputs, *self.targets):
            require_whole(path)

    def unlike(self) -> str | None:
        """Say that pairs of two files are of unlike shapes, if some are (see `unlike_pairs`).

        Raises:
            BadInput: a file is no picture; names it.

        """
        pairs = zip(self.inputs, self.targets, strict=True) if self.matched else ()
        return unlike_pairs(list(pairs))

    def read_pairs(self, height: int, width: int) -> Iterator[tuple[Pixels, Pixels]]:
        """Yield input and truth of each pair, (height, width, 3) pixels each.

        Raises:
            BadInput: a file is no picture, or not two of one size side by side where it should be.

        """
        for path in self.pairs:
            left, right = (at_size(half, height, width) for half in open_pair(path))
            yield (left, right) if self.direction == "AtoB" else (right, left)
        if self.matched:
            for given, truth in zip(self.inputs, self.targets, strict=True):
                yield read_single(given, height, width), read_single(truth, height, width)


def _sha256(path: Path) -> str:
    with readable(f"picture {path}"):
        return sha256_of(path)


def read_single(path: Path, height: int, width: int) -> Pixels:
    """Return the picture at `path` as (height, width, 3) pixels (see `open_rgb` for the error)."""
    return at_size(open_rgb(path), height, width)


def is_directed(folder: Path) -> bool:
    """Return whether the layout of `folder` itself says what is input: `inputs/`, `targets/`.

    Raises:
        BadInput: the folder cannot be looked into.

    """
    return all(is_folder(folder / name) for name in _UNPAIRED)


def find_examples(
    folder: Path, direction: str | None, count: int | None = None, *, matched: bool = False
) -> Examples:
    """Return the examples in `folder`; of more than `count`, the same ones each time.

    `folder` holds pairs side by side, or the folders `inputs` and `targets`, or `testA` and
    `testB`, whose files of the same names are pairs if they are `matched`. `direction` is "AtoB"
    or "BtoA", and None only if `is_directed`. `count` holds for inputs and targets each.

    Raises:
        BadInput: there are no such pictures, or fewer than two, or what is to be matched is not
            pairs, or the folder cannot be read; names it.

    """
    if is_directed(folder):
        names, direction = _UNPAIRED, None
    elif direction is None:
        raise BadInput(f"{folder}: which pictures are the input?", hint="say it with --direction")
    else:
        names = _DOMAINS[direction]
    if all(is_folder(folder / name) for name in names):
        given, true = (folder / name for name in names)
        if matched:
            truths = dict(matched_pictures(given, true))
            inputs = _some_of(given, count)
            targets = tuple(truths[path] for path in inputs)
        else:
            inputs, targets = _some_of(given, count), _some_of(true, count)
        return Examples(folder, direction, inputs=inputs, targets=targets, matched=matched)
    if is_folder(folder) and not has_pictures(folder):
        raise BadInput(
            f"{folder} holds neither pairs side by side nor the folders that unpaired pictures "
            "stand in (inputs and targets, or testA and testB)",
            hint=_below(folder),
        )
    return Examples(folder, direction, pairs=_some_of(folder, count))


def _below(folder: Path) -> str | None:
    """Return where pictures are in the folders of `folder`: training data have pairs in one."""
    found: list[str] = []
    with readable(f"folder {folder}"):
        inner = sorted(folder.iterdir())
    for path in inner:
        with contextlib.suppress(BadInput):  # closed to us
            if len(found) < _TOLD and is_folder(path) and has_pictures(path):
                found.append(str(path))
    return f"pictures are in {', '.join(found)}" if found else None


def _some_of(folder: Path, count: int | None) -> tuple[Path, ...]:
    """Return at most `count` of the folder's pictures, chosen by a fixed seed, by name."""
    paths = list_pictures(folder)
    if len(paths) < MIN_PICTURES:
        raise BadInput(f"{folder} holds {len(paths)} picture, at least {MIN_PICTURES} are needed")
    if count is None or count >= len(paths):
        return tuple(paths)
    # Not the first ones: file names often follow the content.
    return tuple(sorted(random.Random(_SEED).sample(paths, count)))  # noqa: S311 - no secret
