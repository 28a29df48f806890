"""``tersenet report``: draw the page again from what a run wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run, or its result.json.")]
OutFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Default: report.html in the folder of the run.")]


def report(run_dir: RunFolder, out: OutFile = None) -> None:
    """Draw report.html again from result.json."""
    from tersenet.core.files import write_whole
    from tersenet.report import REPORT_FILE, read_summary, render_html

    run = read_summary(run_dir)
    target = out or (run_dir if run_dir.is_dir() else run_dir.parent) / REPORT_FILE
    write_whole(target, render_html(run).encode("utf-8", errors="replace"))
    typer.echo(str(target))
