"""Which artifacts a line of `export` asks for: runtimes and number types that go together."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coronet_deploy.cli._shared import known_names
from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import PLAIN_DTYPES, DType, Runtime

RUNTIMES = tuple(one.value for one in Runtime)
DTYPES = tuple(one.value for one in PLAIN_DTYPES)
"""What "all" stands for."""


def runtime_names(text: str) -> list[str]:
    """Return the runtimes of "NAME,NAME"."""
    return known_names(text, (*Runtime, "all"))


def dtype_names(text: str) -> list[str]:
    """Return the number types of "NAME,NAME"."""
    return known_names(text, (*DType, "all"))


def requests_of(args: argparse.Namespace) -> list[argparse.Namespace]:
    """Return the line as one for each number type in it, with both runtimes as "all"."""
    runtimes = set(args.runtime or ["all"])
    runtime = runtimes.pop() if len(runtimes) == 1 else "all"
    dtypes = list(dict.fromkeys(args.dtype or ["fp32"]))
    if "all" in dtypes:
        dtypes = ["all", *(dtype for dtype in dtypes if dtype not in {"all", *DTYPES})]
    # Of several, those that --half-io means; alone, one that it does not mean is refused with it.
    halves = {"fp16", "all"}.intersection(dtypes) or set(dtypes)
    shared = {**vars(args), "runtime": runtime}
    return [
        argparse.Namespace(**shared | {"dtype": dtype, "half_io": args.half_io and dtype in halves})
        for dtype in dtypes
    ]


def kinds_of(
    requests: Sequence[tuple[argparse.Namespace, Sequence[str]]],
) -> list[tuple[str, str]]:
    """Return the runtime and the number type of each artifact that is asked for."""
    return [
        (runtime, dtype)
        for one, runtimes in requests
        for runtime in runtimes
        for dtype in dtypes_of(one.dtype)
    ]


def dtypes_of(dtype: str) -> tuple[str, ...]:
    """Return the number types that one stands for."""
    return DTYPES if dtype == "all" else (dtype,)


def runtimes_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Return what was asked for; litert-torch writes one kind of file, and so does --half-io."""
    if args.half_io and (args.dtype not in {"fp16", "all"} or args.runtime == "tflite"):
        raise BadInput(
            f"--half-io is for FP16 ONNX artifacts, "
            f"not --runtime {args.runtime} --dtype {args.dtype}"
        )
    if args.converter == "direct":
        return _runtimes_with(args.dtype, args.runtime)
    if args.runtime == "onnx" or args.dtype != "fp32":
        raise BadInput(
            f"--converter {args.converter} writes FP32 TFLite files only, "
            f"not --runtime {args.runtime} --dtype {args.dtype}"
        )
    return ("tflite",)


def _runtimes_with(dtype: str, runtime: str) -> tuple[str, ...]:
    """Return the runtimes asked for; of all, those that have the number type."""
    from coronet_deploy.export.schemes import refusal

    asked = tuple(r for r in RUNTIMES if runtime in {r, "all"})
    if dtype == "all":
        return asked
    refusals = {r: refusal(Runtime(r), DType(dtype)) for r in asked}
    able = tuple(r for r, reason in refusals.items() if reason is None)
    if not able:
        raise BadInput(f"--runtime {runtime} --dtype {dtype}: {refusals[asked[0]]}")
    return able
