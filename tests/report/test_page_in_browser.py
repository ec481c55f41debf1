"""The page in a real browser: it loads nothing, runs nothing, fits, and follows dark and light.

Needs Chromium; on a continuous-integration machine (`CI` is set) its absence is a failure.
"""

from __future__ import annotations

import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coronet_deploy.networks.generator import full_plan
from coronet_deploy.report.history import Past
from coronet_deploy.report.html import ModelFacts, Picture, render_report
from coronet_deploy.results.entries import entry_of
from coronet_deploy.results.schema import run_to_json
from coronet_deploy.vocabulary import Architecture, Run

MakeRun = Callable[..., Run]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--force-device-scale-factor=1",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return a function that runs Chromium on a page and returns what it printed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"none of {', '.join(NAMES)} is installed")
        pytest.skip("Chromium is not installed")
    profile = tmp_path_factory.mktemp("profile")

    def show(page: Path, *options: str) -> str:
        line = [found, *QUIET, f"--user-data-dir={profile}", *options, page.as_uri()]
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    return show


@pytest.fixture
def requests() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a local server and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.fixture
def page(make_run: MakeRun) -> str:
    """Return a page with every section, and names as long as real ones."""
    return make_page(make_run, "horse2zebra-pruned")


def make_page(make_run: MakeRun, model_name: str) -> str:
    first = f"{model_name}_256x256_fp32.onnx"
    run = make_run({first: 100.0, f"{model_name}_256x256_int8.tflite": 40.0})
    state = {"load_1min": 0.5, "policies": [{"cpus": [0, 1, 2, 3], "governor": model_name}] * 2}
    phone = replace(
        run, id="phone", emulated=True,
        conditions={"cpu": model_name, "clusters": state["policies"], "before": state, "after": {}},
    )  # fmt: skip
    full = full_plan(Architecture.RESNET_9)
    plan = replace(full, groups={name: max(1, n // 3) for name, n in full.groups.items()})
    values = np.random.default_rng(0).uniform(-1, 1, (64, 64, 3)).astype(np.float32)
    shown = Picture(
        f"a picture of {model_name}", values, values, dict.fromkeys(run.artifacts, values)
    )
    model = ModelFacts.of_plan(model_name, plan, full, checkpoint_sha256="ab" * 32)
    earlier = [
        entry_of(
            run_to_json(replace(run, id=f"d{day}", created=f"2025-03-{day:02d}T00:00:00+00:00")),
            Path(f"d{day}.json"),
        )
        for day in range(1, 13)
    ]
    past = Past(lambda _row: earlier, across_models=False)
    return render_report(run, (), model, [shown] * 2, baseline=first, more=[phone], past=past)


def widths(browser: Callable[..., str], page: str, file: Path, width: int) -> tuple[int, int]:
    """Return how wide the page is, and how wide it may be, in a frame of `width` pixels."""
    # In a frame, because Chromium's own window is never narrower than 500 pixels.
    file.write_text(
        f"<!doctype html><iframe width={width} height=900 style=border:0 "
        f'srcdoc="{escape(page)}" onload="const e = this.contentDocument.documentElement; '
        'document.title = `wide ${e.scrollWidth} of ${e.clientWidth}`"></iframe>'
    )
    dom = browser(file, "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom")
    measured = re.search(r"<title>wide (\d+) of (\d+)</title>", dom)
    assert measured is not None
    return int(measured[1]), int(measured[2])


@pytest.mark.parametrize("name", ["horse2zebra-pruned", "w" * 120])
@pytest.mark.parametrize("width", [340, 390, 1280])
def test_no_width_makes_the_page_scroll_sideways(
    browser: Callable[..., str], make_run: MakeRun, tmp_path: Path, width: int, name: str
) -> None:
    page = make_page(make_run, name)
    wide, may_be = widths(browser, page, tmp_path / "frame.html", width)
    assert wide <= may_be
    assert may_be in range(width - 20, width + 1)


@pytest.mark.parametrize("bar", [0, 60])
def test_no_artifact_s_name_is_cut_off_on_a_phone(
    browser: Callable[..., str], make_run: MakeRun, tmp_path: Path, bar: int
) -> None:
    page = make_page(make_run, "horse2zebra-pruned-to-a-tenth-of-its-multiply-adds")
    # What a scroll bar takes of a narrow window, and more to be seen between two words.
    page += f"<style>html {{ margin-right: {bar}px }}</style>"
    file = tmp_path / "frame.html"
    file.write_text(
        f"<!doctype html><iframe width=360 height=900 style=border:0 "
        f'srcdoc="{escape(page)}" onload="const d = this.contentDocument; '
        "const ends = [...d.querySelectorAll('.group th, caption span')].map((one) => { "
        "const r = d.createRange(); r.selectNodeContents(one); "
        "return r.getBoundingClientRect().right; }); "
        'document.title = `${ends.length} names to ${Math.ceil(Math.max(...ends))}`"></iframe>'
    )
    dom = browser(file, "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom")
    measured = re.search(r"<title>(\d+) names to (\d+)</title>", dom)
    assert measured is not None
    assert int(measured[1]) > 0
    assert int(measured[2]) <= 360 - bar


def test_nothing_is_cut_off_on_paper(
    browser: Callable[..., str], page: str, tmp_path: Path
) -> None:
    # What is styled for print, on a page as wide as A4 between its margins.
    assert "@media print" in page
    printed = page.replace("@media print", "@media all")
    wide, may_be = widths(browser, printed, tmp_path / "frame.html", 720)
    assert wide <= may_be


def test_it_follows_light_and_dark(browser: Callable[..., str], page: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page)
    brightness = {}
    for name, options in {
        "light": (),
        "dark": ("--blink-settings=preferredColorScheme=0",),
    }.items():
        shot = tmp_path / f"{name}.png"
        browser(file, "--window-size=1000,1400", f"--screenshot={shot}", *options)
        pixels = np.asarray(Image.open(shot).convert("L"))
        assert len(np.unique(pixels)) > 50
        brightness[name] = float(np.median(pixels))
    assert brightness["light"] > 240
    assert brightness["dark"] < 40


def test_hostile_names_load_nothing_and_run_nothing(
    browser: Callable[..., str], requests: tuple[str, list[str]], make_run: MakeRun, tmp_path: Path
) -> None:
    address, asked = requests
    name = (
        f'"><img src="{address}/img"><script src="{address}/js"></script>'
        f"<style>@import url({address}/css)</style><script>document.title = 'run'</script>"
    )
    run = make_run(
        {name: 10.0}, command=("coronet-deploy", name), tools={name: name},
        conditions={"cpu": name, name: name, "notes": [name]},
    )  # fmt: skip
    values = np.zeros((8, 8, 3), np.float32)
    file = tmp_path / "page.html"
    file.write_text(render_report(run, pictures=[Picture(name, values, values, {name: values})]))
    dom = browser(file, "--virtual-time-budget=2000", "--dump-dom")
    assert "<title>Latency report</title>" in dom
    assert asked == []
    # The server does hear what is asked of it.
    other = tmp_path / "other.html"
    other.write_text(f'<img src="{address}/heard">')
    browser(other, "--virtual-time-budget=2000", "--dump-dom")
    assert asked == ["/heard"]
