"""`coronet-deploy runner`: build the program that runs artifacts on phones."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "build the program that runs artifacts on phones"

_PRESETS = ("host", "aarch64-linux", "android")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "action", choices=["build"], metavar="ACTION", help="build: compile it with CMake"
    )
    parser.add_argument(
        "--preset",
        choices=_PRESETS,
        default="android",
        help="for what (default: android; needs the NDK at ANDROID_NDK_HOME)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for coronet-runner (default: out/phone/arm64-v8a for android, "
        "else out/<preset>)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        EnvironmentProblem: the place cannot be written to, or it cannot be built.

    """
    from coronet_deploy.bench.runner import NAME, Preset, build
    from coronet_deploy.storage import require_temporary, require_writable

    default = "phone/arm64-v8a" if args.preset == "android" else args.preset
    output = args.output or Path("out") / default
    require_writable(output / NAME)
    require_temporary()
    path = build(Preset(args.preset), output)
    print(json.dumps({"runner": str(path)}) if args.json else path)
    return 0
