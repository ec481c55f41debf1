"""A run with seeded samples whose medians are known, and one that a hostile user named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from coronet_deploy.vocabulary import Launch, Run, Target

HOSTILE = "<script>alert(1)</script>\"'&|`$x_1$ [red]\x1b[31m\u202eevil\n.onnx"
MANIFEST = {
    "runtime": "onnx",
    "dtype": "fp32",
    "bytes": 7_300_000,
    "sha256": "ab" * 32,
    "macs": {"real": 2_440_000_000, "published": 2_980_000_000},
    "parity": {"psnr_db": 108.31, "max_abs": 1e-5, "ssim": 1.0, "pictures": 8, "bound_db": 100.0},
}
_WIDTHS = {"full.onnx": 64, "small.onnx": 16}

MakeRun = Callable[..., Run]
MakeSession = Callable[..., Run]
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def make_run() -> MakeRun:
    """Return a function that makes a run of `medians` (ms, by artifact), on 1 and 2 threads."""

    def make(medians: Mapping[str, float] | None = None, *, rounds: int = 6, **changes: Any) -> Run:
        medians = medians or {"slow.onnx": 100.0, "fast.tflite": 25.0}
        random = np.random.default_rng(5)
        made: list[Launch] = []
        for _ in range(rounds):
            for name, median in medians.items():
                for threads in (1, 2):
                    centre = median / threads * random.normal(1, 0.02)
                    samples = centre * random.lognormal(0, 0.01, 20)
                    made.append(
                        Launch(
                            name,
                            "ab" * 32,
                            Target("host", "cpu", threads),
                            len(made),
                            tuple(float(sample) for sample in samples),
                            load_ms=9.0,
                            peak_rss_mb=80.0 + median,
                            details={"partitions": 1, "settled": True},
                        )
                    )
        fields: dict[str, Any] = {
            "id": "20260102T030405Z-host-0a0b0c0d",
            "created": "2026-01-02T03:04:05+00:00",
            "command": ("coronet-deploy", "bench", "a file.onnx"),
            "conditions": {"cpu": "Some CPU", "cores": 2, "before": {"load_1min": 0.1}},
            "tools": {"onnxruntime": "1.2.3"},
            "artifacts": dict.fromkeys(medians, MANIFEST),
            "launches": tuple(made),
        }
        return Run(**(fields | changes))

    return make


@pytest.fixture
def hostile_run(make_run: MakeRun) -> Run:
    """Return a run whose names try to break out of whatever shows them."""
    run = make_run({HOSTILE: 10.0, "plain.onnx": 20.0})
    broken = Launch(HOSTILE, "ab" * 32, Target(HOSTILE, "cpu", 1), 99, (), error=HOSTILE)
    return make_run(
        {HOSTILE: 10.0, "plain.onnx": 20.0},
        command=("coronet-deploy", HOSTILE),
        conditions={"cpu": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}, "notes": [HOSTILE]},
        tools={HOSTILE: HOSTILE},
        artifacts={HOSTILE: {**MANIFEST, "sha256": HOSTILE}, "plain.onnx": {}},
        launches=(*run.launches, broken),
    )


@pytest.fixture
def pruned(make_run: MakeRun) -> Run:
    """Return a run of an unpruned network and of one with an eighth of its multiply-adds."""
    run = make_run({"full.onnx": 80.0, "small.onnx": 16.0})
    manifests = {
        name: {
            **run.artifacts[name],
            "sha256": digit * 64,
            "model": name.partition(".")[0],
            "input": {"shape": [1, 3, 256, 256], "layout": "NCHW"},
            "macs": {"real": macs, "published": 2 * macs},
            "source": {
                "sha256": "cd" * 32,
                "plan": {
                    "architecture": "resnet_6blocks",
                    "norm": "instance",
                    "groups": {"stem": _WIDTHS[name], "down1": 2 * _WIDTHS[name]},
                },
            },
        }
        for name, macs, digit in (
            ("full.onnx", 8_000_000_000, "1"),
            ("small.onnx", 1_000_000_000, "2"),
        )
    }
    launches = tuple(
        replace(one, artifact_sha256="1" * 64 if one.artifact == "full.onnx" else "2" * 64)
        for one in run.launches
    )
    return replace(run, artifacts=manifests, launches=launches)


@pytest.fixture
def session(make_run: MakeRun) -> MakeSession:
    """Return a function that makes the run of a day; its level varies by 2 % from day to day."""

    def make(day: int, factor: float = 1.0, *, rounds: int = 6, **changes: Any) -> Run:
        level = 10.0 * factor * math.exp(np.random.default_rng(day).normal(0, 0.02))
        created = (_FIRST + timedelta(days=day)).isoformat(timespec="seconds")
        return make_run(
            {"a.onnx": level},
            rounds=rounds,
            **{"id": f"day{day:03d}", "created": created} | changes,
        )

    return make
