"""How ONNX Runtime adds integers on this host."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def add_integers_whole(options: Any) -> None:  # noqa: ANN401 - ONNX Runtime's, which ships no types
    """Let a session compute int8 as phones do.

    By default an x86-64 host without VNNI adds pairs of products in 16 bits that overflow, which
    cost a ResNet 10 dB. With VNNI the other way draws the same and takes nearly twice the time.
    """
    if not _has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")


def _has_vnni() -> bool:
    """Return whether this host is known to multiply bytes into 32 bits."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(told.split())
