"""Readers beside a writer: each sees one state of the store, and neither ends the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from coronet_deploy.results.database import rows, runs
from coronet_deploy.results.files import write_run
from coronet_deploy.results.ingest import import_runs, prune, rebuild
from coronet_deploy.results.store import list_runs, open_store
from coronet_deploy.vocabulary import Run

MakeRun = Callable[..., Run]


@pytest.fixture
def folder(make_run: MakeRun, tmp_path: Path) -> Path:
    """Return a folder of twelve run files, of two rows each."""
    for number in range(12):
        write_run(make_run(number), tmp_path / "runs")
    return tmp_path / "runs"


def test_what_is_read_is_one_state_of_the_store(where: str, folder: Path) -> None:
    count = sa.func.count()
    with open_store(where, make=True) as store:
        import_runs(store, [folder])
    with open_store(where, make=True) as store, open_store(where) as reader:
        with reader.read() as connection:
            before = connection.execute(sa.select(count).select_from(runs)).scalar_one()
            assert len(prune(store, keep=1).runs) == 11
            after = connection.execute(sa.select(count).select_from(rows)).scalar_one()
        assert (before, after) == (12, 24)
        assert len(list_runs(reader)) == 1


def test_a_rebuild_waits_for_who_reads_and_neither_is_ended(
    request: pytest.FixtureRequest, folder: Path
) -> None:
    url = request.getfixturevalue("server").database("rebuilt")
    with (
        open_store(url, make=True) as store,
        open_store(url) as reader,
        ThreadPoolExecutor(1) as pool,
    ):
        import_runs(store, [folder])
        with reader.read() as connection:
            again = pool.submit(rebuild, store, [folder])
            while not (_somebody_waits(url) or again.done()):
                time.sleep(0.01)
            for table in (runs, rows):
                held = connection.execute(sa.select(sa.func.count()).select_from(table))
                assert held.scalar_one() == 12 * (1 if table is runs else 2)
        assert again.result().added == 12
        assert len(list_runs(reader)) == 12


def test_who_reads_during_a_rebuild_sees_the_new_store(
    request: pytest.FixtureRequest, folder: Path
) -> None:
    url = request.getfixturevalue("server").database("rebuilding")
    with (
        open_store(url, make=True) as store,
        open_store(url) as reader,
        ThreadPoolExecutor(1) as pool,
    ):
        import_runs(store, [folder / "r0000.json"])
        with store.write(anew=True):
            found = pool.submit(list_runs, reader)
            while not (_somebody_waits(url) or found.done()):
                time.sleep(0.01)
        assert found.result() == []


def test_a_writer_that_waited_sees_what_was_written_whatever_the_server_s_default(
    request: pytest.FixtureRequest, folder: Path
) -> None:
    url = request.getfixturevalue("server").database("strict")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER DATABASE strict SET default_transaction_isolation = serializable")
    with (
        open_store(url, make=True) as store,
        open_store(url, make=True) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        with store.write():
            found = pool.submit(import_runs, other, [folder])
            while not (_somebody_waits(url) or found.done()):
                time.sleep(0.01)
        assert found.result().added == 12
        assert import_runs(store, [folder]).known == 12


def _somebody_waits(url: str) -> bool:
    with psycopg.connect(url) as connection:
        waiting = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
    return bool(waiting and waiting[0])
