"""The logarithmic axes of the plots: three numbers at least that are seen, and round ones."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from coronet_deploy.report.lines import lines_of
from coronet_deploy.report.scatter import quality_svg, work_svg
from coronet_deploy.report.tradeoffs import Choice, Metric, Work
from coronet_deploy.vocabulary import Run

SVG = "{http://www.w3.org/2000/svg}"


def ticks(svg: str, axis: int) -> list[float]:
    """Return the numbers at an axis that are seen; 1 is the horizontal one."""
    root = ET.fromstring(svg)  # noqa: S314 - our own
    group = next(
        one for one in root.iter() if one.get("id", "").endswith(f"matplotlib.axis_{axis}")
    )
    texts = ("".join(one.itertext()).strip() for one in group.iter(f"{SVG}text"))
    return [float(text) for text in texts if re.fullmatch(r"[\d.e+-]+", text)]


@pytest.mark.parametrize(
    ("medians", "seen"),
    [
        ((34.0, 35.0), [32, 34, 36, 38]),
        ((3.4, 3.5), [3.2, 3.4, 3.6, 3.8]),
        ((2.25,), [2.1, 2.2, 2.3, 2.4]),
        ((0.99,), [0.9, 0.95, 1, 1.05]),
        ((340.0, 341.0, 345.0), [320, 340, 360]),
        ((11.0, 19.0), [12, 14, 16, 18]),
        ((10.0, 100.0), [10, 20, 50, 100]),
    ],
)
def test_an_axis_has_three_round_numbers_however_near_its_values(
    pruned: Run, medians: tuple[float, ...], seen: list[float]
) -> None:
    line = lines_of(pruned)[0]
    metric = Metric("PSNR, dB", higher_is_better=True)
    chosen = [Choice(line, one, 20.0 + one, best=True) for one in medians]
    assert ticks(quality_svg(chosen, metric, "x", "q"), 1) == pytest.approx(seen)
    done = [Work(line, int(1e9 * one), one) for one in medians]
    svg = work_svg(done, "x", "w")
    assert ticks(svg, 1) == ticks(svg, 2) == pytest.approx(seen)


@pytest.mark.parametrize("qualities", [(100.0, 100.01), (138.2501, 138.2502), (1.2e-5, 1.3e-5)])
def test_ticks_of_qualities_near_each_other_are_whole_and_seen(
    pruned: Run, qualities: tuple[float, ...]
) -> None:
    line = lines_of(pruned)[0]
    chosen = [Choice(line, 10.0, one, best=True) for one in qualities]
    svg = quality_svg(chosen, Metric("KID", higher_is_better=True), "x", "q")
    near = pytest.approx((qualities[0] + qualities[1]) / 2, rel=0.2)
    assert len(ticks(svg, 2)) >= 3
    assert all(one == near for one in ticks(svg, 2))
    root = ET.fromstring(svg)  # noqa: S314 - our own
    texts = [one for one in root.iter(f"{SVG}text") if "text-anchor: end" in one.get("style", "")]
    # A digit of nine points is nearly six wide in the widest of usual fonts.
    starts = [float(one.get("x", "")) - 5.8 * len("".join(one.itertext())) for one in texts]
    assert starts
    assert min(starts) >= 0
