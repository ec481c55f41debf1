"""Where memory is not enough: what torch, numpy, the runtimes and Python then raise, as a line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from coronet_deploy.errors import CoronetError, EnvironmentProblem

FREE_SOME = "end what else takes memory, or lift what bounds it: ulimit -v, a container's limit"
"""What a person can do who has no smaller picture or model to take."""

_SIGNS = (
    "failed to allocate memory",
    "not enough memory",
    "can't allocate",
    "allocate memory",
    "out of memory",
    "bad_alloc",
    "could not create a primitive",  # oneDNN's, of a convolution
    "failed to serialize proto",  # protobuf's, of a graph
    "failed with error '12'",  # LiteRT's, of a file that is to be mapped
)
_UNMAPPED = (
    "failed to map segment from shared object"  # where it may not be, that is said behind it
)
_ONNX_RUNTIMES = "onnxruntime"  # a line that begins with the place in its sources


def shortage(error: BaseException) -> str | None:
    """Return what an error says of memory that is not enough; None of any other error."""
    (line, *_) = str(error).splitlines() or ["none is left"]
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return line
    if isinstance(error, CoronetError) or getattr(error, "errno", None) is not None:
        return None
    lower = str(error).lower()
    sign = next((one for one in _SIGNS if one in lower), None)
    if sign is None:
        return line if lower.endswith(_UNMAPPED) else None
    return line[max(0, line.lower().find(sign)) :] if _ONNX_RUNTIMES in lower else line


@contextlib.contextmanager
def memory_told(doing: str, less: str = FREE_SOME) -> Iterator[None]:
    """Turn what is raised where memory is not enough for `doing` into one line.

    Raises:
        EnvironmentProblem: it is not enough; says with `less` what to lower.

    """
    try:
        yield
    except Exception as error:
        told = shortage(error)
        if told is None:
            raise
        raise EnvironmentProblem(f"not enough memory to {doing}: {told}", hint=less) from error
