"""Processes that infer in turns, one inference each, whoever is not in turn stopped.

On a shared machine a neighbour comes and goes within a second and changes what an inference takes
by a third. Launches that run one after the other meet different neighbours; inferences that follow
each other meet the same. Each process has one runtime (see `peers/launch.py`), and threads that
spin while their process waits do not spin while it is stopped.
"""

from __future__ import annotations

import contextlib
import json
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any


class PlayerFailed(RuntimeError):
    """A process ended before it was told to; says its last word."""


class Player:
    """A process that infers when told, stopped in between."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start it; PlayerFailed if there is no such program."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, env=env
            )
        except OSError as error:
            raise PlayerFailed(f"not installed: {error.strerror}") from error

    def infer(self, before: int = 1) -> float:
        """Return the milliseconds of one inference, made after `before` others."""
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            print(before, file=self._process.stdin, flush=True)
        taken = float(self._answer()["ms"])
        self._process.send_signal(signal.SIGSTOP)
        return taken

    def end(self) -> Mapping[str, float]:
        """Let it end, and return its last answer."""
        self._process.send_signal(signal.SIGCONT)
        if self._process.stdin:
            self._process.stdin.close()
        answer = self._answer()
        self._process.wait()
        self._errors.close()
        return answer

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _answer(self) -> Mapping[str, float]:
        for line in self._process.stdout or ():
            if line.startswith("{"):
                answer: Mapping[str, float] = json.loads(line)
                return answer
        status = self._process.wait()
        self._errors.seek(0)
        told = self._errors.read().decode(errors="replace").strip().splitlines()
        raise PlayerFailed(told[-1][:80] if told else f"exit status {status}")


@dataclass(frozen=True)
class Played:
    """What one launch of a process told: its median in ms, and its last answer."""

    median_ms: float
    last: Mapping[str, float]


class Table:
    """Launches at one table; who fails leaves it, and the others go on."""

    def __init__(self) -> None:
        """Nobody sits at it yet."""
        self.players: dict[str, Player] = {}
        self.failures: dict[str, str] = {}

    def attempt(self, name: str, move: Callable[[], Any]) -> Any:  # noqa: ANN401 - the move's
        """Return what `move` returns; None if the player failed, who then leaves."""
        try:
            return move()
        except PlayerFailed as failed:
            self.failures[name] = str(failed)
            if name in self.players:
                self.players.pop(name).kill()
            return None

    def sit(self, name: str, command: Sequence[str], env: Mapping[str, str] | None) -> None:
        """Start a player."""
        if player := self.attempt(name, lambda: Player(command, env)):
            self.players[name] = player


def play(
    commands: Mapping[str, Sequence[str]],
    warmup: int,
    samples: int,
    env: Mapping[str, str] | None = None,
) -> dict[str, Played | str]:
    """Launch every command and let them infer `samples` times in turns, forwards and backwards.

    Returns what each told, or in one line why it failed; the others go on without it.
    """
    table = Table()
    taken: dict[str, list[float]] = {name: [] for name in commands}
    results: dict[str, Played | str] = {}
    try:
        for name, command in commands.items():
            table.sit(name, command, env)
            if player := table.players.get(name):
                table.attempt(name, partial(player.infer, max(warmup - 1, 0)))
        for turn in range(samples):
            for name, player in list(table.players.items())[:: 1 if turn % 2 == 0 else -1]:
                taken[name].append(table.attempt(name, player.infer))
        for name, player in list(table.players.items()):
            if last := table.attempt(name, player.end):
                results[name] = Played(statistics.median(taken[name]), last)
                del table.players[name]
    finally:
        for player in table.players.values():
            player.kill()
    return results | table.failures
