"""Measures what `compare` promises: false alarms and power, in Markdown tables.

    python benchmarks/study_verdict.py                     simulated phones, under three minutes
    python benchmarks/study_verdict.py --real out/artifacts --pool aa --sessions 50    this host
    python benchmarks/study_verdict.py --pool aa           the pool as it stands, nothing measured

Simulated phones: a launch takes 50 inferences of about 10 ms, autocorrelated (rho 0.7, 2 %
variation), a spike in 3 % of them; launches vary by 3 %; the phone warms up by up to 4 % while the
session goes on. Also with one launch in twenty disturbed, 30 % slower. The two sides take turns.

`--real` measures each artifact of a folder against itself, session after session, into the folder
`--pool`; stopped, it goes on where it was (see `launch_pool`). Then every session is dealt into two
sides many times, and each rule judges the same deals: whatever is called slower is a false alarm.
An exact binomial bound (Clopper and Pearson, 1934) stands beside each simulated rate; beside a
measured one the larger of that and of the bound by drawing whole sessions again.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import launch_pool
import numpy as np

from coronet_deploy.bench.system import host_facts
from coronet_deploy.cli.bench import duration, positive
from coronet_deploy.errors import CoronetError
from coronet_deploy.report.regression import (
    Bounds,
    Look,
    Verdict,
    compare_launches,
    decide,
    ratio_of,
    settled,
)

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
                cells[name].append(
                    f"{slower / count:.1%} ({launch_pool.upper_bound(slower, count):.1%})"
                )
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
        bound = launch_pool.upper_bound(alarms, count)
        print(f"| {change:.0%} | {alarms / count:.1%} ({bound:.1%}) | {told} |", flush=True)


def dealt(pool: Path, deals: int, seed: int) -> None:
    """Print how often the rules call artifacts of the pool slower than themselves."""
    rules: dict[str, launch_pool.Rule] = {
        "**compare** (6, then 10 launches)": _real_gate,
        "pooled Mann-Whitney, 1 launch": lambda base, now: pooled_ranks(base[0], now[0]),
        "pooled Mann-Whitney, 10 launches": _pooled(pooled_ranks),
        "pooled Welch, 1 launch": lambda base, now: pooled_welch(base[0], now[0]),
        "pooled Welch, 10 launches": _pooled(pooled_welch),
        "10 % on means, 1 launch": lambda base, now: threshold(base[0], now[0]),
        "10 % on means, 10 launches": _pooled(threshold),
    }
    rows = launch_pool.read_pool(pool, 2 * _MOST)
    print(f"\n### Artifacts against themselves, {host_facts()['cpu']}\n")
    print("| artifact | threads | sessions | launches vary by |")
    print("| --- | ---: | ---: | ---: |")
    for (artifact, target), sessions in rows.items():
        spreads = [
            statistics.stdev(math.log(float(np.median(launch))) for launch in session)
            for session in sessions
        ]
        spread = statistics.median(spreads)
        print(f"| {artifact} | {target.threads} | {len(sessions)} | {spread:.1%} |")
    every = [session for sessions in rows.values() for session in sessions]
    print(f"\n{len(every)} sessions in all, about {deals} deals.\n")
    print("| rule | false alarms | 95 % bound |")
    print("| --- | ---: | ---: |")
    for name, rate in launch_pool.false_alarms(every, rules, deals, seed).items():
        print(f"| {name} | {rate.rate:.1%} | {rate.bound:.1%} |")
    print("\nFewer than about 30 sessions bound little: a rare bad session may be missing.")


def _real_gate(base: launch_pool.Side, now: launch_pool.Side) -> Verdict:
    medians = [np.array([np.median(launch) for launch in side]) for side in (base, now)]
    look, done = _looked(medians[0], medians[1], Bounds(), _FIRST)
    return Verdict.SAME if done else decide([look], Bounds())[0]


def _pooled(rule: Rule) -> launch_pool.Rule:
    return lambda base, now: rule(np.concatenate(base), np.concatenate(now))


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
    parser.add_argument(
        "--count", type=positive, default=2000, help="sessions a cell (default: 2000)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", type=Path, metavar="DIR", help="measure artifacts here instead")
    parser.add_argument("--pool", type=Path, metavar="DIR", help="where its sessions are kept")
    parser.add_argument("--sessions", type=positive, default=50, help="in the pool (default: 50)")
    parser.add_argument("--threads", type=positive, nargs="+", default=[1])
    parser.add_argument("--seconds", type=duration, default=1.0, help="of a launch, with --real")
    parser.add_argument("--deals", type=positive, default=4000, help="of the pool (default: 4000)")
    args = parser.parse_args()
    if args.seed < 0:
        parser.error(f"argument --seed: {args.seed} is below 0")
    if args.real and not args.pool:
        parser.error("--real needs --pool, a folder for its sessions")
    try:
        _study(args)
    except CoronetError as error:
        parser.exit(error.exit_status, f"{parser.prog}: {error}\n")


def _study(args: argparse.Namespace) -> None:
    if args.real:
        launch_pool.gather(
            args.real,
            args.pool,
            sessions=args.sessions,
            launches=2 * _MOST,
            threads=args.threads,
            seconds=args.seconds,
        )
    if args.pool:
        dealt(args.pool, args.deals, args.seed)
    else:
        simulate(args.count, args.seed)


if __name__ == "__main__":
    main()
