"""Release artifacts: build, load in the real runtime, compare with torch, and only then name.

An artifact is worked on inside a hidden folder of the output folder. Only one that passes the
gate gets its name (`Order.name_of`), with its manifest and its picture grid
beside it. One that fails is kept as `<name>.rejected`, for a look, and has no manifest; what an
earlier export left under the name stays, and the error says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.errors import (
    BadInput,
    ConversionFailed,
    CoronetError,
    EnvironmentProblem,
    GateFailed,
)
from coronet_deploy.export.build import Built, build, takes_half_io
from coronet_deploy.export.calibrate import Pictures, read_pictures
from coronet_deploy.export.manifest import (
    Manifest,
    ParityFigures,
    Split,
    manifest_path,
    read_manifest,
    write_manifest,
)
from coronet_deploy.export.study import Study
from coronet_deploy.export.subject import Subject, subject_of
from coronet_deploy.images import Array
from coronet_deploy.storage import sha256_of, write_bytes
from coronet_deploy.verify.channels import with_channels
from coronet_deploy.verify.gate import Trial, check_size, require, translate, try_artifact
from coronet_deploy.verify.grid import grid_png
from coronet_deploy.verify.parity import DEFAULT_BOUNDS_DB
from coronet_deploy.vocabulary import Artifact, DType, Runtime

if TYPE_CHECKING:
    from coronet_deploy.coronet.checkpoint import Checkpoint
    from coronet_deploy.export.passes import Preference

_ROOM = f".export-{platform.node()}-"
"""How the hidden folders of this host's exports begin."""


class Converter(StrEnum):
    """Who writes the files: we do, or litert-torch, for a second opinion."""

    DIRECT = "direct"
    LITERT_TORCH = "litert-torch"


def _ignore(_: object) -> None:
    """Do nothing with what is reported."""


@dataclass(frozen=True)
class Order:
    """What to release: every dtype for every runtime, of one generator at one picture size.

    `pictures` are what the gate compares on, `calibration` what INT8 is fitted to: of three
    channels, whatever the generator takes. `half_io` gives FP16 ONNX artifacts float16 pictures.
    """

    subject: Subject
    output_dir: Path
    pictures: Pictures
    calibration: Pictures
    runtimes: Sequence[Runtime] = tuple(Runtime)
    dtypes: Sequence[DType] = (DType.FP32,)
    bounds_db: Mapping[DType, float] = field(default_factory=lambda: DEFAULT_BOUNDS_DB)
    prefer: Preference = "speed"
    converter: Converter = Converter.DIRECT
    half_io: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return self.pictures.values[0].shape[1], self.pictures.values[0].shape[2]

    def name_of(self, runtime: Runtime, dtype: DType) -> str:
        """Return the file name of one artifact; what is unusual about it is in it."""
        height, width = self.size
        name = f"{self.subject.model}_{height}x{width}_{dtype.value}"
        if self.converter is not Converter.DIRECT:
            name = f"{name}_{self.converter.value}"
        if self.half_io and takes_half_io(runtime, dtype):
            name = f"{name}_half-io"
        rewritten = self.converter is Converter.DIRECT and dtype in {DType.FP32, DType.FP16}
        if self.prefer != "speed" and rewritten:
            name = f"{name}_prefer-{self.prefer}"
        return f"{name}{runtime.suffix}"

    @property
    def names(self) -> list[str]:
        """The file names of all its artifacts."""
        return [self.name_of(r, d) for r in self.runtimes for d in self.dtypes]


def bundled_order(
    checkpoint: Checkpoint, output_dir: Path, size: int, dtypes: Sequence[DType]
) -> Order:
    """Return the order of a checkpoint, compared and calibrated on the bundled pictures.

    Raises:
        EnvironmentProblem: this installation has none.

    """
    from coronet_deploy.coronet.zoo import bundled_calibration, bundled_pictures

    return Order(
        subject=subject_of(checkpoint),
        output_dir=output_dir,
        pictures=read_pictures(bundled_pictures(), size, size),
        calibration=read_pictures(bundled_calibration(), size, size),
        dtypes=dtypes,
    )


def release(
    order: Order,
    progress: Callable[[str], None] = _ignore,
    finished: Callable[[Artifact], None] = _ignore,
) -> list[Artifact]:
    """Return the released artifacts; `finished` is told of each as soon as it has its name.

    One that fails does not keep the others from being tried.

    Raises:
        BadInput: the picture size does not fit the generator.
        ConversionFailed: a network, or an artifact of it, cannot be made or loaded.
        GateFailed: an artifact does not draw the same picture; names it, the figure, the bound.
        EnvironmentProblem: the output folder cannot be written, a folder has an artifact's name,
            or a package is missing.

    """
    from coronet_deploy.export.capture import capture

    subject, (height, width) = order.subject, order.size
    check_fit(subject, height, width)
    artifacts: list[Artifact] = []
    failures: list[CoronetError] = []
    graph = capture(subject.generator, height, width, subject.channels)
    with _workshop(order.output_dir) as room:
        _require_free_names(order)
        _tell_what_is_replaced(order, progress)
        progress(f"torch: {len(order.pictures)} pictures of {height}x{width}")
        pictures = with_channels(order.pictures, subject.channels)
        order = replace(order, pictures=pictures)
        calibration = with_channels(order.calibration, subject.channels)
        references = translate(subject.generator, pictures)
        study = Study(graph, calibration)
        for runtime in order.runtimes:
            for dtype in order.dtypes:
                name = order.name_of(runtime, dtype)
                progress(f"{name}: building")
                started = time.monotonic()
                try:
                    built = _built(order, study, runtime, dtype, progress)
                    artifact = _publish(order, room / name, built, references, started)
                except (ConversionFailed, GateFailed) as error:
                    progress(f"{name}: failed")
                    failures.append(error)
                else:
                    artifacts.append(artifact)
                    finished(artifact)
    if failures:
        raise joined(failures)
    return artifacts


def _require_free_names(order: Order) -> None:
    """Let an order through whose files can take their names, before any is made.

    Raises:
        EnvironmentProblem: a folder has the name of one.

    """
    for name in order.names:
        for end in ("", ".json", ".png", ".rejected", ".rejected.png"):
            path = order.output_dir / f"{name}{end}"
            if path.is_dir():
                raise EnvironmentProblem(
                    f"cannot write {path}: a folder has that name",
                    hint="move it, or choose another folder",
                )


def _tell_what_is_replaced(order: Order, progress: Callable[[str], None]) -> None:
    """Tell which artifacts of other weights have names of this order's, while they are there.

    Checkpoints of several trainings are often called the same.
    """
    theirs = []
    for name in order.names:
        with contextlib.suppress(BadInput):  # no manifest, or none that can be read
            manifest = read_manifest(manifest_path(order.output_dir / name))
            if manifest.source.sha256 != order.subject.source.sha256:
                theirs.append(name)
    if theirs:
        progress(f"made of other weights, and replaced in {order.output_dir}: {', '.join(theirs)}")


def _built(
    order: Order, study: Study, runtime: Runtime, dtype: DType, progress: Callable[[str], None]
) -> Built:
    """Return the bytes of one artifact, by the converter that was asked for."""
    if order.converter is Converter.LITERT_TORCH:
        from coronet_deploy.export.litert_torch import convert

        if (runtime, dtype) != (Runtime.TFLITE, DType.FP32):
            raise BadInput(
                f"litert-torch writes FP32 TFLite files here, no {dtype.value} {runtime.value}"
            )
        return convert(study.graph, order.subject)
    return build(
        study.graph,
        runtime,
        dtype,
        order.subject,
        study.pictures,
        order.prefer,
        progress,
        study,
        half_io=order.half_io,
    )


def check_fit(subject: Subject, height: int, width: int) -> None:
    """Let a picture size through that the generator can take, as far as its plan tells.

    Raises:
        BadInput: a side is not a multiple of what its architecture needs.

    """
    if subject.plan is not None:
        check_size(height, width, subject.plan.architecture)


def _publish(
    order: Order, candidate: Path, built: Built, references: Sequence[Array], started: float
) -> Artifact:
    """Give an artifact its name if it passes the gate; `candidate` is its place in the workshop."""
    path = order.output_dir / candidate.name
    rejected = path.with_name(f"{path.name}.rejected")
    dtype, runtime = built.embedded.dtype, built.embedded.runtime
    write_bytes(candidate, built.data)
    trial: Trial | None = None
    try:
        bound = order.bounds_db[dtype]
        bounds = built.embedded.output.value_range
        trial = try_artifact(
            candidate, runtime, order.pictures, references, bound, path.name, bounds
        )
        grid = grid_png(order.pictures.values, references, trial.outputs, trial.value_range)
        if not trial.parity.passed:
            write_bytes(_picture_of(rejected), grid)
        require(trial.parity, path.name)
    except (ConversionFailed, GateFailed) as error:
        if trial is None:  # a grid that is there is of another one
            _picture_of(rejected).unlink(missing_ok=True)
        candidate.replace(rejected)
        hint = f"kept as {rejected}"
        if path.exists():
            hint = f"{hint}; {path} is of an earlier export"
        if order.subject.plan is not None and dtype in {DType.INT8, DType.INT8_FULL}:
            hint = f"{hint}; train --qat tunes a checkpoint for eight bits"
        raise type(error)(error.what.replace(str(candidate), path.name), hint=hint) from error
    manifest = Manifest(
        **{name: getattr(built.embedded, name) for name in type(built.embedded).model_fields},
        quantization=built.quantization,
        partitions=Split(
            parts=trial.partitions.parts,
            taken=trial.partitions.taken,
            total=trial.partitions.total,
        ),
        parity=ParityFigures.of(trial.parity, trial.value_range[1] - trial.value_range[0]),
        bytes=len(built.data),
        sha256=sha256_of(candidate),
    )
    # All three are whole in the workshop before one of them takes its name.
    picture = _picture_of(candidate)
    write_bytes(picture, grid)
    made = (write_manifest(candidate, manifest), picture, candidate)
    # Of two exports into one folder, one after the other puts its three files there: a manifest
    # then always describes the artifact beside it.
    with _locked(order.output_dir):
        for file in made:
            file.replace(order.output_dir / file.name)
        for left in (rejected, _picture_of(rejected)):
            left.unlink(missing_ok=True)
    return Artifact(
        path=path,
        runtime=runtime,
        dtype=dtype,
        bytes=manifest.bytes,
        sha256=manifest.sha256,
        seconds=time.monotonic() - started,
        parity=trial.parity,
    )


def _picture_of(artifact: Path) -> Path:
    """Return where the picture grid of an artifact stands."""
    return artifact.with_name(f"{artifact.name}.png")


@contextlib.contextmanager
def _workshop(output_dir: Path) -> Iterator[Path]:
    """Yield a hidden folder inside `output_dir`, which is made; it is removed at the end.

    So is an output folder that was made and got nothing, and what a killed export left in it.
    """
    made = False
    try:
        with contextlib.ExitStack() as stack:
            try:
                made = not output_dir.exists()
                output_dir.mkdir(parents=True, exist_ok=True)
                with _locked(output_dir):
                    _remove_abandoned(output_dir)
                    room = tempfile.TemporaryDirectory(prefix=_ROOM, dir=output_dir)
                    name = stack.enter_context(room)
                    stack.enter_context(_locked(Path(name)))
            except OSError as error:
                raise EnvironmentProblem(
                    f"cannot write into {output_dir}: {error.strerror}",
                    hint="choose another folder",
                ) from error
            try:
                yield Path(name)
            except EnvironmentProblem as error:
                # What a person can act on is the folder they named, not the hidden one.
                raise EnvironmentProblem(
                    error.what.replace(name, str(output_dir)), hint=error.hint
                ) from error
    finally:
        if made:
            with contextlib.suppress(OSError):
                output_dir.rmdir()  # which the system refuses if anything is in it


def _remove_abandoned(output_dir: Path) -> None:
    """Remove the hidden folders of this host's exports that were killed: nobody holds them.

    A lock does not tell of other hosts, so theirs stay.
    """
    for room in output_dir.iterdir():
        if room.name.startswith(_ROOM):
            with contextlib.suppress(OSError), _locked(room, fcntl.LOCK_NB):
                shutil.rmtree(room)


@contextlib.contextmanager
def _locked(folder: Path, how: int = 0) -> Iterator[None]:
    """Hold `folder` alone among the processes that publish into it, or work in it.

    Raises:
        OSError: it cannot be opened; or somebody holds it, and `how` is not to wait.

    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(handle)


def joined(failures: Sequence[CoronetError]) -> CoronetError:
    """Return one error for all, what several say once; a conversion that failed outweighs a gate.

    Of errors that were joined before, each one counts.
    """
    single = [one for error in failures for one in error.parts or (error,)]
    apart = tuple({str(one): one for one in single}.values())
    worst = next((e for e in apart if isinstance(e, ConversionFailed)), apart[0])
    if len(apart) == 1:
        return worst
    error = type(worst)(f"{len(apart)} artifacts failed: " + "; ".join(map(str, apart)))
    error.parts = apart
    return error
