"""Vendors' benchmark programs in a bench on a phone: rows of their own beside the runner's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coronet_deploy.bench.adb import Device
from coronet_deploy.bench.launch import Failure, Labels
from coronet_deploy.bench.phone_files import PhoneFiles
from coronet_deploy.bench.phone_kit import Settings
from coronet_deploy.bench.phone_launch import Setup
from coronet_deploy.bench.vendor import identify, run_vendor
from coronet_deploy.bench.vendor_launch import vendor_launch, vendor_target
from coronet_deploy.bench.vendor_result import Request, Tool, VendorResult
from coronet_deploy.bench.worker import WARMUP_MOST, WARMUP_SECONDS
from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import Launch, Runtime, Target


@dataclass(frozen=True)
class VendorTools:
    """The programs on one phone, by which they are."""

    device: Device
    files: PhoneFiles
    programs: Mapping[Tool, str]

    def targets(self, device: str, backend: str, threads: int, runtime: Runtime) -> list[Target]:
        """Return the targets that an artifact of `runtime` is measured on by these programs."""
        return [
            vendor_target(device, backend, tool, threads)
            for tool in self.programs
            if (tool is Tool.ONNXRUNTIME) == (runtime is Runtime.ONNX)
        ]

    def tool_of(self, device: str, backend: str, target: Target) -> Tool | None:
        """Return the program whose row `target` is, or None for the runner's."""
        named = {vendor_target(device, backend, one, target.threads): one for one in self.programs}
        return named.get(target)

    def launch(
        self,
        tool: Tool,
        model: str,
        backend: str,
        labels: Labels,
        started: str,
        setup: Setup,
        settings: Settings,
    ) -> Launch:
        """Return the launch of a program with the artifact at `model` on the phone.

        It fails where the program has no such back end.

        Raises:
            DeviceLost: the phone went away.

        """
        request = Request(
            artifact=model,
            result_file=self.files.work_path("vendor-result"),
            backend=backend,
            threads=labels.target.threads,
            runs=settings.samples,
            seconds=settings.seconds,
            warmup_runs=WARMUP_MOST,
            warmup_seconds=WARMUP_SECONDS,
            allow_fallback=settings.allow_fallback,
            library=setup.backend_libraries.get(backend),
            options=setup.backend_options.get(backend, ()),
            mask=settings.mask,
        )
        program = self.programs[tool]
        try:
            result = run_vendor(self.device, program, tool, request, seconds=settings.deadline_s)
        except BadInput as error:
            result = VendorResult(tool, error=str(error), failure=Failure.REFUSED)
        if result.failure is Failure.DEADLINE:
            self.files.stop_leftovers()
        return vendor_launch(labels, started, result)


def put_tools(device: Device, files: PhoneFiles, paths: Sequence[Path]) -> VendorTools:
    """Put vendors' programs on the phone and tell which they are.

    Raises:
        BadInput: one is no such program, or two are the same.
        DeviceLost: the phone went away.

    """
    there = {files.put(path): path for path in paths}
    programs: dict[Tool, str] = {}
    for one, path in there.items():
        tool = identify(device, one, path)
        if tool in programs:
            raise BadInput(
                f"--vendor-tool {path} is a second {tool.value}: each would have the same row",
                hint="measure with one of them at a time",
            )
        programs[tool] = one
    return VendorTools(device, files, programs)
