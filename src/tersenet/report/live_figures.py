"""Figures of a network whose channels were switched while it trained: activity over the rounds, group by group.

Each function takes a run and returns an SVG element, or None where there is nothing to show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tersenet.core.summary import RoundPoint, RunSummary
from tersenet.report import formats
from tersenet.report.rows import score_label
from tersenet.report.svg import CONTROLS, INK, MAIN, MUTED, REMOVED, WARMUP, drawing, name_lines, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLOPE_ROUNDS = 4
"""Rounds over which the change of quality is averaged."""

_ROW = 26.0  # height of one group's strip
_FRAME = 56.0  # axis with its label


def switched_units(run: RunSummary) -> str:
    """What was switched: ``channels`` or ``2-D kernels``."""
    return "2-D kernels" if run.recipe_config.get("unit") == "kernel" else "channels"


def activity_figure(run: RunSummary) -> str | None:
    """Channels on, settled and explored at random; what each round switched; quality and how fast it changes."""
    if not run.rounds:
        return None
    title = switched_units(run).capitalize()
    with drawing("activity"):
        from matplotlib.ticker import MaxNLocator

        figure, (shares, switched, quality, rate) = new_figure(
            560.0, 4, sharex=True, height_ratios=(1.6, 1.1, 1.3, 0.9)
        )
        numbers = [point.index + 1 for point in run.rounds]
        _draw_shares(shares, run, numbers)
        switched.bar(numbers, [point.num_woken for point in run.rounds], color=CONTROLS[1], width=0.8)
        switched.bar(numbers, [-point.num_off for point in run.rounds], color=MAIN, width=0.8)
        switched.axhline(0.0, color=MUTED, linewidth=0.8)
        switched.set_ylabel(switched_units(run))
        quality.plot(numbers, [point.quality for point in run.rounds], color=MAIN)
        quality.axhline(run.rounds[0].reference, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        quality.set_ylabel(score_label(run))
        name_lines(quality, [(run.rounds[0].reference, "original", MUTED), (run.rounds[-1].quality, "trained", MAIN)])
        rate.plot(numbers, slopes(run.rounds), color=MAIN)
        rate.axhline(0.0, color=MUTED, linewidth=0.8)
        rate.set_ylabel("per round")
        rate.set_xlabel("round")
        rate.xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_svg(figure, "activity", f"{title} on, switched and settled, quality and its change, round by round")


def slopes(rounds: tuple[RoundPoint, ...]) -> list[float]:
    """The convergence rate: mean change of quality per round, over the last rounds up to each."""
    found = []
    for number in range(len(rounds)):
        first = max(0, number - SLOPE_ROUNDS)
        found.append((rounds[number].quality - rounds[first].quality) / max(1, number - first))
    return found


def groups_figure(run: RunSummary) -> str | None:
    """Share of channels that are on in each group, or of kernels in each layer, as a strip over the rounds."""
    if not run.rounds:
        return None
    sizes = _sizes(run)
    groups = [group_id for group_id in run.rounds[0].num_on if sizes.get(group_id)]
    if not groups:
        return None
    with drawing("groups"):
        figure, (axes,) = new_figure(_FRAME + _ROW * len(groups))
        edges = [0.5, *(point.index + 1.5 for point in run.rounds)]
        for row, group_id in enumerate(groups):
            heights = [0.8 * point.num_on[group_id] / sizes[group_id] for point in run.rounds]
            low, high = row + 0.4, [row + 0.4 - height for height in [*heights, heights[-1]]]
            axes.fill_between(edges, low, row - 0.4, color=REMOVED, linewidth=0)
            axes.fill_between(edges, low, high, color=MAIN, linewidth=0, step="post")
            axes.annotate(
                f"{run.rounds[-1].num_on[group_id]} / {sizes[group_id]}",
                (1.02, row),
                xycoords=("axes fraction", "data"),
                va="center",
                color=MUTED,
                fontsize=9.5,
                annotation_clip=False,
            )
        axes.set_yticks(range(len(groups)), [formats.shorten(name, 22) for name in groups], color=INK)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_xlim(edges[0], edges[-1])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("round")
        return to_svg(figure, "groups", f"Share of {switched_units(run)} that are on, round by round")


def _sizes(run: RunSummary) -> dict[str, int]:
    """Units of each group, or layer."""
    if run.recipe_config.get("unit") == "kernel":
        return {layer.name: layer.shape_before[0] * layer.shape_before[1] for layer in run.layers}
    return {group.group_id: group.num_channels for group in run.groups}


def _draw_shares(axes: Axes, run: RunSummary, numbers: list[int]) -> None:
    first = run.rounds[0]
    total = sum(first.num_on.values()) + first.num_off - first.num_woken
    lines = (
        ("on", [100.0 * sum(point.num_on.values()) / total for point in run.rounds], MAIN, "solid"),
        ("cost", [100.0 * point.cost for point in run.rounds], CONTROLS[0], "solid"),
        ("settled", [100.0 * point.num_settled / total for point in run.rounds], CONTROLS[1], "solid"),
        ("exploring", [100.0 * point.exploring for point in run.rounds], WARMUP, (0, (4, 3))),
    )
    for _, values, color, style in lines:
        axes.plot(numbers, values, color=color, linestyle=style)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("%")
    name_lines(axes, [(values[-1], f"{name} {values[-1]:.0f} %", color) for name, values, color, _ in lines])
