"""Run files of older schemas, brought to today's one version at a time.

Each step is a small function from the plain JSON of one version to that of the next. It never
guesses: what an older file did not say stays unsaid. A new version brings three things: its step
here, a file of the version before it among the tests' fixtures, and the change in `schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Plain = dict[str, Any]
Step = Callable[[Plain], Plain]

STEPS: Mapping[int, Step] = {}
"""The step from each version to the next, by the version it starts from."""


def migrated(plain: Plain, to: int, steps: Mapping[int, Step] = STEPS) -> Plain:
    """Return a run of an older version as one of version `to`; its own is left as it is.

    Raises:
        KeyError: there is no step from a version on the way: there never was such a file.

    """
    while plain["schema_version"] < to:
        version = plain["schema_version"]
        plain = {**steps[version](plain), "schema_version": version + 1}
    return plain
