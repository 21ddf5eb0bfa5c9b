"""Turns records into what people and machines read: terminal lines, report.json, .md and .html."""

from __future__ import annotations

from pytest_onnxdet.report.files import ReportError, read_report, write_report
from pytest_onnxdet.report.machine import environment
from pytest_onnxdet.report.records import Record
from pytest_onnxdet.report.terminal import summary_lines

__all__ = [
    "Record",
    "ReportError",
    "environment",
    "read_report",
    "summary_lines",
    "write_report",
]
