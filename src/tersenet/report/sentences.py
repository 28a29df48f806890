"""The outcome of a run in whole sentences, for the head of the page and for the command line."""

from __future__ import annotations

from tersenet.core.summary import RunSummary
from tersenet.report import formats
from tersenet.report.rows import (
    compression_ratio,
    has_quality,
    is_accuracy,
    latency_label,
    quality_text,
    speed_change,
)


def headline(run: RunSummary) -> str:
    """What came of the run, in one sentence."""
    dense, compressed = run.dense, run.compressed
    costs = []
    if dense.macs and compressed.macs is not None:
        costs.append(f"{formats.share(compressed.macs, dense.macs)} of its multiply-accumulates")
    if dense.num_params and compressed.num_params is not None:
        costs.append(f"{formats.share(compressed.num_params, dense.num_params)} of its parameters")
    sentence = f"{run.model} keeps {' and '.join(costs)}" if costs else f"{run.model} was compressed"
    ratio = compression_ratio(run)
    if ratio is not None:
        sentence += (
            f" in a file {ratio:.2f} times smaller" if ratio >= 1 else f" in a file {1 / ratio:.2f} times larger"
        )
    if has_quality(run):
        name = "top-1 accuracy" if is_accuracy(run) else run.score_name
        before, after = quality_text(run, dense.quality), quality_text(run, compressed.quality)
        sentence += f"; {name} goes from {before} to {after}"
        samples = compressed.num_samples
        sentence += f" on {samples:,} {compressed.split or 'test'} samples" if samples else ""
    return sentence + "."


def int8_sentence(run: RunSummary) -> str:
    """What the int8 file is worth, and what it is not; empty without one."""
    found = run.int8
    if found is None:
        return ""
    own, dense, small = found.latency, found.dense_latency, found.fp32_latency
    text = (
        f"The int8 file is for speed, the packed file for size. In {latency_label(own)}, it takes "
        f"{formats.milliseconds(own.median_ms)}; the original in fp32 {formats.milliseconds(dense.median_ms)} "
        f"({speed_change(dense, own)}), the compressed network in fp32 {formats.milliseconds(small.median_ms)} "
        f"({speed_change(small, own)}). It needs {formats.share(found.cpu_ms, found.dense_cpu_ms)} of the original's "
        f"processor time, {formats.share(found.cpu_ms, found.fp32_cpu_ms)} of the compressed one's."
    )
    if found.agreement is not None:
        text += f" On {found.num_samples:,} search samples it gives the compressed network's class on "
        text += formats.percent(found.agreement)
        if found.top1 is not None and found.torch_top1 is not None:
            text += f"; top-1 there is {formats.percent(found.top1)}, {formats.percent(found.torch_top1)} in torch"
        text += "."
    else:
        text += (
            f" Its outputs differ from torch's by up to {100.0 * found.max_relative_difference:.2g} % of the largest."
        )
    if found.fp32_layers:
        text += f" {len(found.fp32_layers)} layer(s) stay fp32 in it."
    return text


def verdict(run: RunSummary) -> str:
    """What the paired test says about the difference; empty if it was not made."""
    test = run.mcnemar
    if test is None:
        return ""
    total = test.only_dense_right + test.only_compressed_right
    if not total:
        return "Both networks are right on exactly the same samples."
    meaning = (
        "the difference is larger than chance explains"
        if test.p_value < 0.05
        else "chance alone could explain the difference"
    )
    return (
        f"On {test.only_dense_right:,} samples only the original is right, on {test.only_compressed_right:,} only the "
        f"compressed network: {meaning} (exact McNemar test, p {_equals(test.p_value)})."
    )


def _equals(p_value: float) -> str:
    text = formats.p_value(p_value)
    return text if text.startswith("below") else f"= {text}"
