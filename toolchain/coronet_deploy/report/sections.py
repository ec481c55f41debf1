"""The sections of the page that show a run: latency, pictures, model, artifacts."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from coronet_deploy.images import Array, to_pixels
from coronet_deploy.report import figures
from coronet_deploy.report.markup import Markup, breakable, join, table, tag
from coronet_deploy.report.model import ArtifactFacts, GroupFacts, ModelFacts, Picture
from coronet_deploy.report.plots import latency_svg, plot_parts
from coronet_deploy.report.summary import Row
from coronet_deploy.report.tables import failures
from coronet_deploy.verify.parity import psnr_db
from coronet_deploy.vocabulary import Run


def latency_section(
    run: Run, rows: tuple[Row, ...], baseline: str | None, key: str = "latency"
) -> Markup:
    """Return the caveats, the plot and the table of latencies; `key` starts their identifiers."""
    plot = tag(
        "figure",
        *_plots(rows, f"{key}-plot"),
        tag(
            "figcaption",
            "Bars: median of the launches' medians. Lines: its 95 % interval, by resampling "
            "launches. Circles: the median of each launch, a process of its own.",
        ),
    )
    names = figures.target_names(row.target for row in rows)
    several = len({(row.target.device, row.target.backend) for row in rows}) > 1
    heads = [
        "Target" if several else "Threads",
        "Median ms",
        "95 % interval",
        "p90 ms",
        "Launches",
        "Samples",
        "Load ms",
    ]
    heads += ["Peak MB"] + (["Speed-up"] if baseline else [])
    groups: dict[str, list[list[str]]] = {}
    for row in rows:
        line = [
            names[row.target] if several else str(row.target.threads),
            figures.milliseconds(row.median_ms) if row.launches else "failed",
            figures.interval(row.low_ms, row.high_ms),
            figures.milliseconds(row.p90_ms),
            f"{row.launches}" if not row.failed else f"{row.launches} ({row.failed} failed)",
            str(row.samples),
            figures.milliseconds(row.load_ms),
            figures.DASH if row.peak_rss_mb is None else f"{row.peak_rss_mb:.0f}",
            *([figures.times(row.speedup)] if baseline else []),
        ]
        groups.setdefault(row.artifact, []).append(line)
    over = f" Speed-up is over {baseline}, at the same threads." if baseline else ""
    emulated = " Emulated: not a real device's." if run.emulated else ""
    caption = f"Latency of one inference, batch 1. p90 is over all samples.{over}{emulated}"
    return join(
        (
            _notes((*figures.caveats(run, rows), *failures(rows))),
            plot,
            table(caption, heads, groups.items(), f"{key}-table"),
        )
    )


def _plots(rows: tuple[Row, ...], key: str) -> list[Markup]:
    """Return the plot of the measured rows, or those that it takes."""
    parts = plot_parts(rows)
    if len(parts) == 1:
        return [tag("div", Markup(latency_svg(rows, "Median latency", key=key)), class_="plot")]
    plots = []
    for number, part in enumerate(parts, 1):
        title = f"Median latency, part {number} of {len(parts)}"
        svg = latency_svg(part, title, key=f"{key}-{number}", of=rows)
        plots.append(tag("div", Markup(svg), class_="plot"))
    return plots


def _notes(sentences: Iterable[str]) -> Markup:
    return tag("ul", *(tag("li", sentence) for sentence in sentences), class_="notes")


def pictures_section(pictures: Sequence[Picture]) -> Markup:
    """Return a grid for each picture: input, torch, every artifact with its PSNR."""
    grids = [tag("p", "Each artifact's picture, with its PSNR against torch's (peak-to-peak 2).")]
    for picture in pictures:
        cells = [
            _figure(picture.input, "input", f"{picture.name}: the input"),
            _figure(picture.reference, "torch", f"{picture.name}: as torch draws it"),
        ]
        for label, output in picture.outputs.items():
            quality = _quality(picture.reference, output)
            alt = f"{picture.name}: as {label} draws it, {quality}"
            cells.append(_figure(output, label, alt, quality))
        grids.append(tag("h3", picture.name))
        grids.append(tag("div", *cells, class_="grid"))
    return join(grids)


def _quality(reference: Array, output: Array) -> str:
    if not np.isfinite(output).all():
        return "not finite"
    return f"{figures.decibels(psnr_db(reference, output))} dB"


def _figure(values: Array, label: str, alt: str, quality: str = "") -> Markup:
    """Return (H, W, 3) real values as a captioned picture."""
    height, width = values.shape[:2]
    return tag(
        "figure",
        tag(
            "img",
            src=f"data:image/png;base64,{_png(values)}",
            width=width,
            height=height,
            alt=alt,
            decoding="async",
        ),
        tag("figcaption", breakable(label), *([" ", tag("b", quality)] if quality else [])),
    )


def _png(values: Array) -> str:
    from PIL import Image

    out = io.BytesIO()
    # An artifact that draws NaN has failed its gate; the page still shows where, as black.
    finite = np.nan_to_num(values, nan=-1.0, posinf=1.0, neginf=-1.0)
    Image.fromarray(to_pixels(finite)).save(out, format="PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode("ascii")


def model_section(model: ModelFacts) -> Markup:
    """Return what the generator costs beside the unpruned one, and its channel plan."""
    costs = (
        ("Parameters", model.parameters, model.parameters_full),
        ("MACs, real", model.macs, model.macs_full),
        ("MACs, published convention", model.macs_published, model.macs_published_full),
    )
    size = f"one {model.height} x {model.width} picture"
    cost_lines = [
        [name, figures.count(kept), figures.count(full), f"{full / kept:.2f}x"]
        for name, kept, full in costs
    ]
    plan_lines = [
        [group.name, _share(group), f"{group.kept} of {group.total}"] for group in model.groups
    ]
    told = [
        tag(
            "p",
            f"{model.architecture} with {model.norm} norm. The real count takes a transposed "
            "convolution by its input pixels, the published one by its output pixels.",
        )
    ]
    if model.note:
        told.append(tag("p", model.note))
    if model.checkpoint_sha256:
        digest = tag("code", model.checkpoint_sha256)
        told.append(tag("p", "Checkpoint SHA-256 ", digest, class_="hash"))
    return join(
        (
            *told,
            table(
                f"Cost of {size}.",
                ("", "Pruned", "Unpruned", "Ratio"),
                [(None, cost_lines)],
                "cost-table",
            ),
            table(
                "Channel plan: what each group kept.",
                ("Group", "Kept", "Channels"),
                [(None, plan_lines)],
                "plan-table",
            ),
        )
    )


def _share(group: GroupFacts) -> Markup:
    """Return a bar of the channels kept; the figures beside it say the same in words."""
    percent = f"{100 * group.kept / group.total:.1f}%"
    return tag("span", tag("span", style=f"width:{percent}"), class_="share", aria_hidden="true")


def artifacts_section(
    facts: Sequence[ArtifactFacts],
    rows: Sequence[Row],
    runs: Mapping[ArtifactFacts, Mapping[str, str]] | None = None,
) -> Markup:
    """Return the table of files: size, hash, parity, partitions, as the run of `rows` told them.

    `runs` gives, by their ids, the names of the runs of each file that is not the same in all.
    """
    runs = runs or {}
    partitions = {row.artifact: row.partitions for row in rows if row.partitions is not None}
    elsewhere = {fact for fact, ids in runs.items() if not any(row.run in ids for row in rows)}
    heads = [
        *("Artifact", "Runtime", "Type", "MB", "PSNR dB", "Gate dB", "Max difference", "SSIM"),
        "Partitions",
    ]
    timed = any(fact.export_seconds is not None for fact in facts)
    heads += ["Export s"] if timed else []
    lines = [
        [
            join(
                (
                    breakable(fact.name),
                    *([f" ({', '.join(runs[fact].values())})"] if fact in runs else []),
                    *([tag("code", fact.sha256, class_="digest")] if fact.sha256 else []),
                )
            ),
            fact.runtime,
            fact.dtype or figures.DASH,
            figures.megabytes(fact.bytes),
            figures.decibels(fact.psnr_db),
            figures.decibels(fact.bound_db),
            figures.DASH if fact.max_abs is None else f"{fact.max_abs:.2g}",
            figures.DASH if fact.ssim is None else f"{fact.ssim:.4f}",
            figures.DASH if fact in elsewhere else str(partitions.get(fact.name, figures.DASH)),
            *([_seconds(fact.export_seconds)] if timed else []),
        ]
        for fact in facts
    ]
    caption = (
        "Files with their SHA-256. PSNR, difference and SSIM are of the worst picture against "
        "torch. One partition means that the runtime's fast path took the whole graph."
    )
    return table(caption, heads, [(None, lines)], "artifact-table")


def _seconds(value: float | None) -> str:
    return figures.DASH if value is None else f"{value:.1f}"
