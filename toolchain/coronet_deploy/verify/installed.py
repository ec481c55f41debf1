"""Whether a runtime is installed on this host, and what to say if it does not load."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from coronet_deploy.errors import EnvironmentProblem, missing_package
from coronet_deploy.memory import FREE_SOME, shortage
from coronet_deploy.vocabulary import Runtime

PACKAGES = {Runtime.TFLITE: "ai-edge-litert", Runtime.ONNX: "onnxruntime"}
"""What pip calls each runtime."""

MODULES = {Runtime.TFLITE: "ai_edge_litert.interpreter", Runtime.ONNX: "onnxruntime"}
"""What a session imports of each."""


def require_installed(runtimes: Iterable[Runtime]) -> None:
    """Let runtimes through that are installed; none is imported, which takes a second.

    Raises:
        EnvironmentProblem: one is not; names it.

    """
    for runtime in sorted(set(runtimes)):
        if not _is_installed(runtime):
            raise missing_package(PACKAGES[runtime], "runtimes")


def not_loading(runtime: Runtime, error: ImportError) -> EnvironmentProblem:
    """Return the error of a runtime that could not be imported: it is missing, or broken."""
    if not _is_installed(runtime):
        return missing_package(PACKAGES[runtime], "runtimes")
    if told := shortage(error):
        what = f"not enough memory to load the package {PACKAGES[runtime]!r}: {told}"
        return EnvironmentProblem(what, hint=FREE_SOME)
    return EnvironmentProblem(
        f"the package {PACKAGES[runtime]!r} is installed and does not load: {str(error)[:300]}",
        hint="`coronet-deploy doctor` loads it too; install it again, or what it asks for",
    )


def _is_installed(runtime: Runtime) -> bool:
    return importlib.util.find_spec(MODULES[runtime].partition(".")[0]) is not None
