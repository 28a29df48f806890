"""One self-contained HTML page about a run: no script, no external file, readable on a phone and in dark mode.

All text that comes from a user (names of models, layers, data, commands) is escaped by jinja2, by matplotlib or where
it is drawn; only the figures drawn here are inserted as they are. The same run gives the same page, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from tersenet.core.summary import RunSummary
from tersenet.errors import MissingExtraError
from tersenet.report import formats
from tersenet.report.again import evaluate_command
from tersenet.report.figures import channels_figure, finetune_figure, latency_figure, macs_figure, storage_figure
from tersenet.report.graph_figure import graph_figure
from tersenet.report.live_figures import activity_figure, groups_figure, switched_units
from tersenet.report.rows import (
    before_after,
    compression_ratio,
    has_quality,
    int8_rows,
    is_accuracy,
    matched_latencies,
    quality_text,
)
from tersenet.report.search_figures import (
    COST_NAMES,
    best_so_far,
    cost_figure,
    course_figure,
    looks,
    trials_of,
    within_budget,
)
from tersenet.report.sentences import headline, int8_sentence, verdict

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One of the large numbers at the top."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One bound of the target beside what was measured."""

    name: str
    bound: str
    measured: str
    verdict: str
    """``kept``, ``not kept``, or empty where the page cannot tell."""


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method of the search at the same budget."""

    method: str
    num_trials: int
    """Trials with a usable number."""
    num_probes: int
    """How many of them only measured single decisions, outside the budget."""
    best: str
    confirmed: str
    seconds: str


def render_html(run: RunSummary) -> str:
    """Draw the whole page.

    Args:
        run: the finished run; sections without anything to show are left out.

    Returns:
        A complete HTML document.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    environment = _environment()
    source = resources.files("tersenet.report").joinpath("template.html").read_text(encoding="utf-8")
    figures = {
        "channels": channels_figure(run),
        "macs": macs_figure(run),
        "storage": storage_figure(run),
        "graph": graph_figure(run),
        "course": course_figure(run),
        "finetune": finetune_figure(run),
        "latency": latency_figure(run),
        "activity": activity_figure(run),
        "groups": groups_figure(run),
    }
    costs = {kind: cost_figure(run, kind) for kind in _kinds(run)}
    page: str = environment.from_string(source).render(
        run=run,
        headline=headline(run),
        verdict=verdict(run),
        tiles=_tiles(run),
        rows=before_after(run),
        bounds=_bounds(run),
        int8_rows=int8_rows(run),
        int8_sentence=int8_sentence(run),
        methods=_methods(run),
        figures=figures,
        units=switched_units(run),
        costs={kind: svg for kind, svg in costs.items() if svg},
        cost_names=COST_NAMES,
        evaluate=evaluate_command(run),
        ratio=compression_ratio(run),
        reward_is_quality=_reward_is_quality(run),
        quality=lambda value: quality_text(run, value),
        formats=formats,
    )
    return page


def _environment() -> Environment:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise MissingExtraError("matplotlib and jinja2", "report") from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["minus"] = lambda text: str(text).replace("-", "\N{MINUS SIGN}", 1) if text[:1] == "-" else text
    return environment


def _kinds(run: RunSummary) -> list[str]:
    """Cost kinds worth a figure: MACs and bytes, and parameters if they are what was bounded."""
    kinds = ["macs", "size_bytes"]
    if run.target is not None and any("params" in name for name in run.target.bounds()):
        kinds.append("params")
    return kinds


def _tiles(run: RunSummary) -> list[Tile]:
    dense, compressed = run.dense, run.compressed
    tiles = []
    if has_quality(run):
        change = compressed.quality - dense.quality
        text = f"{formats.signed(change)} points" if is_accuracy(run) else f"{change:+.4g}"
        tiles.append(Tile(label=run.score_name, value=quality_text(run, compressed.quality), note=text))
    for label, before, after, show in (
        ("MACs", dense.macs, compressed.macs, formats.short),
        ("packed file", run.original_bytes, compressed.size_bytes, formats.size),
    ):
        if before and after is not None:
            tiles.append(Tile(label=label, value=formats.share(after, before), note=f"{show(before)} to {show(after)}"))
    pairs = [(before, after) for before, after in matched_latencies(run) if before and after and after.median_ms]
    if pairs:
        slow, fast = next((pair for pair in pairs if pair[1].runtime == "onnxruntime"), pairs[0])
        value = f"{slow.median_ms / fast.median_ms:.2f}x"
        note = f"{formats.milliseconds(slow.median_ms)} to {formats.milliseconds(fast.median_ms)}"
        tiles.append(Tile(label=f"speed, {fast.runtime}, batch {fast.batch_size}", value=value, note=note))
    return tiles


def _bounds(run: RunSummary) -> list[Bound]:
    if run.target is None:
        return []
    after = {
        "macs": (run.compressed.macs, run.dense.macs),
        "params": (run.compressed.num_params, run.dense.num_params),
        "size": (run.compressed.size_bytes, run.original_bytes),
    }
    found = []
    for name, bound in run.target.bounds().items():
        value, original = after[name.removeprefix("max_").removesuffix("_ratio").removesuffix("_bytes")]
        is_ratio = name.endswith("_ratio")
        measured = None if value is None or (is_ratio and not original) else value / (original or 1 if is_ratio else 1)
        shown = "-" if measured is None else f"{measured:.4f}" if is_ratio else formats.count(measured)
        kept = "" if measured is None else "kept" if measured <= bound else "not kept"
        found.append(
            Bound(name=name, bound=f"{bound:g}" if is_ratio else formats.count(bound), measured=shown, verdict=kept)
        )
    if run.target.max_top1_drop is not None:
        drop = f"{run.dense.quality - run.compressed.quality:.2f} on the test split" if has_quality(run) else "-"
        text = f"{run.target.max_top1_drop:g} on the search split"
        found.append(Bound(name="max_top1_drop", bound=text, measured=drop, verdict=""))
    return found


def _methods(run: RunSummary) -> list[MethodRow]:
    rows = []
    for look in looks(run):
        points = trials_of(run, look.method)
        chosen_from = within_budget(points)
        course = best_so_far(chosen_from)
        sure = [point.confirmed_quality for point in run.confirmed if point.method == look.method]
        rows.append(
            MethodRow(
                method=f"{look.method}, control" if look.is_control else look.method,
                num_trials=len(points),
                num_probes=len(points) - len(chosen_from),
                best=quality_text(run, course[-1]) if course else "-",
                confirmed=quality_text(run, max(sure)) if sure else "-",
                seconds=formats.seconds(sum(point.seconds for point in points)) if points else "-",
            )
        )
    return rows


def _reward_is_quality(run: RunSummary) -> bool:
    """Whether the highest reward of every method is its highest quality."""
    for look in looks(run):
        points = within_budget(trials_of(run, look.method))
        if points and best_so_far(points)[-1] < max(point.quality for point in points):
            return False
    return True
