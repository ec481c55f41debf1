"""The page: whole in one file, safe against names, complete, and usable without sight or mouse."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coronet_deploy.errors import NothingMeasured
from coronet_deploy.images import Array, to_pixels
from coronet_deploy.networks.generator import full_plan
from coronet_deploy.report.html import ModelFacts, Picture, render_report
from coronet_deploy.vocabulary import Architecture, Artifact, DType, Parity, Run, Runtime

MakeRun = Callable[..., Run]
_VOID = {"img", "meta", "link", "wbr"}


class Page(HTMLParser):
    """The page's elements and text; refuses tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def picture(seed: int) -> Picture:
    random = np.random.default_rng(seed)
    base: Array = random.uniform(-1, 1, (16, 24, 3)).astype(np.float32)
    near = base + np.float32(0.02)
    return Picture(f"picture {seed}", -base, base, {"a.onnx": base, "b.tflite": near})


def facts() -> ModelFacts:
    full = full_plan(Architecture.RESNET_6)
    plan = replace(full, groups={name: max(1, n // 4) for name, n in full.groups.items()})
    return ModelFacts.of_plan("zebra", plan, full, checkpoint_sha256="cd" * 32, note="A note.")


def artifact() -> Artifact:
    parity = Parity(psnr_db=105.25, max_abs=2e-5, ssim=0.99991, pictures=4, bound_db=100.0)
    return Artifact(
        Path("out/slow.onnx"), Runtime.ONNX, DType.FP32, 1_234_567, "ef" * 32, 0.5, parity
    )


def test_everything_is_told(make_run: MakeRun) -> None:
    html = render_report(
        make_run(), [artifact()], facts(), [picture(1), picture(2)], baseline="slow.onnx"
    )
    page = Page(html)
    for words in (
        "zebra on the edge", "A note.", "resnet_6blocks", "picture 1", "40.0 dB", "200.0 dB",
        "105.2", "1.2", "ef" * 32, "cd" * 32, "Some CPU", "onnxruntime 1.2.3", "1.00x",
        "coronet-deploy bench 'a file.onnx'", "say nothing of phones", "published convention",
        "16 of 64", "20260102T030405Z-host-0a0b0c0d",
    ):  # fmt: skip
        assert words in page.text, words
    assert [attributes["id"] for attributes in page.all("h2")] == [
        "latency", "pictures", "quality", "model", "artifacts", "method",
    ]  # fmt: skip
    assert len(page.all("img")) == 8


def test_pictures_are_inside_the_page_pixel_for_pixel(make_run: MakeRun) -> None:
    shown = picture(3)
    page = Page(render_report(make_run(), pictures=[shown]))
    expected = [shown.input, shown.reference, *shown.outputs.values()]
    for attributes, values in zip(page.all("img"), expected, strict=True):
        kind, data = attributes["src"].split(",")
        assert kind == "data:image/png;base64"
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert np.array_equal(pixels, to_pixels(values))
        assert (attributes["width"], attributes["height"]) == ("24", "16")
        assert attributes["alt"].startswith("picture 3: ")


def test_a_run_file_alone_makes_a_page(make_run: MakeRun) -> None:
    page = Page(render_report(make_run()))
    assert "Latency report" in page.text
    assert "108.3" in page.text
    assert page.all("img") == []
    assert "Speed-up" not in page.text


def test_an_emulated_run_says_so_first(make_run: MakeRun) -> None:
    text = Page(render_report(make_run(emulated=True))).text
    assert text.index("Emulated, not a real device.") < text.index("Median ms")
    assert "fastest median, emulated: fast.tflite, 2 threads" in text
    assert "p90 is over all samples. Emulated: not a real device's." in text
    assert "Emulated" not in Page(render_report(make_run())).text


def test_what_launches_tell_in_odd_ways_ends_no_page(make_run: MakeRun) -> None:
    run = make_run()
    for told in (7, "twice", {"a": 1}, None, [[1.0]]):
        launches = [replace(one, details={"throttled_launches": told}) for one in run.launches]
        text = Page(render_report(replace(run, launches=tuple(launches)))).text
        assert ("Launches made again" in text) is isinstance(told, list)


def test_launches_that_were_made_again_are_counted_by_their_reasons(make_run: MakeRun) -> None:
    run = make_run()
    crash = {"reason": "the runner was killed by SIGKILL"}
    first = replace(run.launches[0], details={"crashed_launches": [crash]})
    hot = replace(run.launches[1], details={"throttled_launches": [{}, {}]})
    text = Page(render_report(replace(run, launches=(first, hot, *run.launches[2:])))).text
    told = "2, because the phone throttled; 1, because of a crash; not averaged in"
    assert told in text


def test_a_table_of_one_state_alone_leaves_no_empty_one(make_run: MakeRun) -> None:
    policies = {"policies": [{"cpus": [0, 1], "governor": "schedutil"}]}
    for before, after, told in ((policies, {"skin_c": 31.0}, "before"), ({}, policies, "after")):
        page = render_report(make_run(conditions={"before": before, "after": after}))
        assert re.findall(r"Policies, (\w+)\.", page) == [told]


def test_the_page_is_the_same_every_time(make_run: MakeRun) -> None:
    arguments = (make_run(), [artifact()], facts(), [picture(1)])
    assert render_report(*arguments) == render_report(*arguments)


def test_names_cannot_leave_their_text(hostile_run: Run) -> None:
    shown = picture(1)._replace(name='"><img src=x onerror=alert(1)>')
    model = replace(facts(), name="</title><script>alert(2)</script>", note="<iframe src=//x>")
    html = render_report(hostile_run, (), model, [shown], title="</style><svg onload=alert(3)>")
    page = Page(html)
    assert page.all("script") == []
    assert page.all("iframe") == []
    assert len(page.all("svg")) == 1
    assert len(page.all("style")) == 2
    assert len(page.all("img")) == 4
    for _, attributes in page.elements:
        assert not any(key.startswith("on") for key in attributes)
    assert "<script>alert(1)</script>" in page.text


def test_no_name_turns_the_way_that_text_runs(hostile_run: Run) -> None:
    html = render_report(hostile_run, title="\u2067\u05e9\u05dc\u05d5\u05dd")
    assert not set(html) & set(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
    assert "[31m\ufffdevil" in html
    assert "\u05e9\u05dc\u05d5\u05dd</h1>" in html  # a language that runs so, still does


def test_nothing_is_loaded_from_elsewhere(hostile_run: Run) -> None:
    page = Page(render_report(hostile_run, (), facts(), [picture(1)]))
    for name, attributes in page.elements:
        for key in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(key, "#")
            assert value.startswith(("#", "data:")), (name, key, value)
    policy = next(one for one in page.all("meta") if "http-equiv" in one)
    assert policy["content"].startswith("default-src 'none'")
    styles = render_report(hostile_run).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in styles
    assert "@import" not in styles


def test_it_can_be_read_without_sight_and_used_without_a_mouse(make_run: MakeRun) -> None:
    page = Page(render_report(make_run(), [artifact()], facts(), [picture(1)]))
    assert page.all("html")[0]["lang"] == "en"
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(page.all("h1")) == len(page.all("main")) == 1
    first_link = page.all("a")[0]
    assert first_link["href"] == "#report"
    assert all(link["href"].removeprefix("#") in ids for link in page.all("a"))
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(head.get("scope") for head in page.all("th"))
    boxes = [one for one in page.all("div") if one.get("class") == "scroll"]
    assert len(boxes) == len(page.all("table"))
    for box in boxes:
        assert box["tabindex"] == "0"
        assert box["aria-labelledby"] in ids


def test_a_picture_that_is_not_finite_still_makes_a_page(make_run: MakeRun) -> None:
    broken = np.full((8, 8, 3), np.nan, np.float32)
    shown = Picture("x", np.zeros_like(broken), np.zeros_like(broken), {"a.onnx": broken})
    page = Page(render_report(make_run(), pictures=[shown]))
    assert "not finite" in page.text


def test_a_run_without_samples_makes_no_page(make_run: MakeRun) -> None:
    with pytest.raises(NothingMeasured):
        render_report(make_run(launches=()))
