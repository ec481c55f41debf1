"""`coronet-deploy results`: find runs again, in an index that the run files can always refill."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coronet_deploy.cli._bench_flags import check_folder
from coronet_deploy.cli._shared import known_names
from coronet_deploy.cli.bench import duration, positive
from coronet_deploy.errors import BadInput, missing_package
from coronet_deploy.vocabulary import DType, Runtime

if TYPE_CHECKING:  # SQLAlchemy, pydantic and numpy come with these, and --help needs none
    from coronet_deploy.results.ingest import Imported
    from coronet_deploy.results.store import Filters, Store

HELP = "import run files into a store, list and show them, prune, rebuild; recover a cut-off bench"

_SHOWN = 20
_PATIENCE_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own commands and their arguments."""
    commands = parser.add_subparsers(metavar="ACTION", dest="action", required=True)

    def add(name: str, told: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=told, description=told, allow_abbrev=False)
        # Also known to `results` itself: not given here, what was given there stays.
        for flag, text in (("--json", "print JSON"), ("--debug", "show a traceback")):
            command.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
        return command

    def add_stored(name: str, told: str) -> argparse.ArgumentParser:
        command = add(name, told)
        command.add_argument(
            "--store",
            metavar="PATH|URL",
            help="an SQLite file or a postgresql:// URL (default: $CORONET_STORE, or "
            "coronet-deploy/results.sqlite in the user's data folder)",
        )
        command.add_argument(
            "--wait",
            type=duration,
            default=_PATIENCE_S,
            metavar="S",
            help="how long to wait while another process writes (default: 30)",
        )
        return command

    command = add_stored("import", "bring run files into the store; what is in stays as it is")
    command.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="a run file or folder")
    command = add_stored("list", "list runs, newest first")
    _add_filters(command)
    command = add_stored("show", "show one run: its file, its set-up, its rows")
    command.add_argument("name", metavar="RUN", help="a run's id, how only one starts, or its file")
    command = add_stored(
        "prune", "take old runs out of the store; their files stay, without --files"
    )
    command.add_argument(
        "--keep",
        type=positive,
        metavar="N",
        help="spare the newest N of each artifact, target and set-up, and N that failed there",
    )
    command.add_argument(
        "--before", type=_date, metavar="DATE", help="spare runs made then or later"
    )
    command.add_argument("--files", action="store_true", help="delete their run files too")
    command.add_argument("--dry-run", action="store_true", help="only say what would go")
    command = add_stored("rebuild", "make the store anew from the run files in a folder")
    command.add_argument("paths", metavar="DIR", nargs="+", type=Path, help="where run files are")
    command = add("recover", "make a run file of the journal that a cut-off bench left")
    command.add_argument("journal", metavar="JOURNAL", type=Path, help="a .partial file")
    command.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the run file (default: the journal's)",
    )


def _add_filters(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        "which rows", "of a flag that is given again, or takes several by commas, any will do"
    )

    def add(flag: str, told: str, parse: Callable[[str], list[Any]], metavar: str) -> None:
        group.add_argument(
            flag, type=parse, action="extend", default=[], metavar=metavar, help=f"rows {told}"
        )

    add("--model", "of this model", _name, "NAME")
    add("--artifact", "of this artifact", _name, "NAME")
    # A misspelt one of a known set would find nothing, and say so as if nothing were there.
    add("--runtime", f"of this runtime: {', '.join(Runtime)}", _of(Runtime), "NAME[,...]")
    add("--dtype", f"in this type of numbers: {', '.join(DType)}", _of(DType), "NAME[,...]")
    add("--device", "measured on this device", _names, "NAME[,...]")
    add("--backend", "measured on this back end", _names, "NAME[,...]")
    add("--threads", "with N threads", _numbers, "N[,...]")
    command.add_argument("--since", type=_date, metavar="DATE", help="made then or later")
    command.add_argument("--before", type=_date, metavar="DATE", help="made before then")
    command.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help=f"the newest N runs (default: {_SHOWN}; with --json all)",
    )


def run(args: argparse.Namespace) -> int:
    """Do what is asked of the store.

    Raises:
        CoronetError: a run file or a run's name is wrong (2), or the store cannot be reached,
            read or written (3).

    """
    actions = {
        "import": _import,
        "list": _list,
        "show": _show,
        "prune": _prune,
        "rebuild": _rebuild,
        "recover": _recover,
    }
    return actions[args.action](args)


@contextlib.contextmanager
def _opened(args: argparse.Namespace, *, make: bool = False) -> Iterator[Store]:
    try:
        from coronet_deploy.results.store import open_store
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "sqlalchemy", "store") from error
    with open_store(args.store, make=make, patience_s=args.wait) as store:
        yield store


def _import(args: argparse.Namespace) -> int:
    with _opened(args, make=True) as store, _counted() as latest:
        from coronet_deploy.results.ingest import import_runs

        done = import_runs(store, args.paths, latest.append)
    return _tell(args, done, store.name)


def _rebuild(args: argparse.Namespace) -> int:
    with _opened(args, make=True) as store:
        from coronet_deploy.results.ingest import rebuild

        done = rebuild(store, args.paths)
    return _tell(args, done, store.name)


@contextlib.contextmanager
def _counted() -> Iterator[list[Imported]]:
    """Say how far an import came that Ctrl-C ends."""
    latest: list[Imported] = []
    try:
        yield latest
    except KeyboardInterrupt:
        if latest:
            done = latest[-1]
            held = done.added + done.replaced + done.known
            print(f"{held} of {done.total} run files are in", file=sys.stderr)
        raise


def _tell(args: argparse.Namespace, done: Imported, name: str) -> int:
    """Print what became of the files; status 2 if some were refused."""
    from coronet_deploy.report.figures import printable

    if args.json:
        plain = {
            "store": name,
            "files": done.total,
            "added": done.added,
            "replaced": done.replaced,
            "known": done.known,
            "other_json_files": done.others,
            "refused": done.refused,
        }
        print(json.dumps(plain, indent=2))
    else:
        counts = [
            (done.added, "added"),
            (done.replaced, "brought up to date"),
            (done.known, "known already"),
            (len(done.refused), "refused"),
        ]
        told = ", ".join(f"{count} {what}" for count, what in counts if count) or "none"
        place = f"; in {name}" if done.settled > len(done.refused) else ""
        print(f"{_number_of(done.total, 'run file')}: {told}{place}")
        if done.others:
            were = "was" if done.others == 1 else "were"
            print(f"{_number_of(done.others, 'other JSON file')} {were} passed over")
    for reason in done.refused:
        print(f"refused: {printable(reason)}", file=sys.stderr)
    if done.refused:
        were = "was" if done.total == 1 else "were"
        raise BadInput(
            f"{len(done.refused)} of {_number_of(done.total, 'run file')} {were} refused"
        )
    return 0


def _list(args: argparse.Namespace) -> int:
    with _opened(args) as store:
        from coronet_deploy.results.store import count_runs, list_runs

        filters = _filters(args)
        found = list_runs(store, filters)
        total = count_runs(store, filters)
    from coronet_deploy.report.listing import print_runs, run_json

    if args.json:
        print(json.dumps({"store": store.name, "runs": [run_json(one) for one in found]}, indent=2))
        return 0
    print_runs(found, sys.stdout)
    if total > len(found):
        print(f"The newest {len(found)} of {_number_of(total, 'run')}; --limit shows more")
    elif not found:
        print(f"No run in {store.name} passes")
    return 0


def _filters(args: argparse.Namespace) -> Filters:
    from coronet_deploy.results.store import Filters

    return Filters(
        model=args.model,
        artifact=args.artifact,
        runtime=args.runtime,
        dtype=args.dtype,
        device=[name for device in args.device for name in _known_as(device)],
        backend=args.backend,
        threads=args.threads,
        since=args.since,
        before=args.before,
        limit=args.limit or (None if args.json else _SHOWN),
    )


def _known_as(device: str) -> list[str]:
    """Return what runs may call a device: of a chipset, by any of its names, its profile's id."""
    from coronet_deploy.profiles import find_profile

    with contextlib.suppress(BadInput):
        return [device, find_profile(device).id]
    return [device]


def _show(args: argparse.Namespace) -> int:
    with _opened(args) as store:
        from coronet_deploy.results.store import find_run

        # Files are named for their runs; where one is now does not matter.
        name = Path(args.name).stem if args.name.endswith(".json") else args.name
        found = find_run(store, name)
    from coronet_deploy.report.listing import print_runs, print_setup, run_json
    from coronet_deploy.storage import sha256_of

    if not found.path.is_file():
        state = "missing"
    else:
        state = "as imported" if sha256_of(found.path) == found.sha256 else "changed since"
    if args.json:
        setups = {row.key.setup: dict(row.setup) for row in found.rows}
        plain = {**run_json(found), "run_file_state": state, "setups": setups}
        print(json.dumps(plain, indent=2))
        return 0
    print_runs([found], sys.stdout)
    print_setup(found, state, sys.stdout)
    return 0


def _prune(args: argparse.Namespace) -> int:
    with _opened(args) as store:
        from coronet_deploy.results.ingest import prune

        done = prune(
            store, keep=args.keep, before=args.before, files=args.files, dry_run=args.dry_run
        )
    if args.json:
        plain = {
            "store": store.name,
            "dry_run": args.dry_run,
            "runs": [{"run": one.id, "run_file": str(one.path)} for one in done.runs],
            "deleted": [str(path) for path in done.deleted],
            "spared": list(done.spared),
        }
        print(json.dumps(plain, indent=2))
        return 0
    from coronet_deploy.report.figures import printable

    would = "would go" if args.dry_run else "is out" if len(done.runs) == 1 else "are out"
    for one in done.runs:
        print(f"{one.id}  {printable(str(one.path))}")
    print(f"{_number_of(len(done.runs), 'run')} {would} of {store.name}")
    if args.files:
        gone = "would be deleted" if args.dry_run else "deleted"
        print(f"{_number_of(len(done.deleted), 'run file')} {gone}")
    elif done.runs:
        print("Their run files stay, and `rebuild` would bring them back; --files deletes them")
    for reason in done.spared:
        print(f"not deleted: {printable(reason)}", file=sys.stderr)
    return 0


def _recover(args: argparse.Namespace) -> int:
    from coronet_deploy.results.files import write_run
    from coronet_deploy.results.journal import SUFFIX, goes_on, going_on, read_journal
    from coronet_deploy.storage import existing_file, is_folder

    if args.output is not None:
        check_folder(args.output, "--output")
    if is_folder(args.journal, "journal"):
        raise BadInput(
            f"{args.journal} is a folder",
            hint=f"give a journal in it, {args.journal / '*'}{SUFFIX}",
        )
    # In this order: what a bench adds behind what was read would go with the journal.
    if goes_on(existing_file(args.journal, "journal")):
        raise BadInput(f"{args.journal} belongs to a bench that goes on")
    found = read_journal(args.journal)
    path = write_run(found, args.output or args.journal.parent)
    try:
        args.journal.unlink(missing_ok=True)
    except OSError as error:
        print(f"{args.journal} stays, it cannot be removed: {error.strerror}", file=sys.stderr)
    if args.json:
        print(json.dumps({"run": found.id, "run_file": str(path), "launches": len(found.launches)}))
    else:
        are = "launch is" if len(found.launches) == 1 else "launches are"
        held = f"{len(found.launches)} {are} in {path}"
        print("; ".join(filter(None, (held, going_on(found, path)))))
    return 0


def _number_of(number: int, what: str) -> str:
    """Return "1 run" or "2 runs"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _name(text: str) -> list[str]:
    """Take a name that may have commas of its own."""
    return [text]


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def _of(known: type[StrEnum]) -> Callable[[str], list[str]]:
    return lambda text: known_names(text, list(known))


def _date(text: str) -> str:
    """Parse a date, or a date and time, as UTC unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError) as error:  # the latter of the first or last day there is
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2026-01-31") from error
