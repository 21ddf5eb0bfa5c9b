"""Writes and reads a report's files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_onnxdet.report import ci, html, markdown
from pytest_onnxdet.report.records import SCHEMA, Record, in_order
from pytest_onnxdet.report.summary import summarize


class ReportError(Exception):
    """A report cannot be read or written; the message names the file and the remedy."""


def write_report(
    records: Iterable[Record],
    environment: Mapping[str, Any],
    directory: Path,
    absent: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes report.json, report.md, report.html and metrics.txt, each whole or not at all.

    Args:
        records: any; they are sorted by their axes.
        environment: as :func:`~pytest_onnxdet.report.environment` returns it.
        directory: created if missing.
        absent: by name, why a backend has no cases.

    Returns:
        The files' paths.

    Raises:
        ReportError: the folder cannot be written.
        TypeError: a metric is something that JSON cannot hold.
    """
    ordered = in_order(records)
    data = {
        "schema": SCHEMA,
        "environment": dict(environment),
        "absent": dict(absent or {}),
        "cases": [record.to_json() for record in ordered],
    }
    summary = summarize(ordered, environment, absent)
    contents = {
        "report.json": json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": markdown.render(summary),
        "report.html": html.render(summary),
        "metrics.txt": ci.metrics_text(ordered),
    }
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            _write(directory / name, text)
    except OSError as e:
        raise ReportError(
            f"cannot write the report into {directory}: {e.strerror or e}; "
            "choose a folder that can be written"
        ) from e
    return [directory / name for name in contents]


def read_report(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """Reads a report.json.

    Args:
        path: the file, or the folder that it is in.

    Returns:
        The environment and the records.

    Raises:
        ReportError: there is no such file, it is not a report, or it has another schema.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "report.json"
    remedy = "write one with --onnxdet-report DIR"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"there is no report {path}; {remedy}") from None
    except OSError as e:
        raise ReportError(f"cannot read the report {path}: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise ReportError(f"{path} is not a report, or is cut short: {e}; {remedy}") from e
    if not isinstance(data, dict) or "schema" not in data:
        raise ReportError(f"{path} is not a report: it has no 'schema'; {remedy}")
    if data["schema"] != SCHEMA:
        raise ReportError(
            f"{path} has schema {data['schema']!r}, this version reads {SCHEMA}; "
            f"{remedy} with this version"
        )
    environment, cases = data.get("environment", {}), data.get("cases")
    if not isinstance(environment, dict) or not isinstance(cases, list):
        raise ReportError(f"{path} is not a report: 'environment' or 'cases' is missing; {remedy}")
    records = []
    for position, case in enumerate(cases):
        try:
            records.append(Record.from_json(case))
        except ValueError as e:
            raise ReportError(f"{path}: case {position}: {e}; {remedy}") from e
    return environment, records


def _write(path: Path, text: str) -> None:
    # Not tempfile: its files are private to the user, and a CI's web server must read a report.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
