"""URLs of PostgreSQL stores: read, checked, and shown without their passwords."""

from __future__ import annotations

import contextlib
import re

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from coronet_deploy.errors import BadInput, CoronetError, EnvironmentProblem, missing_package

_PARAMETERS = "behind ? go parameters of PostgreSQL's connections, such as sslmode=require"
_WRONG_VALUE = re.compile(
    r'(?:^|: )((?:invalid (?:port number|"?\w+"? value)|bad value for|definition of service).*)'
)


def read_url(place: str) -> URL:
    """Return the URL that `place` is.

    Raises:
        BadInput: it is none, or none of PostgreSQL; says nothing of one that cannot be read, as a
            password may have broken it.

    """
    # A password ends at the first @: with one of its own, what follows would pass for a host.
    behind = place.partition("://")[2].partition(":")[2].partition("@")[2].partition("?")[0]
    with contextlib.suppress(ArgumentError, ValueError):  # the latter of a port that is no number
        url = make_url(place)
        if "@" not in behind:
            return _of_postgresql(url)
    raise BadInput(
        "the URL of the result store cannot be read",
        hint="postgresql://USER:PASSWORD@HOST:PORT/DATABASE; in a password, write @ as %40, : as "
        "%3A, / as %2F and % as %25",
    )


def shown(url: URL) -> str:
    """Return `url` without its passwords, which may stand in its query too (`sslpassword`)."""
    query = {key: "..." if "pass" in key.lower() else value for key, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def check_parameters(url: URL) -> None:
    """Let a URL through behind whose ? stand parameters of a connection, as libpq knows them.

    What psycopg takes besides them are values of Python, which no URL can hold: it would take the
    text, and fail over it later.

    Raises:
        BadInput: there is another parameter, or a port that is no number.
        EnvironmentProblem: psycopg is missing.

    """
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import make_conninfo
        from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
    except ModuleNotFoundError as error:
        raise missing_package("psycopg", "postgresql") from error
    try:
        make_conninfo(**dict.fromkeys(url.query, "1"))
        PGDialect_psycopg().create_connect_args(url)  # type: ignore[no-untyped-call] # has no types
    except (ProgrammingError, ArgumentError) as error:
        raise BadInput(
            f"the result store {shown(url)}: {str(error).strip()}", hint=_PARAMETERS
        ) from error


def refusal(name: str, reason: str) -> CoronetError | None:
    """Return what is wrong with the URL shown as `name` if no connection was made for that.

    `reason` is libpq's. That some values are wrong it tells when it connects, and of others the
    server does, which then was reached.
    """
    if "FATAL:" in reason:
        return EnvironmentProblem(
            f"the result store {name} refused the connection: {reason}",
            hint="is the URL right? if the server was only busy, run the same command again",
        )
    if wrong := _WRONG_VALUE.search(reason):
        return BadInput(f"the result store {name}: {wrong[1]}", hint=_PARAMETERS)
    return None


def _of_postgresql(url: URL) -> URL:
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise BadInput(
            f"the result store {shown(url)}: neither a file nor a postgresql:// URL",
            hint="an SQLite store is named by its path alone",
        )
    return url
