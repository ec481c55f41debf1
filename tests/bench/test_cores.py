"""Where the cores of a virtual machine are, and what a bench says of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from coronet_deploy.bench import cores, system
from coronet_deploy.bench.cores import moved_notes, round_trip_ns
from coronet_deploy.bench.host import bench_host
from coronet_deploy.vocabulary import Run

_CORES = system.cores_allowed()


@pytest.mark.skipif(_CORES < 2, reason="one core is not far from itself")
def test_a_byte_goes_to_another_core_and_back_in_nanoseconds() -> None:
    taken = round_trip_ns()
    assert taken is not None
    assert 10 < taken < 1e6


def test_one_core_alone_and_a_system_that_pins_nothing_tell_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert round_trip_ns() is None
    monkeypatch.delattr(os, "sched_setaffinity")
    assert round_trip_ns() is None


def test_who_waits_for_one_that_is_gone_ends() -> None:
    waits = "import mmap; from coronet_deploy.bench.cores import _await; "
    waits += "_await(mmap.mmap(-1, 256), 0, 1)"
    done = subprocess.run([sys.executable, "-c", waits], check=False, timeout=60)
    assert done.returncode == 1


def test_cores_that_moved_are_told_of_and_others_not() -> None:
    assert moved_notes([]) == moved_notes([200]) == moved_notes([180, 300]) == []
    (note,) = moved_notes([181.2, 300, 640])
    assert "181 to 640 ns" in note


def _bench(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, threads: tuple[int, ...], *, virtual: bool
) -> tuple[Run, int]:
    """Return a run on a machine whose cores move, and how often it looked."""
    looks: list[float] = []

    def look() -> float:
        looks.append(250.0 + 400 * (len(looks) % 2))
        return looks[-1]

    facts: Mapping[str, object] = {**system.host_facts(), "virtual_machine": virtual}
    monkeypatch.setattr(system, "host_facts", lambda: facts)
    monkeypatch.setattr(cores, "round_trip_ns", look)
    run = bench_host([tiny / "tiny.onnx"], threads=threads, rounds=2, samples=5)
    return run, len(looks)


def test_a_bench_of_several_threads_says_if_the_cores_moved(
    monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    run, looks = _bench(monkeypatch, tiny, (1, 2), virtual=True)
    assert looks == 2  # before each launch of two threads
    assert run.conditions["core_round_trip_ns"] == [250, 650]
    assert "moved the cores" in " ".join(run.conditions["notes"])


@pytest.mark.parametrize(("threads", "virtual"), [((1,), True), ((1, 2), False)])
def test_one_thread_and_a_machine_of_its_own_have_no_such_question(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, threads: tuple[int, ...], *, virtual: bool
) -> None:
    run, looks = _bench(monkeypatch, tiny, threads, virtual=virtual)
    assert looks == 0
    assert run.conditions["core_round_trip_ns"] is None
    assert "moved" not in " ".join(run.conditions["notes"])
