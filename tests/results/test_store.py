"""The result store on both databases: the files are the truth, and no writer loses a run."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from coronet_deploy.errors import BadInput, EnvironmentProblem
from coronet_deploy.report.summary import summarize
from coronet_deploy.results.entries import find_run_files, history_of, read_entry, row_entries
from coronet_deploy.results.files import write_run
from coronet_deploy.results.ingest import import_runs, prune, rebuild
from coronet_deploy.results.keys import differences
from coronet_deploy.results.store import (
    Filters,
    find_run,
    history,
    keys,
    list_runs,
    open_store,
    setup,
)
from coronet_deploy.vocabulary import Run
from support import Cli

MakeRun = Callable[..., Run]


@pytest.fixture
def folder(make_run: MakeRun, tmp_path: Path) -> Path:
    """Return a folder of twelve run files."""
    for number in range(12):
        write_run(make_run(number), tmp_path / "runs")
    return tmp_path / "runs"


def test_what_was_imported_is_listed_newest_first_as_the_files_have_it(
    where: str, folder: Path
) -> None:
    with open_store(where, make=True) as store:
        done = import_runs(store, [folder])
        assert (done.total, done.added, done.refused) == (12, 12, [])
        listed = list_runs(store)
    assert [run.id for run in listed] == [f"r{number:04d}" for number in reversed(range(12))]
    assert listed == [read_entry(folder / f"{run.id}.json") for run in listed]


def test_rows_have_the_figures_of_the_report(make_run: MakeRun) -> None:
    run = make_run(3, failed=2)
    for entry, row in zip(row_entries(run), summarize(run), strict=True):
        assert entry.artifact == row.artifact
        assert entry.launch_medians_ms == row.launch_medians_ms
        assert (entry.median_ms, entry.p90_ms) == (row.median_ms, row.p90_ms)
        assert (entry.launches, entry.failed) == (row.launches, row.failed)


def test_importing_again_adds_nothing_and_a_new_file_alone_is_added(
    where: str, folder: Path, make_run: MakeRun
) -> None:
    with open_store(where, make=True) as store:
        import_runs(store, [folder])
        write_run(make_run(20), folder)
        done = import_runs(store, [folder, folder / "r0001.json"])
        assert (done.total, done.added, done.known) == (13, 1, 12)
        assert len(list_runs(store)) == 13


def test_a_file_that_moved_or_changed_is_followed(
    where: str, folder: Path, make_run: MakeRun
) -> None:
    moved = folder.parent / "elsewhere"
    with open_store(where, make=True) as store:
        import_runs(store, [folder])
        folder.rename(moved)
        (moved / "r0002.json").unlink()
        write_run(replace(make_run(2), launches=make_run(77).launches), moved)
        done = import_runs(store, [moved])
        assert (done.replaced, done.known, done.refused) == (1, 11, [])
        assert {run.path.parent for run in list_runs(store)} == {moved}
        assert find_run(store, "r0002") == read_entry(moved / "r0002.json")


def test_bad_files_are_refused_by_name_and_the_others_are_in(
    where: str, folder: Path, make_run: MakeRun
) -> None:
    whole = (folder / "r0003.json").read_bytes()
    (folder / "r\udcff.json").write_bytes(whole)
    (folder / "r0003.json").write_bytes(whole[: len(whole) // 2])
    (folder / "r0004.json").write_text('{"schema_version": 99, "launches": []}')
    (folder / "r0005.json").unlink()
    write_run(replace(make_run(5), created="yesterday"), folder)
    (folder / "m.onnx.json").write_text('{"model": "m"}')
    write_run(replace(make_run(6), tools={}), folder / "other")
    with open_store(where, make=True) as store:
        done = import_runs(store, [folder])
        assert len(list_runs(store)) == done.added == 9
    assert (done.total, done.others) == (14, 1)
    told = "\n".join(done.refused)
    assert "r0003.json is not a run file" in told
    assert "is not UTF-8, and no store can hold it" in told
    assert "r0004.json: schema_version 99 is newer" in told
    assert "r0005.json: created: 'yesterday'" in told
    assert "another run of the same id r0006" in told


def test_what_reports_print_is_passed_over_and_what_may_be_a_run_is_not(
    folder: Path, cli: Cli, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "s.sqlite")
    cli("results", "import", folder, *store)
    for name, line in (
        ("list", ("results", "list", "--json", *store)),
        ("shown", ("results", "show", "r0001", "--json", *store)),
        ("report", ("report", folder / "r0001.json", "--format", "json")),
    ):
        printed = cli(*line).stdout
        assert '"launches"' in printed
        (folder / f"{name}.json").write_text(printed)
    (folder / "verdict.json").write_text('{"rows": [{"launches": [null, 6]}], "run_files": []}')
    (folder / "verdicts.json").write_text('[{"launches": [null, 6]}]')
    assert len(find_run_files([folder]).paths) == 12
    assert find_run_files([folder]).others == 5
    run = (folder / "r0001.json").read_text()
    may_be = {
        "cut": run[: run.index('"launches"') + 40],
        "misspelt": run.replace('"schema_version"', '"schema_versoin"'),
        "torn": '{"rows": [{"launches": [null, 6]}], "run_fi',
        "version": '{"schema_version": 1, "command": ["launches"], "launches": {}}',
    }
    for name, text in may_be.items():
        (folder / f"{name}.json").write_text(text)
    found = {path.stem for path in find_run_files([folder]).paths}
    assert found == {*may_be, *(f"r{number:04d}" for number in range(12))}


def test_run_files_behind_a_link_to_a_folder_are_found_once(
    folder: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    share = tmp_path / "share"
    write_run(make_run(12), share / "phone")
    (folder / "a-link").symlink_to(share)
    (folder / "inner").mkdir()
    write_run(make_run(13), folder / "inner")
    (folder / "a-name-before-inner").symlink_to(folder / "inner")
    # Neither goes round in circles nor looks about outside of the folder.
    (share / "back").symlink_to(folder)
    (share / "up").symlink_to(tmp_path)
    (folder / "gone").symlink_to(tmp_path / "missing")
    found = [str(path.relative_to(folder)) for path in find_run_files([folder]).paths]
    own = [f"r{number:04d}.json" for number in range(12)]
    assert found == ["a-link/phone/r0012.json", "inner/r0013.json", *own]


def test_filters_choose_runs_and_rows(where: str, folder: Path) -> None:
    with open_store(where, make=True) as store:
        import_runs(store, [folder])
        some = list_runs(store, Filters(dtype=["int8"], since="2026-01-03", before="2026-01-06"))
        assert [run.id for run in some] == ["r0004", "r0003", "r0002"]
        assert {row.artifact for run in some for row in run.rows} == {"m_int8.tflite"}
        assert list_runs(store, Filters(model=["m"], runtime=["onnx"], threads=[1])) == []
        assert [run.id for run in list_runs(store, Filters(limit=2))] == ["r0011", "r0010"]


def test_history_is_of_one_setup_and_the_same_with_and_without_a_database(
    where: str, folder: Path, make_run: MakeRun
) -> None:
    write_run(make_run(20, kernel="6.8"), folder)
    write_run(make_run(21, sha256="cd" * 32), folder)
    write_run(make_run(22, failed=6), folder)
    files = find_run_files([folder])
    entries = [read_entry(path) for path in files.paths]
    key = row_entries(make_run(0))[1].key
    one_file = replace(key, artifact_sha256="ab" * 32)
    with open_store(where, make=True) as store:
        import_runs(store, [folder])
        points = history(store, key)
        counted = dict(keys(store))
        others = [other for other in counted if other.artifact == key.artifact and other != key]
        kernels = differences(setup(store, key.setup), setup(store, others[0].setup))
        assert history(store, one_file) == history_of(entries, one_file) == points[:-1]
    assert points == history_of(entries, key)
    assert [point.run_id for point in points] == [f"r{n:04d}" for n in (*range(12), 21)]
    assert len(points[0].launch_medians_ms) == 3
    assert counted[key] == 13
    assert kernels == ("kernel: 6.1 and 6.8",)


def test_a_new_runtime_ends_the_history_of_its_own_format_alone(make_run: MakeRun) -> None:
    run = make_run(1)
    tools = {"onnxruntime": "1.2", "ai-edge-litert": "2.1"}
    keyed = []
    for version in ("1.2", "1.3"):
        own = {"tools": {**tools, "onnxruntime": version}}
        launches = tuple(replace(launch, details=own) for launch in run.launches)
        keyed.append([row.key for row in row_entries(replace(run, launches=launches))])
    assert [old == new for old, new in zip(*keyed, strict=True)] == [False, True]


def test_a_run_is_found_by_how_its_id_starts(where: str, folder: Path) -> None:
    with open_store(where, make=True) as store:
        import_runs(store, [folder])
        assert find_run(store, "r0007") == read_entry(folder / "r0007.json")
        with pytest.raises(BadInput, match="several runs start with 'r001': r0010, r0011"):
            find_run(store, "r001")
        with pytest.raises(BadInput, match="holds no run '%'"):
            find_run(store, "%")


def test_prune_spares_the_newest_of_each_key(where: str, folder: Path, make_run: MakeRun) -> None:
    write_run(replace(make_run(1, kernel="5.0"), id="r-old"), folder)
    with open_store(where, make=True) as store:
        import_runs(store, [folder])
        before = list_runs(store)
        would = prune(store, keep=3, dry_run=True)
        assert list_runs(store) == before
        done = prune(store, keep=3)
        assert done.runs == would.runs
        assert {run.id for run in list_runs(store)} == {"r0011", "r0010", "r0009", "r-old"}
        assert len(list(folder.iterdir())) == 13
        with pytest.raises(BadInput, match="--keep"):
            prune(store)


def test_prune_with_files_deletes_only_what_was_imported(where: str, folder: Path) -> None:
    with open_store(where, make=True) as store:
        import_runs(store, [folder])
        (folder / "r0001.json").write_text("mine now")
        done = prune(store, before="2026-01-04", files=True)
        assert [run.id for run in done.runs] == ["r0000", "r0001", "r0002"]
        assert sorted(path.name for path in done.deleted) == ["r0000.json", "r0002.json"]
        assert done.spared == (
            f"{folder / 'r0001.json'}: its bytes are not those that were imported",
        )
        assert len(list_runs(store)) == 9
    assert (folder / "r0001.json").read_text() == "mine now"
    assert not (folder / "r0000.json").exists()


def test_rebuild_makes_the_store_from_the_files_alone(where: str, folder: Path) -> None:
    with open_store(where, make=True) as store:
        import_runs(store, [folder])
        (folder / "r0001.json").unlink()
        with store.write() as connection:
            connection.execute(sa.text("UPDATE coronet_layout SET version = 99"))
    with open_store(where, make=True) as store:
        with pytest.raises(BadInput, match=r"layout 99.*results rebuild"):
            list_runs(store)
        with pytest.raises(BadInput, match="layout 99"):
            import_runs(store, [folder])
        assert rebuild(store, [folder]).added == 11
        assert len(list_runs(store)) == 11


def test_a_rebuild_that_finds_nothing_leaves_the_store_as_it_was(
    where: str, folder: Path, tmp_path: Path
) -> None:
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    (broken / "cut.json").write_bytes((folder / "r0001.json").read_bytes()[:99])
    with open_store(where, make=True) as store:
        import_runs(store, [folder])
        held = list_runs(store)
        with pytest.raises(BadInput, match=f"no run file in {empty}"):
            rebuild(store, [empty])
        done = rebuild(store, [broken])
        assert (done.added, len(done.refused)) == (0, 1)
        assert list_runs(store) == held


IMPORTER = """
import sys
from pathlib import Path
from coronet_deploy.results import ingest
from coronet_deploy.results.store import open_store
ingest.BATCH = 3
with open_store(sys.argv[1], make=True) as store:
    done = ingest.import_runs(store, [Path(sys.argv[2])])
print(done.added, done.known, len(done.refused))
"""


def test_eight_processes_at_once_lose_and_double_nothing(
    where: str, make_run: MakeRun, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    for number in range(40):
        write_run(make_run(number), folder)
    line = [sys.executable, "-c", IMPORTER, where, str(folder)]
    writers = [
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    counts = []
    for writer in writers:
        out, err = writer.communicate(timeout=120)
        assert writer.returncode == 0, err
        counts.append([int(word) for word in out.split()])
    assert sum(added for added, _, _ in counts) == 40
    assert {added + known for added, known, _ in counts} == {40}
    with open_store(where) as store:
        listed = list_runs(store)
    assert sorted(listed, key=lambda run: run.id) == [
        read_entry(path) for path in sorted(folder.iterdir())
    ]


def test_a_locked_store_is_waited_for_and_then_told(where: str, folder: Path) -> None:
    with open_store(where, make=True) as holder:
        import_runs(holder, [folder / "r0000.json"])
        with holder.write(), open_store(where, make=True, patience_s=0.3) as store:
            with pytest.raises(EnvironmentProblem, match=r"locked by another process for 0\.3 s"):
                import_runs(store, [folder])
            assert [run.id for run in list_runs(store)] == ["r0000"]  # readers need not wait
        with open_store(where, make=True) as store:
            assert import_runs(store, [folder]).added == 11


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"not a database at all" * 99, "not a result store"), (b"", "is empty")],
)
def test_a_file_that_is_no_store_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(content)
    with open_store(path) as store, pytest.raises(BadInput, match=told) as caught:
        list_runs(store)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_another_program_s_database_is_left_alone(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "theirs.sqlite"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE runs (id)")
    with open_store(path, make=True) as store:
        rebuild(store, [folder])
    with sqlite3.connect(path) as theirs:
        assert theirs.execute("SELECT count(*) FROM runs").fetchone() == (0,)


READER = """
import os, sys
from coronet_deploy.results.store import open_store, list_runs
from coronet_deploy.results.ingest import import_runs
from coronet_deploy.errors import CoronetError
from pathlib import Path
if os.geteuid() == 0:
    os.setuid(65534)
with open_store(sys.argv[1]) as store:
    print(len(list_runs(store)))
try:
    with open_store(sys.argv[1], make=True) as store:
        import_runs(store, [Path(sys.argv[2])])
except CoronetError as error:
    print(error.exit_status, error)
"""


def test_a_read_only_store_is_read_and_refuses_writing_in_one_line(
    tmp_path: Path, folder: Path
) -> None:
    place = tmp_path / "kept"
    with open_store(place / "s.sqlite", make=True) as store:
        import_runs(store, [folder])
    # Whoever reads has to get here, and only as long as it reads.
    modes = {one: stat.S_IMODE(one.stat().st_mode) for one in (tmp_path, *tmp_path.parents[:3])}
    try:
        for above, mode in modes.items():
            above.chmod(mode | 0o055)
        place.chmod(0o555)
        (place / "s.sqlite").chmod(0o444)
        done = subprocess.run(
            [sys.executable, "-c", READER, place / "s.sqlite", folder],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        place.chmod(0o755)
        for above, mode in modes.items():
            above.chmod(mode)
    lines = done.stdout.splitlines()
    assert lines[:1] == ["12"], done.stderr
    assert lines[1].startswith("3 the result store")
    assert "read-only" in lines[1] or "cannot be opened" in lines[1]
    assert os.listdir(place) == ["s.sqlite"]  # noqa: PTH208 - nothing else lies there
