"""What is installed, looked for before anything is loaded or made.

torch takes seconds to load and INT8 a minute to measure: a package that is missing behind both is
told in front, with the extra that brings all that the command needs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence

from coronet_deploy.errors import missing_package

_READ = ("torch", "safetensors")
_WRITTEN = {"onnx": ("onnx", "onnxruntime"), "tflite": ("flatbuffers", "ai_edge_litert")}
_QUANTIZER = "ai_edge_quantizer"
_QUANTIZED = {"int8", "int8-dynamic", "int8-weights"}  # integers throughout are written without it


def require_writers(kinds: Iterable[tuple[str, str]], extra: str = "export") -> None:
    """Let artifacts through, each a runtime and a number type, whose packages are installed.

    Raises:
        EnvironmentProblem: one is not; names it, and the `extra` that brings them all.

    """
    modules = list(_READ)
    for runtime, dtype in kinds:
        modules += _WRITTEN[runtime]
        if runtime == "tflite" and dtype in _QUANTIZED:
            modules.append(_QUANTIZER)
    require_modules(modules, extra)


def require_modules(modules: Sequence[str], extra: str) -> None:
    """Let modules through that are installed.

    Raises:
        EnvironmentProblem: one is not; names its package, and the `extra` that brings it.

    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise missing_package(module.replace("_", "-"), extra)
