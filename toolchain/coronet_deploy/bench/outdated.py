"""Whether a native file is too old for what is asked of it, read from the file itself.

On a phone such a file fails with words that name neither it nor its age: an old runner does not
know an argument, an old LiteRT takes one argument for another. So this is looked at before anything
is pushed. A file that tells nothing of its age is let through.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from coronet_deploy.errors import BadInput

RUNNER_OLDEST = 2
"""The oldest runner (`RUNNER_VERSION` of android_bench/src/runner.h) that takes a bench's arguments
and times what a bench calls a sample."""

_HEADER = re.compile(rb'\{"kind":"header","version":"([0-9]{1,9})"')
_LITERT = b"LiteRtCreateEnvironment\0"
# As in android_bench/src/litert.c: these came with the order of arguments that the runner uses.
_LITERT_SINCE_2_1_6 = (
    b"LiteRtCreateModelFromFd\0",
    b"LiteRtCreateModelFromAllocation\0",
    b"LiteRtGetBlockWiseQuantization\0",
)


def outdated(path: Path) -> str | None:
    """Say in what way the runner or the library `path` is too old, or None.

    Raises:
        OSError: it cannot be read.

    """
    with path.open("rb") as file:
        if not file.seek(0, 2):  # nothing to map
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            told = _HEADER.search(held)
            if told and int(told[1]) < RUNNER_OLDEST:
                return f"a runner of version {int(told[1])}, and {RUNNER_OLDEST} or later is needed"
            if held.find(_LITERT) >= 0 and all(held.find(one) < 0 for one in _LITERT_SINCE_2_1_6):
                return "LiteRT of before 2.1.6, and 2.3 or later is needed"
    return None


def check_age(path: Path, flag: str, hint: str) -> None:
    """Let a native file through that is not too old; `hint` says how to get a newer one.

    Raises:
        BadInput: it is; names the file and `flag`.

    """
    if (told := outdated(path)) is not None:
        raise BadInput(f"{flag} {path} is {told}", hint=hint)
