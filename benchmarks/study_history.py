"""Measures what `compare --history` promises: false alarms, power, change points; simulated.

    python benchmarks/study_history.py        some minutes

Sessions' medians vary by 3 % from day to day: normal, with heavy tails (Student's t, three degrees
of freedom, the same spread in most sessions), or remembering half of yesterday's deviation. The
candidate has one session, or a re-run beside it. Last, sessions that vary by 1 % around one of two
levels, a slow one now and then; without a look at them, and with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from launch_pool import upper_bound

from coronet_deploy.cli.bench import positive
from coronet_deploy.report.modes import modes_of
from coronet_deploy.report.regression import Bounds, Look, Verdict, decide
from coronet_deploy.report.sessions import SESSIONS_LEAST, change_points, compare_sessions

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_SPREAD = 0.03
_REMEMBERED = 0.5
_APART, _WITHIN = 0.2, 0.01


def _normal(random: np.random.Generator, count: int) -> Array:
    return random.normal(0, _SPREAD, count)


def _heavy(random: np.random.Generator, count: int) -> Array:
    return np.asarray(random.standard_t(3, count) * (_SPREAD / 3**0.5))


def _remembering(random: np.random.Generator, count: int) -> Array:
    fresh = random.normal(0, _SPREAD, count)
    values = fresh.copy()
    for day in range(1, count):
        kept = _REMEMBERED * values[day - 1]
        values[day] = kept + np.sqrt(1 - _REMEMBERED**2) * fresh[day]
    return values


def verdict(earlier: Array, candidate: Array, *, modal: bool = True) -> Verdict | None:
    """Return what the rule says of logarithms of medians; None where too few sessions count.

    It looks for two modes if `modal`.
    """
    found = change_points(np.exp(earlier).tolist())
    current = earlier[found[-1] if found else 0 :]
    if len(current) < SESSIONS_LEAST:
        return None
    shift = compare_sessions(np.exp(current).tolist(), np.exp(candidate).tolist())
    again = candidate[1:]
    rerun = float(np.exp(again.mean() - current.mean())) if again.size else None
    told = decide([Look(shift, rerun)], Bounds())[0]
    modes = modes_of(np.exp(current).tolist()) if modal else None
    if modes and modes.explain(told, np.exp(candidate).tolist(), Bounds().margin):
        return Verdict.INCONCLUSIVE
    return told


def main() -> None:
    """Parse the flags and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--count", type=positive, default=400, help="histories a cell (default: 400)"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.seed < 0:
        parser.error(f"argument --seed: {args.seed} is below 0")
    kinds: dict[str, Callable[[np.random.Generator, int], Array]] = {
        "normal": _normal,
        "heavy tails": _heavy,
        "remembering": _remembering,
    }
    random = np.random.default_rng(args.seed)
    print(f"{args.count} histories a cell; slower, of a candidate changed by\n")
    print("| sessions | candidate's | history | 0 % (95 % bound) | +5 % | +10 % | too short |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for kind, draw in kinds.items():
        for length in (10, 20, 40):
            for own in (1, 2):
                cells, short = [], 0
                for change in (0.0, 0.05, 0.10):
                    drawn = [draw(random, length + own) for _ in range(args.count)]
                    told = [verdict(one[:length], one[length:] + np.log1p(change)) for one in drawn]
                    hits = told.count(Verdict.SLOWER)
                    bound = "" if change else f" ({upper_bound(hits, args.count):.1%})"
                    cells.append(f"{hits / args.count:.1%}{bound}")
                    short += told.count(None)
                line = (kind, own, length, *cells, f"{short / 3 / args.count:.1%}")
                print(f"| {' | '.join(map(str, line))} |", flush=True)
    print("\n| sessions | history | a change seen, none there | +6 % ten sessions ago, found |")
    print("| --- | ---: | ---: | ---: |")
    for kind, draw in kinds.items():
        for length in (20, 40):
            drawn = [draw(random, length) for _ in range(args.count)]
            seen = sum(bool(change_points(np.exp(one).tolist())) for one in drawn)
            step = np.where(np.arange(length) < length - 10, 0, np.log1p(0.06))
            found = sum(bool(change_points(np.exp(one + step).tolist())) for one in drawn)
            line = (kind, length, f"{seen / args.count:.1%}", f"{found / args.count:.1%}")
            print(f"| {' | '.join(map(str, line))} |", flush=True)
    print("\n| slow sessions | history | two modes told | slower, unchanged | without a look |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for share in (0.15, 0.3, 0.5):
        for length in (10, 20, 40):
            levels = random.random((args.count, length + 1)) < share
            drawn = list(levels * _APART + random.normal(0, _WITHIN, levels.shape))
            seen = sum(modes_of(np.exp(one[:-1]).tolist()) is not None for one in drawn)
            slower = [
                sum(verdict(one[:-1], one[-1:], modal=modal) is Verdict.SLOWER for one in drawn)
                for modal in (True, False)
            ]
            shares = [f"{one / args.count:.1%}" for one in (seen, *slower)]
            print(f"| {share:.0%} | {length} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
