"""Files of a report: what is written is read back, and what is damaged is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from report_runs import page_source, realistic_run

from tersenet.errors import ArtifactError, MissingExtraError, NotFoundError
from tersenet.report import read_summary, render_html, to_json, write_report


def test_a_written_run_is_read_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tersenet.report.store.render_html", lambda run: f"page of {run.model}")
    run = realistic_run()
    sizes = write_report(tmp_path / "new" / "folder", run)
    folder = tmp_path / "new" / "folder"
    assert read_summary(folder) == run
    assert read_summary(folder / "result.json") == run
    assert (folder / "report.html").read_text() == "page of resnet20"
    assert sizes == {name: (folder / name).stat().st_size for name in ("result.json", "report.html")}
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "result.json"]


@pytest.mark.slow
def test_the_page_of_a_run_that_was_read_back_is_the_same(tmp_path: Path) -> None:
    run = realistic_run()
    (tmp_path / "result.json").write_text(to_json(run), encoding="utf-8")
    assert render_html(read_summary(tmp_path)) == page_source()


def test_losses_that_are_no_numbers_survive_as_valid_json(tmp_path: Path) -> None:
    run = realistic_run()
    broken = run.epochs[0].model_copy(update={"train_loss": math.nan, "quality": -math.inf})
    text = to_json(run.model_copy(update={"epochs": (broken,)}))
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    (tmp_path / "result.json").write_text(text, encoding="utf-8")
    (back,) = read_summary(tmp_path).epochs
    assert math.isnan(back.train_loss)
    assert back.quality == -math.inf


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "EOF"), ('{"version": "0.1.0"', "EOF"), ('{"version": "0.1.0"}', "model: Field required"), ("\x00", "JSON")],
)
def test_a_damaged_result_is_refused_in_one_line_that_names_the_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ArtifactError, match=said) as caught:
        read_summary(tmp_path)
    assert "result.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_result_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"result\.json"):
        read_summary(tmp_path)


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_without_the_extra_the_data_are_kept_and_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingExtraError, match=r"tersenet\[report\]"):
        write_report(tmp_path, realistic_run())
    assert read_summary(tmp_path) == realistic_run()
    assert not (tmp_path / "report.html").exists()
