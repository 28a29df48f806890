"""Before and after as table rows: the one place where plain text, command line and HTML take their numbers from."""

from __future__ import annotations

from dataclasses import dataclass

from tersenet.core.metrics import Latency, Metrics
from tersenet.core.summary import RunSummary
from tersenet.report import formats
from tersenet.report.statistics import accuracy_interval

NOTHING = "-"
"""Shown where a network has no such number."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One property of the original and the compressed network."""

    label: str
    original: str
    compressed: str
    change: str = ""
    original_range: str = ""
    """Between which numbers the original's one lies: ``91.17 to 92.25``."""
    compressed_range: str = ""
    range_kind: str = ""
    """What the ranges are: ``95 % interval`` or ``quartiles of 50 runs``."""


def before_after(run: RunSummary) -> list[Row]:
    """All measured properties of both networks, the ones that were not measured left out.

    Args:
        run: the finished run.

    Returns:
        Quality first, then cost, bytes and latency.
    """
    return [*_quality_rows(run.dense, run.compressed), *_cost_rows(run), *_latency_rows(run)]


@dataclass(frozen=True, kw_only=True)
class Int8Row:
    """One property of the original and the compressed network in fp32, and of the int8 file."""

    label: str
    original: str
    fp32: str
    int8: str
    ranges: tuple[str, str, str] = ("", "", "")
    """Quartiles of the three, in the same order."""
    range_kind: str = ""


def int8_rows(run: RunSummary) -> list[Int8Row]:
    """What was measured of the int8 file, beside plain fp32 files of both networks; empty without one."""
    found = run.int8
    if found is None:
        return []
    files = (found.dense_latency, found.fp32_latency, found.latency)
    times = [formats.milliseconds(latency.median_ms) for latency in files]
    gain = speed_change(found.dense_latency, found.latency)
    rows = [
        Int8Row(
            label=f"Latency, {latency_label(found.latency)}",
            original=times[0],
            fp32=times[1],
            int8=f"{times[2]}, {gain}",
            ranges=(_spread(files[0]), _spread(files[1]), _spread(files[2])),
            range_kind=f"quartiles of {found.latency.num_runs} runs",
        ),
        Int8Row(
            label="Processor time of a pass",
            original=formats.milliseconds(found.dense_cpu_ms),
            fp32=formats.milliseconds(found.fp32_cpu_ms),
            int8=f"{formats.milliseconds(found.cpu_ms)}, {formats.share(found.cpu_ms, found.dense_cpu_ms)}",
        ),
    ]
    if found.top1 is not None and found.torch_top1 is not None:
        label = f"Top-1 on {found.num_samples:,} search samples"
        top1 = formats.percent(found.top1)
        rows.append(Int8Row(label=label, original=NOTHING, fp32=formats.percent(found.torch_top1), int8=top1))
    if found.agreement is not None:
        same = formats.percent(found.agreement)
        rows.append(Int8Row(label="Same class as the compressed network", original=NOTHING, fp32=NOTHING, int8=same))
    sizes = [formats.count(size) for size in (found.dense_size_bytes, found.fp32_size_bytes, found.size_bytes)]
    rows.append(Int8Row(label="ONNX file, bytes", original=sizes[0], fp32=sizes[1], int8=sizes[2]))
    return rows


def score_label(run: RunSummary) -> str:
    """What the quality of a trial is called, with its unit."""
    return "top-1, %" if is_accuracy(run) else run.score_name


def is_accuracy(run: RunSummary) -> bool:
    """Whether quality is a top-1 accuracy in percent, and not the user's own score."""
    return run.compressed.score is None


def has_quality(run: RunSummary) -> bool:
    """Whether the quality of both networks was measured."""
    return all(m.top1 is not None or m.score is not None for m in (run.dense, run.compressed))


def quality_text(run: RunSummary, value: float) -> str:
    """One quality with its unit: ``91.73 %``, or the bare score."""
    return formats.percent(value) if is_accuracy(run) else formats.score(value)


def compression_ratio(run: RunSummary) -> float | None:
    """Original bytes over bytes of the packed file; None if nothing was packed."""
    return run.original_bytes / run.compressed.size_bytes if run.compressed.size_bytes else None


def matched_latencies(run: RunSummary) -> list[tuple[Latency | None, Latency | None]]:
    """Timings of both networks, paired where runtime, batch and threads agree; in the order they were measured."""

    def key(latency: Latency) -> tuple[str, int, int]:
        return latency.runtime, latency.batch_size, latency.num_threads

    before = {key(latency): latency for latency in run.dense.latency}
    after = {key(latency): latency for latency in run.compressed.latency}
    return [(before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]


def latency_label(latency: Latency) -> str:
    """``onnxruntime, batch 1, 2 threads``."""
    threads = "1 thread" if latency.num_threads == 1 else f"{latency.num_threads} threads"
    return f"{latency.runtime}, batch {latency.batch_size}, {threads}"


def speed_change(before: Latency, after: Latency) -> str:
    """``1.62x faster`` or ``1.10x slower``; whether the spreads overlap is said as well."""
    ratio = before.median_ms / after.median_ms if after.median_ms else float("inf")
    text = f"{ratio:.2f}x faster" if ratio >= 1.0 else f"{1.0 / ratio:.2f}x slower" if ratio else "slower"
    overlap = before.low_ms <= after.high_ms and after.low_ms <= before.high_ms
    return f"{text}, spreads overlap" if overlap else text


def _quality_rows(dense: Metrics, compressed: Metrics) -> list[Row]:
    rows = []
    for label, before, after in (
        ("Top-1 accuracy", dense.top1, compressed.top1),
        ("Top-5 accuracy", dense.top5, compressed.top5),
    ):
        if before is None and after is None:
            continue
        change = f"{formats.signed(after - before)} points" if before is not None and after is not None else ""
        rows.append(
            Row(
                label=label,
                original=NOTHING if before is None else formats.percent(before),
                compressed=NOTHING if after is None else formats.percent(after),
                change=change,
                original_range=_interval(before, dense.num_samples),
                compressed_range=_interval(after, compressed.num_samples),
                range_kind="95 % interval",
            )
        )
    if dense.score is not None or compressed.score is not None:
        rows.append(_score_row(dense, compressed))
    return rows


def _score_row(dense: Metrics, compressed: Metrics) -> Row:
    change = ""
    if dense.score is not None and compressed.score is not None:
        change = f"{compressed.score - dense.score:+.4g}"
    return Row(
        label=compressed.score_name or dense.score_name or "score",
        original=NOTHING if dense.score is None else formats.score(dense.score),
        compressed=NOTHING if compressed.score is None else formats.score(compressed.score),
        change=change,
    )


def _interval(percent: float | None, num_samples: int | None) -> str:
    if percent is None or not num_samples:
        return ""
    low, high = accuracy_interval(percent, num_samples)
    return f"{low:.2f} to {high:.2f}"


def _cost_rows(run: RunSummary) -> list[Row]:
    dense, compressed = run.dense, run.compressed
    rows = [
        Row(
            label=label,
            original=NOTHING if before is None else formats.count(before),
            compressed=NOTHING if after is None else formats.count(after),
            change=_removed(before, after),
        )
        for label, before, after in (
            ("MACs, batch 1", dense.macs, compressed.macs),
            ("MACs of weights that are not zero", _if(compressed.nonzero_macs, dense.macs), compressed.nonzero_macs),
            ("Parameters", dense.num_params, compressed.num_params),
            ("Parameters that are not zero", _if(compressed.num_nonzero, dense.num_params), compressed.num_nonzero),
            ("Packed file, bytes", run.original_bytes, compressed.size_bytes),
        )
        if before is not None or after is not None
    ]
    onnx = run.files.get("model.onnx")
    if onnx is not None:
        rows.append(Row(label="ONNX file, bytes", original=NOTHING, compressed=formats.count(onnx)))
    ratio = compression_ratio(run)
    if ratio is not None:
        rows.append(Row(label="Compression ratio, by bytes", original="1.00x", compressed=f"{ratio:.2f}x"))
    if run.paper_ratio is not None:
        label = "Paper ratio: index bits, convolutions only"
        rows.append(Row(label=label, original="1.00x", compressed=f"{run.paper_ratio:.2f}x"))
    return rows


def _if(condition: int | None, value: int | None) -> int | None:
    """The original's number where the compressed network has one to hold against it."""
    return None if condition is None else value


def _removed(before: float | None, after: float | None) -> str:
    if not before or after is None:
        return ""
    return f"{formats.signed(100.0 * (after / before - 1.0), 1)} %"


def _latency_rows(run: RunSummary) -> list[Row]:
    rows = []
    for before, after in matched_latencies(run):
        known = after or before
        assert known is not None
        rows.append(
            Row(
                label=f"Latency, {latency_label(known)}",
                original=NOTHING if before is None else formats.milliseconds(before.median_ms),
                compressed=NOTHING if after is None else formats.milliseconds(after.median_ms),
                change=speed_change(before, after) if before and after else "",
                original_range=_spread(before),
                compressed_range=_spread(after),
                range_kind=f"quartiles of {known.num_runs} runs",
            )
        )
    return rows


def _spread(latency: Latency | None) -> str:
    return "" if latency is None else f"{latency.low_ms:.3g} to {latency.high_ms:.3g}"
