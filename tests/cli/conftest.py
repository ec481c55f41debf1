"""The command as it starts from nothing, which is what these tests are about."""

from __future__ import annotations

import pytest

from support import Cli


@pytest.fixture(scope="session")
def cli(cold_cli: Cli) -> Cli:
    """Run the installed command, each time in a process of its own making."""
    return cold_cli
