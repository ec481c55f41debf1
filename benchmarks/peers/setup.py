"""Make the environments of the peers: `python benchmarks/peers/setup.py [NAME ...]`.

Each has its own, under $CORONET_PEERS, or ~/.cache/coronet-deploy/peers. One that cannot be made
leaves its rows of the tables "not measured".
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("CORONET_PEERS", Path.home() / ".cache/coronet-deploy/peers"))

# pip's arguments, a call each. torch comes first and alone, so that nothing widens it; pnnx brings
# a program that needs none of the packages that it asks for.
PEERS: Mapping[str, Sequence[Sequence[str]]] = {
    "litert-torch": (
        ("torch==2.13.0",),
        (
            "litert-torch==0.10.0",
            "onnx==1.23.2",
            "onnxruntime==1.31.1",
            "onnxscript==0.7.2",
            "pydantic",
            "rich",
            "safetensors",
            "pillow",
        ),
        ("--no-deps", "--editable", str(ROOT)),
    ),
    "ncnn": (("numpy",), ("--no-deps", "ncnn", "pnnx")),
    "mnn": (("numpy", "MNN"),),
}


def python_of(name: str) -> Path:
    """Return the interpreter of a peer's environment, made or not."""
    return CACHE / name / "bin" / "python"


def make(name: str) -> None:
    """Make one environment, whole or not at all; subprocess.CalledProcessError if pip cannot."""
    calls = PEERS[name]
    try:
        venv.create(CACHE / name, with_pip=True, clear=True)
        for arguments in calls:
            subprocess.run([python_of(name), "-m", "pip", "install", "-q", *arguments], check=True)
    except BaseException:  # Ctrl-C too: what has a Python is taken for made
        shutil.rmtree(CACHE / name, ignore_errors=True)
        raise


def main() -> int:
    """Make those that are named, or all that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}")
    names = parser.parse_args().names or [name for name in PEERS if not python_of(name).exists()]
    status = 0
    for name in names:
        print(f"{name}: making {CACHE / name}", file=sys.stderr)
        try:
            make(name)
        except (KeyError, OSError, subprocess.CalledProcessError) as error:
            print(f"{name}: not made: {error}", file=sys.stderr)
            status = 3
    return status


if __name__ == "__main__":
    sys.exit(main())
