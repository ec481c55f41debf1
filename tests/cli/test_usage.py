"""A line that is called wrongly is answered by one line: what is wrong, and the next step."""

from __future__ import annotations

from pathlib import Path

import pytest

from coronet_deploy.cli import _parser
from support import Cli


@pytest.mark.parametrize(
    ("line", "what", "hint"),
    [
        ("exprot", ": error: there is no command 'exprot'", "did you mean export?"),
        (
            "help export",
            ": error: there is no command 'help'",
            "`coronet-deploy --help` lists the commands",
        ),
        ("--versoin", ": error: there is no flag --versoin", "did you mean --version?"),
        (
            "--json inspect",
            ": error: --json stands before the command",
            "flags stand behind it: coronet-deploy COMMAND --json",
        ),
        (
            "--output x inspect",
            ": error: --output stands before the command",
            "flags stand behind it: coronet-deploy COMMAND --output",
        ),
        (
            "export --dtpe=int8",
            " export: error: there is no flag --dtpe",
            "did you mean --dtype?",
        ),
        (
            "compare a b --margn 3",
            " compare: error: there is no flag --margn",
            "did you mean --margin?",
        ),
        (
            "results import runs --stroe x",
            " results import: error: there is no flag --stroe",
            "did you mean --store?",
        ),
        (
            "inspect --zzz",
            " inspect: error: there is no flag --zzz",
            "`coronet-deploy inspect --help` shows how to call it",
        ),
        (
            "inspect a b",
            " inspect: error: 'b' is one argument too many",
            "`coronet-deploy inspect --help` shows how to call it",
        ),
        (
            "export --output=~/x",
            ": error: --output=~/x: the shell did not replace ~, which is then a folder's name",
            "write $HOME, or --output ~/x; ./~ if you mean that folder",
        ),
        (
            "inspect ~/net.pth",
            ": error: ~/net.pth: the shell did not replace ~, which is then a folder's name",
            "write $HOME, or it without quotes; ./~ if you mean that folder",
        ),
        (
            "bench --threads 0",
            " bench: error: argument --threads: '0' is not a whole number of at least 1",
            "`coronet-deploy bench --help` shows how to call it",
        ),
        (
            "export --dtype fp32,in8",
            (
                " export: error: argument --dtype: 'in8' is none of fp32, fp16, int8, int8-full, "
                "int16x8, a16w8, int8-dynamic, int8-weights, all"
            ),
            "`coronet-deploy export --help` shows how to call it",
        ),
        (
            "export --runtime tflite,",
            " export: error: argument --runtime: '' is none of onnx, tflite, all",
            "`coronet-deploy export --help` shows how to call it",
        ),
        (
            "",
            ": error: the following arguments are required: COMMAND",
            "`coronet-deploy --help` shows how to call it",
        ),
    ],
)
def test_a_wrong_line_is_answered_by_one(line: str, what: str, hint: str, cli: Cli) -> None:
    done = cli(*line.split())
    told = f"coronet-deploy{what} ({hint})\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


def test_a_file_that_begins_like_a_flag_is_told_how_to_be_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "-x.safetensors").touch()
    done = cli("inspect", "-x.safetensors", cwd=tmp_path)
    assert done.returncode == 2
    assert "the file of that name is ./-x.safetensors" in done.stderr


@pytest.mark.parametrize("command", ["export", "compare", "results"])
def test_help_tells_of_exit_statuses_and_shows_examples(command: str, cli: Cli) -> None:
    told, _, examples = cli(command, "--help").stdout.partition("\nexamples:\n")
    assert "exit statuses: 0 fine, 1 a gate failed" in told
    assert f"  coronet-deploy {command} " in examples


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("bench a.onnx --threads 1 b.onnx --rounds 2 c.onnx", "a.onnx b.onnx c.onnx"),
        ("bench --json a.onnx --threads 1 -- -b.onnx --c", "a.onnx -b.onnx --c"),
        ("compare a --threads 1 b", "a b"),
        ("compare a.json --history runs --json b.json", "a.json b.json"),
        ("verify a.onnx --json b.onnx", "a.onnx b.onnx"),
        ("report a.json --quality q.json --json b.json", "a.json b.json"),
        ("results import a --json b", "a b"),
    ],
)
def test_flags_may_stand_between_files(line: str, files: str) -> None:
    args = vars(_parser().parse_args(line.split()))
    (taken,) = (args[name] for name in ("artifacts", "sides", "runs", "paths") if name in args)
    assert list(map(str, taken)) == files.split()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("bench a.onnx --thraeds 1 b.onnx", "there is no flag --thraeds (did you mean --threads?)"),
        ("verify --json", "the following arguments are required"),
        ("inspect a --json b", "'b' is one argument too many"),
    ],
)
def test_flags_between_files_must_be_flags_all_the_same(line: str, told: str, cli: Cli) -> None:
    done = cli(*line.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


def test_a_size_of_one_number_is_a_square() -> None:
    args = _parser().parse_args(["export", "--size", "256,48x32", "--size", "512"])
    assert args.size == [(256, 256), (48, 32), (512, 512)]
    args = _parser().parse_args(["evaluate", "--data", ".", "--size", "128"])
    assert args.size == (128, 128)
