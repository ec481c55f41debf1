"""What the lowering did to a generator, pass by pass, in the runtime that runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coronet_deploy.errors import CoronetError
from coronet_deploy.export.build import emit
from coronet_deploy.export.figures import Figures, figures_of
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.passes import Preference, passes_for, run_passes
from coronet_deploy.export.passes.minimal import MINIMAL
from coronet_deploy.export.passes.rewriting import Pass
from coronet_deploy.export.schemes import INTEGER_BITS
from coronet_deploy.storage import write_bytes
from coronet_deploy.verify.runtimes import open_session
from coronet_deploy.vocabulary import DType, Runtime

BEFORE, AFTER = "as captured", "artifact"


@dataclass(frozen=True)
class Step:
    """The file after one step: its figures, and the delegate calls that an inference makes.

    `outside` counts operators that no delegate took. A step that cannot be told of, because its
    file cannot be written or run, has a `reason` and no figures.
    """

    name: str
    figures: Figures
    partitions: int
    outside: int
    reason: str = ""


def explain(
    graph: Graph, runtime: Runtime, dtype: DType, prefer: Preference, artifact: Path | None
) -> tuple[Step, ...]:
    """Return the steps from `graph`, as it was captured, to an artifact's file.

    Each pass that changes something is a step. Where the format cannot express the graph so far,
    the rest is written in the plainest way that it has. The last step is the artifact itself, if
    there is one; integer types come in there.
    """
    whole = dtype in {DType.FP32, DType.FP16}
    passes = passes_for(
        runtime,
        prefer if whole else "size",
        integer=not whole,
        throughout=dtype in INTEGER_BITS,
        half=dtype is DType.FP16,
        wide=dtype in {DType.INT16X8, DType.A16W8},
    )
    steps = [
        _step(name, form, runtime, dtype if whole else DType.FP32)
        for name, form in _forms(graph, runtime, passes)
    ]
    if artifact is not None:
        steps.append(_step(AFTER, artifact, runtime, dtype))
    return tuple(steps)


def _forms(graph: Graph, runtime: Runtime, passes: tuple[Pass, ...]) -> Iterator[tuple[str, Graph]]:
    def written(form: Graph) -> Graph:
        # ONNX has an operator for all that is captured and all that its passes make.
        return form if runtime is Runtime.ONNX else run_passes(form, MINIMAL)[0]

    yield BEFORE, written(graph)
    for step in passes:
        after = step.run(graph)
        if after.nodes != graph.nodes:
            yield step.name, written(after)
        graph = after


def _step(name: str, made: Graph | Path, runtime: Runtime, dtype: DType) -> Step:
    try:
        return _told(name, made, runtime, dtype)
    except CoronetError as error:
        reason = error.what
    except OSError as error:  # of the folder for it
        reason = f"no temporary file can be made: {error.strerror or error}"
    return Step(name, Figures(0, 0, 0, 0), 0, 0, reason)


def _told(name: str, made: Graph | Path, runtime: Runtime, dtype: DType) -> Step:
    """Return the step of a file, or of the one that a graph makes."""
    data = made.read_bytes() if isinstance(made, Path) else emit(made, runtime, dtype, {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"step{runtime.suffix}"
        write_bytes(path, data)
        with open_session(path, runtime, threads=1) as session:
            split = session.partitions
    return Step(name, figures_of(data, runtime), split.parts, split.total - split.taken)
