"""Figures of what was delivered: channels, MACs and bytes layer by layer, fine-tuning, latency.

Each function takes a run and returns an SVG element, or None where there is nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tersenet.core.metrics import Latency
from tersenet.core.summary import GroupRow, RunSummary, StorageKind, StorageRow
from tersenet.report import formats
from tersenet.report.rows import latency_label, matched_latencies, quality_text, score_label, speed_change
from tersenet.report.svg import CONTROLS, INK, MAIN, MUTED, REMOVED, WARMUP, drawing, name_lines, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 17.0  # height of one bar with its gap
_FRAME = 56.0  # axis with its label

_FORMS: dict[StorageKind, str] = {"clusters": MAIN, "linear": CONTROLS[1], "raw": CONTROLS[0], "rest": WARMUP}


def channels_figure(run: RunSummary) -> str | None:
    """Share of channels that stay, one bar per coupled group; groups that had to stay whole are grey."""
    if not run.groups:
        return None
    with drawing("channels"):
        figure, (axes,) = new_figure(_FRAME + _ROW * len(run.groups))
        rows = range(len(run.groups))
        axes.barh(rows, [100.0] * len(run.groups), height=0.7, color=REMOVED, linewidth=0)
        axes.barh(
            rows,
            [100.0 * group.num_kept / max(1, group.num_channels) for group in run.groups],
            height=0.7,
            color=[WARMUP if group.reason else MAIN for group in run.groups],
            linewidth=0,
        )
        _name_rows(axes, [group.group_id for group in run.groups])
        for row, group in enumerate(run.groups):
            _name_right(axes, row, _kept(group))
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_xlabel("channels that stay, %")
        return to_svg(figure, "channels", "Share of channels that stay in each group")


def macs_figure(run: RunSummary) -> str | None:
    """Multiply-accumulates of every layer, before and after."""
    if not run.layers or not any(layer.macs_before for layer in run.layers):
        return None
    largest = max(layer.macs_before for layer in run.layers)
    scale, unit = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if largest >= s), (1.0, ""))
    with drawing("macs"):
        figure, (axes,) = new_figure(_FRAME + _ROW * len(run.layers))
        rows = range(len(run.layers))
        axes.barh(rows, [layer.macs_before / scale for layer in run.layers], height=0.7, color=REMOVED, linewidth=0)
        axes.barh(rows, [layer.macs_after / scale for layer in run.layers], height=0.7, color=MAIN, linewidth=0)
        _name_rows(axes, [layer.name for layer in run.layers])
        axes.set_xlim(0, largest / scale)
        for row, layer in enumerate(run.layers):
            cut = 100.0 * (layer.macs_after / layer.macs_before - 1.0) if layer.macs_before else 0.0
            text = "0 %" if round(cut) == 0 else f"{cut:+.0f} %"
            _name_right(axes, row, text)
        axes.set_xlabel(f"{unit}MACs" if unit else "MACs")
        return to_svg(figure, "macs", "Multiply-accumulates of each layer before and after")


def storage_figure(run: RunSummary) -> str | None:
    """Bytes of every layer in the packed file beside its fp32 bytes, coloured and named by the form of storage."""
    largest = max((max(row.bytes_before, row.bytes_after) for row in run.storage), default=0.0)
    if not largest:
        return None
    scale, unit = next(((s, u) for s, u in ((1e6, "MB"), (1e3, "kB")) if largest >= s), (1.0, "bytes"))
    with drawing("storage"):
        figure, (axes,) = new_figure(_FRAME + _ROW * len(run.storage))
        rows = range(len(run.storage))
        axes.barh(rows, [row.bytes_before / scale for row in run.storage], height=0.7, color=REMOVED, linewidth=0)
        axes.barh(
            rows,
            [row.bytes_after / scale for row in run.storage],
            height=0.7,
            color=[_FORMS[row.kind] for row in run.storage],
            linewidth=0,
        )
        _name_rows(axes, [row.name for row in run.storage])
        axes.set_xlim(0, largest / scale)
        for place, row in enumerate(run.storage):
            _name_right(axes, place, _stored(row))
        axes.set_xlabel(f"{unit}; beside the bars: form, bytes in the file")
        return to_svg(figure, "storage", "Bytes of each layer as fp32 and in the packed file")


def finetune_figure(run: RunSummary) -> str | None:
    """Quality on the search split and training loss, epoch by epoch, with the network before fine-tuning beside it."""
    epochs = [point for point in run.epochs if math.isfinite(point.quality)]
    if not epochs:
        return None
    numbers = [point.epoch for point in epochs]
    losses = [(point.epoch, point.train_loss) for point in epochs if math.isfinite(point.train_loss)]
    marker = "o" if len(epochs) <= 30 else ""
    with drawing("finetune"):
        from matplotlib.ticker import MaxNLocator

        figure, panels = new_figure(
            330.0 if losses else 210.0, 2 if losses else 1, sharex=True, height_ratios=(1.6, 1) if losses else None
        )
        quality = panels[0]
        quality.plot(numbers, [point.quality for point in epochs], color=MAIN, marker=marker, markersize=4)
        quality.set_ylabel(score_label(run))
        best = max(epochs, key=lambda point: point.quality)
        quality.plot([best.epoch], [best.quality], color=MAIN, marker="o", markersize=7)
        _name_qualities(quality, run, best.quality)
        if losses:
            panels[1].plot(*zip(*losses, strict=True), color=CONTROLS[0], marker=marker, markersize=4)
            panels[1].set_ylabel("training loss")
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_svg(figure, "finetune", "Quality and loss during fine-tuning")


def latency_figure(run: RunSummary) -> str | None:
    """Median time of a forward pass with its quartiles, one panel per runtime, batch and thread count."""
    pairs = matched_latencies(run)
    if not pairs:
        return None
    with drawing("latency"):
        figure, panels = new_figure(30.0 + 84.0 * len(pairs), len(pairs))
        for axes, (before, after) in zip(panels, pairs, strict=True):
            _latency_panel(axes, before, after)
        panels[-1].set_xlabel("milliseconds per forward pass; whiskers: quartiles")
        return to_svg(figure, "latency", "Latency before and after")


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [formats.shorten(name, 22) for name in names], color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _name_right(axes: Axes, row: int, text: str) -> None:
    axes.annotate(
        text,
        (1.02, row),
        xycoords=("axes fraction", "data"),
        va="center",
        color=MUTED,
        fontsize=9.5,
        annotation_clip=False,
    )


def _stored(row: StorageRow) -> str:
    """``k=16, 1.2 kB``, ``4 bits, 310 B``, ``fp16, 4.6 kB``."""
    form = f"k={row.form.removesuffix(' clusters')}" if row.kind == "clusters" else row.form
    return f"{form}, {formats.size(row.bytes_after)}" if form else formats.size(row.bytes_after)


def _kept(group: GroupRow) -> str:
    return f"all {group.num_channels}" if group.reason else f"{group.num_kept} / {group.num_channels}"


def _name_qualities(axes: Axes, run: RunSummary, best: float) -> None:
    """Dashed lines for the original and the un-tuned network, and a name beside every line."""
    labels = [(best, f"best {quality_text(run, best)}", MAIN)]
    for metrics, name in ((run.dense_search, "original"), (run.untuned, "un-tuned")):
        if metrics is not None and (metrics.top1 is not None or metrics.score is not None):
            axes.axhline(metrics.quality, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
            labels.append((metrics.quality, f"{name} {quality_text(run, metrics.quality)}", MUTED))
    axes.margins(y=0.12)
    name_lines(axes, labels)


def _latency_panel(axes: Axes, before: Latency | None, after: Latency | None) -> None:
    known = [
        (latency, name, color)
        for latency, name, color in (
            (before, "original", WARMUP),
            (after, "compressed", MAIN),
        )
        if latency is not None
    ]
    for row, (latency, _, color) in enumerate(known):
        axes.barh(row, latency.median_ms, height=0.62, color=color, linewidth=0)
        spread = [[max(0.0, latency.median_ms - latency.low_ms)], [max(0.0, latency.high_ms - latency.median_ms)]]
        axes.errorbar(latency.median_ms, row, xerr=spread, color=INK, linewidth=1.2, capsize=3)
        axes.annotate(
            formats.milliseconds(latency.median_ms),
            (max(latency.high_ms, latency.median_ms), row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(known)), [name for _, name, _ in known], color=INK)
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.set_xlim(0, 1.25 * max(max(latency.high_ms, latency.median_ms) for latency, _, _ in known) or 1.0)
    axes.grid(visible=False, axis="y")
    title = latency_label(known[0][0])
    if before is not None and after is not None:
        title += f": {speed_change(before, after)}"
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
