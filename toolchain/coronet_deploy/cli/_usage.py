"""How a command line is called: what is mistyped is told in one line, and help shows examples."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from coronet_deploy.errors import BadInput

STATUSES = """exit statuses: 0 fine, 1 a gate failed (parity or latency), 2 usage or bad input,
3 environment or device, 4 conversion, 5 nothing was measured or inconclusive, 70 a defect of ours,
130 interrupted"""

EXAMPLES: Mapping[str, Sequence[tuple[str, str]]] = {
    "demo": [("then open out/report.html", "")],
    "inspect": [("of pytorch-CycleGAN-and-pix2pix", "latest_net_G.pth")],
    "materialize": [("", "mine.safetensors --output dense.safetensors")],
    "export": [
        ("the bundled checkpoint", "--dtype int8"),
        ("of pytorch-CycleGAN-and-pix2pix", "latest_net_G.pth --dtype fp16"),
        ("with pictures of its task, for INT8", "net.safetensors --dtype all --calibration DIR"),
        ("a generator of your own, in mynets.py", "mynets:Generator --weights best.pt"),
    ],
    "verify": [
        ("", "out/artifacts/*.tflite"),
        ("what was not made of the bundled checkpoint", "net.onnx --checkpoint latest_net_G.pth"),
    ],
    "evaluate": [("", "net_256x256_int8.tflite --data facades/val")],
    "bench": [
        ("all of out/artifacts on this host", ""),
        ("", "a.tflite b.tflite --baseline a.tflite --threads 1,4"),
        ("on the phone that is plugged in", "--device any --backend cpu,gpu"),
    ],
    "compare": [
        ("in a CI", "base.tflite new.tflite --junit verdict.xml --github"),
        ("on a phone", "base.tflite new.tflite --device sm8550"),
        ("by runs of other days", "--history runs new-run.json"),
    ],
    "report": [
        ("", "runs/*.json"),
        ("a page that works offline", "runs/*.json --format html --output report.html"),
    ],
    "results": [("", "import runs"), ("", "list --dtype int8 --device host")],
    "train": [
        ("", "recipe.toml --data facades --set search.target=0.25"),
        ("to prune what is trained", "recipe.toml --data facades --from checkpoints/facades"),
        ("after Ctrl-C", "recipe.toml --data facades --resume"),
        ("for int8", "recipe.toml --data facades --qat model.safetensors"),
    ],
    "devices": [("in a script", "--require --json")],
    "doctor": [("without phones", "--host-only")],
    "runner": [("with the NDK at ANDROID_NDK_HOME", "build"), ("", "build --preset host")],
}
"""What a command's help shows: a remark, and what stands behind the command."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line each: what is wrong, and the next step."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the line, and end with status 2."""
        self._refuse(message, f"`{self.prog} --help` shows how to call it")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Say a last line on stderr, if it takes one (Python 3.11.2 fails), and end."""
        if message:
            with contextlib.suppress(OSError):
                sys.stderr.write(message)
        sys.exit(status)

    def parse_known_args(  # type: ignore[override] # argparse's own types are overloads
        self,
        args: Sequence[str] | None = None,
        namespace: Any = None,  # noqa: ANN401 - any object
    ) -> tuple[Any, list[str]]:
        """Return what is known; what is not ends it here, where this command's flags are known."""
        known, unknown = super().parse_known_args(args, namespace)
        words = _words(unknown)
        many = [one for one in self._actions if not one.option_strings and one.nargs in {"*", "+"}]
        if words and many:
            # argparse gives these no more than the words up to the next flag.
            convert = many[0].type or str
            taken = [*getattr(known, many[0].dest), *map(convert, words)]  # type: ignore[arg-type] # a callable
            setattr(known, many[0].dest, taken)
            return known, []
        if unknown:
            self._refuse(*self._of_unknown(unknown[0]))
        return known, unknown

    def format_help(self) -> str:
        """Return the help, and behind it the command's examples."""
        name = self.prog.removeprefix("coronet-deploy ")
        lines = [
            f"  {line}"
            for remark, words in EXAMPLES.get(name, ())
            for line in (*([f"# {remark}"] if remark else []), f"{self.prog} {words}".rstrip())
        ]
        return super().format_help() + "".join(
            f"{line}\n" for line in ("", "examples:", *lines) if lines
        )

    def _of_unknown(self, word: str) -> tuple[str, str]:
        """Return what is wrong with a word that nothing takes, and the next step."""
        help_ = f"`{self.prog} --help` shows how to call it"
        if not word.startswith("-"):
            return f"{word!r} is one argument too many", help_
        flag = word.partition("=")[0]
        if near := _nearest(flag, re.findall(r"--[a-z-]+", super().format_help())):
            return f"there is no flag {flag}", f"did you mean {near}?"
        if os.path.lexists(word):
            return f"there is no flag {word}", f"the file of that name is ./{word}"
        return f"there is no flag {flag}", help_

    def _refuse(self, what: str, hint: str) -> NoReturn:
        self.exit(BadInput.exit_status, f"{self.prog}: error: {BadInput(what, hint=hint)}\n")


def refuse_line(arguments: Sequence[str], commands: Sequence[str]) -> None:
    """Let a line through that begins with a command and in which every argument says something.

    Raises:
        BadInput: it begins with what is no command; or an argument is empty, and would be taken
            for the current folder or a default; or ~ came through the shell as it is, and would be
            taken for a folder of that name.

    """
    first = arguments[0] if arguments else "--help"
    if first and first not in (*commands, "-h", "--help", "--version"):
        _refuse_first(first, commands)
    for before, one in zip(("", *arguments), arguments, strict=False):
        if one == "" or re.fullmatch(r"--[a-z-]+=", one):
            flag = one[:-1] or before
            where = flag if flag.startswith("-") else "an argument"
            raise BadInput(f"{where} is given as ''", hint="is a variable of the shell not set?")
        if home := re.fullmatch(r"(?:(--[a-z-]+)=)?(~(?:/.*)?)", one, re.DOTALL):
            apart = f"{home[1]} {home[2]}" if home[1] else "it without quotes"
            raise BadInput(
                f"{one}: the shell did not replace ~, which is then a folder's name",
                hint=f"write $HOME, or {apart}; ./~ if you mean that folder",
            )


def _words(unknown: Sequence[str]) -> list[str]:
    """Return what nothing took, without the mark that no more flags follow; nothing if it has any.

    "--" ends the flags: what stands behind it are words, whatever they begin with.
    """
    before, after = list(unknown), []
    if "--" in before:
        place = before.index("--")
        before, after = before[:place], before[place + 1 :]
    return [] if any(one.startswith("-") for one in before) else [*before, *after]


def _refuse_first(word: str, commands: Sequence[str]) -> NoReturn:
    is_flag = word.startswith("-")
    near = _nearest(word, ("--help", "--version") if is_flag else commands)
    if is_flag and near is None:
        hint = f"flags stand behind it: coronet-deploy COMMAND {word}"
        raise BadInput(f"{word} stands before the command", hint=hint)
    raise BadInput(
        f"there is no flag {word}" if is_flag else f"there is no command {word!r}",
        hint=f"did you mean {near}?" if near else "`coronet-deploy --help` lists the commands",
    )


def _nearest(word: str, known: Sequence[str]) -> str | None:
    """Return which of the known words was meant, as far as its letters tell."""
    bare = {one.lstrip("-"): one for one in known}
    near = difflib.get_close_matches(word.lstrip("-"), bare, 1)
    return bare[near[0]] if near else None
