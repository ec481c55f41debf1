"""How figures are written: the same number reads the same in a terminal, in Markdown, on a page.

None, a figure that was not measured or is not known, is written as a dash.
"""

from __future__ import annotations

from collections.abc import Iterable

from coronet_deploy.report.summary import LAUNCHES_FOR_95, Row
from coronet_deploy.vocabulary import Run, Target

DASH = "-"
_NAMED = 3
_BYTES_PER_MB = 1_000_000
_HOST_ONLY = (
    "These are timings of this host. They compare artifacts on this kind of machine "
    "and say nothing of phones."
)
_EMULATED = "Emulated: the timings are not a real device's, and say nothing of one."


def milliseconds(value: float | None) -> str:
    """Return `value` with about three significant digits, and no unit."""
    if value is None:
        return DASH
    for bound, digits in ((0.00995, 5), (0.0995, 4)):
        if 0 < value < bound:
            return f"{value:.{digits}f}"
    for bound, digits in ((0.995, 3), (9.95, 2), (99.5, 1)):
        if value < bound:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def interval(low: float | None, high: float | None) -> str:
    """Return "low to high" in ms."""
    return DASH if low is None else f"{milliseconds(low)} to {milliseconds(high)}"


def times(value: float | None) -> str:
    """Return a ratio: "2.31x"."""
    return DASH if value is None else f"{value:.2f}x"


def megabytes(value: int | None) -> str:
    """Return bytes as MB (10^6 bytes), and no unit."""
    if value is None:
        return DASH
    mb = value / _BYTES_PER_MB
    return f"{mb:.1f}" if mb >= 1 else f"{mb:.2f}" if mb >= 0.01 else f"{mb:.4f}"  # noqa: PLR2004 - digits by size


def decibels(value: float | None) -> str:
    """Return a PSNR with one digit, and no unit.

    It is that of the two digits that a manifest keeps: what was just measured reads as it will
    later.
    """
    return DASH if value is None else f"{round(value, 2):.1f}"


def count(value: int | None) -> str:
    """Return a large count with an SI prefix: "2.44 G"."""
    if value is None:
        return DASH
    for factor, prefix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= factor:
            return (
                f"{value / factor:.3g} {prefix}"
                if value < 100 * factor
                else (f"{value / factor:.0f} {prefix}")
            )
    return str(value)


def minute(created: str) -> str:
    """Return when a run was created: "2026-01-02 03:04 UTC"; as it is, where that is no date."""
    from coronet_deploy.results.entries import moment_of

    try:
        moment = moment_of(created)
    except ValueError:
        return created
    return f"{moment.isoformat(sep=' ', timespec='minutes')[:16]} UTC"


def target_names(targets: Iterable[Target]) -> dict[Target, str]:
    """Return what tells `targets` apart: "2 threads", or "gpu, 2 threads" where that differs."""
    every = list(dict.fromkeys(targets))
    devices, backends = {one.device for one in every}, {one.backend for one in every}
    return {
        one: " ".join(
            (
                *([one.device] if len(devices) > 1 else []),
                *([f"{one.backend},"] if len(devices) > 1 or len(backends) > 1 else []),
                f"{one.threads} thread{'' if one.threads == 1 else 's'}",
            )
        )
        for one in every
    }


def printable(text: str) -> str:
    """Return `text` on one line without control characters, which could drive a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


def caveats(run: Run, rows: tuple[Row, ...]) -> tuple[str, ...]:
    """Return, in sentences, what a reader must know before believing the rows of `run`."""
    sentences = [_EMULATED] if run.emulated else []
    if any(row.target.device == "host" for row in rows):
        sentences.append(_HOST_ONLY)
    if run.conditions.get("interrupted") is True:
        sentences.append("The bench was interrupted: not every launch was made.")
    sentences += _transfers(run) + _untold(run, rows)
    notes = run.conditions.get("notes")
    sentences += [str(note) for note in notes] if isinstance(notes, list | tuple) else []
    fewest = min((row.launches for row in rows if row.launches), default=LAUNCHES_FOR_95)
    if fewest == 1:
        sentences.append(
            f"One launch gives no interval; it takes {LAUNCHES_FOR_95} for one of 95 %."
        )
    elif fewest < LAUNCHES_FOR_95:
        sentences.append(
            f"With {fewest} launches the interval covers less than 95 %: it takes "
            f"{LAUNCHES_FOR_95}."
        )
    unsettled = sum(row.unsettled for row in rows)
    if unsettled:
        total = sum(row.launches for row in rows)
        sentences.append(f"Warm-up had not settled in {unsettled} of {total} launches.")
    return tuple(sentences)


def _untold(run: Run, rows: tuple[Row, ...]) -> list[str]:
    """Say of which artifacts no manifest told, if there are any."""
    names = [
        name
        for name in dict.fromkeys(row.artifact for row in rows)
        if not {"macs", "parity"} & run.artifacts.get(name, {}).keys()
    ]
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    told = (
        f"No manifest was beside {', '.join(names[:_NAMED])}{more}: type, multiply-adds and PSNR "
        "are not known. `export` writes one."
    )
    return [told]


def _transfers(run: Run) -> list[str]:
    """Say which back ends' samples hold more than the inference, if any do."""
    names = dict.fromkeys(
        launch.target.backend
        for launch in run.launches
        if launch.error is None and launch.details.get("transfers") is True
    )
    told = (
        f"On {', '.join(names)} a sample includes the transfers of the picture in and out; on the "
        "CPU alone it is the inference only."
    )
    return [told] if names else []
