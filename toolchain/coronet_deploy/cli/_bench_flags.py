"""Which flags of `bench` and `compare` mean something where, and places that reports can go to.

A flag that would be ignored is refused: who gives it believes that it does something.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from coronet_deploy.cli._phone_flags import add_phone_arguments
from coronet_deploy.cli._shared import ARTIFACTS
from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.storage import require_apart, require_file_name, require_utf8, try_writing

THREADS_MOST = 1024
COUNT_MOST = 1_000_000
SECONDS_MOST = 7 * 24 * 3600
"""A week; what the system's clocks and alarms take ends at 24 days."""

_OF_MODELS = {*ARTIFACTS, ".pt", ".pth", ".safetensors"}
_OF_FILES = {*_OF_MODELS, ".json", ".html", ".csv", ".md", ".txt", ".tex", ".xml", ".png", ".pdf"}


class _Noted(argparse.Action):
    """Stores a value and that it was given, be it the default; one of several adds to them."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 - whatever the argument's type makes
        option_string: str | None = None,
    ) -> None:
        given = getattr(namespace, "given", ())
        if self.dest in given and isinstance(values, tuple):  # "1,2" may be 1 and 2
            values = tuple(dict.fromkeys((*getattr(namespace, self.dest), *values)))
        setattr(namespace, self.dest, values)
        if option_string:
            namespace.given = (*given, self.dest)


def note_given(parser: argparse.ArgumentParser) -> None:
    """Have the flags that are added to `parser` from now on tell that they were given."""
    for action in (None, "store"):  # what an argument does unless it says otherwise, and by name
        parser.register("action", action, _Noted)


def is_given(args: argparse.Namespace, flag: str) -> bool:
    """Tell by its record, or of a phone's that keeps none (a switch, a list) by its value."""
    name = _name_of(flag)
    if name in getattr(args, "given", ()):
        return True
    defaults = _phone_defaults()
    return name in defaults and getattr(args, name) != defaults[name]


def refuse(
    args: argparse.Namespace, flags: Iterable[str], why: str, hint: str | None = None
) -> None:
    """Let arguments through that give none of `flags`.

    Raises:
        BadInput: they give some; names them, and says `why` they mean nothing, and what to do.

    """
    told = [flag for flag in flags if is_given(args, flag)]
    if told:
        verb = "means" if len(told) == 1 else "mean"
        raise BadInput(f"{', '.join(told)} {verb} nothing {why}", hint=hint)


def device_name(text: str) -> str:
    """Take the words for this host and for any phone however they are written, as chipsets are."""
    word = text.strip().casefold()
    return word if word in {"host", "any"} else text


def take_serial_alone(args: argparse.Namespace) -> None:
    """Have `--serial` without `--device` mean that phone, whatever its chipset."""
    if args.serial is not None and not is_given(args, "--device"):
        args.device = "any"


def refuse_phone_flags(args: argparse.Namespace) -> None:
    """Let arguments through that measure on a phone, or have none of the flags for phones.

    Raises:
        BadInput: this host is to be measured and they have one, or one for a phone is too large.

    """
    if args.device == "host":
        refuse(args, phone_flags(), "without a phone", "name one with --device")
    for flag in ("--cool-down", "--cool-down-total", "--reconnect"):
        if (value := getattr(args, _name_of(flag)) or 0) > SECONDS_MOST:
            raise BadInput(f"{flag} {value:g}: at most {SECONDS_MOST} seconds, a week")
    if args.repeats > COUNT_MOST:
        raise BadInput(f"--repeats {args.repeats}: at most {COUNT_MOST:,}")


def settle_seconds(args: argparse.Namespace) -> None:
    """Have the sampling of a launch end before its deadline.

    Where one of the two flags is not given, it makes room for the other.

    Raises:
        BadInput: both are given, and each launch that samples so long would be lost.

    """
    if args.seconds < args.deadline:
        return
    if not is_given(args, "--deadline"):
        args.deadline = 2 * args.seconds
    elif not is_given(args, "--seconds"):
        args.seconds = args.deadline / 2
    else:
        raise BadInput(
            f"--seconds {args.seconds:g} is not below --deadline {args.deadline:g}: a launch that "
            "samples so long would be stopped and lost",
            hint="--deadline is for loading, warming up and sampling: give it more, or leave it "
            "out",
        )


def phone_flags() -> tuple[str, ...]:
    """Return the flags that matter with a phone only."""
    return tuple(f"--{name.replace('_', '-')}" for name in _phone_defaults())


def check_reports(
    args: argparse.Namespace, flags: Iterable[str], inputs: Sequence[Path] = ()
) -> None:
    """Let arguments through whose outputs `flags` can be written, before there is what to write.

    Neither are the files made or touched, nor missing folders made.

    Raises:
        BadInput: one is a folder, or one of the `inputs`, or is called as a model's file is, or two
            are the same file.
        EnvironmentProblem: one is where nothing can be written.

    """
    places: dict[str, str] = {}
    for flag in flags:
        path: Path | None = getattr(args, _name_of(flag))
        if path is None:
            continue
        require_file_name(path, flag)
        require_apart(path, flag, inputs)
        if path.suffix in _OF_MODELS:
            raise BadInput(
                f"{flag} {path} is a model's file by its name, and would be written to",
                hint=f"{flag} takes a file of its own",
            )
        with _told_unwritable(f"{flag} {path}"):
            try_writing(path)
        if (other := places.setdefault(os.path.realpath(path), flag)) != flag and _is_a_file(path):
            raise BadInput(f"{other} and {flag} name the same file, {path}")


def _is_a_file(path: Path) -> bool:
    """Tell of a file, or a name for one, from a device or a pipe, which takes several outputs."""
    return path.is_file() or not path.exists()


def require_text(*groups: Iterable[object]) -> None:
    """Let names through that a run file can hold, as it keeps the line and its artifacts' names.

    Raises:
        BadInput: one is not UTF-8.

    """
    for group in groups:
        for one in group:
            require_utf8(str(one))


def check_folder(folder: Path, flag: str) -> None:
    """Let a folder through that files can be written to; it is not made if it is missing.

    Raises:
        BadInput: it would be made, and is called as a file is.
        EnvironmentProblem: nothing can be written there.

    """
    _refuse_file_name(folder, flag)
    with _told_unwritable(f"{flag} {folder}"):
        try_writing(folder / "x")


def check_writable(folder: Path) -> None:
    """Refuse a folder that the run could not be written to, before the run rather than after."""
    _refuse_file_name(folder, "--output")
    with _told_unwritable(f"--output {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        try_writing(folder / "x")


def _refuse_file_name(folder: Path, flag: str) -> None:
    """Raise BadInput of a folder to be made whose name is a file's: so who gives it means one."""
    if folder.suffix in _OF_FILES and not os.path.lexists(folder):
        raise BadInput(
            f"{flag} {folder} is a file's name, and {flag} takes a folder",
            hint="files in it are named by what they hold",
        )


@contextlib.contextmanager
def _told_unwritable(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(
            f"{what} cannot be written: {error.strerror}", hint="choose another place"
        ) from error


def _phone_defaults() -> dict[str, Any]:
    parser = argparse.ArgumentParser(add_help=False)
    add_phone_arguments(parser)
    return vars(parser.parse_args([]))


def _name_of(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
