"""What is wrong with the URL of a store is told as such, and not as a server that is away."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coronet_deploy.results.files import write_run
from coronet_deploy.vocabulary import Run
from support import Cli

UNREACHED = "postgresql://u:secret@127.0.0.1:1/d?"


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        ("sslmode=zzz", '?sslmode=zzz: invalid sslmode value: "zzz" (behind ? go parameters'),
        ("connect_timeout=soon", "bad value for connect_timeout: 'soon' (behind"),
        ("keepalives=x", 'invalid integer value "x" for connection option "keepalives" (behind'),
        ("gssencmode=maybe", 'invalid gssencmode value: "maybe" (behind'),
        ("ssl_min_protocol_version=9", 'invalid "ssl_min_protocol_version" value: "9" (behind'),
        ("port=70000", 'invalid port number: "70000" (behind'),
        ("service=none-such", 'definition of service "none-such" not found (behind'),
    ],
)
def test_a_parameter_whose_value_is_wrong_is_named(cli: Cli, parameter: str, told: str) -> None:
    done = cli("results", "list", "--wait", "1", "--store", UNREACHED + parameter)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert told in line
    assert "secret" not in line


@pytest.mark.parametrize("url", [UNREACHED + "sslmode=zzz", UNREACHED + "no=1", "mysql://h/d"])
def test_a_url_is_wrong_whichever_flag_or_variable_it_came_by(
    cli: Cli, make_run: Callable[..., Run], tmp_path: Path, url: str
) -> None:
    run = write_run(make_run(1), tmp_path)
    environment = {**os.environ, "CORONET_STORE": url}
    lines = (("compare", "--history", url, run), ("results", "list"))
    told = [cli(*line, env=environment, cwd=tmp_path) for line in lines]
    assert [one.returncode for one in told] == [2, 2]
    assert told[0].stderr == told[1].stderr
    assert told[0].stderr.startswith(f"coronet-deploy: error: the result store {url[:8]}")


def test_a_server_that_is_away_is_told_as_such(cli: Cli) -> None:
    done = cli("results", "list", "--wait", "1", "--store", UNREACHED + "sslmode=require")
    assert done.returncode == 3
    assert "cannot be reached or went away" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("/d", "/none-d", 'database "none-d'),
        ("tester", "nobody-at-all", 'role "nobody-at-all" does not exist'),
        ("?", "?options=-c%20none_such%3D1&", 'unrecognized configuration parameter "none_such"'),
        ("?", "?client_encoding=zz&", 'invalid value for parameter "client_encoding": "zz"'),
    ],
)
def test_what_a_server_refuses_is_not_said_to_be_out_of_reach(
    cli: Cli, server: Any, old: str, new: str, told: str
) -> None:
    url = server.database(f"d{secrets.token_hex(6)}")
    done = cli("results", "list", "--wait", "1", "--store", url.replace(old, new, 1))
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "refused the connection: " in line
    assert told in line
    assert "is the URL right?" in line
