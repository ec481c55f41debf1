"""A phone that is told nothing: each command is said instead, as one would type it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from coronet_deploy.bench.adb import Device, ShellResult, local
from coronet_deploy.bench.attached import DEVICE


class DryDevice(Device):
    """Says what it would do; commands answer nothing and succeed.

    `say` is called with each adb command, quoted for a shell.
    """

    dry = True

    def __init__(self, serial: str, say: Callable[[str], None], *, adb: str = "adb") -> None:
        super().__init__(serial, adb=adb)
        self._say = say

    @property
    def state(self) -> str:
        """Always ready."""
        return DEVICE

    def shell(
        self, argv: Sequence[str] | str, *, seconds: float, check: bool = False
    ) -> ShellResult:
        """Say the command."""
        del seconds, check
        self._tell("shell", argv if isinstance(argv, str) else shlex.join(argv))
        return ShellResult(0, b"", b"")

    def push(self, source: Path, target: str, *, seconds: float = math.inf) -> None:
        """Say the push."""
        del seconds
        self._tell("push", local(source), target)

    def pull(self, source: str, target: Path, *, seconds: float = math.inf) -> None:
        """Say the pull."""
        del seconds
        self._tell("pull", source, str(target))

    def _tell(self, *words: str) -> None:
        self._say(shlex.join(["adb", "-s", self.serial, *words]))
