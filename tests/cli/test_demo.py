"""The demo goes the whole way, and an interrupt or a failed launch does not pass unsaid."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from coronet_deploy.cli import demo
from coronet_deploy.coronet.checkpoint import (
    FORMAT_VERSION,
    Header,
    Stage,
    load_checkpoint,
    save_checkpoint,
)
from coronet_deploy.coronet.zoo import model_dir
from coronet_deploy.networks.generator import build_generator, full_plan
from coronet_deploy.results.files import read_run
from coronet_deploy.verify.release import bundled_order, release
from coronet_deploy.vocabulary import Architecture, DType, Runtime
from lowering import small_checkpoint
from support import COMMAND, Cli


class _Resources(HTMLParser):
    """Finds what a page loads: by attributes, `url()`, `@import`, scripts; not links to follow."""

    _LOADING = ("src", "srcset", "poster", "data", "background", "action", "xlink:href")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        for name, value in attrs:
            if name in self._LOADING or (name == "href" and tag != "a"):
                self.found.append(value or "")
            self.found += _URL.findall(value or "")

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.found += _URL.findall(data)
            self.found += ["@import"] * data.count("@import")
        elif self._inside == "script":
            self.found += re.findall(r"\bhttps?://\S+|\bfetch\(|\bimport\b", data)

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._inside = ""


_URL = re.compile(r"""url\(\s*["']?([^"')]*)""")


def test_the_demo_writes_a_report_that_needs_nothing_else(cli: Cli, tmp_path: Path) -> None:
    result = cli("demo", "--rounds", 1, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    page = (tmp_path / said["report"]).read_text()
    resources = _Resources()
    resources.feed(page)
    assert any(one.startswith("data:image/png") for one in resources.found)
    assert not [one for one in resources.found if not one.startswith(("data:", "#"))]
    assert "facades-unet256_256x256_int8.tflite" in page
    assert "random weights" in page
    run = read_run(tmp_path / said["run_file"])
    assert len(run.launches) == len(said["rows"]) == 16
    assert all(launch.samples_ms for launch in run.launches)


@pytest.mark.parametrize(
    ("model", "told"), [("facades-unet256", False), ("horse2zebra-resnet9", True)]
)
def test_a_model_of_another_task_is_told_what_its_ranges_come_from(
    tmp_path: Path, model: str, told: bool
) -> None:
    program = (
        "import sys\n"
        "from coronet_deploy.cli import demo, main\n"
        "from coronet_deploy.errors import GateFailed\n"
        "def fail(*_): raise GateFailed('so far')\n"
        "demo._materialize = print\n"
        "demo._export = fail\n"
        "sys.exit(main(['demo', *sys.argv[1:]]))\n"
    )
    line = [sys.executable, "-c", program, str(model_dir(model) / f"{model}.safetensors"), "--json"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert ("INT8 ranges come from the bundled label maps" in done.stderr) == told


def test_a_generator_of_grey_pictures_is_taken_as_export_takes_it(tmp_path: Path) -> None:
    plan = replace(full_plan(Architecture.RESNET_6, width=2), input_channels=1, output_channels=1)
    header = Header(
        format_version=FORMAT_VERSION,
        stage=Stage.DENSE,
        id="grey",
        title="Grey",
        task="test",
        plan=plan.as_json(),
        total=dict(plan.groups),
    )
    tensors = build_generator(plan).state_dict()
    save_checkpoint(
        tmp_path / "grey.safetensors", header, {f"network.{k}": v for k, v in tensors.items()}
    )
    checkpoint = load_checkpoint(tmp_path / "grey.safetensors")
    demo._materialize(checkpoint, tmp_path)
    assert load_checkpoint(tmp_path / "grey-dense.safetensors").plan == plan
    order = bundled_order(checkpoint, tmp_path / "artifacts", 256, [DType.FP32])
    bounds = {DType.FP32: 40.0}
    artifacts = release(replace(order, runtimes=[Runtime.ONNX], bounds_db=bounds))
    for picture in demo._draw(checkpoint, artifacts):
        (output,) = picture.outputs.values()
        for shown in (picture.input, picture.reference, output):
            assert shown.shape == (256, 256, 3)
            assert (shown == shown[..., :1]).all()
        assert np.abs(output - picture.reference).max() < 0.01


def test_an_interrupted_demo_keeps_its_finished_launches(tmp_path: Path) -> None:
    with subprocess.Popen(
        [str(COMMAND), "demo", str(small_checkpoint(tmp_path))],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if line.startswith("launch 3 of"):
                demo.send_signal(signal.SIGTERM)
                break
        said = demo.stderr.read()
    assert demo.returncode == 130
    assert "launches kept in" in said
    assert "Traceback" not in said
    (path,) = (tmp_path / "out" / "runs").glob("*.json")
    assert len(read_run(path).launches) >= 2
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_failed_launch_fails_the_demo(tmp_path: Path) -> None:
    """A worker that always ends badly stands in for a runtime that crashes."""
    program = (
        "import sys, functools\n"
        "from coronet_deploy.bench import host\n"
        "from coronet_deploy.cli import main\n"
        "broken = ('-c', 'import sys; sys.exit(9)')\n"
        "host.bench_host = functools.partial(\n"
        "    host.bench_host, worker=(sys.executable, *broken))\n"
        "sys.exit(main(['demo', sys.argv[1], '--rounds', '1']))\n"
    )
    line = [sys.executable, "-c", program, str(small_checkpoint(tmp_path))]
    result = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 5
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "report.html").exists()
