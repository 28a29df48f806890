"""Figures of the search: its course beside the controls, and quality against cost.

All trials of a method are drawn against their number within that method, so that methods are compared at the same
number of evaluations. "Best so far" follows the reward, which is what a search maximises; where the reward is the
quality, it is the best quality so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tersenet.core.metrics import Metrics
from tersenet.core.summary import RunSummary, TrialPoint
from tersenet.report import formats
from tersenet.report.rows import score_label
from tersenet.report.svg import (
    CONTROLS,
    INK,
    MAIN,
    MARKERS,
    MUTED,
    WARMUP,
    drawing,
    name_lines,
    new_figure,
    to_svg,
)

COST_NAMES = {"macs": "MACs", "params": "parameters", "size_bytes": "bytes of the packed file"}
"""Kind of cost to what it is called beside an axis."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one method is drawn, the same in every figure."""

    method: str
    color: str
    marker: str
    is_control: bool


def looks(run: RunSummary) -> list[Look]:
    """Colour and marker of every method: the run's own first, then the controls in order of appearance."""
    methods = dict.fromkeys([point.method for point in run.trials] + [point.method for point in run.confirmed])
    own = [Look(method=run.recipe, color=MAIN, marker="o", is_control=False)] if run.recipe in methods else []
    others = [method for method in methods if method != run.recipe]
    controls = [method for method in others if not _is_warmup(run, method)]
    return [
        *own,
        *(
            Look(method=method, color=CONTROLS[i % len(CONTROLS)], marker=MARKERS[i % len(MARKERS)], is_control=True)
            for i, method in enumerate(controls)
        ),
        *(Look(method=m, color=WARMUP, marker="o", is_control=True) for m in others if m not in controls),
    ]


def trials_of(run: RunSummary, method: str) -> list[TrialPoint]:
    """The trials of one method in their order, the ones without a usable number left out.

    The run's own random warm-up, where it is confirmed under a name of its own, has the warm-up trials of the run.
    """
    if _is_warmup(run, method):
        found = [point for point in run.trials if point.phase == "warmup" and point.method == run.recipe]
    else:
        found = [point for point in run.trials if point.method == method]
    usable = [point for point in found if math.isfinite(point.quality) and math.isfinite(point.reward)]
    return sorted(usable, key=lambda point: point.index)


def within_budget(points: list[TrialPoint]) -> list[TrialPoint]:
    """Without the trials that only measured single decisions: they keep no budget and compare with nothing."""
    return [point for point in points if point.phase != "probe"]


def _is_warmup(run: RunSummary, method: str) -> bool:
    return method.endswith("(warm-up)") and not any(point.method == method for point in run.trials)


def best_so_far(points: list[TrialPoint]) -> list[float]:
    """Quality of the trial with the highest reward up to each trial; one number per point."""
    best: TrialPoint | None = None
    course = []
    for point in points:
        best = point if best is None or point.reward > best.reward else best
        course.append(best.quality)
    return course


def course_figure(run: RunSummary) -> str | None:
    """Quality of every trial against its number, best so far, and the controls at the same number of evaluations."""
    drawn = [look for look in looks(run) if not _is_warmup(run, look.method)]
    methods = [(look, within_budget(trials_of(run, look.method))) for look in drawn]
    methods = [(look, points) for look, points in methods if points]
    if not methods:
        return None
    longest = max(points[-1].index for _, points in methods)
    with drawing("course"):
        figure, (axes,) = new_figure(300.0)
        labels = []
        for look, points in methods:
            warmup = [point for point in points if point.phase == "warmup"]
            rest = [point for point in points if point.phase != "warmup"]
            for group, color in ((warmup, WARMUP), (rest, look.color)):
                axes.scatter(
                    [point.index + 1 for point in group],
                    [point.quality for point in group],
                    s=13,
                    color=color,
                    marker=look.marker,
                    alpha=0.55,
                    linewidths=0,
                )
            course = best_so_far(points)
            # a method that stops early is drawn on: more evaluations than it used would not have changed it
            numbers = [point.index + 1 for point in points] + [longest + 1]
            style = (0, (5, 3)) if look.is_control else "solid"
            axes.plot(numbers, [*course, course[-1]], color=look.color, drawstyle="steps-post", linestyle=style)
            labels.append((course[-1], f"{formats.shorten(look.method, 14)} {_best(run, course[-1])}", look.color))
            if warmup and rest and not look.is_control:
                axes.axvline(warmup[-1].index + 1.5, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
                axes.annotate(
                    "learned",
                    (warmup[-1].index + 1.5, 0.0),
                    xycoords=("data", "axes fraction"),
                    xytext=(4, 3),
                    textcoords="offset points",
                    color=MUTED,
                    fontsize=9.5,
                )
                axes.annotate(
                    "warm-up",
                    (warmup[-1].index + 1.5, 0.0),
                    xycoords=("data", "axes fraction"),
                    xytext=(-4, 3),
                    textcoords="offset points",
                    color=MUTED,
                    fontsize=9.5,
                    ha="right",
                )
        axes.margins(y=0.12)
        axes.set_xlim(0, longest + 2)
        axes.set_xlabel("trial (of its method)")
        axes.set_ylabel(f"un-tuned {score_label(run)}")
        name_lines(axes, labels)
        return to_svg(figure, "course", "Quality of every trial and the best so far of every method")


def cost_figure(run: RunSummary, kind: str) -> str | None:
    """Quality against one cost: trials and confirmed policies un-tuned, the original and the delivered network.

    Args:
        run: the finished run.
        kind: ``macs``, ``params`` or ``size_bytes``.
    """
    final = _final_share(run, kind)
    has_trials = any(kind in point.costs for point in run.trials) or any(kind in p.costs for p in run.confirmed)
    if not has_trials or final is None:
        return None
    name = f"cost-{kind.replace('_', '-')}"
    with drawing(name):
        figure, (axes,) = new_figure(300.0)
        for look in looks(run):
            own = [] if _is_warmup(run, look.method) else within_budget(trials_of(run, look.method))
            points = [point for point in own if kind in point.costs]
            for phase, color in (("warmup", WARMUP), ("other", look.color)):
                chosen = [point for point in points if (point.phase == "warmup") == (phase == "warmup")]
                axes.scatter(
                    [100 * point.costs[kind] for point in chosen],
                    [point.quality for point in chosen],
                    s=13,
                    color=color,
                    marker=look.marker,
                    alpha=0.5,
                    linewidths=0,
                )
            sure = [p for p in run.confirmed if p.method == look.method and kind in p.costs]
            axes.scatter(
                [100 * point.costs[kind] for point in sure],
                [point.confirmed_quality for point in sure],
                s=34,
                facecolors="none",
                edgecolors=look.color,
                marker=look.marker,
                linewidths=1.4,
            )
        _star(axes, 100.0, run.dense, "original")
        _star(axes, final, run.compressed, "delivered, tuned")
        axes.set_xlim(0, 108)
        axes.margins(y=0.15)
        axes.set_xlabel(f"{COST_NAMES.get(kind, kind)}, % of the original")
        axes.set_ylabel(score_label(run))
        return to_svg(figure, name, f"Quality against {COST_NAMES.get(kind, kind)}")


def _best(run: RunSummary, value: float) -> str:
    return f"{value:.1f}" if run.compressed.score is None else f"{value:.3g}"


def _star(axes: object, x: float, metrics: Metrics, text: str) -> None:
    if metrics.top1 is None and metrics.score is None:
        return
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    axes.scatter([x], [metrics.quality], s=120, marker="*", color=INK, linewidths=0, zorder=5)
    axes.annotate(
        text, (x, metrics.quality), xytext=(0, 8), textcoords="offset points", ha="center", va="bottom", color=INK
    )


def _final_share(run: RunSummary, kind: str) -> float | None:
    before: float | None
    after: float | None
    if kind == "size_bytes":
        before, after = run.original_bytes, run.compressed.size_bytes
    elif kind == "macs":
        before, after = run.dense.macs, run.compressed.macs
    else:
        before, after = run.dense.num_params, run.compressed.num_params
    return None if not before or after is None else 100.0 * after / before
