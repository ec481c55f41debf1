"""The database under the result store: SQLite in a file, or PostgreSQL by URL.

It holds an index, never the truth: run files can fill it again at any time. So there are no
migrations here; a store of another layout is refused, and `results rebuild` makes it anew. One
writer at a time, readers beside it: SQLite by write-ahead logging and an immediate transaction,
PostgreSQL by an advisory lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from coronet_deploy.errors import BadInput, CoronetError, EnvironmentProblem
from coronet_deploy.results.fresh import kept_if_filled
from coronet_deploy.results.urls import check_parameters, read_url, refusal, shown

LAYOUT = 1
"""The tables' version: a store of another is refused."""
PATIENCE_S = 30.0
"""How long a command waits, unless told otherwise, for a store that another process writes."""

_LOCK = 0x636F726F6E6574  # "coronet": the advisory lock's number
_AGAIN_S = 0.05
_REBUILD = "`coronet-deploy results rebuild DIR` makes it anew from the run files"

# What fails is an error of ours, in one line: without a handler, Python prints psycopg's beside it.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

metadata = sa.MetaData()
layout = sa.Table("coronet_layout", metadata, sa.Column("version", sa.Integer, primary_key=True))
runs = sa.Table(
    "coronet_runs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("path", sa.String, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, index=True),
    sa.Column("created", sa.String(25), nullable=False, index=True),
    sa.Column("emulated", sa.Boolean, nullable=False),
)
setups = sa.Table(
    "coronet_setups",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("fields", sa.JSON, nullable=False),
)
rows = sa.Table(
    "coronet_rows",
    metadata,
    sa.Column("run_id", sa.ForeignKey(runs.c.id), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("artifact", sa.String, nullable=False),
    sa.Column("artifact_sha256", sa.String(64), nullable=False),
    sa.Column("model", sa.String),
    sa.Column("runtime", sa.String),
    sa.Column("dtype", sa.String),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("backend", sa.String, nullable=False),
    sa.Column("threads", sa.Integer, nullable=False),
    sa.Column("setup", sa.ForeignKey(setups.c.hash), nullable=False),
    sa.Column("launches", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("samples", sa.Integer, nullable=False),
    sa.Column("launch_medians_ms", sa.JSON, nullable=False),
    sa.Column("median_ms", sa.Double),
    sa.Column("p90_ms", sa.Double),
    sa.Index("coronet_rows_history", "artifact", "device", "backend", "threads", "setup"),
)


class Database:
    """An open store, in a `place` that is held meanwhile.

    `name` is what errors call it: no password in it.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        patience_s: float,
        place: contextlib.AbstractContextManager[None] | None = None,
    ) -> None:
        self._held = contextlib.ExitStack()
        if place is not None:
            self._held.enter_context(place)
        self._held.callback(engine.dispose)
        self._engine = engine
        self._patience_s = patience_s
        self._ready = False
        self.name = name

    def close(self) -> None:
        """Close every connection, and let go of the place."""
        self._held.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection that sees one state of the store.

        Raises:
            BadInput: there is no store, or it is of another layout.
            EnvironmentProblem: it cannot be reached or read.

        """
        with self._told(), self._engine.connect() as connection:
            if not self._ready:
                with connection.begin():
                    empty = not sa.inspect(connection).has_table(layout.name)
                if empty:
                    raise BadInput(
                        f"the result store {self.name} is empty",
                        hint="`coronet-deploy results import runs` fills it",
                    )
            with connection.begin():
                if self._served:
                    # Each statement would else see what was committed before it.
                    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    self._wait_for(connection, f"LOCK TABLE {layout.name} IN ACCESS SHARE MODE")
                if not self._ready:
                    self._check_layout(connection)
                yield connection

    @contextlib.contextmanager
    def write(self, *, anew: bool = False) -> Iterator[Connection]:
        """Yield the connection of the only writer; what it does is kept whole or not at all.

        The tables are made if there are none; `anew` drops what was there.

        Raises:
            BadInput: the store is of another layout.
            EnvironmentProblem: it cannot be reached or written, or another process kept it locked.

        """
        with (
            self._told(),
            self._engine.connect().execution_options(coronet_write=True) as connection,
            connection.begin(),
        ):
            if self._served:
                # Whoever waits here sees, behind the lock, what others wrote meanwhile.
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                self._wait_for(connection, f"SELECT pg_advisory_xact_lock({_LOCK})")
            if anew:
                self._drop(connection)
            if anew or not self._ready:
                self._make(connection)
            yield connection
        self._ready = True

    @property
    def _served(self) -> bool:
        return self._engine.dialect.name == "postgresql"

    def _wait_for(self, connection: Connection, lock: str) -> None:
        """Take a lock of PostgreSQL's; it and later ones are waited for no longer than told."""
        wait_ms = max(1, round(1000 * self._patience_s))
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {wait_ms}")
        connection.exec_driver_sql(lock)

    def _drop(self, connection: Connection) -> None:
        """Drop the tables, once nobody reads them."""
        if self._served and sa.inspect(connection).has_table(layout.name):
            # Readers take it first too: who waits for another holds nothing that they wait for.
            self._wait_for(connection, f"LOCK TABLE {layout.name} IN ACCESS EXCLUSIVE MODE")
        metadata.drop_all(connection)

    def _make(self, connection: Connection) -> None:
        if sa.inspect(connection).has_table(layout.name):
            self._check_layout(connection)
            return
        metadata.create_all(connection)
        connection.execute(layout.insert().values(version=LAYOUT))

    def _check_layout(self, connection: Connection) -> None:
        version = connection.execute(sa.select(layout.c.version)).scalar()
        if version != LAYOUT:
            raise BadInput(
                f"the result store {self.name} has layout {version}, this version reads {LAYOUT}",
                hint=_REBUILD,
            )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._problem(error) from error
        except PoolTimeout as error:
            raise EnvironmentProblem(f"the result store {self.name}: {error}") from error

    def _problem(self, error: DBAPIError) -> CoronetError:
        cause = error.orig
        if isinstance(cause, sqlite3.Error):
            return _sqlite_problem(self.name, cause, self._patience_s)
        state = getattr(cause, "sqlstate", None)
        reason = " ".join(str(cause).split()) or "no answer"
        if state == "55P03":  # lock_not_available
            return _locked(self.name, self._patience_s)
        if state is None and (refused := refusal(self.name, reason)):
            return refused
        if error.connection_invalidated or state is None or state[:2] in {"08", "57"}:
            return EnvironmentProblem(
                f"the result store {self.name} cannot be reached or went away: {reason}",
                hint="is the server up, and the URL right? run the same command again",
            )
        return EnvironmentProblem(f"the result store {self.name} refused: {reason}")


def default_store() -> str:
    """Return where the store is unless told: $CORONET_STORE, or a file in the user's data folder.

    The folder is $XDG_DATA_HOME, or ~/.local/share (XDG Base Directory Specification).

    Raises:
        EnvironmentProblem: nothing says where, and the user has no home folder.

    """
    if named := os.environ.get("CORONET_STORE"):
        return named
    home = os.environ.get("XDG_DATA_HOME", "")
    if Path(home).is_absolute():
        data = Path(home)
    else:
        try:
            data = Path.home() / ".local" / "share"
        except RuntimeError as error:
            raise EnvironmentProblem(
                "there is no place for the result store: this user has no home folder",
                hint="--store FILE, or set CORONET_STORE or HOME",
            ) from error
    return str(data / "coronet-deploy" / "results.sqlite")


def open_database(where: str | Path | None, *, make: bool, patience_s: float) -> Database:
    """Return the store at `where`: a file, or a `postgresql://` URL; None is `default_store()`.

    With `make`, a missing file (and its folder) is made.

    Raises:
        BadInput: `where` is no store, or a file that is missing and not to be made.
        EnvironmentProblem: a package is missing, or the file cannot be made.

    """
    place = str(where or default_store())
    if "://" not in place:
        try:
            path = Path(place).expanduser().absolute()
        except RuntimeError as error:
            said = "--store" if where else "$CORONET_STORE"
            raise BadInput(f"{said} {place}: there is no such home folder") from error
        engine = _sqlite(path, make=make, patience_s=patience_s)
        held = kept_if_filled(path) if make else None
        return Database(engine, str(path), patience_s, held)
    url = read_url(place)
    return Database(_postgresql(url, patience_s), shown(url), patience_s)


def _postgresql(url: URL, patience_s: float) -> Engine:
    seconds = str(max(2, min(10, round(patience_s))))
    check_parameters(url)
    arguments = {
        "connect_timeout": seconds,
        "application_name": "coronet-deploy",
        # A server set up with the C locale hands out bytes otherwise.
        "client_encoding": "utf8",
        **url.query,
    }
    return sa.create_engine(
        url.set(drivername="postgresql+psycopg", query=arguments), pool_size=1, max_overflow=0
    )


def _sqlite(path: Path, *, make: bool, patience_s: float) -> Engine:
    if not path.exists():
        if not make:
            raise BadInput(
                f"the result store {path} does not exist",
                hint="`coronet-deploy results import runs` makes it",
            )
    elif path.is_dir():
        raise BadInput(f"the result store {path} is a folder", hint="name a file in it")
    query: dict[str, Any] = {}
    target = str(path)
    if not make and not _writable(path):
        # A reader of a write-ahead log makes files beside it; where it may not, the store is
        # read as a file that nobody changes, which is true unless a log lies there.
        logged = path.with_name(f"{path.name}-wal").exists()
        target = f"file:{quote(str(path))}"
        query = {"uri": "true", "mode": "ro"} | ({} if logged else {"immutable": "1"})
    engine = sa.create_engine(
        URL.create("sqlite", database=target, query=query), connect_args={"timeout": patience_s}
    )

    @sa.event.listens_for(engine, "connect")
    def _connected(raw: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection
        # sqlite3 would begin transactions by itself, later than we say.
        raw.isolation_level = None
        raw.execute("PRAGMA foreign_keys = ON")
        if make:
            _log_ahead(raw, patience_s)

    @sa.event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("coronet_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _log_ahead(raw: sqlite3.Connection, patience_s: float) -> None:
    """Switch to write-ahead logging; that one statement does not wait for others by itself."""
    end = time.monotonic() + patience_s
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
            raw.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or time.monotonic() > end:
                raise
            time.sleep(_AGAIN_S)
        else:
            return


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _is_locked(error: sqlite3.Error) -> bool:
    return _code(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _code(error: sqlite3.Error) -> str:
    # Errors that the sqlite3 module raises by itself have no code.
    return str(getattr(error, "sqlite_errorname", ""))


def _locked(name: str, patience_s: float) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"the result store {name} was locked by another process for {patience_s:g} s",
        hint="run the same command again, or wait longer with --wait",
    )


def _sqlite_problem(name: str, error: sqlite3.Error, patience_s: float) -> CoronetError:
    code = _code(error)
    if _is_locked(error):
        return _locked(name, patience_s)
    if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        # What is no database is somebody's file, and nothing to remove.
        damaged = code.startswith("SQLITE_CORRUPT")
        move = "if it is a result store, move it away and run `coronet-deploy results rebuild DIR`"
        return BadInput(
            f"{name} is {'a damaged database' if damaged else 'not a result store'}: {error}",
            hint=move if damaged else "name another file with --store",
        )
    if code.startswith("SQLITE_READONLY"):
        return EnvironmentProblem(f"the result store {name} is read-only", hint="--store FILE")
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return EnvironmentProblem(
            f"the result store {name} cannot be written: {error}", hint="make room on the disk"
        )
    if code.startswith("SQLITE_CANTOPEN"):
        return EnvironmentProblem(
            f"the result store {name} cannot be opened: {error}", hint="may you read its folder?"
        )
    return EnvironmentProblem(f"the result store {name}: {error}")
