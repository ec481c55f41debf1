"""matplotlib in its own style, whatever back end and style its user has set up for other plots."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

_BACKEND = "MPLBACKEND"


@contextlib.contextmanager
def matplotlib_style(settings: Mapping[str, object] | None = None) -> Iterator[None]:
    """Draw in here with matplotlib's defaults and `settings`; what was set is set again behind it.

    A style for papers may have text set by TeX, and a notebook names a back end for its own Python.

    Raises:
        ImportError: matplotlib is not installed.

    """
    backend = os.environ.pop(_BACKEND, None)  # which is looked for on import
    try:
        import matplotlib as mpl
    finally:
        if backend is not None:
            os.environ[_BACKEND] = backend
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings or {})
        yield
