"""The outcome of a run in whole sentences, for the head of the page and for the command line."""

from __future__ import annotations

from tersenet.core.summary import RunSummary
from tersenet.report import formats
from tersenet.report.rows import compression_ratio, has_quality, is_accuracy, quality_text


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
