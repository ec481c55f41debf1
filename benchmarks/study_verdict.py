"""Measures what `compare` promises: false alarms and power, in Markdown tables.

    python benchmarks/study_verdict.py                     simulated phones, under three minutes
    python benchmarks/study_verdict.py --real out/artifacts --threads 2    this host

Simulated phones: a launch takes 50 inferences of about 10 ms, autocorrelated (rho 0.7, 2 %
variation), a spike in 3 % of them; launches vary by 3 %; the phone warms up by up to 4 % while the
session goes on. Also with one launch in twenty disturbed, 30 % slower. The two sides take turns.

`--real` measures each artifact of a folder in many launches, then deals the launches of one
artifact into two sides, in turn as `compare` would: whatever is called slower is a false alarm.
An exact binomial bound (Clopper and Pearson, 1934) stands beside each rate.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coronet_deploy.bench.compare import find_subjects
from coronet_deploy.bench.host import bench_host
from coronet_deploy.bench.system import host_facts
from coronet_deploy.report.regression import (
    Bounds,
    Look,
    Verdict,
    compare_launches,
    decide,
    ratio_of,
    settled,
)
from coronet_deploy.vocabulary import Target

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Rule = Callable[[Array, Array], Verdict]

_FIRST, _MOST = 6, 10  # launches a side, the defaults of `compare`
_SAMPLES = 50


@dataclass(frozen=True)
class Noise:
    """A phone: shares of the latency, all but `rho` and `spikes`."""

    launch: float = 0.03
    sample: float = 0.02
    rho: float = 0.7
    warming: float = 0.04
    spikes: float = 0.03
    disturbed: float = 0.0


def sessions(
    random: np.random.Generator, count: int, change: float, noise: Noise
) -> tuple[Array, Array]:
    """Return `count` sessions of both sides: (count, launches, samples) in ms, in order of time.

    The candidate is slower by the share `change`.
    """
    turns = [(0, 1) if number % 2 == 0 else (1, 0) for number in range(_MOST)]
    side = np.array(turns).ravel()
    launches = side.size
    shape = (count, launches)
    warmed = random.uniform(0.3, 1, (count, 1)) * noise.warming
    level = 1 + warmed * (1 - np.exp(-3 * np.arange(launches) / launches))
    level = 10 * level * (1 + random.normal(0, noise.launch, shape)) * (1 + change * side)
    level *= 1 + 0.3 * (random.random(shape) < noise.disturbed)
    wander = np.empty((*shape, _SAMPLES))
    wander[..., 0] = random.normal(0, noise.sample, shape)
    fresh = math.sqrt(1 - noise.rho**2)
    for sample in range(1, _SAMPLES):
        step = fresh * random.normal(0, noise.sample, shape)
        wander[..., sample] = noise.rho * wander[..., sample - 1] + step
    spiked = random.random(wander.shape) < noise.spikes
    samples = level[..., None] * (1 + wander + spiked * random.exponential(0.5, wander.shape))
    return samples[:, side == 0], samples[:, side == 1]


def gate(bounds: Bounds, *, first: int = _FIRST) -> Rule:
    """Return `compare`'s rule: a first look, then all launches with the re-run's own ratio."""

    def rule(base: Array, candidate: Array) -> Verdict:
        medians = np.median(base, axis=-1), np.median(candidate, axis=-1)
        look, done = _looked(*medians, bounds, first)
        return Verdict.SAME if done else decide([look], bounds)[0]

    return rule


def strict(margin: float) -> Rule:
    """Return the rule with one bound: the interval beyond the margin, or wholly within it."""

    def rule(base: Array, candidate: Array) -> Verdict:
        shift = compare_launches(
            np.median(base, axis=-1).tolist(), np.median(candidate, axis=-1).tolist()
        )
        if shift.low > 1 + margin:
            return Verdict.SLOWER
        within = 1 / (1 + margin) < shift.low and shift.high < 1 + margin
        return Verdict.SAME if within else Verdict.INCONCLUSIVE

    return rule


def first_launch(rule: Rule) -> Rule:
    """Return `rule` applied to one launch a side."""
    return lambda base, candidate: rule(base[:1], candidate[:1])


def pooled_ranks(base: Array, candidate: Array) -> Verdict:
    """Mann-Whitney on all samples of all launches, as if they were independent."""
    left, right = base.ravel(), candidate.ravel()
    wins = float(np.searchsorted(np.sort(left), right).sum())
    spread = math.sqrt(left.size * right.size * (left.size + right.size + 1) / 12)
    return _called((wins - left.size * right.size / 2) / spread)


def pooled_welch(base: Array, candidate: Array) -> Verdict:
    """Welch's t on all samples of all launches (normal, at this many)."""
    left, right = base.ravel(), candidate.ravel()
    spread = math.sqrt(left.var(ddof=1) / left.size + right.var(ddof=1) / right.size)
    return _called(float(right.mean() - left.mean()) / spread)


def threshold(base: Array, candidate: Array) -> Verdict:
    """Compare the means of all samples; 10 % more is slower."""
    slower = float(candidate.mean()) > 1.10 * float(base.mean())
    return Verdict.SLOWER if slower else Verdict.SAME


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


def simulate(count: int, seed: int) -> None:
    """Print the tables of simulated phones."""
    rules: dict[str, Rule] = {
        "**compare** (6, then 10 launches)": gate(Bounds()),
        "compare, margin 2 %": gate(Bounds(margin=0.02)),
        "compare, margin 3 %": gate(Bounds(margin=0.03)),
        "10 launches, no first look": gate(Bounds(), first=_MOST),
        "10 launches, interval beyond 3 %": strict(0.03),
        "pooled Mann-Whitney, 1 launch": first_launch(pooled_ranks),
        "pooled Mann-Whitney, 10 launches": pooled_ranks,
        "pooled Welch, 1 launch": first_launch(pooled_welch),
        "pooled Welch, 10 launches": pooled_welch,
        "10 % on means, 1 launch": first_launch(threshold),
        "10 % on means, 10 launches": threshold,
    }
    for title, noise in (
        ("Launches well behaved", Noise()),
        ("One launch in twenty disturbed", Noise(disturbed=0.05)),
    ):
        print(f"\n### {title}, {count} sessions a cell\n")
        print("| rule | false alarms (95 % bound) | same, unchanged | +3 % | +5 % | +10 % |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        random = np.random.default_rng(seed)
        cells: dict[str, list[str]] = {name: [] for name in rules}
        for change in (0.0, 0.03, 0.05, 0.10):
            pairs = list(zip(*sessions(random, count, change, noise), strict=True))
            for name, rule in rules.items():
                verdicts = [rule(base, candidate) for base, candidate in pairs]
                slower = verdicts.count(Verdict.SLOWER)
                if change:
                    cells[name].append(f"{slower / count:.1%}")
                    continue
                cells[name].append(f"{slower / count:.1%} ({upper_bound(slower, count):.1%})")
                cells[name].append(f"{verdicts.count(Verdict.SAME) / count:.1%}")
        for name, line in cells.items():
            print(f"| {name} | {' | '.join(line)} |", flush=True)
    _families(count, seed)


def _families(count: int, seed: int) -> None:
    """Print how often any of six unchanged rows is called slower, and one at +5 or +10 % is."""
    print("\n### Six rows judged together (Holm)\n")
    print("| one row changed by | any other called slower (95 % bound) | that row found |")
    print("| ---: | ---: | ---: |")
    random, bounds, rows = np.random.default_rng(seed), Bounds(), 6
    for change in (0.0, 0.05, 0.10):
        alarms = found = 0
        changes = [change] + [0.0] * (rows - 1)
        columns = [
            tuple(np.median(side, axis=-1) for side in sessions(random, count, one, Noise()))
            for one in changes
        ]
        for number in range(count):
            looks = [_looked(base[number], now[number], bounds, _FIRST) for base, now in columns]
            verdicts = [
                Verdict.SAME if done else verdict
                for verdict, (_, done) in zip(
                    decide([look for look, _ in looks], bounds), looks, strict=True
                )
            ]
            alarms += Verdict.SLOWER in verdicts[1 if change else 0 :]
            found += verdicts[0] is Verdict.SLOWER
        told = f"{found / count:.1%}" if change else "-"
        bound = upper_bound(alarms, count)
        print(f"| {change:.0%} | {alarms / count:.1%} ({bound:.1%}) | {told} |", flush=True)


def real(folder: Path, threads: Sequence[int], sessions_wanted: int, seconds: float) -> None:
    """Print how often artifacts of `folder` are called slower than themselves on this host."""
    subjects = find_subjects(folder, "--real")
    run = bench_host(
        [subject.path for subject in subjects if subject.path],
        threads=threads,
        rounds=2 * _MOST * sessions_wanted,
        seconds=seconds,
        progress=lambda done, total, _: print(f"\r{done}/{total}", end="", flush=True),
    )
    print(f"\n\n### Artifacts against themselves, {host_facts()['cpu']}\n")
    print("| artifact | threads | sessions | slower | same | inconclusive | faster | spread |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    bounds, alarms, total = Bounds(), 0, 0
    for subject in subjects:
        for count in threads:
            target = Target("host", "cpu", count)
            medians = [
                statistics.median(launch.samples_ms)
                for launch in run.launches
                if launch.artifact == subject.name and launch.target == target
                if launch.error is None
            ]
            verdicts = [_aa(base, now, bounds) for base, now in _dealt(medians)]
            told = [verdicts.count(one) for one in (
                Verdict.SLOWER, Verdict.SAME, Verdict.INCONCLUSIVE, Verdict.FASTER,
            )]  # fmt: skip
            alarms, total = alarms + told[0], total + len(verdicts)
            spread = statistics.stdev(np.log(medians).tolist())
            cells = " | ".join(map(str, told))
            print(f"| {subject.name} | {count} | {len(verdicts)} | {cells} | {spread:.1%} |")
    if total:
        bound = upper_bound(alarms, total)
        print(f"\n{alarms} of {total} called slower; at most {bound:.1%} with 95 % confidence.")


def _dealt(medians: Sequence[float]) -> Iterator[tuple[list[float], list[float]]]:
    """Yield sessions of two sides, dealt ABBA from launches in order of time."""
    for start in range(0, len(medians) - 2 * _MOST + 1, 2 * _MOST):
        session = medians[start : start + 2 * _MOST]
        base = [one for place, one in enumerate(session) if place % 4 in {0, 3}]
        now = [one for place, one in enumerate(session) if place % 4 in {1, 2}]
        yield base, now


def _aa(base: list[float], now: list[float], bounds: Bounds) -> Verdict:
    look, done = _looked(np.array(base), np.array(now), bounds, _FIRST)
    return Verdict.SAME if done else decide([look], bounds)[0]


def _looked(base: Array, now: Array, bounds: Bounds, first: int) -> tuple[Look, bool]:
    """Return what a row's launch medians show, and whether the first look settled it."""
    left, right = base.tolist(), now.tolist()
    early = compare_launches(left[:first], right[:first])
    if first < len(left) and settled(early, bounds):
        return Look(early), True
    rerun = ratio_of(left[first:], right[first:]) if first < len(left) else None
    return Look(compare_launches(left, right), rerun), False


def _called(deviate: float) -> Verdict:
    return Verdict.SLOWER if deviate > statistics.NormalDist().inv_cdf(0.95) else Verdict.SAME


def main() -> None:
    """Parse the flags and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="sessions a cell (default: 2000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", type=Path, metavar="DIR", help="measure artifacts here instead")
    parser.add_argument("--sessions", type=int, default=4, help="of each artifact, with --real")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=1.0, help="of a launch, with --real")
    args = parser.parse_args()
    if args.real:
        real(args.real, args.threads, args.sessions, args.seconds)
    else:
        simulate(args.count, args.seed)


if __name__ == "__main__":
    main()
