"""The picture of the graph: lanes without a line through a node, what stays, shared channels, names as text."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from report_runs import realistic_run

from tersenet.api.flow import flow_nodes
from tersenet.core.summary import FlowNode, LayerRow
from tersenet.graph import trace
from tersenet.models import build
from tersenet.report import graph_figure as module
from tersenet.report.graph_figure import graph_figure, group_letters
from tersenet.report.graph_layout import lanes_of
from tersenet.testing import networks

SVG = "{http://www.w3.org/2000/svg}"


def test_a_chain_is_straight_and_a_block_lies_beside_its_stream() -> None:
    # input, stem, two residual blocks of two layers and a sum, head
    reads = [(), (0,), (1,), (2,), (1, 3), (4,), (5,), (4, 6), (7,)]
    assert lanes_of(reads) == [0, 0, 1, 1, 0, 1, 1, 0, 0]


def test_branches_lie_side_by_side_until_they_meet() -> None:
    # three branches from one value, joined together, as in an inception block; the first of them is two layers long
    reads = [(), (0,), (1,), (0,), (0,), (2, 3, 4)]
    assert lanes_of(reads) == [0, 1, 1, 2, 0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_no_line_runs_through_a_node_and_no_two_values_share_a_lane(seed: int) -> None:
    random = np.random.default_rng(seed)
    reads = [
        tuple(sorted({int(source) for source in random.integers(0, node, size=random.integers(1, 4))})) if node else ()
        for node in range(60)
    ]
    lanes = lanes_of(reads)
    for node, sources in enumerate(reads):
        for source in sources:
            between = lanes[source + 1 : node]
            assert lanes[source] not in between, f"the value of {source} is read by {node}"


def drawing(**changes: object) -> ElementTree.Element:
    svg = graph_figure(realistic_run().model_copy(update=changes))
    assert svg is not None
    return ElementTree.fromstring(svg)


def words(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def layer(name: str, kept: int, group_id: str = "") -> LayerRow:
    return (
        realistic_run()
        .layers[0]
        .model_copy(
            update={"name": name, "shape_before": (16, 4, 3, 3), "shape_after": (kept, 4, 3, 3), "group_id": group_id}
        )
    )


def in_a_row(*layers: LayerRow) -> dict[str, object]:
    nodes = [FlowNode(kind="input", name="input", reads=())]
    nodes += [FlowNode(kind="layer", name=one.name, reads=(row,)) for row, one in enumerate(layers)]
    return {"layers": layers, "flow": tuple(nodes)}


def test_a_layer_is_named_and_filled_by_the_share_of_its_weights_that_stays() -> None:
    root = drawing(**in_a_row(layer("first", 16), layer("second", 4)))
    assert words(root) == ["input", "100 %", "first", "25 %", "second"]
    filled = [box.get("style") for box in root.iter(f"{SVG}rect") if "fill-opacity" in (box.get("style") or "")]
    assert filled == ["fill: var(--main); fill-opacity: 1.000", "fill: var(--main); fill-opacity: 0.250"]


def test_layers_that_make_the_same_channels_have_letter_and_frame_in_common() -> None:
    layers = [layer("a", 16, "a"), layer("b", 8, "b"), layer("c", 16, "a"), layer("d", 8, "d"), layer("e", 8, "d")]
    assert group_letters(layers) == {"a": ("A", "control1"), "d": ("B", "control2")}
    root = drawing(**in_a_row(*layers))
    assert [word for word in words(root) if len(word) == 1 and word.isupper()] == ["A", "A", "B", "B"]
    frames = [box.get("style", "").partition("stroke: ")[2][:13] for box in root.iter(f"{SVG}rect")]
    assert [frame for frame in frames if frame] == ["var(--control", "var(--control", "var(--control", "var(--control"]


def test_letters_go_on_after_the_alphabet() -> None:
    layers = [layer(f"{number}{twin}", 16, f"{number}") for number in range(28) for twin in "ab"]
    found = list(group_letters(layers).values())
    assert [letter for letter, _ in found[25:]] == ["Z", "AA", "AB"]
    assert found[6] == ("G", "control1")


def test_everything_is_inside_the_picture_however_many_lanes_there_are() -> None:
    # one value per layer, all of them read at the end, as in a dense block
    names = [layer(f"features.denseblock4.denselayer{number}.conv2", 8) for number in range(80)]
    nodes = [FlowNode(kind="input", name="input", reads=())]
    nodes += [FlowNode(kind="layer", name=one.name, reads=(0,)) for one in names]
    nodes.append(FlowNode(kind="join", name="cat", reads=tuple(range(1, 81))))
    root = drawing(layers=tuple(names), flow=tuple(nodes))
    _, _, width, height = (float(number) for number in (root.get("viewBox") or "").split())
    for box in root.iter(f"{SVG}rect"):
        left, size = float(box.get("x", "nan")), float(box.get("width", "nan"))
        assert left >= 0.0
        assert left + size < 165.0  # where names begin
    for text in root.iter(f"{SVG}text"):
        assert 0.0 < float(text.get("x", "nan")) < width
        assert 10.0 < float(text.get("y", "nan")) < height
        assert len(text.text or "") <= 22
    assert len(list(root.iter(f"{SVG}path"))) == 160


def test_names_are_text_whatever_they_hold() -> None:
    root = drawing(**in_a_row(layer("</text><script>&\"'", 16)))
    assert "</text><script>&\"'" in words(root)
    assert not list(root.iter("script"))


def test_without_data_flow_or_with_too_much_of_it_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    run = realistic_run()
    assert graph_figure(run.model_copy(update={"flow": ()})) is None
    assert graph_figure(run.model_copy(update={"layers": ()})) is None
    monkeypatch.setattr(module, "MAX_NODES", len(run.flow) - 1)
    assert graph_figure(run) is None


def test_the_flow_of_a_residual_network_has_its_layers_and_sums() -> None:
    found = flow_nodes(trace(build("digits_cnn").eval(), torch.randn(2, 1, 8, 8)))
    names = [node.name for node in found]
    assert names == [
        "input", "stem", "block1.conv1", "block1.conv2", "add", "down", "block2.conv1", "block2.conv2", "add",
        "conv3", "conv4", "linear",
    ]  # fmt: skip
    assert [node.reads for node in found] == [
        (), (0,), (1,), (2,), (1, 3), (4,), (5,), (6,), (5, 7), (8,), (9,), (10,)
    ]  # fmt: skip
    assert {node.kind for node in found if node.name == "add"} == {"join"}


@pytest.mark.parametrize("name", ["shared_module", "tied_weights", "squeeze_excite", "shuffle_unit", "unet"])
def test_every_layer_is_a_stop_and_every_stop_is_reached(name: str) -> None:
    graph = trace(networks.build(name), networks.example_inputs(name))
    found = flow_nodes(graph)
    assert {node.name for node in found if node.kind == "layer"} == {layer.name for layer in graph.layers}
    read = {source for node in found for source in node.reads}
    assert all(place in read or place == len(found) - 1 for place in range(len(found)))
    assert all(node.reads for node in found if node.kind != "input")
