"""What is wrong with the URL of a store is told as such, and not as a server that is away."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

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
