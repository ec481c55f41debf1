"""`coronet-deploy demo`: the whole way, from the bundled checkpoint to a report in a browser."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.cli import inspect as inspect_command
from coronet_deploy.cli._bench_flags import check_folder
from coronet_deploy.cli._installed import require_modules, require_writers
from coronet_deploy.cli._shared import read_checkpoint
from coronet_deploy.cli.bench import bench_progress, journal_in, judge, positive
from coronet_deploy.storage import existing_file, require_temporary, require_utf8

if TYPE_CHECKING:  # heavy, and --help needs none of them
    from coronet_deploy.coronet.checkpoint import Checkpoint
    from coronet_deploy.export.calibrate import Pictures
    from coronet_deploy.images import Array
    from coronet_deploy.report.html import Picture
    from coronet_deploy.results.journal import Journal
    from coronet_deploy.vocabulary import Artifact, Run

HELP = "inspect, materialize, export, verify, bench and report on the bundled checkpoint"

_EXTRAS = "export,report"
_SIZE = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        metavar="CHECKPOINT",
        help="checkpoint (default: the bundled one)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("out"), metavar="DIR", help="folder (default: out)"
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=6,
        metavar="N",
        help="launches of each artifact and number of threads (default: 6)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command: each step says what it made; the first that fails ends it."""
    started = time.monotonic()
    require_utf8(str(args.output), "no runtime can open files in it")
    check_folder(args.output, "--output")
    require_temporary()
    _require_installed(args.checkpoint)
    checkpoint = read_checkpoint(args.checkpoint)
    from coronet_deploy.coronet.zoo import DEFAULT_MODEL
    from coronet_deploy.export.subject import file_name
    from coronet_deploy.report.html import ModelFacts, render_report
    from coronet_deploy.report.summary import summarize
    from coronet_deploy.report.tables import json_row, markdown, print_tables
    from coronet_deploy.storage import write_text

    _say("1 inspect")
    if not args.json:
        inspect_command.show(checkpoint)
    _say("2 materialize")
    _materialize(checkpoint, args.output)
    _say("3 export, and compare with torch on real pictures")
    if file_name(checkpoint.id) != DEFAULT_MODEL:
        _say(
            "INT8 ranges come from the bundled label maps: `export` with --calibration DIR takes "
            "pictures of your task, which draw better"
        )
    artifacts, twins = _export(checkpoint, args.output)
    _say("4 verify: load each artifact again and draw with it")
    pictures = _draw(checkpoint, artifacts)
    _say("5 bench on this host, the unpruned full-width twin beside it")
    runs = args.output / "runs"
    with journal_in(runs) as journal:
        measured = _bench([*artifacts, *twins], args.rounds, journal)
        path = journal.end(measured, runs)
    _say("6 report")
    baseline = twins[0].path.name
    rows = summarize(measured, baseline)
    from coronet_deploy.report.figures import caveats

    notes = [*caveats(measured, rows), f"{baseline} has random weights: it is for timing only."]
    facts = ModelFacts.of_plan(
        checkpoint.header.title,
        checkpoint.plan,
        checkpoint.full,
        checkpoint_sha256=checkpoint.sha256,
        note="The unpruned twin has random weights: it is for timing only.",
    )
    page = args.output / "report.html"
    write_text(
        page, render_report(measured, [*artifacts, *twins], facts, pictures, baseline=baseline)
    )
    write_text(args.output / "report.md", markdown(rows, notes))
    if args.json:
        plain = [json_row(row, str(path)) for row in rows]
        print(json.dumps({"report": str(page), "run_file": str(path), "rows": plain}))
    else:
        print_tables(rows, sys.stdout, notes)
        print(f"{page} is ready, after {time.monotonic() - started:.0f} s; open it in a browser")
    judge(measured, rows)
    return 0


def _require_installed(checkpoint: Path | None) -> None:
    """Let an installation through that can go the whole way, the page at its end included."""
    from coronet_deploy.vocabulary import PLAIN_DTYPES, Runtime

    if checkpoint is not None:
        existing_file(checkpoint, "checkpoint")
    require_writers(itertools.product(Runtime, PLAIN_DTYPES), _EXTRAS)
    require_modules(["matplotlib"], _EXTRAS)


def _say(step: str) -> None:
    print(f"demo: {step}", file=sys.stderr, flush=True)


def _pictures(checkpoint: Checkpoint) -> Pictures:
    """Return the bundled inputs, of the channels that the generator takes."""
    from coronet_deploy.coronet.zoo import bundled_pictures
    from coronet_deploy.export.calibrate import read_pictures
    from coronet_deploy.verify.channels import with_channels

    pictures = read_pictures(bundled_pictures(), _SIZE, _SIZE)
    return with_channels(pictures, checkpoint.plan.input_channels)


def _materialize(checkpoint: Checkpoint, output: Path) -> None:
    from coronet_deploy.coronet.checkpoint import save_dense

    path = output / f"{checkpoint.id}-dense.safetensors"
    pictures = _pictures(checkpoint).values
    difference = save_dense(checkpoint, path, [values[0] for values in pictures])
    _say(f"{path}, max |difference| to the checkpoint's generator {difference:.1e}")


def _export(checkpoint: Checkpoint, output: Path) -> tuple[list[Artifact], list[Artifact]]:
    """Return the artifacts of the pruned generator in every dtype, and of its twin in FP32."""
    from coronet_deploy.coronet.checkpoint import load_checkpoint, save_unpruned_twin
    from coronet_deploy.verify.release import bundled_order, release
    from coronet_deploy.vocabulary import PLAIN_DTYPES, DType

    twin = output / "unpruned-twin.safetensors"
    save_unpruned_twin(checkpoint, twin)
    folder = output / "artifacts"
    artifacts = release(bundled_order(checkpoint, folder, _SIZE, PLAIN_DTYPES), _say)
    twins = release(bundled_order(load_checkpoint(twin), folder, _SIZE, (DType.FP32,)), _say)
    return artifacts, twins


def _draw(checkpoint: Checkpoint, artifacts: list[Artifact]) -> list[Picture]:
    """Return the bundled inputs with what torch and each artifact draw of them."""
    from coronet_deploy.report.html import Picture
    from coronet_deploy.verify.channels import to_show
    from coronet_deploy.verify.gate import translate
    from coronet_deploy.verify.runtimes import open_session

    pictures = _pictures(checkpoint)
    references = translate(checkpoint.generator(), pictures)

    def shown(values: Array) -> Array:
        picture: Array = to_show(values, _SIZE, _SIZE)[0]
        return picture

    sessions = {
        f"{a.runtime} {a.dtype}": open_session(a.path, a.runtime, threads=1) for a in artifacts
    }
    drawn = []
    for name, x, y in zip(pictures.names, pictures.values, references, strict=True):
        outputs = {label: shown(session.run(x)) for label, session in sessions.items()}
        drawn.append(Picture(Path(name).stem, shown(x), shown(y), outputs))
    return drawn


def _bench(artifacts: list[Artifact], rounds: int, journal: Journal) -> Run:
    from coronet_deploy.bench.host import bench_host

    with bench_progress() as progress:
        return bench_host(
            [artifact.path for artifact in artifacts],
            rounds=rounds,
            samples=20,
            seconds=1.0,
            command=("coronet-deploy", *sys.argv[1:]),
            progress=progress,
            keeper=journal,
        )
