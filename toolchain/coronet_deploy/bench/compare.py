"""Measure two sides in turn, base and candidate, so that whatever drifts meets both alike.

Which artifact of one side belongs to which of the other is told by what they are (runtime,
network, dtype, size of the picture), as their manifests say, and then by their names. What a side
without manifests does not tell is no difference between two files of one name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from coronet_deploy.bench.host import bench_host, described
from coronet_deploy.errors import BadInput
from coronet_deploy.storage import existing_file, files_in, is_folder, require_utf8, sha256_of
from coronet_deploy.vocabulary import Run, Runtime

BASE, CANDIDATE = "base/", "candidate/"
"""What the names of a comparison's artifacts start with in its run."""

_KIND = ("runtime", "architecture", "dtype", "size")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Subject:
    """An artifact of one side: its name there, and its manifest or what is known without one."""

    name: str
    manifest: Mapping[str, Any]
    path: Path | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """What two artifacts must agree on to be compared by themselves."""
        return (self.runtime, self.architecture, self.manifest.get("dtype"), self.size)

    @property
    def runtime(self) -> object:
        """The runtime's name."""
        return self.manifest.get("runtime")

    @property
    def architecture(self) -> object:
        """The generator's architecture, if the manifest tells."""
        plan = _table(_table(self.manifest, "source"), "plan")
        return plan.get("architecture")

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of its pictures, if the manifest tells."""
        contract = _table(self.manifest, "input")
        shape = contract.get("shape")
        if not isinstance(shape, list | tuple) or len(shape) != 4:  # noqa: PLR2004 - a batch of pictures
            return None
        return (shape[2], shape[3]) if contract.get("layout") == "NCHW" else (shape[1], shape[2])


@dataclass(frozen=True)
class Matching:
    """Which artifacts belong together, in the candidate's order, and which have no other side."""

    pairs: tuple[tuple[Subject, Subject], ...]
    base_only: tuple[Subject, ...]
    candidate_only: tuple[Subject, ...]

    @property
    def namesakes(self) -> list[str]:
        """In what artifacts of one name differ, so that they are not compared, in sentences."""
        return [
            f"{one.name} is not what the base calls so: {'; '.join(_differing(other, one))}."
            for one in self.candidate_only
            for other in self.base_only
            if other.name == one.name and _differing(other, one)
        ]


def find_subjects(path: Path, side: str) -> list[Subject]:
    """Return the artifact at `path`, or those of the folder, by name; `side` names its role.

    Raises:
        BadInput: there is none, one cannot be read, or is not what its manifest says.

    """
    found = _artifacts_in(path, side) if is_folder(path, side) else [existing_file(path, side)]
    for one in found:
        require_utf8(one.name)
    return [Subject(one.name, described(one, sha256_of(one)), one) for one in found]


def _artifacts_in(folder: Path, side: str) -> list[Path]:
    try:
        return files_in(folder, [runtime.suffix for runtime in Runtime], side)
    except BadInput as none:
        if none.hint is None and any(folder.glob("*.json")):
            hint = "of runs, two files are compared; or one with those of a folder, by --history"
            raise BadInput(none.what, hint=hint) from none
        raise


def match(base: Sequence[Subject], candidate: Sequence[Subject]) -> Matching:
    """Pair the artifacts of two sides.

    One artifact a side is a pair whatever its dtype; but never across runtimes or picture sizes,
    whose figures no change of the network explains.

    Raises:
        BadInput: nothing can be compared; says what differs.

    """
    if len(base) == len(candidate) == 1:
        _check_alike(base[0], candidate[0])
        return Matching(((base[0], candidate[0]),), (), ())
    left = list(base)
    found: dict[int, Subject] = {}
    for partner_of in (_same, _named, _alike):
        for place, one in enumerate(candidate):
            if place not in found and (partner := partner_of(one, left, candidate)):
                left.remove(partner)
                found[place] = partner
    pairs = [(found[place], one) for place, one in enumerate(candidate) if place in found]
    rest = [one for place, one in enumerate(candidate) if place not in found]
    if not pairs:
        raise BadInput(
            "no artifact of the base has the runtime, architecture, dtype and size of one of the "
            "candidate",
            hint="name one artifact a side",
        )
    return Matching(tuple(pairs), tuple(left), tuple(rest))


def bench_pairs(
    pairs: Sequence[tuple[Subject, Subject]],
    *,
    bench: Callable[..., Run] = bench_host,
    **settings: Any,  # noqa: ANN401 - `bench_host`'s own
) -> Run:
    """Return the run of both sides of `pairs`, launched in turn; `settings` as of `bench_host`.

    The sides' artifacts are called `base/...` and `candidate/...` in it.
    """
    names, paths = [], []
    for one, other in pairs:
        for prefix, subject in ((BASE, one), (CANDIDATE, other)):
            if subject.path is None:
                raise BadInput(f"{subject.name} is not a file that can be measured")
            names.append(prefix + subject.name)
            paths.append(subject.path)
    return bench(paths, names=names, **settings)


def _check_alike(base: Subject, candidate: Subject) -> None:
    for what, left, right in (
        ("runtime", base.runtime, candidate.runtime),
        ("size", base.size, candidate.size),
    ):
        if left is not None and right is not None and left != right:
            raise BadInput(
                f"{base.name} and {candidate.name} differ in {what}: {left} and {right}",
                hint="`bench --baseline` shows how such artifacts compare",
            )


def _same(one: Subject, left: Sequence[Subject], _candidates: Sequence[Subject]) -> Subject | None:
    """Return the one of `left` that has the whole name, and nothing that is known to differ.

    Runs of comparisons have both sides in them, whose files bear one name.
    """
    return _only([other for other in left if other.name == one.name and not _differing(one, other)])


def _named(one: Subject, left: Sequence[Subject], _candidates: Sequence[Subject]) -> Subject | None:
    """Return the one of `left` that has the file's name, and nothing that is known to differ."""
    return _only(
        [
            other
            for other in left
            if Path(other.name).name == Path(one.name).name and not _differing(one, other)
        ]
    )


def _differing(one: Subject, other: Subject) -> list[str]:
    """Return, as "dtype: fp32 and int8", in what two artifacts are known to differ."""
    return [
        f"{what}: {left} and {right}"
        for what, left, right in zip(_KIND, one.kind, other.kind, strict=True)
        if left is not None and right is not None and left != right
    ]


def _alike(one: Subject, left: Sequence[Subject], candidates: Sequence[Subject]) -> Subject | None:
    """Return the only one of `left` that is of the kind, if no other candidate is."""
    rivals = [other for other in candidates if other.kind == one.kind]
    return _only([other for other in left if other.kind == one.kind]) if len(rivals) == 1 else None


def _only(found: Sequence[_T]) -> _T | None:
    return found[0] if len(found) == 1 else None


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key)
    return value if isinstance(value, Mapping) else {}
