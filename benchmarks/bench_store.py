"""Measures the result store: importing many runs, asking it, rebuilding it, in Markdown tables.

    python benchmarks/bench_store.py                              10,000 runs into SQLite
    python benchmarks/bench_store.py --runs 500
    python benchmarks/bench_store.py --store postgresql://me@/db?host=/run/postgresql

Run files are made in a temporary folder: 24 launches of 30 samples each, two artifacts on one and
two threads. Each step is a process of its own, so that its peak memory is its own; its CPU time
(without the server's) tells more than the clock where others use the machine too. A database that
is named is emptied of what an earlier measurement left (`coronet_*` tables only).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Launch, Run, Target

ARTIFACTS = ("model_256x256_fp32.onnx", "model_256x256_int8.tflite")
LAUNCHES = 6
SAMPLES = 30

STEP = """
import json, sys, time
from pathlib import Path
from coronet_deploy.bench.system import peak_rss_mb
from coronet_deploy.results.ingest import import_runs, prune, rebuild
from coronet_deploy.results.store import Filters, history, keys, list_runs, open_store

where, folder, step = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
made = step.startswith(("import", "rebuild", "prune"))
with open_store(where, make=made) as store:
    start, used = time.perf_counter(), time.process_time()
    if step.startswith("import"):
        count = import_runs(store, [folder]).total
    elif step == "rebuild":
        count = rebuild(store, [folder]).added
    elif step == "history of one key":
        count = len(history(store, keys(store)[0][0]))
    elif step == "list 20":
        count = len(list_runs(store, Filters(limit=20)))
    elif step == "list all":
        count = len(list_runs(store))
    else:
        count = len(prune(store, keep=100).runs)
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
print(json.dumps({"seconds": seconds, "cpu": cpu, "count": count, "peak_mb": peak_rss_mb()}))
"""
STEPS = (
    "import",
    "import again",
    "list 20",
    "list all",
    "history of one key",
    "prune to 100",
    "rebuild",
)


def make_runs(count: int) -> Iterator[Run]:
    """Yield runs an hour apart, the same ones every time."""
    draw = random.Random(1)  # noqa: S311 - figures, no secrets
    start = datetime(2026, 1, 1, tzinfo=UTC)
    manifests = {
        name: {
            "model": "model",
            "runtime": name.rpartition(".")[2],
            "dtype": name.partition(".")[0][-4:],
        }
        for name in ARTIFACTS
    }
    for number in range(count):
        launches = [
            Launch(
                name,
                "ab" * 32,
                Target("host", "cpu", threads),
                turn,
                tuple(draw.gauss(20, 0.5) for _ in range(SAMPLES)),
                warmup_ms=tuple(draw.gauss(22, 1) for _ in range(10)),
                details={"settled": True, "tools": {"onnxruntime": "1.23"}},
            )
            for turn in range(LAUNCHES)
            for name in ARTIFACTS
            for threads in (1, 2)
        ]
        yield Run(
            id=f"run-{number:06d}",
            created=(start + timedelta(hours=number)).isoformat(),
            command=("coronet-deploy", "bench"),
            conditions={"cpu": "a CPU", "settings": {"samples": SAMPLES, "seconds": 3.0}},
            tools={"onnxruntime": "1.23"},
            artifacts=manifests,
            launches=tuple(launches),
        )


def main() -> None:
    """Parse the flags and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=10_000, help="run files (default: 10000)")
    parser.add_argument("--store", help="PostgreSQL URL or a file (default: a temporary SQLite)")
    parser.add_argument("--folder", type=Path, help="where to make the files (default: temporary)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary) / "runs"
        store = args.store or str(Path(temporary) / "store.sqlite")
        start = time.perf_counter()
        total = sum(write_run(run, folder).stat().st_size for run in make_runs(args.runs))
        print(
            f"{args.runs} run files, {total / 1e6:.0f} MB, "
            f"made in {time.perf_counter() - start:.0f} s\n"
        )
        if args.store:
            (Path(temporary) / "none").mkdir()
            measure(store, Path(temporary) / "none", "rebuild")
        print("| step | runs | s | runs/s | CPU s | peak MB |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for step in STEPS:
            seen = measure(store, folder, step)
            rate = seen["count"] / seen["seconds"]
            print(
                f"| {step} | {seen['count']:.0f} | {seen['seconds']:.2f} | {rate:.0f} "
                f"| {seen['cpu']:.2f} | {seen['peak_mb']:.0f} |",
                flush=True,
            )
        if not args.store:
            print(f"\nThe store is {Path(store).stat().st_size / 1e6:.1f} MB.")


def measure(store: str, folder: Path, step: str) -> dict[str, float]:
    """Do one step in a process of its own and return its figures."""
    line = [sys.executable, "-c", STEP, store, str(folder), step]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    seen: dict[str, float] = json.loads(done.stdout)
    return seen


if __name__ == "__main__":
    main()
