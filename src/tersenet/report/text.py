"""The before/after table as plain text, for notebooks, logs and ``print``."""

from __future__ import annotations

from tersenet.core.summary import RunSummary
from tersenet.report.rows import Row, before_after
from tersenet.report.sentences import int8_sentence

_HEAD = Row(label="", original="original", compressed="compressed", change="change")


def summary_table(run: RunSummary) -> str:
    """Both networks side by side, one property per line, with intervals and spreads.

    Args:
        run: the finished run.

    Returns:
        Lines of ASCII text, no line break at the end; columns are aligned.
    """
    cells = [_cells(row) for row in (_HEAD, *before_after(run))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for line in cells:
        aligned = [line[0].ljust(widths[0])]
        aligned += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        lines.append("  ".join(aligned).rstrip())
    lines.insert(1, "-" * max(len(line) for line in lines))
    samples = run.compressed.num_samples
    where = f", {samples:,} {run.compressed.split or 'test'} samples" if samples else ""
    kinds = dict.fromkeys(row.range_kind for row in before_after(run) if row.original_range or row.compressed_range)
    legend = [f"In brackets: {', '.join(kinds)}."] if kinds else []
    legend += [int8_sentence(run)] if run.int8 else []
    return "\n".join([f"{run.model} on {run.data}, {run.recipe}, seed {run.seed}{where}", *lines, *legend])


def _cells(row: Row) -> list[str]:
    original = f"{row.original} [{row.original_range}]" if row.original_range else row.original
    compressed = f"{row.compressed} [{row.compressed_range}]" if row.compressed_range else row.compressed
    return [row.label, original, compressed, row.change]
