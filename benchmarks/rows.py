"""The result file of a benchmark: rows that are added one by one, kept between runs, printed side by side."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from tersenet import __version__
from tersenet.core.files import write_whole
from tersenet.core.metrics import Metrics
from tersenet.core.summary import RunSummary

RESULTS = Path(__file__).parent / "results"


def command_line(
    doc: str | None, *, work: str | None = None, jobs: tuple[str, Sequence[str]] | None = None
) -> argparse.ArgumentParser:
    """The options that benchmarks share: ``--data``, and where asked for ``--work`` and ``--jobs``.

    Args:
        doc: the benchmark's docstring, its help.
        work: default of the folder for runs that can be continued.
        jobs: how a job is written, and the default ones.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("TERSENET_DATA"), help="folder of the data")
    if work is not None:
        parser.add_argument("--work", type=Path, default=Path(work), help="folder for runs that can be continued")
    if jobs is not None:
        parser.add_argument("--jobs", nargs="*", default=list(jobs[1]), help=jobs[0])
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was given; without the folder of the data, an error that says so."""
    given = parser.parse_args()
    if given.data is None:
        parser.error("give --data, or set TERSENET_DATA")
    return given


def processor() -> str:
    """What rows are measured on."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


class ResultFile:
    """``benchmarks/results/<name>.json``; a row that another processor measured than the file's first one names it."""

    def __init__(self, name: str, *, command: str) -> None:
        self._path = RESULTS / f"{name}.json"
        self._command = command
        self._seconds = 0.0
        self._processor = processor()
        self.rows: list[dict[str, object]] = []
        if self._path.exists():
            stored = json.loads(self._path.read_text())
            self.rows, self._seconds, self._processor = stored["rows"], stored["seconds"], stored["processor"]

    def has(self, **fields: object) -> bool:
        """Whether a row with these values is there."""
        return self.first(**fields) is not None

    def first(self, **fields: object) -> dict[str, object] | None:
        """The first row with these values, if there is one."""
        return next((row for row in self.rows if all(row.get(key) == value for key, value in fields.items())), None)

    def add(self, row: dict[str, object], *, seconds: float) -> None:
        """Add a row and write the file."""
        here = processor()
        self.rows.append(row if here == self._processor else {**row, "processor": here})
        self._seconds += seconds
        content = {
            "command": self._command,
            "versions": {
                "tersenet": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "processor": self._processor,
            "seconds": round(self._seconds, 1),
            "rows": self.rows,
        }
        RESULTS.mkdir(exist_ok=True)
        write_whole(self._path, (json.dumps(content, indent=1) + "\n").encode())


def run_fields(run: RunSummary, *, seed: int, epochs: int) -> dict[str, object]:
    """What every row of a whole run states."""
    return {
        "network": run.model,
        "data": run.data,
        "method": run.recipe,
        "seed": seed,
        "top1_before": run.dense.top1,
        "top1_untuned": run.untuned.top1 if run.untuned else None,
        "macs_ratio": (run.compressed.macs or 0) / (run.dense.macs or 1),
        "params_ratio": (run.compressed.num_params or 0) / (run.dense.num_params or 1),
        "finetune_epochs": epochs,
    }


def size_fields(metrics: Metrics, original_bytes: int) -> dict[str, object]:
    """Bytes of a packed file, and how many times more the original has."""
    return {"size_bytes": metrics.size_bytes, "compression_ratio": original_bytes / (metrics.size_bytes or 1)}


def delivered_fields(run: RunSummary) -> dict[str, object]:
    """Bytes of the packed file and latency, against those of the original."""
    before, after = ({one.runtime: one.median_ms for one in m.latency} for m in (run.dense, run.compressed))
    return {
        **size_fields(run.compressed, run.original_bytes),
        "latency_ratio": {name: ms / before[name] for name, ms in after.items() if name in before},
    }


def print_rows(rows: Iterable[dict[str, object]], columns: tuple[str, ...]) -> None:
    """Print rows as a table."""
    cells = [list(columns)] + [[_text(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
