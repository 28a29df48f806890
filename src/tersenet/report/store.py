"""The files of a report: ``result.json`` with everything a run found out, and the page drawn from it.

Numbers that are not finite are written as strings (``"NaN"``), which JSON allows and the reader takes back.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from pydantic import BaseModel, ValidationError

from tersenet.core.files import write_whole
from tersenet.core.summary import RunSummary
from tersenet.errors import ArtifactError, NotFoundError
from tersenet.report.html import render_html

RESULT_FILE = "result.json"
REPORT_FILE = "report.html"


def write_report(folder: str | Path, run: RunSummary) -> dict[str, int]:
    """Write ``result.json``, then ``report.html``, into ``folder``, which is made if it is missing.

    Args:
        folder: folder of the run.
        run: what is to be kept.

    Returns:
        Bytes by file name.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed; ``result.json`` is complete by then.
        ArtifactError: a file cannot be written (disk full, no permission).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {RESULT_FILE: _write(folder / RESULT_FILE, to_json(run) + "\n")}
    sizes[REPORT_FILE] = _write(folder / REPORT_FILE, render_html(run))
    return sizes


def read_summary(path: str | Path) -> RunSummary:
    """Read a run from its ``result.json``.

    Args:
        path: the file, or the folder of the run.

    Raises:
        NotFoundError: there is no such file.
        ArtifactError: the file is damaged or of another version; the first damaged field is named.
    """
    path = Path(path)
    file = path / RESULT_FILE if path.is_dir() else path
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(
            f"There is no file {str(file)!r}. Give the folder of a finished run, or its {RESULT_FILE}."
        ) from None
    try:
        return RunSummary.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{file} is not a complete result of this version: {where + ': ' if where else ''}{first['msg']} "
            f"({error.error_count()} problem(s)). Run the command that wrote it again, or restore the file."
        ) from None


def to_json(thing: BaseModel) -> str:
    """Indented JSON that :func:`read_summary` takes back, NaN and infinities included."""
    return json.dumps(_finite(thing.model_dump(mode="json")), indent=1, allow_nan=False, ensure_ascii=False)


def _write(path: Path, text: str) -> int:
    return write_whole(path, text.encode("utf-8", errors="replace"))


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value
