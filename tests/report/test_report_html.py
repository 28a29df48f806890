"""The page: self-contained, escaped, complete, and without sections that have nothing to show."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from report_runs import page_source, realistic_run

from tersenet.core.metrics import Metrics
from tersenet.core.summary import RunSummary, TrialPoint
from tersenet.report import render_html
from tersenet.report.figures import storage_figure
from tersenet.report.search_figures import best_so_far, course_figure, looks, trials_of


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.pieces: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())


def sections(source: str) -> list[str]:
    return re.findall(r'<section id="([a-z-]+)"', source)


def figures(source: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)


@pytest.mark.slow
def test_the_page_has_all_sections_and_figures() -> None:
    names = ["before-after", "caveats", "policy", "search", "finetuning", "checks", "provenance"]
    assert sections(page_source()) == names
    # channels, MACs, bytes, graph, course, quality against MACs and against bytes, fine-tuning, latency
    assert len(figures(page_source())) == 9


def test_nothing_is_loaded_and_nothing_is_run() -> None:
    page = Page(page_source())
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("#")
    assert "@import" not in page_source()
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page_source()))


def test_ids_are_unique_and_every_reference_has_its_target() -> None:
    ids = [value for name, value in Page(page_source()).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'(?:url\(|xlink:href=")#([^)"]+)', page_source()))
    assert references
    assert references <= set(ids)


def test_figures_are_well_formed_scale_and_keep_their_text_as_text() -> None:
    for svg in figures(page_source()):
        root = ElementTree.fromstring(svg)
        assert root.get("width") == "100%"
        assert root.get("height") is None
        assert root.get("viewBox")
        assert [element for element in root.iter() if element.tag.endswith("}text")]


def test_figures_take_their_colours_from_the_page_so_that_dark_mode_holds() -> None:
    style = re.search(r"<style>.*?</style>", page_source(), flags=re.DOTALL)
    assert style is not None
    for svg in figures(page_source()):
        without_text = re.sub(r">[^<]*<", "><", svg)
        assert not re.findall(r"(?:fill|stroke): ?#[0-9a-f]{6}", without_text)
    for variable in set(re.findall(r"var\(--([a-z0-9]+)\)", page_source())):
        assert f"--{variable}:" in style[0]


@pytest.mark.slow
def test_the_same_run_gives_the_same_page() -> None:
    assert render_html(realistic_run()) == page_source()
    assert "<dc:date>" not in page_source()


def test_numbers_intervals_and_caveats_are_on_the_page() -> None:
    text = Page(page_source()).text
    for piece in ("91.17 to 92.25", "548,112", "1.98x", "1.52x faster", "cut network equals zeroed network", "3.1e-07"):
        assert piece in text
    for caveat in realistic_run().caveats:
        assert caveat in text
    assert "tersenet evaluate runs/r20 resnet20" in text


def test_a_missed_bound_is_shown_as_missed() -> None:
    # 22,653,568 of 40,551,040 MACs are left where half is allowed
    text = Page(page_source()).text
    assert "max_macs_ratio 0.5 0.5586 not kept" in text


def test_every_layer_is_named_with_its_form_and_its_bytes() -> None:
    svg = next(svg for svg in figures(page_source()) if 'aria-label="Bytes of each layer' in svg)
    words = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]
    # the stem has 432 weights at 4.4 bits; the last layer has 640, and is the 20th: 20 - 1 = 19, 19 mod 3 = 1: 3 bits
    assert {"k=23, 238 B", "3 bits, 232 B", "2.82 kB", "1.31 kB"} <= set(words)
    assert {"conv1", "linear", "norms, other values", "index, header"} <= set(words)
    assert "kB; beside the bars: form, bytes in the file" in words
    assert len([word for word in words if word and word.startswith("fp16, ")]) == 6


def test_bytes_without_a_network_are_not_drawn() -> None:
    assert storage_figure(realistic_run().model_copy(update={"storage": ()})) is None


def test_the_int8_file_stands_beside_both_networks_in_fp32() -> None:
    text = Page(page_source()).text
    # 1.1 / 0.5 = 2.2, 0.7 / 0.5 = 1.4; quartiles 0.96 and 1.07 of the medians
    assert "1.10 ms 1.06 to 1.18 0.7 ms 0.672 to 0.749 0.5 ms, 2.20x faster 0.48 to 0.535" in text
    assert "Processor time of a pass 1.08 ms 0.72 ms 0.48 ms, 44.4 %" in text
    assert "Top-1 on 5,000 search samples - 96.44 % 96.30 %" in text
    assert "ONNX file, bytes 1,088,412 612,034 161,200" in text


HOSTILE = "<script>alert(1)</script>&\"' $x_1^2$ \N{CJK UNIFIED IDEOGRAPH-5C42}"


def hostile_run() -> RunSummary:
    run = realistic_run()
    return run.model_copy(
        update={
            "model": HOSTILE,
            "data": HOSTILE,
            "layers": (run.layers[0].model_copy(update={"name": HOSTILE}),),
            "groups": (run.groups[0].model_copy(update={"group_id": HOSTILE, "reason": HOSTILE}),),
            "trials": tuple(point.model_copy(update={"method": HOSTILE}) for point in run.trials[:3]),
            "caveats": (HOSTILE,),
            "provenance": {HOSTILE: HOSTILE, "command": f"tersenet compress '{HOSTILE}"},
            "recipe_config": {HOSTILE: HOSTILE},
        }
    )


@pytest.mark.slow
def test_hostile_names_are_text_wherever_they_appear() -> None:
    source = render_html(hostile_run())
    page = Page(source)
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>") >= 5
    for svg in figures(source):
        ElementTree.fromstring(svg)


@pytest.mark.slow
def test_a_given_policy_without_search_has_no_search_section() -> None:
    run = realistic_run().model_copy(
        update={"target": None, "trials": (), "confirmed": (), "epochs": (), "checks": (), "caveats": (),
                "dense_search": None, "untuned": None, "mcnemar": None, "recipe": "apply"}
    )  # fmt: skip
    source = render_html(run)
    assert sections(source) == ["before-after", "policy", "finetuning", "provenance"]
    assert len(figures(source)) == 5  # channels, MACs, bytes, graph, latency


def test_a_run_that_measured_almost_nothing_still_has_a_page() -> None:
    run = realistic_run().model_copy(
        update={"dense": Metrics(), "compressed": Metrics(), "layers": (), "groups": (), "trials": (), "confirmed": (),
                "storage": (), "int8": None,
                "epochs": (), "checks": (), "caveats": (), "files": {}, "provenance": {}, "untuned": None,
                "dense_search": None, "mcnemar": None}
    )  # fmt: skip
    source = render_html(run)
    assert sections(source) == ["before-after", "provenance"]
    assert figures(source) == []


def _trial(index: int, reward: float, quality: float) -> TrialPoint:
    return TrialPoint(
        index=index, method="he2018", phase="learned", reward=reward, quality=quality, costs={}, seconds=1.0
    )


def test_best_so_far_follows_the_reward() -> None:
    points = [_trial(0, 0.1, 50.0), _trial(1, 0.3, 40.0), _trial(2, 0.2, 90.0), _trial(3, 0.4, 60.0)]
    assert best_so_far(points) == [50.0, 40.0, 40.0, 60.0]


def test_a_trial_without_a_number_is_left_out_of_the_figure() -> None:
    run = realistic_run()
    points = (_trial(0, 0.5, 50.0), _trial(1, math.nan, math.nan), _trial(2, 0.6, 60.0))
    with_hole = course_figure(run.model_copy(update={"trials": points, "confirmed": ()}))
    assert with_hole is not None
    assert "he2018 60.0" in with_hole
    only_holes = run.model_copy(update={"trials": points[1:2], "confirmed": ()})
    assert course_figure(only_holes) is None


@pytest.mark.parametrize("num_controls", [1, 7])
def test_every_control_is_named_beside_its_line(num_controls: int) -> None:
    points = [_trial(i, 0.1 * i, 10.0 * i) for i in range(5)]
    for control in range(num_controls):
        points.append(_trial(0, 0.2, 20.0).model_copy(update={"method": f"control{control}", "phase": "control"}))
    svg = course_figure(realistic_run().model_copy(update={"trials": tuple(points), "confirmed": ()}))
    assert svg is not None
    for control in range(num_controls):
        assert f"control{control} 20.0" in svg


def test_six_controls_differ_in_colour_and_marker() -> None:
    points = [_trial(0, 0.2, 20.0).model_copy(update={"method": f"control{i}", "phase": "control"}) for i in range(6)]
    found = looks(realistic_run().model_copy(update={"trials": (_trial(0, 0.1, 10.0), *points), "confirmed": ()}))
    assert len({look.color for look in found}) == 7
    assert len({look.marker for look in found}) == 7


@pytest.mark.slow
def test_probes_count_as_trials_but_are_neither_drawn_nor_the_best() -> None:
    points = [_trial(i, 0.9, 90.0).model_copy(update={"phase": "probe"}) for i in range(3)]
    points += [_trial(3, 0.4, 40.0), _trial(4, 0.5, 50.0)]
    run = realistic_run().model_copy(update={"trials": tuple(points), "confirmed": ()})
    svg = course_figure(run)
    assert svg is not None
    assert "he2018 50.0" in svg
    source = render_html(run)
    assert "<td>5, 3 of them probes</td><td>50.00 %</td>" in source


def test_a_warm_up_that_is_confirmed_under_its_own_name_counts_the_warm_up_trials() -> None:
    run = realistic_run()
    entry = run.confirmed[0].model_copy(update={"method": "random (warm-up)"})
    named = run.model_copy(update={"confirmed": (*run.confirmed, entry)})
    # 60 of the 200 trials of the realistic run are warm-up
    assert [point.index for point in trials_of(named, "random (warm-up)")] == list(range(60))
    svg = course_figure(named)
    assert svg is not None
    assert "random (warm-up)" not in svg
