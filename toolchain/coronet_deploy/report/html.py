"""The report as one page that needs nothing else: no network, no script, no second file.

    page = render_report(run, artifacts, ModelFacts.of_plan(...), [Picture(...), ...])

Pictures and the plot stand inside it; a policy in its head forbids the browser to load anything.
It follows the reader's light or dark setting, fits a phone, and prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources

from coronet_deploy.errors import BadInput, NothingMeasured
from coronet_deploy.report import figures, sections
from coronet_deploy.report.conditions import method_section
from coronet_deploy.report.history import Line as HistoryLine
from coronet_deploy.report.history import Past
from coronet_deploy.report.lines import Line, lines_of
from coronet_deploy.report.markup import Markup, definitions, join, tag
from coronet_deploy.report.model import ArtifactFacts, GroupFacts, ModelFacts, Picture
from coronet_deploy.report.series import Series, key_of, run_names, series_of
from coronet_deploy.report.summary import Row, baselines, summarize
from coronet_deploy.report.tables import failures
from coronet_deploy.report.trade_sections import history_section, quality_section, work_section
from coronet_deploy.report.tradeoffs import (
    Choice,
    Judgement,
    choices,
    metric_of,
    unmatched,
    works,
)
from coronet_deploy.vocabulary import Artifact, Run

__all__ = ["GroupFacts", "ModelFacts", "Picture", "render_report"]

# Files, each with the names of the runs that keep something of it, by their ids.
_Files = dict[ArtifactFacts, dict[str, str]]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


def render_report(
    run: Run,
    artifacts: Sequence[Artifact] = (),
    model: ModelFacts | None = None,
    pictures: Sequence[Picture] = (),
    *,
    baseline: str | None = None,
    title: str | None = None,
    more: Sequence[Run] = (),
    judgements: Sequence[Judgement] = (),
    past: Past | None = None,
) -> str:
    """Return the page of a run as HTML.

    `artifacts` are what was just exported; without them the page shows what the run file keeps
    of their manifests. `model` and `pictures` add a section each. `baseline` names the artifact
    that speed-ups are over, in the runs that hold it. `more` are further runs, each with its own
    latencies and conditions. `judgements` give the quality to set against latency, `past` the
    earlier sessions of each row. The same arguments give the same page.

    Raises:
        BadInput: no run holds an artifact called `baseline`, or a judgement is of no artifact.
        EnvironmentProblem: matplotlib is not installed.
        NothingMeasured: no launch of the run gave a sample.

    """
    runs = (run, *more)
    bases = baselines(runs, baseline)
    # The few figures on top are of one run, named above them: others may be of other devices.
    summaries = zip(runs, map(summarize, runs, bases), strict=True)
    shown = next((one for one in summaries if any(row.median_ms for row in one[1])), None)
    if shown is None:
        raise NothingMeasured("no launch gave a sample")
    first, rows = shown
    exported: _Files = {ArtifactFacts.of_artifact(artifact): {} for artifact in artifacts}
    files = exported or _files(runs)
    parts = {"latency": ("Latency", _latencies(runs, bases))}
    if pictures:
        parts["pictures"] = ("Pictures", sections.pictures_section(pictures))
    parts |= _tradeoffs(runs, judgements, past)
    if model:
        parts["model"] = ("Model", sections.model_section(model))
    parts["artifacts"] = ("Artifacts", _artifacts(files, rows))
    parts["method"] = ("How it was measured", method_section(runs))
    heading = title or (f"{model.name} on the edge" if model else "Latency report")
    links = (tag("a", name, href=f"#{key}") for key, (name, _) in parts.items())
    body = join(
        (
            tag("a", "Skip to the report", href="#report", class_="skip"),
            tag(
                "header",
                tag("h1", heading),
                tag("p", _lede(first, len(more)), class_="lede"),
                _key_figures(rows, _of_run(files, first.id), model),
                tag("nav", *links, aria_label="Sections"),
            ),
            tag(
                "main",
                *(
                    tag("section", tag("h2", name, id=key), content, aria_labelledby=key)
                    for key, (name, content) in parts.items()
                ),
                id="report",
                tabindex=-1,
            ),
            tag("footer", tag("p", f"{_named(runs)}. Made by coronet-deploy.")),
        )
    )
    return f"<!doctype html>\n{tag('html', _head(heading), tag('body', body), lang='en')}\n"


def _latencies(runs: Sequence[Run], bases: Sequence[str | None]) -> Markup:
    """Return each run's latencies, with its speed-ups over its one of `bases`."""
    if len(runs) == 1:
        return sections.latency_section(runs[0], summarize(runs[0], bases[0]), bases[0])
    parts = []
    ledes = [_lede(run) for run in runs]
    for number, (run, lede, own) in enumerate(zip(runs, ledes, bases, strict=True)):
        rows = summarize(run, own)
        parts.append(tag("h3", lede if ledes.count(lede) == 1 else f"{lede} Run {run.id}."))
        if any(row.median_ms for row in rows):
            parts.append(sections.latency_section(run, rows, own, f"latency-{number}"))
        else:
            parts.append(tag("ul", *(tag("li", text) for text in failures(rows)), class_="notes"))
    return join(parts)


def _tradeoffs(
    runs: Sequence[Run], judgements: Sequence[Judgement], past: Past | None
) -> dict[str, tuple[str, Markup]]:
    """Return the sections that set latency against multiply-adds, quality and earlier days."""
    lines = {run.id: lines_of(run) for run in runs}
    every = [line for own in lines.values() for line in own]
    parts: dict[str, tuple[str, Markup]] = {}
    work = works(every)
    if len({one.macs for one in work}) > 1:
        parts["work"] = ("Latency against multiply-adds", work_section(work))
    if lost := unmatched(judgements, runs):
        raise BadInput(f"{lost[0]} judges no artifact of the runs", hint="give the runs' own files")
    chosen = [one for run in runs for one in choices(lines[run.id], run, judgements)]
    if len({one.line.row.artifact for one in chosen}) > 1 or (chosen and judgements):
        section = quality_section(chosen, metric_of(judgements), _missing(runs, every, chosen))
        parts["quality"] = ("Quality against latency", section)
    if past:
        series = series_of(every)
        found = [
            (_history(past, run, line, series[key_of(line)]), line.row.median_ms)
            for run in runs
            for line in lines[run.id]
        ]
        with_past = [(line, now) for line, now in found if line.points and now is not None]
        without = [line for line, _ in found if not line.points]
        parts["history"] = ("History", history_section(with_past, without))
    return parts


def _missing(runs: Sequence[Run], lines: Sequence[Line], chosen: Sequence[Choice]) -> list[str]:
    """Return the artifacts without quality, those that another run's has with their own run."""
    shown = {(one.line.row.run, one.line.row.artifact) for one in chosen}
    elsewhere = {name for _, name in shown}
    names = run_names((run.id, run.created) for run in runs)
    missing = [name for run in runs for name in run.artifacts if name not in elsewhere]
    missing += [
        f"{line.row.artifact} ({names[line.row.run]})"
        for line in lines
        if line.row.median_ms is not None
        and line.row.artifact in elsewhere
        and (line.row.run, line.row.artifact) not in shown
    ]
    return list(dict.fromkeys(missing))


def _history(past: Past, run: Run, line: Line, series: Series) -> HistoryLine:
    """Return a row's earlier sessions, under a name that no other run's row has."""
    found = past.line_of(run, line.row.artifact, line.row.target)
    return replace(found, artifact=found.artifact + series.suffix)


def _files(runs: Sequence[Run]) -> _Files:
    """Return what the runs keep of their files."""
    names = run_names((run.id, run.created) for run in runs)
    files: _Files = {}
    for run in runs:
        for name, manifest in run.artifacts.items():
            fact = ArtifactFacts.of_manifest(name, manifest)
            files.setdefault(fact, {})[run.id] = names[run.id]
    return files


def _of_run(files: _Files, run: str) -> list[ArtifactFacts]:
    """Return the files of one run; what was just exported is every run's."""
    return [fact for fact, ids in files.items() if not ids or run in ids]


def _artifacts(files: _Files, rows: Sequence[Row]) -> Markup:
    """Return the table of files; those of one name that differ are told with their runs."""
    names = [fact.name for fact in files]
    changed = {fact: ids for fact, ids in files.items() if ids and names.count(fact.name) > 1}
    ordered = sorted(files, key=lambda fact: names.index(fact.name))
    return sections.artifacts_section(ordered, rows, changed)


def _named(runs: Sequence[Run]) -> str:
    return f"Run{'s' if len(runs) > 1 else ''} {', '.join(run.id for run in runs)}"


def _head(heading: str) -> Markup:
    css = resources.files("coronet_deploy.report").joinpath("report.css").read_text("utf-8")
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", heading),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(css)),
    )


def _lede(run: Run, more: int = 0) -> str:
    """Return where and when a run was measured, and how many `more` the page shows."""
    devices = sorted({launch.target.device for launch in run.launches})
    cpu = run.conditions.get("cpu")
    place = f"{', '.join(devices)} ({cpu})" if cpu else ", ".join(devices)
    emulated = "Emulated, not a real device. " if run.emulated else ""
    others = f" {more} more run{'s are' if more > 1 else ' is'} below." if more else ""
    return f"{emulated}Measured on {place}, {run.created[:10]}.{others}"


def _key_figures(
    rows: Sequence[Row], facts: Sequence[ArtifactFacts], model: ModelFacts | None
) -> Markup:
    """Return the few figures that most readers came for."""
    shown = []
    if model:
        shown.append((f"{model.macs_full / model.macs:.1f}x", "fewer multiply-adds (real)"))
        shown.append((f"{model.parameters_full / model.parameters:.1f}x", "fewer parameters"))
    fastest = min((row for row in rows if row.median_ms), key=lambda row: row.median_ms or 0)
    threads = f"{fastest.target.threads} thread{'s' if fastest.target.threads > 1 else ''}"
    emulated = ", emulated" if fastest.emulated else ""
    shown.append(
        (
            f"{figures.milliseconds(fastest.median_ms)} ms",
            f"fastest median{emulated}: {fastest.artifact}, {threads}",
        )
    )
    measured = {row.artifact for row in rows if row.launches}
    sizes = [(fact.bytes, fact.name) for fact in facts if fact.bytes and fact.name in measured]
    if sizes:
        size, name = min(sizes)
        shown.append((f"{figures.megabytes(size)} MB", f"smallest artifact: {name}"))
    return definitions(((text, value) for value, text in shown), "figures")
