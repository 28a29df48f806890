"""What the commands print on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from tersenet.core.metrics import Latency, Metrics
from tersenet.core.summary import GroupRow, Inspection, LayerRow, Reachable, RunSummary
from tersenet.report import Row, before_after, evaluate_command, formats, headline, int8_sentence, to_json, verdict
from tersenet.report.rows import latency_label

_WIDTH_OF_FILES = 140  # columns where stdout is no terminal, so that nothing is folded in logs

_WIDTH_OF_SHAPES = 112  # columns from which bytes and shapes of weights are shown as well

_WIDTH_OF_RANGES = 120  # columns from which a number and its range fit into one line

_KINDS = {"macs": "MACs", "params": "parameters", "size_bytes": "bytes"}


def stdout() -> Console:
    """The console for results; user's names are never taken for markup."""
    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    return Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def say(text: str = "") -> None:
    """Print a line of prose, wrapped at words in a terminal and left whole in a file."""
    stdout().print(text, soft_wrap=not sys.stdout.isatty())


def print_json(thing: BaseModel) -> None:
    """One JSON document, nothing else."""
    typer.echo(to_json(thing))


def print_inspection(inspection: Inspection) -> None:
    """Layers, groups that stay whole, what each target could reach, and how long it would take."""
    where = f" on {inspection.data}" if inspection.data else ""
    say(
        f"{inspection.model}{where}: {formats.count(inspection.macs)} MACs, {formats.count(inspection.num_params)} "
        f"parameters, {formats.count(inspection.original_bytes)} bytes"
    )
    reasons = list(dict.fromkeys(group.reason for group in inspection.groups if group.reason))
    console = stdout()
    console.print(_layer_table(inspection, reasons, with_shapes=console.width >= _WIDTH_OF_SHAPES))
    for number, reason in enumerate(reasons, start=1):
        say(f"({number}) {reason}")
    if inspection.not_counted:
        say(f"MACs leave out: {', '.join(inspection.not_counted)}")
    if any(group.min_kept is not None for group in inspection.groups):
        stdout().print(_group_table(inspection.groups))
    if inspection.reachable:
        stdout().print(_reachable_table(inspection.reachable))
    for row in inspection.reachable:
        if row.bound is not None:
            say(reachable_line(row))
    if inspection.search_seconds is not None and inspection.finetune_seconds is not None:
        search, finetune = formats.seconds(inspection.search_seconds), formats.seconds(inspection.finetune_seconds)
        say(f"predicted time: search {search}, fine-tuning {finetune}")
    for note in inspection.notes:
        say(f"note: {note}")


def reachable_line(row: Reachable) -> str:
    """``50.0 % of MACs: reachable`` or why not."""
    assert row.bound is not None
    bound = f"{formats.share(row.bound, row.original)} of {_KINDS.get(row.kind, row.kind)}"
    if row.is_reachable:
        return f"{bound}: reachable"
    return f"{bound}: not reachable, the smallest possible is {formats.share(row.smallest, row.original)}"


def print_result(run: RunSummary, folder: str, sizes: dict[str, int], *, as_json: bool) -> None:
    """Before and after, what was checked, caveats, files, and the command that measures them again."""
    if as_json:
        print_json(run)
        return
    say()
    say(headline(run))
    rows = before_after(run)
    console = stdout()
    console.print(_before_after_table(rows, gap=" " if console.width >= _WIDTH_OF_RANGES else "\n"))
    kinds = dict.fromkeys(row.range_kind for row in rows if row.original_range or row.compressed_range)
    if kinds:
        say(f"In brackets: {', '.join(kinds)}.")
    if verdict(run):
        say(verdict(run))
    if run.int8 is not None:
        say(int8_sentence(run))
    for check in run.checks:
        outcome = "" if check.passed else f" FAILED, at most {check.limit:.1g}"
        say(f"{check.name}: {check.value:.1g}{outcome}")
    if run.caveats:
        say("\nWhat to keep in mind:")
        for caveat in run.caveats:
            say(f"- {caveat}")
    say(f"\nFiles in {folder}:")
    for name, size in sizes.items():
        say(f"  {name:<16} {formats.count(size):>12} bytes")
    say("\nMeasure them again with:")
    typer.echo(f"  {evaluate_command(run, folder)}")


def print_metrics(columns: dict[str, Metrics], *, title: str) -> None:
    """Measured properties of one or several networks, a column each."""
    say(title)
    table = _table(["", *columns])
    rows = [_metric_cells(metrics) for metrics in columns.values()]
    for name in dict.fromkeys(name for row in rows for name in row):
        table.add_row(name, *(row.get(name, "-") for row in rows))
    stdout().print(table)


def _metric_cells(metrics: Metrics) -> dict[str, str]:
    cells: dict[str, str] = {}
    for name, value in (("top-1", metrics.top1), ("top-5", metrics.top5)):
        if value is not None:
            cells[name] = formats.percent(value)
    if metrics.score is not None:
        cells[metrics.score_name or "score"] = formats.score(metrics.score)
    for name, number in (("MACs", metrics.macs), ("parameters", metrics.num_params), ("bytes", metrics.size_bytes)):
        if number is not None:
            cells[name] = formats.count(number)
    cells |= {f"latency, {latency_label(latency)}": _latency(latency) for latency in metrics.latency}
    if metrics.num_samples is not None:
        cells["samples"] = f"{formats.count(metrics.num_samples)} ({metrics.split or 'unknown split'})"
    return cells


def _latency(latency: Latency) -> str:
    return f"{formats.milliseconds(latency.median_ms)} [{latency.low_ms:.3g} to {latency.high_ms:.3g}]"


def _layer_table(inspection: Inspection, reasons: list[str], *, with_shapes: bool) -> Table:
    groups = {group.group_id: group for group in inspection.groups}
    columns = ["layer", "MACs", "share", "parameters", "share", *["bytes"] * with_shapes, "group", ""]
    text = len(columns) - 2
    table = _table(columns + ["weight"] * with_shapes, left=(0, text, text + 1, text + 2))
    table.columns[0].no_wrap = True
    for layer in inspection.layers:
        group = groups.get(layer.group_id)
        reason = group.reason if group is not None else ""
        note = f"locked ({reasons.index(reason) + 1})" if reason else ""
        shape = ["x".join(str(size) for size in layer.shape_before)] * with_shapes
        size = [formats.count(4 * layer.params_before)] * with_shapes
        table.add_row(layer.name, *_cost_cells(layer, inspection), *size, layer.group_id or "-", note, *shape)
    return table


def _cost_cells(layer: LayerRow, inspection: Inspection) -> tuple[str, ...]:
    return (
        formats.count(layer.macs_before),
        formats.share(layer.macs_before, inspection.macs),
        formats.count(layer.params_before),
        formats.share(layer.params_before, inspection.num_params),
    )


def _group_table(groups: Iterable[GroupRow]) -> Table:
    """Groups that are decided: between which counts, and which layers produce the same channels."""
    table = _table(["group", "channels", "fewest left", "most left", "step", "produced by"], left=(0, 5))
    for group in groups:
        if group.min_kept is not None:
            numbers = (group.num_channels, group.min_kept, group.max_kept, group.round_to)
            table.add_row(group.group_id, *(str(number) for number in numbers), ", ".join(group.producers))
    return table


def _reachable_table(rows: Iterable[Reachable]) -> Table:
    table = _table(["cost", "original", "smallest possible", "share", "bound"])
    for row in rows:
        bound = "-" if row.bound is None else formats.count(row.bound)
        smallest = formats.count(row.smallest)
        share = formats.share(row.smallest, row.original)
        table.add_row(_KINDS.get(row.kind, row.kind), formats.count(row.original), smallest, share, bound)
    return table


def _before_after_table(rows: Iterable[Row], *, gap: str) -> Table:
    """``gap`` parts a number from its range: a space, or a line break where the terminal is narrow."""
    table = _table(["", "original", "compressed", "change"])
    for row in rows:
        original = f"{row.original}{gap}[{row.original_range}]" if row.original_range else row.original
        compressed = f"{row.compressed}{gap}[{row.compressed_range}]" if row.compressed_range else row.compressed
        table.add_row(row.label, original, compressed, row.change)
    return table


def _table(columns: list[str], left: tuple[int, ...] = (0,)) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index in left else "right", overflow="fold")
    return table
