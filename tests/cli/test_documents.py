"""The command lines that documents and examples show are lines that the command takes."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from coronet_deploy.cli import COMMANDS, _parser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "models" / "README.md",
    *sorted(ROOT.glob("models/*/README.md")),
    *sorted(path for path in (ROOT / "examples").rglob("*") if path.is_file()),
)
# What begins another command of a shell, or is none of its words.
_ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "2>", "<"}


def command_lines(text: str, *, markdown: bool) -> list[str]:
    """Return what stands behind `coronet-deploy` in lines of code, each to its end."""
    if markdown:
        blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
        text = "\n".join([*blocks, *spans])
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    found = (re.search(r"(?<![\w/-])coronet-deploy +(.*)", one) for one in lines if one[:1] != "#")
    return [one[1] for one in found if one]


def arguments(line: str) -> list[str]:
    """Return a line's words, with something in the place of what a document leaves out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word in _ENDS:
            break
        if word == "...":
            words += ["recipe.toml", "--data", "folder"]
        else:
            words.append(word.removeprefix("[").removesuffix("]").removesuffix("..."))
    return words


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_shows_is_taken(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = command_lines(path.read_text(), markdown=path.suffix == ".md")
    assert lines
    parser = _parser()
    for line in lines:
        try:
            parsed = parser.parse_args(arguments(line))
        except SystemExit:
            pytest.fail(f"coronet-deploy {line}\n{capsys.readouterr().err}")
        assert parsed.command in COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_commands_help_shows_is_taken(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = _parser()
    with pytest.raises(SystemExit):
        parser.parse_args([command, "--help"])
    _, _, shown = capsys.readouterr().out.partition("\nexamples:\n")
    lines = command_lines(shown, markdown=False)
    assert lines
    for line in lines:
        assert parser.parse_args(arguments(line)).command == command


def test_every_command_is_shown_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    shown = {arguments(line)[0] for line in command_lines(text, markdown=True)}
    assert shown == set(COMMANDS)


def test_pip_keeps_the_torch_that_the_readme_has_it_install_first() -> None:
    """A newer one would be thrown away by the next line, for pip's own build of an older one."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (taken,) = (one for one in extras["optional-dependencies"]["torch"] if one.startswith("torch>"))
    newest = re.findall(r"<[\d.]+", taken)
    first = re.findall(
        r"^pip install '?torch([^'\s]*)", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert first == newest
