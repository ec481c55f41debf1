"""Runs to import, and a real PostgreSQL server on a Unix socket."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg import sql

from coronet_deploy.vocabulary import Launch, Run, Target

SHA = "ab" * 32
MakeRun = Callable[..., Run]


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """Return a function that makes a small run: `number` sets its id, date and medians."""

    def make(number: int, *, sha256: str = SHA, kernel: str = "6.1", failed: int = 0) -> Run:
        random = np.random.default_rng(number)
        launches: list[Launch] = []
        for turn in range(3):
            for name, tool in (("m_fp32.onnx", "onnxruntime"), ("m_int8.tflite", "litert")):
                samples = tuple(float(one) for one in 20 + random.normal(0, 1, 5))
                broken = len(launches) < failed
                launches.append(
                    Launch(
                        name,
                        sha256,
                        Target("host", "cpu", 2),
                        turn,
                        () if broken else samples,
                        details={} if broken else {"tools": {tool: "1.2"}},
                        error="boom" if broken else None,
                    )
                )
        return Run(
            id=f"r{number:04d}",
            created=f"2026-01-{1 + number % 28:02d}T00:{number // 28 % 60:02d}:00+00:00",
            command=("coronet-deploy", "bench"),
            conditions={"kernel": kernel, "settings": {"samples": 5, "seconds": 3.0}},
            tools={"onnxruntime": "1.2", "litert": "1.2"},
            artifacts={
                "m_fp32.onnx": {"model": "m", "runtime": "onnx", "dtype": "fp32"},
                "m_int8.tflite": {"model": "m", "runtime": "tflite", "dtype": "int8"},
            },
            launches=tuple(launches),
        )

    return make


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server of our own: its data folder (which holds its socket), and its programs.

    It runs as a user that is not root, because it refuses to run as root.
    """

    folder: Path
    programs: Path

    def call(self, program: str, *arguments: str) -> None:
        """Run one of its programs as its user."""
        subprocess.run(
            [self.programs / program, *arguments],
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=_user(),
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(self.folder)},
        )

    def start(self) -> None:
        """Start it on a Unix socket only, and without syncing: a test fears no power cut."""
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        self.call(
            "pg_ctl", "start", "-w", "-D", "data", "-o", options, "-l", str(self.folder / "log")
        )

    def stop(self) -> None:
        """Stop it as a crash would: connections break."""
        self.call("pg_ctl", "stop", "-w", "-D", "data", "-m", "immediate")

    def database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgresql://tester:secret@/{name}?host={self.folder}"


def _user() -> str | None:
    return ("postgres" if _known("postgres") else "nobody") if os.geteuid() == 0 else None


def _known(user: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Yield a running server, or skip where there is none and it is not CI."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if found := shutil.which("pg_ctl"):
        homes.insert(0, Path(found).parent)
    homes = [home for home in homes if (home / "initdb").exists()]
    if not homes:
        reason = "no PostgreSQL server is installed (Debian: apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a short path: a socket's name has a bound
    try:
        if user := _user():
            shutil.chown(folder, user)
        one = Server(folder, homes[-1])
        one.call("initdb", "-D", "data", "-U", "tester", "-A", "trust", "-N")
        one.start()
        yield one
        with contextlib.suppress(subprocess.CalledProcessError):
            one.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where a store may be made: both databases in turn."""
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    one: Server = request.getfixturevalue("server")
    return one.database(f"d{secrets.token_hex(6)}")
