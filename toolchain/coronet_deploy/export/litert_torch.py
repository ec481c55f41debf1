"""A second opinion: FP32 TFLite files by litert-torch, the converter that followed ai-edge-torch.

Not what artifacts are made with: it takes minutes, its files are slower, and it cannot convert a
transposed convolution with an output padding, which every ResNet generator here has. What it does
convert goes through the same gate as our own files.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import torch

from coronet_deploy.errors import ConversionFailed, EnvironmentProblem
from coronet_deploy.export.build import Built, describe
from coronet_deploy.export.graph import Graph
from coronet_deploy.export.native import captured_stderr
from coronet_deploy.export.subject import Subject
from coronet_deploy.export.tflite_file import end_names, with_metadata
from coronet_deploy.vocabulary import DType, Runtime

PACKAGE = "litert-torch"


def convert(graph: Graph, subject: Subject) -> Built:
    """Return the artifact that litert-torch makes of the generator; `graph` is its capture.

    Raises:
        EnvironmentProblem: litert-torch is not installed.
        ConversionFailed: it refuses the network; gives its reason.

    """
    try:
        # It logs every step, and imports what warns.
        with captured_stderr(), contextlib.redirect_stdout(sys.stderr):
            import litert_torch
    except ImportError as error:
        raise EnvironmentProblem(
            f"the package {error.name or PACKAGE!r} is not installed",
            hint=f"pip install {PACKAGE}, or leave out --converter",
        ) from error
    _, height, width, channels = graph.input_shape
    picture = torch.zeros(1, height, width, channels)
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, captured_stderr():
        path = Path(folder) / "converted.tflite"
        with contextlib.redirect_stdout(sys.stderr):
            try:
                network = litert_torch.to_channel_last_io(
                    subject.generator, args=[0], outputs=[0]
                ).eval()
                litert_torch.convert(network, (picture,)).export(str(path))
            except Exception as error:  # whatever its many stages raise
                raise ConversionFailed(
                    f"litert-torch does not convert {subject.model}: {_reason(error)}",
                    hint="our own converter does: leave out --converter",
                ) from error
        data = path.read_bytes()
    embedded = describe(graph, Runtime.TFLITE, DType.FP32, subject, ())
    names = end_names(data)
    embedded = embedded.model_copy(
        update={
            "converter": PACKAGE,
            "tools": {**embedded.tools, PACKAGE: metadata.version(PACKAGE)},
            "input": embedded.input.model_copy(update={"name": names[0]}),
            "output": embedded.output.model_copy(update={"name": names[1]}),
        }
    )
    return Built(with_metadata(data, embedded.as_metadata()), embedded)


def _reason(error: Exception) -> str:
    """Return the telling part of what it says: the error of its last stage, without the path."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.partition("error: ")[2] or text
    return text.partition(": %")[0][:200]
