"""From a matplotlib figure to an SVG inside a page: it scales, follows dark mode, and is the same every time.

Text stays text, in the reader's own fonts. Colours are written as fixed values by matplotlib and turned into the
page's CSS variables here. Ids get the figure's name in front, since all figures of a page share one name space.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tersenet.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 400.0
"""Width of every figure in its own units; one unit is about one CSS pixel on a phone."""

INK = "#1f2428"
MUTED = "#5c6670"
GRID = "#e2e6ea"
PAPER = "#fefefe"
MAIN = "#0072b2"
WARMUP = "#8f98a1"
REMOVED = "#d3dae0"
CONTROLS = ("#d55e00", "#009e73", "#b5659b", "#c98a00", "#3d9bd1", "#6b4226")
"""Okabe and Ito's colour-blind-safe colours, the light ones darkened for thin lines, and a brown that is darker than
all of them; marker shapes differ too."""

MARKERS = ("s", "^", "D", "v", "P", "X")

_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", MAIN: "main", WARMUP: "warmup"} | {
    REMOVED: "removed",
    **{color: f"control{index}" for index, color in enumerate(CONTROLS, start=1)},
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.parse_math": False,
    "text.color": INK,
    "text.usetex": False,
    "axes.labelsize": 10.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": False,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
}


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """The style of every figure, and ids that depend on ``name`` only.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise MissingExtraError("matplotlib and jinja2", "report") from None
    with (
        matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": name}),
        warnings.catch_warnings(),
    ):
        # text is drawn by the browser, so a glyph that matplotlib's font lacks is no loss
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def new_figure(height: float, rows: int = 1, **options: object) -> tuple[Figure, list[Axes]]:
    """A figure of the common width with ``rows`` axes below each other; ``height`` in the same units."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72.0, height / 72.0), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots(rows, 1, squeeze=False, **options)  # type: ignore[call-overload]
    return figure, [row[0] for row in axes]


def to_svg(figure: Figure, name: str, title: str) -> str:
    """Write ``figure`` as an SVG element.

    Args:
        figure: the drawing, made inside :func:`drawing`.
        name: unique on the page; letters and dashes.
        title: what a screen reader says.

    Returns:
        The element, without declaration, date or fixed size.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return _embed(stream.getvalue(), name, title)


def name_lines(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Write each line's name at its right end, outside the axes, moved apart where they would touch.

    Args:
        axes: with its final y limits.
        labels: height in data units, text, colour.
    """
    low, high = axes.get_ylim()
    gap = 0.085
    placed: list[float] = []
    for value, text, color in sorted(labels, key=lambda label: label[0]):
        height = min(1.0, max(0.0, (value - low) / (high - low)))
        height = max(height, placed[-1] + gap) if placed else height
        placed.append(height)
        excess = max(0.0, placed[-1] - 1.0) if len(placed) == len(labels) else 0.0
        axes.annotate(
            text, (1.015, height - excess), xycoords="axes fraction", va="center", color=color, annotation_clip=False
        )


def _embed(svg: str, name: str, title: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', body)
    body = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "var(--sans)", body)
    for color, variable in _VARIABLES.items():
        body = re.sub(re.escape(color) + r"(?=[;\" ])", f"var(--{variable})", body)
    view = re.search(r'viewBox="[^"]*"', body)
    assert view is not None
    start = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" {view[0]} width="100%" '
        f'role="img" aria-label="{html.escape(title)}">'
    )
    return start + body[body.index(">") + 1 :].strip()
