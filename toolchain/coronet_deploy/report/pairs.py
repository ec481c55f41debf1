"""From runs to pairs of series: whether two runs may be compared at all, and what spoils a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from coronet_deploy.bench.compare import BASE, CANDIDATE, Subject
from coronet_deploy.errors import BadInput, NothingMeasured
from coronet_deploy.report.regression import LAUNCHES_LEAST, too_few
from coronet_deploy.results.entries import moment_of
from coronet_deploy.results.keys import SAME_CONDITIONS, SAME_SETTINGS, options_of
from coronet_deploy.vocabulary import Launch, Run, Target

_ONE_DAY = timedelta(days=1)
# Turn and turn about evens out a busy machine, up to here.
_LOAD_PER_CORE_MOST = 2.0
_STEAL_PERCENT_MOST = 10.0


@dataclass(frozen=True)
class Pair:
    """One artifact on one target, on both sides: medians of launches in ms, in order of time.

    `first` counts the launches a side (base, candidate) of the first measurement, the rest being
    the re-run's. `problems` say, in sentences, why nothing can be told from it. `one_file` is set
    where both sides, measured in turn, are the same bytes. `placement` says, in a clause, how the
    graph was split otherwise than the base's, if it was and a part of one ran off the back end.
    """

    artifact: str
    base_artifact: str
    target: Target
    base_ms: tuple[float, ...]
    candidate_ms: tuple[float, ...]
    first: tuple[int, int]
    problems: tuple[str, ...] = ()
    one_file: bool = False
    placement: str = ""

    @property
    def name(self) -> str:
        """The row's name, the same for every candidate of one name and target."""
        return row_name(self.artifact, self.target)

    @property
    def rerun(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The re-run's launches (base, candidate), or None if there was no re-run."""
        base, candidate = self.base_ms[self.first[0] :], self.candidate_ms[self.first[1] :]
        return (base, candidate) if base and candidate else None


def subjects_of(run: Run) -> list[Subject]:
    """Return the artifacts of `run`."""
    return [Subject(name, manifest) for name, manifest in run.artifacts.items()]


def measured_pairs(
    runs: Sequence[Run], matched: Sequence[tuple[Subject, Subject]], max_load: float | None = None
) -> list[Pair]:
    """Return the pairs that `bench_pairs` measured: a run, and perhaps the re-run of some.

    `max_load` is the load average before the first launch beyond which nothing can be told
    (None: twice the cores).

    Raises:
        BadInput: a row has fewer than four launches a side.
        NothingMeasured: nothing was launched.

    """
    pairs = [
        replace(
            _pair((runs, BASE + base.name), (runs, CANDIDATE + candidate.name), target, max_load),
            one_file=len(_digests(runs, BASE + base.name, CANDIDATE + candidate.name)) == 1,
        )
        for base, candidate in matched
        # Both sides were to be launched there: one that was not spoils the row.
        for target in _targets(runs[0], BASE + base.name, CANDIDATE + candidate.name)
    ]
    if not pairs:
        raise NothingMeasured(f"run {runs[0].id} holds no launch of either side")
    return _enough(pairs)


def filed_pairs(
    base: Run,
    candidate: Run,
    matched: Sequence[tuple[Subject, Subject]],
    max_load: float | None = None,
    *,
    across_models: bool = False,
) -> list[Pair]:
    """Return the pairs of two runs that were measured apart, by target.

    `across_models` allows sides that were exported from different checkpoints.

    Raises:
        BadInput: the runs may not be compared (see `check_keys`), are of different checkpoints,
            share no target, or have fewer than four launches a side.

    """
    check_keys(base, candidate)
    pairs = []
    for one, other in matched:
        if not across_models:
            _check_checkpoints(one, other)
        theirs = _targets(base, one.name)
        own = _targets(candidate, other.name)
        pairs += [
            _pair(([base], one.name), ([candidate], other.name), target, max_load)
            for target in own
            if target in theirs
        ]
    if not pairs:
        targets = [
            ", ".join(dict.fromkeys(_target_name(launch.target) for launch in run.launches))
            for run in (base, candidate)
        ]
        raise BadInput(
            f"the runs share no target: the base measured {targets[0] or 'nothing'}, "
            f"the candidate {targets[1] or 'nothing'}"
        )
    return _enough(pairs)


def lone_rows(
    base: Run, candidate: Run, matched: Sequence[tuple[Subject, Subject]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of matched artifacts' rows that only one run has: the base's, the other's.

    Nothing is said of these by `filed_pairs`, whose rows are those of both.
    """
    lone: tuple[list[str], list[str]] = ([], [])
    for one, other in matched:
        theirs, own = _targets(base, one.name), _targets(candidate, other.name)
        for names, name, targets, beside in (
            (lone[0], one.name, theirs, own),
            (lone[1], other.name, own, theirs),
        ):
            names += [row_name(name, target) for target in targets if target not in beside]
    return tuple(lone[0]), tuple(lone[1])


def row_name(artifact: str, target: Target) -> str:
    """Return what a row is called: the same for every file of one name on one target."""
    return f"{artifact} on {_target_name(target)}"


def check_keys(base: Run, candidate: Run) -> None:
    """Refuse two runs whose figures differ for other reasons than their artifacts.

    Raises:
        BadInput: names the first difference.

    """
    check_setups(base, candidate)
    apart = abs(_created(candidate) - _created(base))
    if apart > _ONE_DAY:
        raise BadInput(
            f"runs {base.id} and {candidate.id} were made {apart.total_seconds() / 3600:.0f} hours "
            "apart: a machine is not the same on another day",
            hint="compare the artifacts themselves, or a run with its --history",
        )


def check_setups(base: Run, candidate: Run) -> None:
    """Refuse two runs of different machines, tools or settings, whatever their days.

    Raises:
        BadInput: names the first difference.

    """
    settings = base.conditions.get("settings"), candidate.conditions.get("settings")
    shared = {one.target for one in base.launches} & {one.target for one in candidate.launches}
    left, right = (
        options_of(run, [one for one in run.launches if one.target in shared])
        for run in (base, candidate)
    )
    libraries = _libraries(base), _libraries(candidate)
    tables: list[tuple[str, Any, Any, Sequence[str]]] = [
        ("", base.conditions, candidate.conditions, SAME_CONDITIONS),
        ("setting ", *settings, SAME_SETTINGS),
        ("", left, right, sorted({*left, *right})),
        # A library or tool that only one run used made no figure of the other.
        ("", *libraries, sorted({*libraries[0]} & {*libraries[1]})),
        ("version of ", base.tools, candidate.tools, sorted({*base.tools} & {*candidate.tools})),
        ("", {"emulated": base.emulated}, {"emulated": candidate.emulated}, ("emulated",)),
    ]
    for prefix, one, other, keys in tables:
        for key in keys:
            values = [
                table.get(key) if isinstance(table, Mapping) else None for table in (one, other)
            ]
            if values[0] != values[1]:
                raise BadInput(
                    f"runs {base.id} and {candidate.id} differ in {prefix}{key}: "
                    f"{values[0]} and {values[1]}",
                    hint="measure both on one machine, or compare the artifacts themselves",
                )


def _libraries(run: Run) -> dict[str, str]:
    """Return the runtimes' libraries of a run on a phone; LiteRT's tell no version of their own."""
    kit = run.conditions.get("kit")
    given = kit if isinstance(kit, Mapping) else {}
    names = ("litert-library", "onnxruntime-library")
    return {name: f"file {str(given[name])[:12]}" for name in names if name in given}


def checkpoint_of(manifest: Mapping[str, Any]) -> str | None:
    """Return the SHA-256 of the checkpoint that an artifact was exported from, if it is known."""
    source = manifest.get("source")
    digest = source.get("sha256") if isinstance(source, Mapping) else None
    return digest if isinstance(digest, str) else None


def row_problems(run: Run, artifact: str, target: Target, max_load: float | None) -> list[str]:
    """Return, in sentences, why nothing can be told from one artifact's launches in `run`."""
    launches = [one for one in run.launches if _is(one, artifact, target)]
    own = _side_problems("candidate", launches, run.artifacts.get(artifact, {}))
    return own + _run_problems(run, max_load)


def _check_checkpoints(base: Subject, candidate: Subject) -> None:
    left, right = checkpoint_of(base.manifest), checkpoint_of(candidate.manifest)
    if left and right and left != right:
        raise BadInput(
            f"{base.name} and {candidate.name} differ in checkpoint: {left[:12]} and {right[:12]}",
            hint="--across-models compares different networks all the same",
        )


def _pair(
    base: tuple[Sequence[Run], str],
    candidate: tuple[Sequence[Run], str],
    target: Target,
    max_load: float | None,
) -> Pair:
    series, first, problems, taken = [], [], [], []
    for side, (runs, name) in (("base", base), ("candidate", candidate)):
        launches = [[one for one in run.launches if _is(one, name, target)] for run in runs]
        every = [launch for ones in launches for launch in ones]
        medians = [
            [one.median_ms for one in ones if one.median_ms is not None] for ones in launches
        ]
        series.append(tuple(one for ones in medians for one in ones))
        first.append(len(medians[0]))
        elsewhere = "" if every else _elsewhere(runs, name, target)
        problems += _side_problems(side, every, runs[0].artifacts.get(name, {}), elsewhere)
        taken.append(_taken(every))
        # What went wrong in a re-run is nothing to a row that was settled before it.
        held = [run for run, ones in zip(runs, launches, strict=True) if ones]
        problems += [text for run in held for text in _run_problems(run, max_load)]
    names = base[1], candidate[1]
    # Between two runs of comparisons, a side of the one is set beside the same of the other.
    if names[0].startswith(BASE) and names[1].startswith(CANDIDATE):
        names = names[0].removeprefix(BASE), names[1].removeprefix(CANDIDATE)
    return Pair(
        artifact=names[1],
        base_artifact=names[0],
        target=target,
        base_ms=series[0],
        candidate_ms=series[1],
        first=(first[0], first[1]),
        problems=tuple(dict.fromkeys(problems)),
        placement=_placement(*taken),
    )


def _taken(launches: Sequence[Launch]) -> str | None:
    """Return what the back end took of a side's graph: "7 of 12 nodes"; None if it is not known."""
    details = next((one.details for one in launches if one.error is None), {})
    taken, nodes, parts = (details.get(key) for key in ("nodes_taken", "nodes", "partitions"))
    whole = details.get("fully_accelerated")
    if whole is not True and isinstance(taken, int) and isinstance(nodes, int):
        split = f" in {parts} partitions" if isinstance(parts, int) and parts > 1 else ""
        return f"{taken} of {nodes} nodes{split}"
    return None if whole is None else "all nodes" if whole else "not all nodes"


def _placement(base: str | None, candidate: str | None) -> str:
    if base is None or candidate is None or base == candidate:
        return ""
    return f"the back end took {candidate} of the candidate's graph, and {base} of the base's"


def _elsewhere(runs: Sequence[Run], name: str, target: Target) -> str:
    """Say where a side was measured that the CPU did part of, or the other did; perhaps nothing."""
    for one in _targets(runs[0], name):
        if one != target and _whole(one) == _whole(target):
            taken = _taken([launch for launch in runs[0].launches if _is(launch, name, one)])
            told = f", whose back end took {taken}" if taken else ""
            return f", but on {one.backend}{told}"
    return ""


def _whole(target: Target) -> Target:
    """Return a target as it is called where the CPU does no part of the graph."""
    return replace(target, backend=target.backend.removesuffix("+cpu"))


def _side_problems(
    side: str, launches: Sequence[Launch], manifest: Mapping[str, Any], elsewhere: str = ""
) -> list[str]:
    problems = [] if launches else [f"the {side} was not measured there{elsewhere}"]
    failed = [launch for launch in launches if launch.error is not None]
    if failed:
        problems.append(
            f"{len(failed)} of {len(launches)} launches of the {side} failed: {failed[0].error}"
        )
    if len({launch.artifact_sha256 for launch in launches}) > 1:
        problems.append(f"the {side} was replaced by another file between its launches")
    parity = manifest.get("parity")
    figures = parity if isinstance(parity, Mapping) else {}
    psnr, bound = figures.get("psnr_db"), figures.get("bound_db")
    if isinstance(psnr, int | float) and isinstance(bound, int | float) and psnr < bound:
        problems.append(
            f"the {side} draws another picture than its checkpoint: {psnr:g} dB, below {bound:g}"
        )
    return problems


def load_most(cores: object, max_load: float | None) -> float | None:
    """Return the load average beyond which nothing is judged: the one given, or by the cores."""
    if max_load is None and isinstance(cores, int):
        return _LOAD_PER_CORE_MOST * cores
    return max_load


def _run_problems(run: Run, max_load: float | None) -> list[str]:
    problems = []
    before = run.conditions.get("before")
    load = before.get("load_1min") if isinstance(before, Mapping) else None
    cores = run.conditions.get("cores_allowed")
    most = load_most(cores, max_load)
    told = run.conditions.get("own_load")
    own = told if isinstance(told, int | float) else 0
    if isinstance(load, int | float) and most is not None and load - own > most:
        may_be = f", {own:g} of it the measurement's own" if own else ""
        problems.append(
            f"the machine was busy: load average {load:g} before the first launch{may_be}, "
            f"above {most:g} (--max-load)"
        )
    stolen = run.conditions.get("steal_percent")
    if isinstance(stolen, int | float) and stolen > _STEAL_PERCENT_MOST:
        problems.append(f"the hypervisor gave {stolen:g} % of the cores' time to others")
    if run.conditions.get("throttled") is True:
        problems.append("the device throttled")
    return problems


def _enough(pairs: list[Pair]) -> list[Pair]:
    """Refuse rows with too few launches, unless that is because launches failed."""
    for pair in pairs:
        fewest = min(len(pair.base_ms), len(pair.candidate_ms))
        told = any("failed" in text or "not measured" in text for text in pair.problems)
        if fewest < LAUNCHES_LEAST and not told:
            raise BadInput(
                f"{pair.name}: {too_few(fewest)}",
                hint=f"at least {LAUNCHES_LEAST}, better 10",
            )
    return pairs


def _targets(run: Run, *names: str) -> list[Target]:
    return list(dict.fromkeys(one.target for one in run.launches if one.artifact in names))


def _digests(runs: Sequence[Run], *names: str) -> set[str]:
    return {one.artifact_sha256 for run in runs for one in run.launches if one.artifact in names}


def _target_name(target: Target) -> str:
    plural = "" if target.threads == 1 else "s"
    return f"{target.device} {target.backend}, {target.threads} thread{plural}"


def _is(launch: Launch, name: str, target: Target) -> bool:
    return launch.artifact == name and launch.target == target


def _created(run: Run) -> datetime:
    try:
        return moment_of(run.created)
    except ValueError as error:
        raise BadInput(f"run {run.id}: created {run.created!r} is not a date") from error
