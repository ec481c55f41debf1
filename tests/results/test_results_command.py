"""`coronet-deploy results` as people call it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from coronet_deploy.errors import EnvironmentProblem
from coronet_deploy.results import ingest
from coronet_deploy.results.files import read_run, write_run
from coronet_deploy.results.ingest import Imported, import_runs, rebuild
from coronet_deploy.results.journal import Journal
from coronet_deploy.results.store import list_runs, open_store
from coronet_deploy.vocabulary import Run
from support import Cli, fill

MakeRun = Callable[..., Run]
NO_SUMMARY = {"samples": "none", "summary": 5}


@pytest.fixture
def folder(make_run: MakeRun, tmp_path: Path) -> Path:
    for number in range(6):
        write_run(make_run(number, failed=1 if number == 3 else 0), tmp_path / "runs")
    return tmp_path / "runs"


def test_import_list_show_prune_and_rebuild(cli: Cli, folder: Path, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store.sqlite")
    done = cli("results", "import", folder, *store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 run files: 6 added; in ")
    again = cli("results", "--json", "import", folder, *store)
    assert json.loads(again.stdout)["known"] == 6

    listed = cli("results", "list", "--dtype", "int8", "--limit", 3, *store)
    assert listed.returncode == 0, listed.stderr
    assert all(len(line) <= 80 for line in listed.stdout.splitlines())
    assert "The newest 3 of 6 runs" in listed.stdout
    assert len(re.findall(r"2026-01-0\d \d\d:\d\d UTC", listed.stdout)) == 3
    assert "m_fp32.onnx" not in listed.stdout
    none = cli("results", "list", "--dtype", "int8-full", *store)
    assert (none.returncode, none.stdout.startswith("No run in ")) == (0, True)
    misspelt = cli("results", "list", "--dtype", "int8_full", *store)
    assert (misspelt.returncode, misspelt.stdout) == (2, "")
    assert "--dtype" in misspelt.stderr
    assert "int8-full" in misspelt.stderr
    runs = json.loads(cli("results", "list", "--json", "--since", "2026-01-03", *store).stdout)[
        "runs"
    ]
    assert [one["run"] for one in runs] == ["r0005", "r0004", "r0003", "r0002"]
    assert runs[2]["rows"][0]["failed"] == 1

    (folder / "r0003.json").write_bytes((folder / "r0003.json").read_bytes() + b"\n")
    shown = cli("results", "show", "r0003", *store).stdout
    assert f"{folder / 'r0003.json'} (changed since)" in shown
    assert "2 of 3" in shown
    assert "kernel 6.1" in shown
    plain = json.loads(cli("results", "show", "r0002", "--json", *store).stdout)
    assert plain["run_file_state"] == "as imported"
    assert set(plain["setups"]) == {row["setup"] for row in plain["rows"]}

    pruned = cli("results", "prune", "--keep", 2, "--files", *store)
    assert pruned.returncode == 0, pruned.stderr
    assert "4 runs are out of" in pruned.stdout
    assert "r0003.json: its bytes are not those" in pruned.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "r0003.json",
        "r0004.json",
        "r0005.json",
    ]
    rebuilt = cli("results", "rebuild", folder, *store)
    assert rebuilt.stdout.startswith("3 run files: 3 added")


def test_a_rebuild_from_the_wrong_folder_is_a_mistake(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "store.sqlite")
    cli("results", "import", folder, *store)
    (tmp_path / "empty").mkdir()
    done = cli("results", "rebuild", tmp_path / "empty", *store)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no run file in {tmp_path / 'empty'}" in done.stderr
    assert "r0005" in cli("results", "list", *store).stdout


def test_what_a_run_says_of_its_machine_fits_and_drives_no_terminal(
    cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(1, kernel="6.1 \x1b[31m\u202e " + "and more " * 20)
    store = ("--store", tmp_path / "store.sqlite")
    cli("results", "import", write_run(run, tmp_path), *store)
    done = cli("results", "show", "r0001", *store)
    assert done.returncode == 0, done.stderr
    assert "and more" in done.stdout
    lines = [line for line in done.stdout.splitlines() if not line.startswith("file ")]
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)


def test_a_refused_file_drives_no_terminal(cli: Cli, folder: Path, tmp_path: Path) -> None:
    (folder / "cut \x1b[31m.json").write_bytes((folder / "r0001.json").read_bytes()[:99])
    done = cli("results", "import", folder, "--store", tmp_path / "store.sqlite")
    assert done.returncode == 2
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("refused: ")]
    assert "cut \N{REPLACEMENT CHARACTER}[31m.json" in line


def test_a_password_in_the_url_is_never_shown(cli: Cli, where: str, folder: Path) -> None:
    done = cli("results", "import", folder, "--store", where)
    assert done.returncode == 0, done.stderr
    listed = cli("results", "list", "--json", "--store", where)
    assert len(json.loads(listed.stdout)["runs"]) == 6
    assert "secret" not in done.stdout + done.stderr + listed.stdout + listed.stderr


def test_the_store_is_found_without_naming_it(cli: Cli, folder: Path, tmp_path: Path) -> None:
    bare = {key: value for key, value in os.environ.items() if key != "CORONET_STORE"}
    home = {**bare, "XDG_DATA_HOME": str(tmp_path / "data")}
    cli("results", "import", folder, env=home)
    assert (tmp_path / "data" / "coronet-deploy" / "results.sqlite").is_file()
    assert len(json.loads(cli("results", "list", "--json", env=home).stdout)["runs"]) == 6
    named = {**home, "CORONET_STORE": str(tmp_path / "mine.sqlite")}
    done = cli("results", "list", env=named)
    assert done.returncode == 2
    assert "mine.sqlite does not exist" in done.stderr


@pytest.mark.parametrize("content", [{}, {"m.json": "{}"}])
def test_an_import_that_finds_no_run_file_fails_and_makes_no_store(
    cli: Cli, tmp_path: Path, content: dict[str, str]
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    done = cli("results", "import", folder, "--store", tmp_path / "store.sqlite")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no run file in {folder}" in done.stderr
    assert not (tmp_path / "store.sqlite").exists()


def test_what_is_no_store_is_not_to_be_removed(cli: Cli, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(bytes(range(256)) * 64)
    done = cli("results", "list", "--store", checkpoint)
    assert done.returncode == 2
    assert "remove" not in done.stderr
    assert "rebuild" not in done.stderr


def test_one_is_counted_as_one(cli: Cli, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    store = ("--store", tmp_path / "store.sqlite")
    one = tmp_path / "one"
    one.mkdir()
    (folder / "r0001.json").rename(one / "r0001.json")
    (tmp_path / "manifest.json").rename(one / "manifest.json")
    done = cli("results", "import", one, *store)
    assert done.stdout.startswith("1 run file: 1 added; in ")
    assert "1 other JSON file was passed over" in done.stdout
    pruned = cli("results", "prune", "--before", "2030-01-01", "--files", *store)
    assert "1 run is out of" in pruned.stdout
    assert "1 run file deleted" in pruned.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["list"], 2, "does not exist (`coronet-deploy results import runs` makes it)"),
        # What the databases wait for ends at 24 days; SQLite would not wait at all.
        (["list", "--wait", "3e6"], 2, "'3e6' is more than 604800 seconds, a week"),
        (["list", "--since", "Tuesday"], 2, "'Tuesday' is not a date"),
        (["prune", "--before", "9999-12-31T23:59-05:00"], 2, "23:59-05:00' is not a date"),
        (["show", "x", "--store", "mysql://u:secret@h/d"], 2, "neither a file nor a postgresql"),
        (
            ["list", "--store", "mysql://u@h/d?Password=secret&sslmode=on"],
            2,
            "mysql://u@h/d?Password=...&sslmode=on: neither",
        ),
        # A password that was not quoted ends at its first @, and its rest is no host or port.
        (["list", "--store", "postgresql://u:pw@secret:secret@h/d"], 2, "write @ as %40"),
        (["list", "--store", "postgresql://u:pw@secret@h/d"], 2, "write @ as %40"),
        (["list", "--store", "postgresql://u:pw@a/secret@h/d"], 2, "write @ as %40"),
        (["list", "--store", "postgresql://u:secret@h:1,h:2/d"], 2, "cannot be read"),
        (
            ["list", "--store", "postgresql://u:secret@h/d?prepare_threshold=x"],
            2,
            'invalid connection option "prepare_threshold" (behind ? go parameters',
        ),
        (["list", "--store", "postgresql://u:secret@h/d?port=x"], 2, "port"),
        (["list", "--store", "mysql://u@h/d?passwd=secret"], 2, "/d?passwd=...: neither"),
        (["list", "--store", "~nobody-at-all/s"], 2, "--store ~nobody-at-all/s: there is no such"),
        (["import", "nowhere"], 2, "run file nowhere does not exist"),
        (
            ["import", "runs/r0001.json", "--store", "runs/r0001.json/x"],
            3,
            "r0001.json/x cannot be",
        ),
        (["import", "runs", "--store", "runs"], 2, "is a folder"),
        (["import", "cut.json", "runs"], 2, "1 of 7 run files were refused"),
        (["list", "--store", "cut.json"], 2, "is not a result store"),
        (["prune", "--keep", "0"], 2, "--keep"),
        (["recover", "runs/r0001.json"], 2, "is not a journal"),
        (
            ["list", "--store", "postgresql://u:secret@/d?host=/nowhere", "--wait", "1"],
            3,
            "cannot be reached",
        ),
        (
            [
                *("list", "--wait", "1", "--store"),
                "postgresql://u@/d?host=/nowhere&password=secret&sslpassword=secret",
            ],
            3,
            "host=%2Fnowhere&password=...&sslpassword=... cannot be reached",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(
    cli: Cli, folder: Path, tmp_path: Path, arguments: list[str], status: int, told: str
) -> None:
    (tmp_path / "cut.json").write_bytes((folder / "r0001.json").read_bytes()[:99])
    environment = {**os.environ, "CORONET_STORE": str(tmp_path / "s.sqlite")}
    done = cli("results", *arguments, cwd=tmp_path, env=environment)
    assert done.returncode == status, done.stderr
    assert told in done.stderr.splitlines()[-1]
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: run["artifacts"]["m_fp32.onnx"].update(bytes=float("inf")), "bytes: inf"),
        (lambda run: run["launches"][0].update(samples_ms=[], details=NO_SUMMARY), "summary"),
        (lambda run: run["launches"][0]["samples_ms"].append(1e308), "samples_ms.5"),
        (lambda run: run["launches"][0]["target"].update(threads=1 << 70), "threads"),
        (lambda run: run.update(created="0001-01-01T00:00:00+14:00"), "created"),
        (lambda run: run["launches"][0]["target"].update(device="a\0b"), "zero byte"),
        (None, "nested too deep"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_itself(
    folder: Path, where: str, change: Callable[[dict[str, Any]], object] | None, told: str
) -> None:
    bad = folder / "r0002.json"
    if change is None:
        bad.write_text("[" * 5000 + "]" * 5000)
    else:
        plain = json.loads(bad.read_text())
        change(plain)
        bad.write_text(json.dumps(plain))
    with open_store(where, make=True) as store:
        done = import_runs(store, [folder])
    assert (done.added, done.total) == (5, 6)
    (reason,) = done.refused
    assert str(bad) in reason
    assert told in reason


def test_a_run_file_in_a_folder_whose_name_is_not_utf8_is_refused_by_itself(
    where: str, folder: Path, make_run: MakeRun
) -> None:
    write_run(make_run(20), folder / os.fsdecode(b"m\xe4rz"))
    with open_store(where, make=True) as store:
        done = import_runs(store, [folder])
        assert len(list_runs(store)) == done.added == 6
        (reason,) = done.refused
        assert "xe4rz/r0020.json' is not UTF-8, and no store can hold" in reason
        again = rebuild(store, [folder])
        assert (again.added, again.refused) == (6, [reason])


def test_without_a_home_folder_it_says_what_decides_the_place(tmp_path: Path) -> None:
    # A user without an entry in the user database, and with nothing that tells a folder.
    code = (
        "import pwd, sys\n"
        "def none(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = none\n"
        "from coronet_deploy.cli import main\n"
        "sys.exit(main(['results', 'list']))"
    )
    bare = ("HOME", "CORONET_STORE", "XDG_DATA_HOME")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key not in bare},
    )
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert "--store FILE, or set CORONET_STORE or HOME" in line


def test_a_server_that_goes_away_mid_import_is_told_and_gone_on_with(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = request.getfixturevalue("server")
    url = server.database("going")
    monkeypatch.setattr(ingest, "BATCH", 2)

    def crash(so_far: Imported) -> None:
        if so_far.settled == 4:
            server.stop()

    with open_store(url, make=True, patience_s=2) as store:
        try:
            with pytest.raises(
                EnvironmentProblem, match=r"went away.*4 of 6 run files are in"
            ) as told:
                import_runs(store, [folder], crash)
        finally:
            server.start()
        assert "secret" not in str(told.value)
        assert len(list_runs(store)) == 4
        done = import_runs(store, [folder])
        assert (done.added, done.known) == (2, 4)


def test_who_may_only_read_a_server_s_store_is_refused_in_one_line(
    cli: Cli, request: pytest.FixtureRequest, folder: Path, make_run: MakeRun
) -> None:
    url = request.getfixturevalue("server").database("closed")
    cli("results", "import", folder, "--store", url)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    url = url.replace("tester:secret", "reader")
    listed = cli("results", "list", "--json", "--store", url)
    assert len(json.loads(listed.stdout)["runs"]) == 6
    for number in range(7, 99):  # many, of which psycopg would tell more
        write_run(make_run(number), folder)
    for line in (("import", folder), ("rebuild", folder), ("prune", "--keep", 1)):
        done = cli("results", *line, "--store", url)
        assert done.returncode == 3
        (told,) = done.stderr.splitlines()
        assert "refused: " in told


def test_a_full_disk_is_told_with_how_many_files_are_in(
    folder: Path, disk: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH", 2)
    for number in range(10, 50):
        write_run(make_run(number), folder)
    fillers: list[Path] = []

    def fill_once(_so_far: Imported) -> None:
        if not fillers:
            fillers.append(fill(disk))

    told = r"cannot be written.*; \d+ of 46 run files are in \(make room"
    with open_store(disk / "s.sqlite", make=True) as store:
        with pytest.raises(EnvironmentProblem, match=told):
            import_runs(store, [folder], fill_once)
        fillers[0].unlink()
        held = len(list_runs(store))
        assert 2 <= held < 46
        assert import_runs(store, [folder]).known == held
        assert len(list_runs(store)) == 46


def test_without_its_package_the_store_says_which_extra_brings_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['sqlalchemy'] = None; from coronet_deploy.cli import main; "
        f"sys.exit(main(['results', 'list', '--store', {str(tmp_path / 's')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "coronet-deploy[store]" in done.stderr


def test_a_journal_is_recovered_under_another_name_too(
    cli: Cli, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(1)
    journal = Journal(tmp_path)
    journal.begin(run, len(run.launches))
    journal.close()
    assert journal.path is not None
    copy = journal.path.rename(tmp_path / "kept.partial.bak")
    done = cli("results", "recover", copy)
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / f"{run.id}.json").launches == run.launches
