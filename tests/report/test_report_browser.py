"""The report in a real browser: every figure is drawn and nothing sticks out, on a screen and on a phone."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from headless import NAMES, Browser, find_chromium
from PIL import Image
from report_runs import page_source

FIGURES = 9
"""Channels, MACs, bytes, graph, course, quality against MACs and against bytes, fine-tuning, latency."""

MEASURE = """
(windowWidth => {
  const box = element => {
    const {left, top, right, bottom, width, height} = element.getBoundingClientRect();
    return {left, top, right, bottom, width, height};
  };
  const shows = mark => {
    if (mark.closest('defs, clipPath')) return false;
    const style = getComputedStyle(mark), {width, height} = box(mark);
    const filled = style.fill !== 'none' && width > 0 && height > 0;
    const stroked = style.stroke !== 'none' && (width > 0 || height > 0);
    return style.visibility === 'visible' && style.opacity > 0 && (filled || stroked);
  };
  const scrolls = element => {
    for (let e = element.parentElement; e; e = e.parentElement)
      if (['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e !== document.documentElement) return true;
    return false;
  };
  const width = document.documentElement.scrollWidth;
  return {
    width, height: document.documentElement.scrollHeight,
    outside: [...document.body.querySelectorAll('*')]
      .filter(e => !e.closest('svg') && !scrolls(e) && (box(e).right > windowWidth + 0.5 || box(e).left < -0.5))
      .map(e => e.tagName + ' ' + e.className + ': ' + e.textContent.trim().slice(0, 40)),
    figures: [...document.querySelectorAll('svg')].map(svg => ({
      title: svg.getAttribute('aria-label'), box: box(svg),
      letters: Math.min(...[...svg.querySelectorAll('text')].map(text => box(text).height)),
      marks: [...svg.querySelectorAll('path, use, rect, circle, line, polygon')].filter(shows).length,
      cut: [...svg.querySelectorAll('text')].filter(text => {
        const inner = box(text), outer = box(svg);
        return inner.left < outer.left - 2 || inner.right > outer.right + 2 ||
          inner.top < outer.top - 2 || inner.bottom > outer.bottom + 2;
      }).map(text => text.textContent.trim()),
    })),
  };
})
"""
"""A function of the window's width in CSS pixels."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"no browser is on PATH ({', '.join(NAMES)}); `make browser` installs one")
    with Browser(executable) as started:
        yield started


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots are kept."""
    folder = Path(os.environ.get("TERSENET_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_every_figure_is_drawn_and_nothing_sticks_out(
    browser: Browser, tmp_path: Path, pictures: Path, width: int
) -> None:
    page = tmp_path / "report.html"
    page.write_text(page_source())
    browser.open(page, width=width)
    found = browser.evaluate(f"({MEASURE})({width})")
    (pictures / f"report-{width}.png").write_bytes(browser.screenshot(width, found["height"]))
    assert found["width"] <= width
    assert found["outside"] == []
    assert len(found["figures"]) == FIGURES
    picture = Image.open(pictures / f"report-{width}.png").convert("RGB")
    assert picture.width == width
    for figure in found["figures"]:
        _check_drawn(figure, picture)


def _check_drawn(figure: dict[str, Any], picture: Image.Image) -> None:
    box = figure["box"]
    assert box["width"] >= 250, figure
    assert box["height"] >= 100, figure
    assert figure["marks"] >= 10, figure
    assert figure["cut"] == [], f"{figure['title']}: text is cut off"
    assert figure["letters"] >= 9, f"{figure['title']}: the smallest line of text is {figure['letters']} px high"
    # what the eye sees: neither an empty area nor one that a stray shape fills
    drawn = picture.crop((int(box["left"]), int(box["top"]), int(box["right"]), int(box["bottom"])))
    share = 1.0 - _most_common_share(drawn)
    assert 0.01 < share < 0.9, f"{figure['title']}: {share:.1%} of the area is drawn on"


def _most_common_share(picture: Image.Image) -> float:
    num_pixels = picture.width * picture.height
    colors = picture.getcolors(num_pixels)
    assert colors is not None
    return max(count for count, _ in colors) / num_pixels


@pytest.mark.slow
def test_a_page_that_is_too_wide_or_has_an_empty_figure_is_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "wide.html"
    page.write_text(
        "<!DOCTYPE html><meta name=viewport content='width=device-width'><p style='width:600px'>wide</p>"
        "<svg width=300 height=200><defs><path d='M0 0L9 9' stroke='red'/></defs></svg>"
    )
    browser.open(page, width=390)
    found = browser.evaluate(f"({MEASURE})(390)")
    assert found["width"] > 390
    assert found["outside"] == ["P : wide"]
    assert [figure["marks"] for figure in found["figures"]] == [0]


def test_the_picture_of_an_empty_figure_has_one_color() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (10, 10), "white").save(stream, "PNG")
    assert _most_common_share(Image.open(stream).convert("RGB")) == 1.0
