"""A pool of artifacts measured against themselves, gathered in sittings, and dealt again and again.

A session makes as many launches of each artifact as `compare` makes of both sides. Every session
is a run file in the pool's folder, so that gathering can stop at any time and go on later, with
the same files and settings or not at all. Dealt into two sides, a session is a comparison in which
nothing changed: whatever is called slower is a false alarm. Each turn of two launches is dealt by
a coin, as `compare` interleaves its sides.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coronet_deploy.bench.compare import find_subjects
from coronet_deploy.bench.host import BenchInterrupted, bench_host, load_subjects
from coronet_deploy.errors import INTERRUPTED, BadInput
from coronet_deploy.report.regression import Verdict
from coronet_deploy.results.entries import find_run_files
from coronet_deploy.results.files import read_run, write_run
from coronet_deploy.vocabulary import Run, Target

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Side = Sequence[Array]
"""The samples of one side's launches in ms, an array each, in order of time."""
Rule = Callable[[Side, Side], Verdict]

_RESAMPLES = 2000
_SAMPLES = 30
_ASKED = ("rounds", "samples", "seconds")


@dataclass(frozen=True)
class Rate:
    """How often a rule called unchanged artifacts slower.

    `alarms` of `deals`; `by_session` is the rate in each session. A session's deals are no
    independent draws, so an exact bound of all deals may be too low; one by drawing sessions again
    is, where few of them had an alarm. `bound` is the larger.
    """

    alarms: int
    deals: int
    by_session: tuple[float, ...]

    @property
    def rate(self) -> float:
        """The share of deals that were false alarms."""
        return self.alarms / self.deals

    @property
    def bound(self) -> float:
        """The upper 95 % bound of the rate."""
        random = np.random.default_rng(95)
        drawn = random.choice(self.by_session, size=(_RESAMPLES, len(self.by_session)))
        by_sessions = float(np.percentile(drawn.mean(axis=1), 95))
        return max(by_sessions, upper_bound(self.alarms, self.deals))


def upper_bound(hits: int, count: int) -> float:
    """Return the one-sided 95 % upper bound of a rate, exactly."""
    low, high = hits / count, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        terms = (
            math.exp(
                math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
                + k * math.log(middle or 1e-300) + (count - k) * math.log1p(-middle)
            )
            for k in range(hits + 1)
        ) if middle < 1 else iter(())  # fmt: skip
        low, high = (middle, high) if sum(terms) > 0.05 else (low, middle)
    return high


def gather(
    artifacts: Path,
    pool: Path,
    *,
    sessions: int,
    launches: int,
    threads: Sequence[int],
    seconds: float,
) -> None:
    """Add sessions to `pool` until it holds `sessions`; Ctrl-C loses the session under way only.

    A session in which a launch failed is kept and not counted: called again, it is made up for.

    Raises:
        BadInput: the pool's sessions are of other files, threads or settings; says of which.

    """
    subjects = find_subjects(artifacts, "--real")
    paths = [subject.path for subject in subjects if subject.path]
    held = _runs(pool) if pool.is_dir() else []
    asked = {
        "rounds": launches,
        "samples": _SAMPLES,
        "seconds": seconds,
        "threads": sorted(threads),
        **{one.name: one.sha256 for one in load_subjects(paths, None)},
    }
    for run in held:
        _refuse_other(pool, run, _made_with(run), asked, {*_made_with(run), *asked})
    done = sum(all(launch.error is None for launch in run.launches) for run in held)
    print(f"{done} of {sessions} sessions are in {pool}", file=sys.stderr)
    for number in range(done, sessions):
        try:
            run = bench_host(
                paths,
                threads=threads,
                rounds=launches,
                samples=_SAMPLES,
                seconds=seconds,
                command=tuple(sys.argv),
                progress=lambda one, total, _, number=number: print(  # type: ignore[misc] # bound now
                    f"\rsession {number + 1} of {sessions}: {one}/{total}",
                    end="", file=sys.stderr, flush=True,
                ),
            )  # fmt: skip
        except BenchInterrupted:
            print(f"\nstopped; {number} sessions are in {pool}", file=sys.stderr)
            sys.exit(INTERRUPTED)
        write_run(run, pool)
    print(file=sys.stderr)


def read_pool(pool: Path, launches: int) -> Mapping[tuple[str, Target], list[Side]]:
    """Return each row's sessions, those with at least `launches` launches, cut to that many.

    Raises:
        BadInput: there is no such session, or sessions are of other files or samples than others.

    """
    rows: dict[tuple[str, Target], list[Side]] = {}
    first: dict[str, object] = {}
    for run in _runs(pool):
        # A session of other threads has rows of its own, and a short one is left out.
        made = _made_with(run)
        _refuse_other(pool, run, made, first, {*made} & {*first} - {"rounds", "threads"})
        first = {**made, **first}
        own: dict[tuple[str, Target], list[Array]] = {}
        for launch in run.launches:
            if launch.error is None:
                samples = np.asarray(launch.samples_ms)
                own.setdefault((launch.artifact, launch.target), []).append(samples)
        for key, series in own.items():
            if len(series) >= launches:
                rows.setdefault(key, []).append(series[:launches])
    if not rows:
        raise BadInput(f"{pool} holds no session of {launches} launches")
    return rows


def deal(session: Side, random: np.random.Generator) -> tuple[Side, Side]:
    """Return a session's launches as two sides, one of each turn of two, by a coin a turn."""
    sides: tuple[list[Array], list[Array]] = ([], [])
    for start in range(0, len(session) - 1, 2):
        first = int(random.integers(2))
        sides[first].append(session[start])
        sides[1 - first].append(session[start + 1])
    return sides


def false_alarms(
    sessions: Sequence[Side], rules: Mapping[str, Rule], deals: int, seed: int
) -> Mapping[str, Rate]:
    """Return each rule's rate over about `deals` deals, as many of each session."""
    random = np.random.default_rng(seed)
    each = max(1, deals // len(sessions))
    alarms = {name: [0] * len(sessions) for name in rules}
    for place, session in enumerate(sessions):
        for _ in range(each):
            base, candidate = deal(session, random)
            for name, rule in rules.items():
                alarms[name][place] += rule(base, candidate) is Verdict.SLOWER
    return {
        name: Rate(sum(counts), each * len(sessions), tuple(count / each for count in counts))
        for name, counts in alarms.items()
    }


def _made_with(run: Run) -> dict[str, object]:
    """Return what a session was asked for, and its files' hashes by name."""
    settings = run.conditions.get("settings")
    asked = settings if isinstance(settings, Mapping) else {}
    return {
        **{name: asked[name] for name in _ASKED if name in asked},
        "threads": sorted({launch.target.threads for launch in run.launches}),
        **{launch.artifact: launch.artifact_sha256 for launch in run.launches},
    }


def _refuse_other(
    pool: Path,
    run: Run,
    made: Mapping[str, object],
    asked: Mapping[str, object],
    names: Collection[str],
) -> None:
    for name in sorted(names):
        if made.get(name) != asked.get(name):
            raise BadInput(
                f"{pool}: session {run.id} has {name} {_short(made.get(name))}, not "
                f"{_short(asked.get(name))}",
                hint="a pool is of one kind: name another folder",
            )


def _short(value: object) -> str:
    return "nothing" if value is None else f"{value}"[:12]


def _runs(pool: Path) -> list[Run]:
    runs = [read_run(path) for path in find_run_files([pool]).paths]
    return sorted(runs, key=lambda run: run.created)
