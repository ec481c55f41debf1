"""Before the clock runs: whether a back end takes the whole graph and draws the picture.

A delegate that leaves nodes to the CPU, or all of them, still answers, later or sooner than the
CPU alone; its figure would be read as the delegate's. And a fast wrong picture is no result. So
each artifact is tried on each back end once, on real pictures, and what fails is not timed; after a
crash it is tried once more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coronet_deploy.bench.adb import Device
from coronet_deploy.bench.crashes import Crashes
from coronet_deploy.bench.launch import Failed, Failure
from coronet_deploy.bench.phone_files import PhoneFiles
from coronet_deploy.bench.phone_launch import Setup, execute, now
from coronet_deploy.bench.phone_parity import Reference, bound_db, parity_json
from coronet_deploy.bench.phone_placement import check_taken, placement
from coronet_deploy.bench.runner import RunnerResult
from coronet_deploy.errors import GateFailed
from coronet_deploy.storage import write_bytes
from coronet_deploy.vocabulary import Runtime

ONCE = ("--warmup-runs", "0", "--warmup-seconds", "0", "--runs", "1", "--seconds", "0")


@dataclass(frozen=True)
class Trial:
    """What one artifact on one back end came to.

    `details` are for its launches' records; `failure` says why it is not timed. `fallback` is true
    if part of the graph runs on the CPU, which was allowed. `once_ms` is about what an inference
    takes.
    """

    details: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    failure: Failed | None = None
    fallback: bool = False
    once_ms: float | None = None


@dataclass(frozen=True)
class Trials:
    """How artifacts are tried on one phone."""

    device: Device
    files: PhoneFiles
    setup: Setup
    deadline_s: float
    allow_fallback: bool

    def run(
        self,
        model: str,
        runtime: Runtime,
        backend: str,
        threads: int,
        reference: Reference | None,
    ) -> Trial:
        """Try the model, which stands on the phone at `model`.

        Without a `reference` the picture is not looked at.

        Raises:
            DeviceLost: the phone went away.

        """
        crashes = Crashes()
        while True:
            started = now()
            trial = self._once(model, runtime, backend, threads, reference)
            failure = None
            if trial.failure is not None:
                try:
                    crashes.forgive(trial.failure, started)
                    continue
                except Failed as why:
                    failure = why
            details = {**trial.details, **crashes.of_trial()}
            return replace(trial, details=details, failure=failure)

    def _once(
        self,
        model: str,
        runtime: Runtime,
        backend: str,
        threads: int,
        reference: Reference | None,
    ) -> Trial:
        command = self.setup.command(model, runtime, backend, threads, *ONCE)
        details: dict[str, Any] = {}
        tools: dict[str, str] = {}
        try:
            if reference is None:
                result = execute(self.device, command, self.deadline_s)
                outputs: list[bytes] = []
            else:
                result, outputs = self._draw(command, reference)
            details |= placement(result)
            # Both runtimes may be at work in one run.
            tools |= {
                "coronet-runner": result.tools["runner"],
                runtime.value: result.tools["runtime"],
            }
            fallback = check_taken(result, backend, allow_fallback=self.allow_fallback)
            if reference is not None:
                bound = bound_db(reference.dtype, backend)
                self._check_picture(reference, outputs, bound, details)
        except Failed as why:
            return Trial(details, tools, why)
        return Trial(details, tools, None, fallback, min(result.samples_ms, default=None))

    def _draw(
        self, command: Sequence[str], reference: Reference
    ) -> tuple[RunnerResult, list[bytes]]:
        outputs = []
        given, made = self.files.work_path("input"), self.files.work_path("output")
        with tempfile.TemporaryDirectory(prefix="coronet-deploy-") as folder:
            here = Path(folder)
            for number, tensor in enumerate(reference.inputs):
                source = here / f"input-{number}"
                write_bytes(source, tensor)
                self.device.push(source, given)
                own = [*command, "--input", given, "--output", made]
                result = execute(self.device, own, self.deadline_s)
                self.device.pull(made, here / "output")
                outputs.append((here / "output").read_bytes())
                if len(outputs[-1]) != reference.output_bytes:
                    raise Failed(
                        Failure.GARBAGE,
                        f"the phone's picture has {len(outputs[-1])} bytes, "
                        f"not {reference.output_bytes}",
                    )
        return result, outputs

    def _check_picture(
        self,
        reference: Reference,
        outputs: Sequence[bytes],
        bound: float,
        details: dict[str, Any],
    ) -> None:
        try:
            parity = reference.judge(outputs, bound)
        except GateFailed as error:
            raise Failed(Failure.PARITY, str(error)) from error
        details["parity"] = parity_json(parity)
        if not parity.passed:
            raise Failed(
                Failure.PARITY,
                f"the phone draws another picture than this host: {parity.psnr_db:.2f} dB, "
                f"below the bound of {bound:g} dB",
            )
