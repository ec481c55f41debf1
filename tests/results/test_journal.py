"""The journal of a bench: what was measured outlives a full disk, a kill and a torn line."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.results.files import read_run
from coronet_deploy.results.journal import (
    Journal,
    journaled,
    left_behind,
    read_journal,
    recovery,
    running,
)
from coronet_deploy.vocabulary import Run
from support import Cli

MakeRun = Callable[..., Run]


def written(run: Run, folder: Path) -> Journal:
    journal = Journal(folder)
    journal.begin(replace(run, launches=()), len(run.launches))
    for launch in run.launches:
        journal.add(launch)
    return journal


def test_after_a_run_file_no_journal_is_left(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(1)
    path = written(run, tmp_path).end(run, tmp_path)
    assert read_run(path) == run
    assert list(tmp_path.iterdir()) == [path]


def test_every_launch_comes_back_from_a_journal_cut_anywhere(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(1, failed=1)
    journal = written(run, tmp_path)
    path = journal.path
    assert path is not None
    assert left_behind(tmp_path) == []  # it is still being written
    data = path.read_bytes()
    assert data.endswith(b"\0" * 1000)  # room is reserved
    text = data.rstrip(b"\0")
    lines = text.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        for torn in (b"", lines[count][:20] if count < len(lines) else b""):
            path.write_bytes(b"".join(lines[:count]) + torn + b"\0" * 50)
            back = read_journal(path)
            assert back.launches == run.launches[: count - 1]
            assert back.conditions["interrupted"] is True
            assert back.id == run.id
    journal.close()
    assert left_behind(tmp_path) == [path]


def test_a_bench_beside_another_is_told(make_run: MakeRun, tmp_path: Path) -> None:
    def notes(run: Run, journal: Journal) -> list[str]:
        return list(read_run(journal.end(run, tmp_path)).conditions.get("notes", []))

    long, short, alone = make_run(1), make_run(2), make_run(3)
    first = written(long, tmp_path)
    assert running(tmp_path) == [first.path]
    second = written(short, tmp_path)
    assert running(tmp_path, first.path) == [second.path]
    (note,) = notes(short, second)
    assert note.startswith("Another bench")
    assert notes(long, first) == notes(alone, written(alone, tmp_path)) == []
    assert running(tmp_path) == []


def test_benches_on_phones_share_no_cores_with_any_other(make_run: MakeRun, tmp_path: Path) -> None:
    def on(run: Run, device: str) -> Run:
        return replace(run, conditions={**run.conditions, "device": device})

    host, phone, other = on(make_run(1), "host"), on(make_run(2), "sm8550"), on(make_run(3), "any")
    journals = [written(one, tmp_path) for one in (phone, other, host)]
    assert running(tmp_path) == [journals[2].path]
    for run, journal in zip((host, other, phone), journals[::-1], strict=True):
        assert "notes" not in read_run(journal.end(run, tmp_path)).conditions


@pytest.mark.parametrize(
    ("device", "command", "whole", "more"),
    [
        ("sm8550", "bench", False, "; --resume {path} goes on"),
        ("sm8550", "bench", True, ""),  # over, and its run file alone could not be written
        ("sm8550", "compare", False, ""),
        ("host", "bench", False, ""),
    ],
)
def test_only_a_bench_on_a_phone_that_was_cut_short_is_said_to_be_gone_on_with(
    cli: Cli,
    make_run: MakeRun,
    tmp_path: Path,
    device: str,
    command: str,
    whole: bool,
    more: str,
) -> None:
    run = make_run(1)
    conditions = {**run.conditions, "device": device, "interrupted": False}
    run = replace(run, command=("coronet-deploy", command), conditions=conditions)
    journal = written(run, tmp_path)
    if whole:
        (tmp_path / "closed").touch()
        with pytest.raises(EnvironmentProblem):
            journal.end(run, tmp_path / "closed")
    journal.close()
    done = cli("results", "recover", journal.path)
    (path,) = tmp_path.glob("*.json")
    assert done.stdout == f"6 launches are in {path}{more.format(path=path)}\n", done.stderr


def test_who_takes_a_journal_for_a_run_file_is_told_how_it_becomes_one(
    cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    journal = written(make_run(1), tmp_path)
    journal.close()
    assert journal.path is not None
    store = ("--store", tmp_path / "store")
    for line in (("report", journal.path), ("results", "import", journal.path, *store)):
        done = cli(*line)
        assert done.returncode == 2
        assert "is the journal of a bench that was cut off" in done.stderr
        assert f"(`{recovery(journal.path)}` makes a run file of it)" in done.stderr
    folder = cli("results", "recover", tmp_path)
    assert f"{tmp_path} is a folder (give a journal in it, {tmp_path}/*.partial)" in folder.stderr
    file = cli("results", "recover", journal.path, "--output", tmp_path / "run.json")
    assert "run.json is a file's name, and --output takes a folder" in file.stderr
    assert journal.path.exists()
    assert not (tmp_path / "run.json").exists()


def test_room_is_reserved_where_the_system_has_no_call_for_it(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(1)
    usual = written(run, tmp_path / "usual")
    for name in ("posix_fallocate", "fdatasync"):  # macOS has neither
        monkeypatch.delattr(f"os.{name}")
    journal = written(run, tmp_path / "macos")
    for one in (usual, journal):
        assert one.path is not None
        assert one.kept == len(run.launches)
    assert journal.path is not None
    assert usual.path is not None
    assert journal.path.read_bytes() == usual.path.read_bytes()
    assert journal.path.stat().st_blocks >= usual.path.stat().st_blocks
    assert read_journal(journal.path).launches == run.launches


def test_a_bench_that_kept_nothing_leaves_no_journal(make_run: MakeRun, tmp_path: Path) -> None:
    with journaled(tmp_path) as journal:
        journal.begin(replace(make_run(1), launches=()), 6)
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"[]\n", b"{}\n{}\n", b'{"id": "x"}\n', b"\x00\x00", b"no"]
)
def test_what_is_no_journal_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.partial"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"x\.partial is not a journal"):
        read_journal(path)


def test_the_command_that_recovers_a_journal_can_be_typed_as_it_is_told(
    cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    folder = tmp_path / "jo's runs"
    journal = written(make_run(1), folder)
    journal.close()
    (tmp_path / "a.tflite").touch()
    told = cli("bench", "missing.onnx", "--output", folder, cwd=tmp_path)
    resume = ("--device", "any", "--resume", journal.path)
    again = cli("bench", "a.tflite", *resume, cwd=tmp_path)
    commands = [one.stderr.split("`")[1] for one in (told, again)]
    assert commands[0] == commands[1]
    assert cli(*shlex.split(commands[0])[1:]).returncode == 0
    assert [path.suffix for path in folder.iterdir()] == [".json"]
