"""What a launch on a phone ran on: which part of the graph on its back end, and on which CPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coronet_deploy.bench.launch import Failed, Failure, Labels
from coronet_deploy.bench.phone_kit import CPU
from coronet_deploy.bench.phone_launch import measured
from coronet_deploy.bench.runner import RunnerResult
from coronet_deploy.profiles import cpu_list
from coronet_deploy.vocabulary import Launch


def check_taken(result: RunnerResult, backend: str, *, allow_fallback: bool) -> bool:
    """Tell whether part of the graph runs on the CPU, if that is allowed.

    Raises:
        Failed: part of it does, and is not allowed to.

    """
    if backend == CPU:
        return False
    found = placement(result)
    if found["fully_accelerated"]:
        return False
    taken, total = found["nodes_taken"], found["nodes"]
    told = "not all" if taken is None else f"{taken} of {total}"
    if allow_fallback:
        return True
    raise Failed(
        Failure.DELEGATION,
        f"{backend} took {told} nodes of the graph, or does not tell; the rest runs on the CPU "
        "(--allow-fallback times it as it is)",
    )


def placement(result: RunnerResult) -> dict[str, Any]:
    """Return what part of the graph the back end took, as a launch's details."""
    taken, total = result.nodes_taken, result.nodes
    whole = result.details.get("fully_accelerated")
    if whole is None and taken is not None and total is not None:
        whole = taken == total
    return {
        "nodes_taken": taken,
        "nodes": total,
        "partitions": result.partitions,
        "fully_accelerated": whole,
    }


def placed(
    labels: Labels,
    started: str,
    result: RunnerResult,
    backend: str,
    *,
    fallback: bool,
    mask: str | None,
) -> Launch:
    """Return the timed launch that `result` is, with where it ran.

    Raises:
        Failed: it did not run where the trial did (`fallback`: partly on the CPU), or not on the
            CPUs of `mask`.

    """
    check_taken(result, backend, allow_fallback=fallback)
    check_cpus(result, mask)
    launch = measured(labels, started, result)
    return replace(launch, details={**launch.details, **placement(result)})


def check_cpus(result: RunnerResult, mask: str | None) -> None:
    """Check that the phone let the launch have all CPUs of `mask`, where it tells.

    Raises:
        Failed: it had others; says which.

    """
    told = result.details.get("cpus_allowed_list")
    granted = _granted(str(told))
    if mask is None or not granted:
        return
    asked = _cpus(mask)
    if set(granted) != set(asked):
        raise Failed(
            Failure.REFUSED,
            f"--cpu-mask {mask} asks for CPUs {','.join(map(str, asked))}, "
            f"and the phone let the launch have {told}",
        )


def crowded(mask: str | None, threads: Sequence[int]) -> list[str]:
    """Return a note if there are more threads than CPUs of `mask`."""
    if mask is None or max(threads) <= len(_cpus(mask)):
        return []
    return [f"--cpu-mask {mask} has fewer CPUs ({len(_cpus(mask))}) than threads ({max(threads)})."]


def narrowed(
    launches: Iterable[Launch], clusters: Iterable[Mapping[str, Any]], mask: str | None
) -> list[str]:
    """Return a note for each part of its CPUs that a phone kept launches to, unasked.

    Phones do so with the screen off, or by their maker's rules for what adb starts.
    """
    every = {cpu for cluster in clusters for cpu in cluster["cpus"]}
    timed = [one for one in launches if one.error is None]
    told = Counter(str(one.details.get("cpus_allowed_list")) for one in timed)
    return [
        f"The phone let {count} of {len(timed)} launches have CPUs {granted} only, of its "
        f"{len(every)}."
        for granted, count in told.items()
        if mask is None and every - set(_granted(granted) or every)
    ]


def _granted(text: str) -> tuple[int, ...]:
    """Return the CPUs that a launch says it was let have; none where it cannot tell."""
    try:
        return cpu_list(text)
    except ValueError:
        return ()


def _cpus(mask: str) -> list[int]:
    bits = int(mask, 16)
    return [one for one in range(bits.bit_length()) if bits >> one & 1]
