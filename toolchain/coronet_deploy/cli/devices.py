"""`coronet-deploy devices`: what is attached, what it is, and what it can run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coronet_deploy.errors import BadInput, EnvironmentProblem

if TYPE_CHECKING:  # pydantic comes with these, and --help does not need it
    from coronet_deploy.bench.inventory import Listed
    from coronet_deploy.profiles import Profile

HELP = "list the attached phones: chipset, conditions, and what they can run"

_HEADS = ("Serial", "Chipset", "State", "Heat", "Back ends")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--profiles",
        type=Path,
        metavar="DIR",
        help="folder with device profiles of your own, beside and before the shipped ones",
    )
    parser.add_argument(
        "--known", action="store_true", help="list the chipsets that have a profile instead"
    )
    parser.add_argument(
        "--require",
        action="store_true",
        help="status 3 unless a phone answers: the one that ANDROID_SERIAL names, if it is set",
    )


def run(args: argparse.Namespace) -> int:
    """Print the phones; none attached is an answer too.

    Raises:
        CoronetError: a profile is not one (2); there is no adb, no server, or with --require no
            phone that could be measured (3).

    """
    from coronet_deploy.profiles import load_profiles

    profiles = load_profiles(args.profiles)
    if args.known and args.require:
        raise BadInput("--known is of no phone that --require could mean")
    if args.known:
        _show_known(profiles, as_json=args.json)
        return 0
    from coronet_deploy.bench.attached import SERIAL_VARIABLE, serial_said
    from coronet_deploy.bench.choose import called
    from coronet_deploy.bench.inventory import take_inventory

    phones = take_inventory(profiles)
    if args.json:
        print(json.dumps({"devices": [phone.as_json() for phone in phones]}, indent=2))
    elif phones:
        _show(phones)
    else:
        print("No phone is attached. Plug one in and allow USB debugging on it;")
        print("`coronet-deploy doctor` checks the way there.")
    meant, wanted = phones, serial_said()
    if wanted:
        found = called(wanted, [phone.candidate for phone in phones])
        meant = tuple(phone for phone in phones if phone.candidate in found)
    if args.require and not any(phone.ready for phone in meant):
        asked = f"{SERIAL_VARIABLE}={wanted}" if wanted else "no phone answers"
        none = f"{'no such phone' if wanted else 'none'} is attached"
        raise EnvironmentProblem(
            f"{asked}: {'; '.join(map(_named, meant)) or none}",
            hint="`coronet-deploy doctor` checks the way there",
        )
    if not meant and wanted:
        print(f"{SERIAL_VARIABLE}={wanted}: no such phone is attached", file=sys.stderr)
    return 0


def _named(phone: Listed) -> str:
    return f"{phone.candidate.attached.serial} is {_word(phone)}"


def _show(phones: Sequence[Listed]) -> None:
    lines = [
        (
            phone.candidate.attached.serial,
            phone.candidate.chipset or "-",
            _word(phone),
            _degrees(phone),
            " ".join(phone.backends) or "-",
        )
        for phone in phones
    ]
    _print_table(_HEADS, lines)
    for phone in phones:
        _print_text(f"{phone.candidate.attached.serial}: {_details(phone)}")
        for note in phone.warnings:
            _print_text(f"  - {note}")


def _details(phone: Listed) -> str:
    """Return what the table has no room for: the phone's name, Android, battery; or the problem."""
    if phone.problem:
        return phone.problem
    one, state = phone.candidate, phone.state
    android = one.properties.get("ro.build.version.release")
    percent = state.battery_percent if state else None
    told = [
        one.model or "a phone without a name",
        f"Android {android}" if android else "",
        f"battery at {percent} %" if percent is not None else "",
        phone.judgement.reason if phone.judgement else "",
    ]
    return "; ".join(filter(None, told))


def _word(phone: Listed) -> str:
    judgement = phone.judgement
    if judgement is None:
        state = phone.candidate.attached.state
        return "lost" if state == "device" else state
    return {True: "ready", False: "hot", None: "ready"}[judgement.cool]


def _degrees(phone: Listed) -> str:
    state = phone.state
    if state is None:
        return "-"
    value = state.battery_c if state.skin_c is None else state.skin_c
    return "-" if value is None else f"{value:.1f} C"


def _show_known(profiles: Sequence[Profile], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"profiles": [one.model_dump(mode="json") for one in profiles]}, indent=2))
        return
    lines = [
        (
            one.id,
            one.name,
            " + ".join(
                f"{len(part.numbers)} {part.core.removeprefix('Cortex-')}" for part in one.clusters
            ),
            " ".join(one.backends),
        )
        for one in profiles
    ]
    _print_table(("Id", "Chipset", "CPUs", "Back ends"), lines)


def _print_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from coronet_deploy.report.figures import printable
    from coronet_deploy.report.tables import TERMINAL_WIDTH

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(Text(head), overflow="fold")
    for line in lines:
        # Text, not str: a phone's name in [brackets] is a name, not markup.
        table.add_row(*(Text(printable(cell)) for cell in line))
    Console(file=sys.stdout, width=TERMINAL_WIDTH, highlight=False).print(table)


def _print_text(text: str) -> None:
    import textwrap

    from coronet_deploy.report.figures import printable
    from coronet_deploy.report.tables import TERMINAL_WIDTH

    print(textwrap.fill(printable(text), TERMINAL_WIDTH, subsequent_indent="    "))
