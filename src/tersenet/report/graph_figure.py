"""The network as a picture: layers from top to bottom, coloured by what stays, lines for the data between them."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Sequence

from tersenet.core.summary import FlowNode, LayerRow, RunSummary
from tersenet.report import formats
from tersenet.report.graph_layout import lanes_of
from tersenet.report.svg import CONTROLS, WIDTH

MAX_NODES = 500
"""A picture with more rows than this is not drawn: nobody could follow its lines."""

_ROW = 17.0
_LANE, _LANES = 16.0, 150.0  # between lanes at most, and all of them together at most
_MARGIN = 10.0
_SHARES, _LETTERS = WIDTH - 34.0, WIDTH - 4.0  # right ends of two columns of text
_TITLE = "Layers and the data flow between them"


def graph_figure(run: RunSummary) -> str | None:
    """Every layer as a box whose colour says which share of its weights stays; layers that make the same channels have
    a frame and a letter in common. None where nothing is known of the data flow, or there is too much of it."""
    if not run.flow or not run.layers or len(run.flow) > MAX_NODES:
        return None
    lanes = lanes_of([node.reads for node in run.flow])
    pitch = min(_LANE, _LANES / (max(lanes) + 1))
    places = [(_MARGIN + pitch * (lane + 0.5), _ROW * (row + 0.7)) for row, lane in enumerate(lanes)]
    layers, letters = {layer.name: layer for layer in run.layers}, group_letters(run.layers)
    text_from = _MARGIN + pitch * (max(lanes) + 1) + 6.0
    parts = [_line(places[source], places[row]) for row, node in enumerate(run.flow) for source in node.reads]
    for node, place in zip(run.flow, places, strict=True):
        parts += _node(node, layers.get(node.name), place, letters=letters, width=0.75 * pitch)
        parts.append(_text(text_from, place[1], node.name, "ink" if node.kind == "layer" else "muted"))
    height = _ROW * (len(run.flow) + 0.4)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" width="100%" role="img" '
        f'aria-label="{_TITLE}" style="font: 10.5px var(--sans)">{"".join(parts)}</svg>'
    )


def group_letters(layers: Sequence[LayerRow]) -> dict[str, tuple[str, str]]:
    """Letter and CSS variable of each group whose channels several layers make, in order; colours repeat, letters do
    not."""
    shared = [group for group, count in Counter(layer.group_id for layer in layers).items() if group and count > 1]
    return {group: (_letters(number), f"control{number % len(CONTROLS) + 1}") for number, group in enumerate(shared)}


def _letters(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    text = ""
    while number >= 0:
        text = chr(ord("A") + number % 26) + text
        number = number // 26 - 1
    return text


def _node(
    node: FlowNode,
    layer: LayerRow | None,
    place: tuple[float, float],
    *,
    letters: dict[str, tuple[str, str]],
    width: float,
) -> list[str]:
    x, y = place
    if node.kind != "layer" or layer is None:
        return [f'<circle cx="{x:.4g}" cy="{y:g}" r="{min(3.0, 0.4 * width):.3g}" style="fill: var(--muted)"/>']
    before = math.prod(layer.shape_before)
    share = math.prod(layer.shape_after) / before if before else 1.0
    letter, colour = letters.get(layer.group_id, ("", ""))
    box = f'x="{x - width / 2:.4g}" y="{y - 5:g}" width="{width:.4g}" height="10" rx="2"'
    frame = f"; stroke: var(--{colour}); stroke-width: 2" if letter else ""
    parts = [
        f'<rect {box} style="fill: var(--paper)"/><rect {box} style="fill: var(--removed)"/>',
        f'<rect {box} style="fill: var(--main); fill-opacity: {share:.3f}{frame}"/>',
        _text(_SHARES, y, f"{100.0 * share:.0f} %", "muted", end=True),
    ]
    if letter:
        parts.append(_text(_LETTERS, y, letter, colour, end=True, bold=True))
    return parts


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    """Down the lane of the value, and into the lane of its reader only between the last two rows."""
    (x, y), (to_x, to_y) = start, end
    bend = to_y - 0.9 * _ROW
    path = f"M{x:.4g} {y:g}V{to_y:g}"
    if x != to_x:
        middle = to_y - 0.45 * _ROW
        path = f"M{x:.4g} {y:g}V{bend:g}C{x:.4g} {middle:g} {to_x:.4g} {middle:g} {to_x:.4g} {to_y:g}"
    return f'<path d="{path}" style="fill: none; stroke: var(--warmup); stroke-width: 1.3"/>'


def _text(x: float, y: float, text: str, colour: str, *, end: bool = False, bold: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    style = f"fill: var(--{colour}){'; font-weight: 650' if bold else ''}"
    return f'<text x="{x:.4g}" y="{y + 3.6:g}"{anchor} style="{style}">{html.escape(formats.shorten(text, 22))}</text>'
