"""What a run found out, for people and for programs: plain text, ``result.json`` and one HTML page."""

from tersenet.report.again import evaluate_command
from tersenet.report.html import render_html
from tersenet.report.rows import Row, before_after
from tersenet.report.sentences import headline, int8_sentence, verdict
from tersenet.report.statistics import accuracy_interval, mcnemar, wilson_interval
from tersenet.report.store import REPORT_FILE, RESULT_FILE, read_summary, to_json, write_report
from tersenet.report.text import summary_table

__all__ = [
    "REPORT_FILE",
    "RESULT_FILE",
    "Row",
    "accuracy_interval",
    "before_after",
    "evaluate_command",
    "headline",
    "int8_sentence",
    "mcnemar",
    "read_summary",
    "render_html",
    "summary_table",
    "to_json",
    "verdict",
    "wilson_interval",
    "write_report",
]
