"""The flags of `coronet-deploy bench` that matter with a phone only."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

PHONE_FILES = Path("out/phone")
"""Where native files for phones stand unless a flag says otherwise, a folder an ABI."""

RUNNER = "coronet-runner"
COOL_DOWNS = 3
"""How many cool-downs in vain a phone is waited for, unless a flag says how long."""

_BACKENDS = ("cpu", "gpu", "nnapi", "qnn")


def add_phone_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that matter with a phone only."""
    group = parser.add_argument_group("on a phone (--device sm8550, or a serial, or any)")
    add = group.add_argument
    add(
        "--serial",
        metavar="SERIAL",
        help="which phone, where several have the chipset, by adb's name of it or its own serial "
        "(default: what ANDROID_SERIAL says); without --device that phone",
    )
    add("--profiles", type=Path, metavar="DIR", help="device profiles of your own")
    add(
        "--backend",
        type=_backends,
        default=("cpu",),
        metavar="NAME[,...]",
        help=f"of {', '.join(_BACKENDS)} (default: cpu)",
    )
    add(
        "--phone-libraries",
        type=Path,
        metavar="DIR",
        help=f"folder with the runner and the runtimes' libraries for the phone "
        f"(default: {PHONE_FILES}/ABI)",
    )
    add("--runner", type=Path, metavar="FILE", help=f"the runner for the phone ({RUNNER})")
    add("--litert-library", type=Path, metavar="FILE", help="LiteRT's library for the phone")
    add("--onnxruntime-library", type=Path, metavar="FILE", help="ONNX Runtime's, likewise")
    add(
        "--backend-library",
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a back end's delegate or provider; a path below /vendor, /odm, /system, "
        "/system_ext, /product, /apex or /data/local is one on the phone",
    )
    add(
        "--backend-option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME.KEY=VALUE",
        help="an option of a back end, such as qnn.backend_type=htp",
    )
    add(
        "--vendor-tool",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="measure with this program for the phone too, in rows of its own: benchmark_model of "
        "LiteRT or TFLite, or onnxruntime_perf_test",
    )
    add("--cpu-mask", type=_mask, metavar="HEX", help="pin to these CPUs (masks: `devices --json`)")
    add(
        "--allow-fallback",
        action="store_true",
        help="time a back end that leaves part of the graph to the CPU, and call it so",
    )
    add("--pictures", type=Path, metavar="DIR", help="to check the phone's pictures with")
    add("--no-parity", action="store_true", help="do not check the phone's pictures")
    add(
        "--cool-down",
        type=_seconds,
        default=300.0,
        metavar="S",
        help="longest wait for it to cool (default: 300)",
    )
    add(
        "--cool-down-total",
        type=_seconds,
        metavar="S",
        help="longest wait in all for one that does not: from then on each launch looks once "
        "whether it is cool, and fails if not (default: three times --cool-down)",
    )
    add(
        "--warmest",
        type=_degrees,
        default=36.0,
        metavar="C",
        help="skin or battery temperature at which it still counts as cool (default: 36)",
    )
    add(
        "--canary-limit",
        type=_ratio,
        default=1.10,
        metavar="X",
        help="slower than at first by this factor is throttled (default: 1.10)",
    )
    add(
        "--repeats",
        type=_count,
        default=2,
        metavar="N",
        help="repeats of a launch that throttled (default: 2)",
    )
    add(
        "--reconnect",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="longest wait for a phone that went away (default: 60)",
    )
    add("--resume", type=Path, metavar="RUN", help="go on with a run that was cut short")
    add(
        "--dry-run",
        action="store_true",
        help="print every adb command of the bench; of them only those that list phones are run",
    )


def _backends(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in _BACKENDS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(_BACKENDS)}")
    if len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r} names one twice")
    return names


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE")
    return name, value


def _option(text: str) -> tuple[str, str]:
    name, dot, option = text.partition(".")
    if not (name and dot and re.fullmatch(r"[^=]+=.*", option)):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME.KEY=VALUE")
    return name, option


def _mask(text: str) -> str:
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]+", text) or int(text, 16) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a hexadecimal mask of CPUs")
    return f"{int(text, 16):x}"


def _seconds(text: str) -> float:
    return _number(text, 0.0, "a number of seconds")


def _degrees(text: str) -> float:
    return _number(text, 0.0, "a number of degrees Celsius")


def _ratio(text: str) -> float:
    return _number(text, 1.0, "a factor")


def _number(text: str, least: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} above {least:g}")
    return value


def _count(text: str) -> int:
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)
