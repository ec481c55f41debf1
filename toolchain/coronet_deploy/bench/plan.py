"""Which launches, and in which order: interleaved rounds, so that drift falls on all alike.

A machine warms up, throttles and gets busy while a bench goes on. Launches of one artifact in a
row would carry that drift into a comparison as if it were a difference; rounds that go forth and
back (A B C, C B A, ...) give every artifact the same mean place in time.

Nothing here knows how a launch is made, so a plan may hold targets of many devices: each device
gets its own interleaved sequence, and devices may work through theirs side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import Target


@dataclass(frozen=True)
class Subject:
    """What is measured: an artifact, by its name in the run, on a target."""

    artifact: str
    target: Target

    def __str__(self) -> str:
        threads = self.target.threads
        plural = "thread" if threads == 1 else "threads"
        return f"{self.artifact} on {self.target.device} {self.target.backend}, {threads} {plural}"


@dataclass(frozen=True)
class PlannedLaunch:
    """One launch to make: `order` is its place on its device, `round` counts from 0."""

    subject: Subject
    round: int
    order: int


@dataclass(frozen=True)
class Plan:
    """Subjects, each launched once a round."""

    subjects: tuple[Subject, ...]
    rounds: int

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise BadInput(f"a bench of {self.rounds} rounds measures nothing, at least 1")
        if not self.subjects:
            raise BadInput("a bench without artifacts or targets measures nothing")
        if len(set(self.subjects)) != len(self.subjects):
            raise BadInput("an artifact is planned twice on the same target")

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of the plan, in the order they first appear."""
        return tuple(dict.fromkeys(subject.target.device for subject in self.subjects))

    def launches(self, device: str) -> tuple[PlannedLaunch, ...]:
        """Return the launches of `device` in the order to make them: forth, back, forth, ..."""
        subjects = [subject for subject in self.subjects if subject.target.device == device]
        sequence = [
            (subject, number)
            for number in range(self.rounds)
            for subject in (reversed(subjects) if number % 2 else subjects)
        ]
        return tuple(
            PlannedLaunch(subject, number, order)
            for order, (subject, number) in enumerate(sequence)
        )


def make_plan(artifacts: Iterable[str], targets: Sequence[Target], rounds: int) -> Plan:
    """Return the plan of every artifact on every target.

    Raises:
        BadInput: there is nothing to measure, or a name or target is given twice.

    """
    subjects = tuple(Subject(name, target) for name, target in product(artifacts, targets))
    return Plan(subjects, rounds)
